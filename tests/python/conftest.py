"""A gateway for all tests of this folder with each binding: simulated pods and Envoy with inpick, on free ports."""

import json
import os
import re
import subprocess
import threading
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 120
STOP_SECONDS = 30


def binary(name):
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    return Path(os.environ.get("INPICK_BIN_DIR", target / "debug")) / name


class Gateway:
    """Where it is, and its pages as numbers by series."""

    def __init__(self, url, metrics, pods):
        self.url, self.metrics, self.pods = url, metrics, pods

    def total(self, family, **labels):
        """Sum over the series of a family that carry these labels."""
        with urllib.request.urlopen(self.metrics, timeout=10) as page:
            lines = page.read().decode().splitlines()
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        series = [line for line in lines if re.match(re.escape(family) + r"[{ ]", line)]
        return sum(float(line.rsplit(" ", 1)[1]) for line in series if all(label in line for label in wanted))

    def fault_every_pod(self, fault):
        """Makes the pods misbehave, or behave again."""
        for pod in self.pods:
            request = urllib.request.Request(f"http://{pod}/sim/fault", json.dumps(fault).encode(), method="POST")
            urllib.request.urlopen(request, timeout=10).close()


@pytest.fixture(scope="session", params=["wasm", "native"])
def gateway(request):
    arguments = ["--mode", request.param, "--ephemeral", "--simulated", "2", "--plugin-config", '{"metrics": {"flush_interval_ms": 100}}']
    for argument in ["--speed", "0", "--runner", "any", "--enable-prompt-tokens-details"]:
        arguments += ["--pod-arg", argument]
    process = subprocess.Popen(
        [binary("run"), *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    watchdog = threading.Timer(START_SECONDS, process.kill)
    watchdog.start()
    said = ""
    try:
        for line in process.stdout:
            said += line
            if "Ctrl-C" in line:
                break
        else:
            pytest.fail(f"the gateway did not start:\n{said}")
        watchdog.cancel()
        # What it says from now on must be taken away, or it would stand still once the pipe is full.
        threading.Thread(target=process.stdout.read, daemon=True).start()
        url, metrics = (re.search(rf"{name}\s+(http://\S+)", said).group(1) for name in ("gateway", "metrics"))
        yield Gateway(url, metrics, re.search(r"pods\s+(.*) \(", said).group(1).split(", "))
    finally:
        watchdog.cancel()
        process.terminate()
        process.wait(STOP_SECONDS)
