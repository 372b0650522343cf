"""A sidecar that watches a cluster, and the real Envoy that serves what it writes."""

import json
import os
import re
import shutil
import urllib.error
import urllib.request
from pathlib import Path

import yaml

from process import Process, ROOT, binary, eventually, free_port

# Envoy loads and configures the module on a busy machine.
START_SECONDS = 60


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
    """The real sidecar with a service account's token, outside of a pod."""

    def __init__(self, folder, cluster, token, arguments, envoy_admin=None, tied=True):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.token_file = self.folder / "token"
        self.token_file.write_text(token)
        self.port, self.metrics_port = free_port(), free_port()
        self.command = [
            binary("inpick"), "run", "--listen", f"127.0.0.1:{self.port}", "--metrics-listen", f"127.0.0.1:{self.metrics_port}",
            "--envoy-admin", f"http://127.0.0.1:{envoy_admin or free_port()}", "--kubernetes-api-server", cluster.url,
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
    """The shipped bootstrap on free ports, its pool fed by the sidecar's file."""

    def __init__(self, folder, sidecar_port, eds_file, admin_port, configuration=None):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.port, self.admin_port = free_port(), admin_port
        self.sidecar_port, self.eds_file, self.configuration = sidecar_port, Path(eds_file), configuration or {}
        bootstrap = self.folder / "envoy.yaml"
        bootstrap.write_text(yaml.safe_dump(self._bootstrap()))
        self.process = Process("Envoy", [
            os.environ["ENVOY"], "--disable-hot-restart", "--concurrency", "1", "--log-level", "warn",
            "--service-node", "gateway", "--service-cluster", "inpick", "-c", bootstrap,
        ], self.folder / "envoy.log")
        self.process.wait_until("Envoy is ready", lambda: ask(f"http://127.0.0.1:{admin_port}/ready").status == 200, START_SECONDS)

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
        settings = {**json.loads(plugin["configuration"]["value"]), "metrics": {"flush_interval_ms": 100}, **self.configuration}
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
        self.process.kill()


class Gateway:
    """A sidecar with an Envoy behind it. `source` is what follows NAME= of the sidecar's --pool."""

    def __init__(self, folder, cluster, token, source, arguments=(), configuration=None):
        folder = Path(folder)
        eds = folder / "eds"
        shutil.rmtree(eds, ignore_errors=True)
        eds.mkdir(parents=True)
        self.eds_file = eds / "default.json"
        admin_port = free_port()
        self.sidecar = Sidecar(folder / "sidecar", cluster, token, [
            "--pool", f"default={source}", "--pool-option", f"default=eds-file={self.eds_file}",
            "--pool-option", "default=eds-cluster=pool-default", "--metrics-endpoint-auth=false", *arguments,
        ], admin_port)
        try:
            self.envoy = Envoy(folder / "envoy", self.sidecar.port, self.eds_file, admin_port, configuration)
        except BaseException:
            self.sidecar.stop()
            raise

    def page(self):
        """The merged page of metrics."""
        answer = self.sidecar.metrics()
        assert answer.status == 200, answer.body
        return answer.body

    def priority_of(self, objective):
        """The priority by which a request of an objective was counted. Other requests must not go through meanwhile."""
        before = self._by_priority()
        answer = self.envoy.chat(headers={"x-gateway-inference-objective": objective})
        assert answer.status in (200, 503), answer.body

        def counted():
            now = self._by_priority()
            return [priority for priority, count in now.items() if count > before.get(priority, 0)]

        (priority,) = eventually("the request is counted", counted)
        return int(priority)

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
        self.envoy.stop()
        self.sidecar.stop()
