#!/usr/bin/env python3
"""Runs a whole gateway with traffic, has the real Prometheus scrape it, and looks at every panel.

    rehearsal.py [--mode wasm|native-sidecar|native] [--seconds N] [--draw FOLDER]

It ends as soon as each query of each dashboard has data, or with exit code 1 and a list of those that have none after --longest seconds.
A panel or query that may rightly be empty says why in sources/. With --draw it runs for at least --seconds and draws each
dashboard with what it saw. `make` names the programs: INPICK_BIN_DIR, INPICK_WASM, INPICK_NATIVE, ENVOY.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import yaml

import drawing
from prometheus_server import PrometheusServer
from sources import DASHBOARDS
from traffic import ADAPTER, ALIAS, BASE, RARE, Clients

HERE = Path(__file__).resolve().parent
# A page must be there within the interval, on a loaded machine too.
SCRAPE_SECONDS = 2
# Four scrapes, as Grafana computes it.
RATE_INTERVAL = "8s"
START_SECONDS = 120
LOOK_EVERY = 5
TOKEN = "/var/run/secrets/kubernetes.io/serviceaccount/token"
# Small pods, so that requests wait now and then, with answers long enough to be left.
POD_ARGUMENTS = (
    "--runner", "any", "--served-model-name", f"{BASE},{ALIAS}", "--lora-modules", f"{ADAPTER},{RARE}", "--max-loras", "2",
    "--enable-prompt-tokens-details", "--max-num-seqs", "2",
)
# One place fewer than there are names, to see what has no place; and what the pods have no room for waits in Envoy.
PLUGIN_CONFIG = {"metrics": {"max_models": 3}, "flow_control": {}}
FAULTS = (
    (0, {"kind": "status", "status": 503, "probability": 0.03}),
    (0, {"kind": "cut", "probability": 0.02}),
    (1, {"kind": "status", "probability": 0.03}),
    # Pages without figures.
    (0, {"kind": "disable_log_stats", "target": "metrics", "probability": 0.2}),
)
# Seconds from the start at which two of three pods cannot be reached, how long for, and after how many seconds again: more than may be
# left out.
AWAY_AT, AWAY_FOR_MS, AWAY_EVERY = 12, 4000, 40


class Stack:
    """`run`, with the addresses that it prints."""

    def __init__(self, mode, folder):
        binary = Path(os.environ["INPICK_BIN_DIR"]) / "run"
        pods = [argument for word in POD_ARGUMENTS for argument in ("--pod-arg", word)]
        self.output = Path(folder) / "run.txt"
        self.command = [str(binary), "--ephemeral", "--mode", mode, "--plugin-config", json.dumps(PLUGIN_CONFIG), *pods]

    def __enter__(self):
        with open(self.output, "w") as output:
            self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + START_SECONDS
        while "Ctrl-C stops everything" not in self.output.read_text():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.__exit__()
                raise RuntimeError("the stack does not start:\n" + self.output.read_text()[-3000:])
            time.sleep(0.2)
        text = self.output.read_text()
        address = r"([\d.]+:\d+)"
        lines = dict(re.findall(r"^  (\w+) +(.+)$", text, re.M))
        self.gateway, self.sidecar, self.admin = (re.search(address, lines[name]).group(1) for name in ("gateway", "metrics", "admin"))
        self.pods = re.findall(address, lines["pods"])
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                # What it started is ended by its own watcher.
                self.process.kill()
                self.process.wait()

    def fault(self, pod, fault):
        request = urllib.request.Request(f"http://{self.pods[pod]}/sim/fault", json.dumps(fault).encode())
        urllib.request.urlopen(request, timeout=10).close()


def local(stack):
    """prometheus.yml with this stack's addresses, scraped more often."""
    configuration = yaml.safe_load((HERE / "prometheus.yml").read_text())
    addresses = {"inpick": [stack.sidecar], "vllm": stack.pods}
    for job in configuration["scrape_configs"]:
        job |= {"scrape_interval": f"{SCRAPE_SECONDS}s", "static_configs": [{"targets": addresses[job["job_name"]]}]}
    return configuration | {"global": {"evaluation_interval": "2s"}}


def cluster(stack, folder):
    """prometheus-kubernetes.yml with pods told by a file as Kubernetes would tell them. Only Envoy's own page can be scraped."""
    (Path(folder) / "token").write_text("secret")
    text = (HERE / "prometheus-kubernetes.yml").read_text().replace(TOKEN, str(Path(folder) / "token"))
    configuration = yaml.safe_load(text)
    pods = Path(folder) / "pods.json"
    pods.write_text(json.dumps([
        {"targets": [address], "labels": {f"__meta_kubernetes_{name}": value for name, value in labels.items()}}
        for address, labels, _ in cluster_pods(stack)
    ]))
    for job in configuration["scrape_configs"]:
        job["scrape_interval"] = f"{SCRAPE_SECONDS}s"
        job["file_sd_configs"] = [{"files": [str(pods)]}]
        del job["kubernetes_sd_configs"]
    return configuration


def cluster_pods(stack):
    """Address, labels as Kubernetes gives them, and job and URL of the target that is to come of it."""
    managed = {"pod_label_app_kubernetes_io_managed_by": "envoy-gateway", "namespace": "envoy-gateway-system", "pod_name": "envoy-1"}
    # Nothing listens there.
    closed = "127.0.0.1:9"
    return (
        (stack.admin, {**managed, "pod_container_port_name": "metrics"}, ("inpick-envoy", f"http://{stack.admin}/stats/prometheus")),
        (closed, {**managed, "pod_container_port_name": "http-80"}, None),
        (stack.admin, {"pod_container_port_name": "metrics", "namespace": "other", "pod_name": "other-1"}, None),
        (closed, {"pod_container_port_name": "inpick-metrics", "namespace": "a", "pod_name": "gateway-1"}, ("inpick", f"http://{closed}/metrics")),
        ("127.0.0.1:10", {"pod_container_port_name": "inpick-metrics", "pod_annotation_prometheus_io_scheme": "https", "namespace": "a",
                          "pod_name": "gateway-2"}, ("inpick", "https://127.0.0.1:10/metrics")),
        ("127.0.0.1:11", {"pod_container_port_name": "inpick-metrics", "pod_phase": "Succeeded", "namespace": "a", "pod_name": "old"}, None),
        ("127.0.0.1:12", {"pod_label_app": "vllm-llama", "namespace": "a", "pod_name": "vllm-1"}, ("vllm", "http://127.0.0.1:12/metrics")),
    )


def concrete(expression, seconds):
    """PromQL of a panel as Grafana sends it: its intervals, and all values of each variable."""
    expression = expression.replace("$__rate_interval", RATE_INTERVAL).replace("$__range", f"{max(int(seconds), 1)}s")
    return re.sub(r"\$\w+", ".*", expression)


class Looks:
    """What one Prometheus has for each panel since a start."""

    def __init__(self, server, start):
        self.server, self.start = server, start
        # Panels that have shown what they should are not looked at again.
        self.seen = set()

    def panel(self, panel, step=1, end=None):
        """The series of each query until an end, which is now if none is given: legend, labels and points."""
        end = end or time.time()
        for query in panel.queries:
            found = []
            for labels, points in self.server.series(concrete(query.expr, end - self.start), self.start, end, step):
                found.append((re.sub(r"\{\{(\w+)\}\}", lambda named: labels.get(named.group(1), ""), query.legend), labels, points))
            yield query, found

    def faults(self, boards):
        """What is wrong with the panels of these dashboards."""
        for board in boards:
            for number, panel in enumerate(board.panels()):
                # Titles may be there twice.
                if (board.uid, number) in self.seen:
                    continue
                faults = list(self.panel_faults(panel))
                if not faults:
                    self.seen.add((board.uid, number))
                yield from (f"{board.title}: {panel.title}: {fault}" for fault in faults)

    def panel_faults(self, panel):
        moves = False
        for query, found in self.panel(panel):
            if not found and not panel.empty and not query.empty:
                yield f"no data: {query.expr}"
            for named in re.findall(r"\{\{(\w+)\}\}", query.legend):
                if found and not any(named in labels for _, labels, _ in found):
                    yield f"its legend names {named}, which no result has: {query.expr}"
            moves |= any(value != 0 for _, _, points in found for _, value in points)
        if not moves and not panel.empty and not panel.quiet:
            yield "nothing but zeros"


def rule_faults(server):
    """Rules that could not be evaluated, and recording rules that have nothing to record."""
    for group in server.get("rules")["groups"]:
        for rule in group["rules"]:
            if rule["health"] == "err":
                yield f"rule {rule['name']}: {rule['lastError']}"
            elif rule["type"] == "recording" and not server.get("query", query=rule["name"])["result"]:
                yield f"rule {rule['name']}: records nothing"


def scrape_faults(server):
    for target in server.get("targets", state="active")["activeTargets"]:
        if target["health"] == "down":
            yield f"{target['scrapeUrl']}: {target['lastError']}"


def cluster_faults(server, stack):
    """Whether the Kubernetes jobs took the pods that they should, with their labels, and kept what they should of Envoy's page."""
    expected = {target: labels for _, labels, target in cluster_pods(stack) if target}
    active = {(target["labels"]["job"], target["scrapeUrl"]): target["labels"] for target in server.get("targets", state="active")["activeTargets"]}
    if set(active) != set(expected):
        yield f"Kubernetes: the targets are {sorted(active)}, not {sorted(expected)}"
    for target, labels in active.items():
        told = expected.get(target, {})
        if (labels.get("kubernetes_namespace"), labels.get("pod")) != (told.get("namespace"), told.get("pod_name")):
            yield f"Kubernetes: {target} has the labels {labels}"
    configuration = yaml.safe_load((HERE / "prometheus-kubernetes.yml").read_text())
    (job,) = [job for job in configuration["scrape_configs"] if job["job_name"] == "inpick-envoy"]
    keep = re.compile(job["metric_relabel_configs"][0]["regex"])
    with urllib.request.urlopen(f"http://{stack.admin}/stats/prometheus", timeout=30) as page:
        names = set(re.findall(r"^(\w+)[{ ]", page.read().decode(), re.M))
    kept = set(server.get("label/__name__/values", **{"match[]": '{job="inpick-envoy"}'}))
    # Of each scrape Prometheus itself says how it went.
    kept = {name for name in kept if not name.startswith(("scrape_", "up"))}
    wanted = {name for name in names if keep.fullmatch(name)}
    if kept - wanted or len(wanted - kept) > len(wanted) // 10:
        yield f"Envoy's page: kept beside what the expression says {sorted(kept - wanted)}, missing {sorted(wanted - kept)}"


def rehearse(arguments, folder):
    """Every fault that is left at the end."""
    boards = {board.uid: board for board in DASHBOARDS}
    # What Envoy's page alone has all of.
    of_envoy = [boards[uid] for uid in ("inpick-envoy-global", "inpick-envoy-clusters", "inpick-gen-ai")]
    with Stack(arguments.mode, folder) as stack:
        rules = HERE / "rules.yml"
        with PrometheusServer(folder / "local", local(stack), rules) as server, \
                PrometheusServer(folder / "cluster", cluster(stack, folder), rules) as second:
            for pod, fault in FAULTS:
                stack.fault(pod, fault)
            host, port = stack.gateway.split(":")
            start = time.time()
            looks = Looks(server, start)
            with Clients((host, int(port))) as clients:
                away = AWAY_AT
                while True:
                    time.sleep(LOOK_EVERY)
                    seconds = time.time() - start
                    if seconds >= away:
                        away += AWAY_EVERY
                        for pod in (1, 2):
                            stack.fault(pod, {"kind": "refuse", "duration_ms": AWAY_FOR_MS})
                    found = [*looks.faults(DASHBOARDS), *rule_faults(server), *scrape_faults(server)]
                    found += [f"from Envoy's page alone: {fault}" for fault in Looks(second, start).faults(of_envoy)]
                    found += cluster_faults(second, stack)
                    if (not found and seconds >= arguments.seconds) or seconds > arguments.longest:
                        break
            panels = sum(len(board.panels()) for board in DASHBOARDS)
            print(f"{arguments.mode}: {clients.served} requests served in {seconds:.0f} s; of {panels} panels {len(looks.seen)} passed")
            if arguments.draw:
                arguments.draw.mkdir(parents=True, exist_ok=True)
                for board in DASHBOARDS:
                    (arguments.draw / f"{board.uid}.svg").write_text(drawing.board_svg(board, looks, start, start + seconds))
            return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--mode", default="wasm", choices=("wasm", "native-sidecar", "native"))
    parser.add_argument("--seconds", type=int, default=0, help="of traffic, at least")
    parser.add_argument("--longest", type=int, default=90, help="seconds of traffic after which what is missing counts as missing")
    parser.add_argument("--draw", type=Path, help="folder for a picture of each dashboard")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="inpick-rehearsal-") as folder:
        found = rehearse(arguments, Path(folder))
    print("".join(f"  {fault}\n" for fault in found), end="")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
