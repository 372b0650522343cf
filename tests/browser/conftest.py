"""Gateways whose live page the tests look at: simulated pods that can be killed, Envoy with inpick, traffic, and a browser."""

import http.client
import json
import os
import random
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from chromium import Chromium  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
MODEL = "meta-llama/Llama-3.1-8B-Instruct"
START_SECONDS = 120
STOP_SECONDS = 30


def binary(name):
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    return Path(os.environ.get("INPICK_BIN_DIR", target / "debug")) / name


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Process:
    """A program that says when it is ready; what it says later is taken away."""

    def __init__(self, command, ready):
        self.child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        )
        watchdog = threading.Timer(START_SECONDS, self.child.kill)
        watchdog.start()
        self.said = ""
        for line in self.child.stdout:
            self.said += line
            if ready in line:
                break
        else:
            watchdog.cancel()
            pytest.fail(f"{command[0]} did not start:\n{self.said}")
        watchdog.cancel()
        # It would stand still once the pipe is full.
        threading.Thread(target=self.child.stdout.read, daemon=True).start()

    def end(self):
        self.child.terminate()
        self.child.wait(STOP_SECONDS)

    def kill(self):
        self.child.kill()
        self.child.wait(STOP_SECONDS)


def start_pod(port, *arguments, host="127.0.0.1"):
    command = [binary("vllm-sim"), "--host", host, "--port", str(port), "--max-num-seqs", "6", "--enable-prompt-tokens-details", *arguments]
    return Process(command, "listening on")


class Gateway:
    """Pods, Envoy with inpick and the sidecar."""

    def __init__(self, mode, pods):
        self.ports = [free_port() for _ in range(pods)]
        self.pods = [start_pod(port) for port in self.ports]
        addresses = ",".join(f"127.0.0.1:{port}" for port in self.ports)
        self.run = Process([binary("run"), "--mode", mode, "--ephemeral", "--pods", addresses], "Ctrl-C")
        self.url, metrics = (re.search(rf"{name}\s+(http://\S+)", self.run.said).group(1) for name in ("gateway", "metrics"))
        self.page = metrics.removesuffix("metrics")
        self.busy = True
        self.clients = [threading.Thread(target=self.chat, args=(number,), daemon=True) for number in range(8)]
        for client in self.clients:
            client.start()

    def ask(self, **fields):
        """Status of a chat completion."""
        body = {"model": MODEL, "stream": True, "stream_options": {"include_usage": True}, "max_tokens": 8,
                "messages": [{"role": "user", "content": "hello"}], **fields}
        request = urllib.request.Request(f"{self.url}/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                response.read()
                return response.status
        except urllib.error.HTTPError as error:
            return error.code

    def chat(self, number):
        chance = random.Random(number)
        agents = [f"You are agent {agent}. " + "Follow the policy. " * 80 for agent in range(4)]
        while self.busy:
            question = "why? " * chance.randint(5, 200)
            messages = [{"role": "system", "content": chance.choice(agents)}, {"role": "user", "content": question}]
            try:
                self.ask(messages=messages, max_tokens=chance.randint(5, 40))
            except (OSError, http.client.HTTPException):  # a pod was killed
                time.sleep(0.2)
            time.sleep(chance.random() * 0.3)

    def end(self):
        self.busy = False
        self.run.end()
        for pod in self.pods:
            pod.kill()


@pytest.fixture(scope="session")
def browser():
    browser = Chromium()
    yield browser
    browser.close()


def gateway_of(mode, pods):
    gateway = Gateway(mode, pods)
    try:
        yield gateway
    finally:
        gateway.end()


@pytest.fixture(scope="session")
def gateway():
    yield from gateway_of("wasm", 3)


@pytest.fixture
def native_gateway():
    yield from gateway_of("native", 2)


@pytest.fixture
def page(browser, gateway):
    page = browser.page(gateway.page)
    page.until("document.querySelectorAll('.endpoint .badge[data-state=fresh]').length === 3")
    yield page
    page.close()
