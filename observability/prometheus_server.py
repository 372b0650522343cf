"""A Prometheus of a rehearsal: the real server with a shipped configuration, on this machine."""

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import yaml

START_SECONDS = 60
REQUEST_SECONDS = 30


class PrometheusServer:
    """Started in a folder of its own, stopped when left."""

    def __init__(self, folder, configuration, rules):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True)
        if rules:
            shutil.copy(rules, self.folder / rules.name)
        (self.folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
        self.url = f"http://127.0.0.1:{free_port()}"

    def __enter__(self):
        address = self.url.removeprefix("http://")
        with open(self.folder / "log", "w") as log:
            self.process = subprocess.Popen(
                ["prometheus", "--config.file", "prometheus.yml", "--storage.tsdb.path", "data", "--web.listen-address", address],
                cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                urllib.request.urlopen(self.url + "/-/ready", timeout=REQUEST_SECONDS).close()
                return self
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    self.__exit__()
                    raise RuntimeError("Prometheus does not start:\n" + (self.folder / "log").read_text()[-3000:]) from None
                time.sleep(0.2)

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def get(self, path, **parameters):
        """The `data` of an answer of its API; ValueError with Prometheus's words if it refuses."""
        query = urllib.parse.urlencode(parameters, doseq=True)
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=REQUEST_SECONDS) as response:
                return json.load(response)["data"]
        except urllib.error.HTTPError as refused:
            raise ValueError(json.loads(refused.read())["error"]) from None

    def series(self, expression, start, end, step):
        """Labels, and times with finite values, of each series of an expression; those without a value are left out."""
        result = self.get("query_range", query=expression, start=start, end=end, step=step)["result"]
        for one in result:
            points = [(at, float(value)) for at, value in one["values"] if value not in ("NaN", "+Inf", "-Inf")]
            if points:
                yield one["metric"], points


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
