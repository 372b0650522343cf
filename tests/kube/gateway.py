"""A sidecar that watches a cluster, and the real Envoy that serves what it writes.

An Envoy takes seconds of processor time to start, for the module is compiled, so tests share one: to it each test is a sidecar that was restarted.
Its counters go on from test to test."""

import json
import os
import re
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import yaml

from process import Process, ROOT, binary, eventually, free_port

# Envoy loads and configures the module on a busy machine.
START_SECONDS = 60
# The filter writes its counters every 100 ms here.
FLUSH_SECONDS = 0.25


def module():
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    return os.environ.get("INPICK_WASM", str(target / "wasm32-wasip1" / "wasm" / "filter.wasm"))


class Answer:
    """A status, headers by lower-case name, and a body."""

    def __init__(self, status, headers, body):
        self.status, self.body = status, body
        self.headers = {name.lower(): value for name, value in headers.items()}


def ask(url, body=None, headers=None, timeout=30):
    """An HTTP answer of any status."""
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(url, data, {"content-type": "application/json", **(headers or {})})
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return Answer(answer.status, answer.headers, answer.read().decode())
    except urllib.error.HTTPError as refusal:
        with refusal:
            return Answer(refusal.code, refusal.headers, refusal.read().decode())


def total(page, family, **labels):
    """Sum over the series of a family on a metrics page that carry these labels; None if there is no such series."""
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    series = [line for line in page.splitlines() if re.match(re.escape(family) + r"[{ ]", line)]
    values = [float(line.rsplit(" ", 1)[1]) for line in series if all(label in line for label in wanted)]
    return sum(values) if values else None


class Sidecar:
    """The real sidecar of an Envoy with a service account's token, outside of a pod."""

    def __init__(self, folder, cluster, token, arguments, envoy):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.token_file = self.folder / "token"
        self.token_file.write_text(token)
        self.port, self.metrics_port = envoy.sidecar_port, free_port()
        self.command = [
            binary("inpick"), "run", "--listen", f"127.0.0.1:{self.port}", "--metrics-listen", f"127.0.0.1:{self.metrics_port}",
            "--envoy-admin", f"http://127.0.0.1:{envoy.admin_port}", "--kubernetes-api-server", cluster.url,
            "--kubernetes-token-file", self.token_file, "--kubernetes-ca-file", cluster.ca_file, *arguments,
        ]
        self.start()

    def start(self):
        self.process = Process("the sidecar", self.command, self.folder / "sidecar.log", {"RUST_BACKTRACE": "0"})
        self.process.wait_until("the sidecar listens", lambda: ask(f"http://127.0.0.1:{self.port}/healthz").status == 200)

    def ready(self):
        return ask(f"http://127.0.0.1:{self.port}/readyz").status == 200

    def state(self):
        """What the live page shows, of which `endpoints` are those of all pools."""
        return json.loads(ask(f"http://127.0.0.1:{self.port}/api/state").body)

    def metrics(self, token=None):
        """The page, as a scraper with this token gets it."""
        headers = {"authorization": f"Bearer {token}"} if token else {}
        return ask(f"http://127.0.0.1:{self.metrics_port}/metrics", headers=headers)

    def stop(self):
        self.process.kill()


class Envoy:
    """The shipped bootstrap on free ports, its pool fed by the file of whichever sidecar listens on `sidecar_port`."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.eds_file = self.folder / "eds" / "default.json"
        self.eds_file.parent.mkdir(parents=True)
        self.port, self.admin_port, self.sidecar_port = free_port(), free_port(), free_port()
        self.process = None

    def start(self):
        """Waits until it is ready; launches it unless it runs."""
        self.launch()
        self.process.wait_until("Envoy is ready", lambda: ask(f"http://127.0.0.1:{self.admin_port}/ready").status == 200, START_SECONDS)

    def launch(self):
        """Begins to start it, unless it runs."""
        if self.process is not None and self.process.running():
            return
        # Envoy does not start without this file.
        subprocess.run([binary("inpick"), "eds-file", "--cluster", "pool-default", self.eds_file], check=True, timeout=START_SECONDS)
        bootstrap = self.folder / "envoy.yaml"
        bootstrap.write_text(yaml.safe_dump(self._bootstrap()))
        self.process = Process("Envoy", [
            os.environ["ENVOY"], "--disable-hot-restart", "--concurrency", "1", "--log-level", "warn",
            "--service-node", "gateway", "--service-cluster", "inpick", "-c", bootstrap,
        ], self.folder / "envoy.log")

    def _bootstrap(self):
        tree = yaml.safe_load((ROOT / "envoy" / "standalone.yaml").read_text())
        tree["admin"]["address"]["socket_address"]["port_value"] = self.admin_port
        service = tree["bootstrap_extensions"][0]["typed_config"]["config"]
        service["vm_config"]["code"]["local"]["filename"] = module()
        (listener,) = tree["static_resources"]["listeners"]
        listener["address"]["socket_address"]["port_value"] = self.port
        manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
        (plugin,) = [entry["typed_config"]["config"] for entry in manager["http_filters"] if entry["name"] == "inpick"]
        # An anchor of the shipped file makes both one document; they must stay equal.
        plugin["vm_config"] = service["vm_config"]
        settings = {**json.loads(plugin["configuration"]["value"]), "metrics": {"flush_interval_ms": 100}}
        plugin["configuration"]["value"] = json.dumps(settings)
        pool, sidecar = tree["static_resources"]["clusters"]
        sidecar["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]["socket_address"]["port_value"] = self.sidecar_port
        del pool["load_assignment"]
        pool["type"] = "EDS"
        source = {"path": str(self.eds_file), "watched_directory": {"path": str(self.eds_file.parent)}}
        pool["eds_cluster_config"] = {"eds_config": {"path_config_source": source, "resource_api_version": "V3"}}
        return tree

    def chat(self, model="meta-llama/Llama-3.1-8B-Instruct", headers=None, **more):
        """One chat completion."""
        body = {"model": model, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 3, **more}
        return ask(f"http://127.0.0.1:{self.port}/v1/chat/completions", body, headers)

    def members(self):
        """Addresses of the pool's cluster as Envoy knows them, each with the metadata that the sidecar gives it."""
        # Clusters of the bootstrap are called static here, wherever their endpoints come from.
        status = json.loads(ask(f"http://127.0.0.1:{self.admin_port}/config_dump?include_eds&resource=static_endpoint_configs").body)
        members = {}
        for entry in status.get("configs", []):
            if entry["endpoint_config"].get("cluster_name") != "pool-default":
                continue
            for locality in entry["endpoint_config"].get("endpoints", []):
                for member in locality.get("lb_endpoints", []):
                    address = member["endpoint"]["address"]["socket_address"]
                    named = member.get("metadata", {}).get("filter_metadata", {}).get("inpick", {})
                    members[f"{address['address']}:{address['port_value']}"] = named
        return members

    def stop(self):
        if self.process is not None:
            self.process.kill()


class Gateway:
    """A sidecar with an Envoy behind it, an own one if none is given. `source` is what follows NAME= of the sidecar's --pool."""

    def __init__(self, folder, cluster, token, source, arguments=(), envoy=None):
        folder = Path(folder)
        self.is_own = envoy is None
        self.envoy = envoy or Envoy(folder / "envoy")
        self.eds_file = self.envoy.eds_file
        # What the sidecar of another test wrote is nothing that this one should go on with.
        self.eds_file.unlink(missing_ok=True)
        self.sidecar = Sidecar(folder / "sidecar", cluster, token, [
            "--pool", f"default={source}", "--pool-option", f"default=eds-file={self.eds_file}",
            "--pool-option", "default=eds-cluster=pool-default", "--metrics-endpoint-auth=false", *arguments,
        ], self.envoy)
        try:
            self.envoy.start()
        except BaseException:
            self.stop()
            raise

    def page(self):
        """The merged page of metrics."""
        answer = self.sidecar.metrics()
        assert answer.status == 200, answer.body
        return answer.body

    def priority_of(self, objective):
        """The priority by which a request of an objective was counted. Other requests must not go through meanwhile."""
        (before,) = eventually("all requests are counted", self._settled)
        answer = self.envoy.chat(headers={"x-gateway-inference-objective": objective})
        assert answer.status in (200, 503), answer.body

        def counted():
            now = self._by_priority()
            return [priority for priority, count in now.items() if count > before.get(priority, 0)]

        (priority,) = eventually("the request is counted", counted)
        return int(priority)

    def _settled(self):
        before = self._by_priority()
        time.sleep(FLUSH_SECONDS)
        # In a list, since none may have been counted yet.
        return [before] if self._by_priority() == before else None

    def _by_priority(self):
        lines = [line for line in self.page().splitlines() if line.startswith("inference_objective_request_total{")]
        counts = {}
        for line in lines:
            priority = re.search(r'priority="([^"]*)"', line).group(1)
            counts[priority] = counts.get(priority, 0) + float(line.rsplit(" ", 1)[1])
        return counts

    def wait_for_members(self, expected, patience=30):
        """Waits until Envoy's cluster has just these members: addresses, or a dict with the metadata of each."""

        def known():
            members = self.envoy.members()
            return (members if isinstance(expected, dict) else set(members)) == expected

        try:
            eventually("the members", known, patience)
        except AssertionError:
            raise AssertionError(
                f"expected {expected}, Envoy has {self.envoy.members()}; the sidecar said:\n{self.sidecar.process.said()}"
            ) from None

    def stop(self):
        if self.is_own:
            self.envoy.stop()
        self.sidecar.stop()
