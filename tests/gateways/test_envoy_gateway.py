"""deploy/envoy-gateway on the real thing: Envoy Gateway reads the shipped manifests from files and runs the real Envoy, beside which the real
sidecar runs with the manifest's own arguments. What is replaced is in `adapted`, and nothing else is."""

import copy
import json
import os
import time
import urllib.request

import pytest
import yaml

from gateway import ask, module, total
from process import PATIENCE, ROOT, EarlyExit, Process, binary, eventually
from streams import Streams

MANIFESTS = ROOT / "deploy" / "envoy-gateway"
VERSION = "1.40.0"
# Ports as they are in the manifests.
ADMIN, PAGE, GATEWAY = "http://127.0.0.1:19000", "http://127.0.0.1:9090", "http://127.0.0.1:80"
CLUSTER = "httproute/inference/inpick/rule/0"
MODEL = "meta-llama/Llama-3.1-8B-Instruct"
LISTENER = "inference/inpick/http"
# More than the 1 MiB that Envoy takes by itself.
LARGE = 3 << 20
# The API server tells of a Service's pods, and runs those of the gateway. Here the file of a Backend and this test do.
OF_KUBERNETES = {"Service", "ClusterRole", "ClusterRoleBinding"}
CLOSED = (
    "/metrics", "/v1/chat/completions/metrics", "/v1/models/metrics", "/v1/models/x/metrics", "/v1/audio/metrics/", "//metrics", "/v1/models/../metrics",
    "/v1/models/%2e%2e/metrics", "/sleep", "/v1/load_lora_adapter", "/docs", "/", "/v1", "/health/metrics",
)
# The filter's counters reach Envoy each second.
FLUSH_SECONDS = 2.5
OPEN = ("/v1/models", "/health", "/ping", "/version")


def shipped():
    return [each for file in sorted(MANIFESTS.glob("*.yaml")) for each in yaml.safe_load_all(file.read_text()) if each]


def only(kind):
    (found,) = [each for each in shipped() if each["kind"] == kind]
    return found


def adapted(addresses):
    """The shipped objects for a machine without a cluster: Envoy is a process of the machine, its admin page has the port that it has in a pod,
    the module lies where it was built, and pods are listed."""
    objects = [copy.deepcopy(each) for each in shipped() if each["kind"] not in OF_KUBERNETES]
    for each in objects:
        if each["kind"] == "EnvoyProxy":
            each["spec"]["provider"] = {"type": "Host", "host": {"envoyVersion": VERSION}}
            bootstrap = yaml.safe_load(each["spec"]["bootstrap"]["value"])
            bootstrap["admin"] = {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 19000}}}
            each["spec"]["bootstrap"]["value"] = yaml.safe_dump(bootstrap)
        if each["kind"] == "HTTPRoute":
            each["spec"]["rules"][0]["backendRefs"] = [{"group": "gateway.envoyproxy.io", "kind": "Backend", "name": "vllm"}]
    objects.append({
        "apiVersion": "gateway.envoyproxy.io/v1alpha1", "kind": "Backend", "metadata": {"name": "vllm", "namespace": "inference"},
        "spec": {"endpoints": [{"ip": {"address": address, "port": 8000}} for address in addresses]},
    })
    return yaml.safe_dump_all(objects).replace("/opt/inpick/filter.wasm", module())


def sidecar_arguments():
    """Those of the manifest, but for whom to ask about scrapers: there is no API server."""
    (container,) = only("EnvoyProxy")["spec"]["provider"]["kubernetes"]["envoyDeployment"]["initContainers"]
    assert container["command"] == ["/usr/local/bin/inpick"]
    return [argument.replace("--metrics-endpoint-auth=true", "--metrics-endpoint-auth=false") for argument in container["args"]]


class Stack:
    """Simulated pods, Envoy Gateway with the Envoy that it runs, and the sidecar."""

    def __init__(self, folder):
        self.folder, self.servers, self.controller, self.sidecar = folder, {}, None, None
        self.resources = folder / "resources"
        self.resources.mkdir()

    def serve(self, number):
        address = f"127.0.1.{number}"
        server = Process(f"vllm-sim {number}", [
            binary("vllm-sim"), "--host", address, "--port", 8000, "--pod-name", f"vllm-{number}", "--speed", "4",
        ], self.folder / f"vllm-{number}.log")
        self.servers[number] = server
        server.wait_until("it answers", lambda: ask(f"http://{address}:8000/health").status == 200)

    def publish(self, numbers):
        """Has the pool consist of these pods. A file is replaced at once, as one writes it that others read."""
        text = adapted([f"127.0.1.{number}" for number in numbers])
        draft = self.folder / "draft.yaml"
        draft.write_text(text)
        draft.replace(self.resources / "inpick.yaml")

    def start(self):
        home = self.folder / "home"
        place = home / "envoy-versions" / VERSION / "bin"
        place.mkdir(parents=True)
        os.symlink(os.environ["ENVOY"], place / "envoy")
        settings = {
            "apiVersion": "gateway.envoyproxy.io/v1alpha1", "kind": "EnvoyGateway",
            "gateway": {"controllerName": only("GatewayClass")["spec"]["controllerName"]},
            "provider": {"type": "Custom", "custom": {
                "resource": {"type": "File", "file": {"paths": [str(self.resources)]}},
                "infrastructure": {"type": "Host", "host": {
                    "configHome": str(home), "dataHome": str(home), "stateHome": str(home / "state"), "runtimeDir": str(home / "run")}},
            }},
            # Its own admin page has the port of Envoy's, which is in another pod otherwise.
            "admin": {"address": {"host": "127.0.0.1", "port": 19500}},
            "extensionApis": {"enableBackend": True, "enableEnvoyPatchPolicy": True},
        }
        (self.folder / "envoy-gateway.yaml").write_text(yaml.safe_dump(settings))
        program = os.environ["ENVOY_GATEWAY"]
        certificates = Process("certgen", [program, "certgen", "--local", "--config-home", home], self.folder / "certgen.log")
        assert certificates.child.wait(PATIENCE) == 0, certificates.said()
        self.controller = Process("Envoy Gateway", [program, "server", "--config-path", self.folder / "envoy-gateway.yaml"],
                                  self.folder / "envoy-gateway.log", {"HOME": str(home)})
        self.sidecar = Process("the sidecar", [binary("inpick"), *sidecar_arguments()], self.folder / "sidecar.log", {"RUST_BACKTRACE": "0"})
        self.controller.wait_until("the gateway answers", self._answers, PATIENCE * 2)
        self.wait_for_members(self.servers)

    def _answers(self):
        if "failed to run envoy" in (said := self.controller.said()):
            raise EarlyExit(said)
        return ask(f"{GATEWAY}/v1/models").status == 200

    def members(self):
        """Addresses of the pool's cluster as Envoy knows them."""
        clusters = json.loads(ask(f"{ADMIN}/clusters?format=json").body)["cluster_statuses"]
        found = [host["address"]["socket_address"] for each in clusters if each["name"] == CLUSTER for host in each.get("host_statuses", [])]
        return {host["address"] for host in found}

    def wait_for_members(self, numbers):
        wanted = {f"127.0.1.{number}" for number in numbers}
        self.controller.wait_until(f"the members {wanted}", lambda: self.members() == wanted)
        names = {f"{address}:8000" for address in wanted}
        eventually("the sidecar knows them", lambda: names == {each["address"] for each in self.state()["endpoints"]})
        eventually("the filter knows them", lambda: total(self.page(), "inpick_endpoints", state="fresh") == len(names))

    def state(self):
        return json.loads(ask("http://127.0.0.1:9091/api/state").body)

    def page(self):
        answer = ask(f"{PAGE}/metrics")
        assert answer.status == 200, answer.body
        return answer.body

    def counted(self):
        return total(self.page(), "inference_objective_request_total") or 0

    def settled(self):
        """What is counted once nothing more is on its way."""
        def same():
            before = self.counted()
            time.sleep(FLUSH_SECONDS)
            # In a list, since it may be 0.
            return [before] if self.counted() == before else None

        return eventually("nothing more is counted", same)[0]

    def stop(self):
        if self.controller is not None:
            self.controller.terminate()
        if self.sidecar is not None:
            self.sidecar.kill()
        for server in self.servers.values():
            server.kill()


def chat(content="hello", **more):
    body = {"model": MODEL, "messages": [{"role": "user", "content": content}], "max_tokens": 3, **more}
    return ask(f"{GATEWAY}/v1/chat/completions", body)


def fault(number, **of):
    """Has a pod go wrong; without more, has it be well again."""
    url = f"http://127.0.1.{number}:8000/sim/fault"
    request = urllib.request.Request(url, json.dumps(of).encode() if of else None, method="POST" if of else "DELETE")
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        assert answer.status == 200


@pytest.fixture(scope="module")
def stack(machine, folder):
    assert os.environ.get("ENVOY_GATEWAY"), "run it by `make test STEPS=envoy-gateway`"
    stack = Stack(folder)
    try:
        for number in (1, 2, 3):
            stack.serve(number)
        stack.publish([1, 2, 3])
        stack.start()
        yield stack
    finally:
        stack.stop()


class Counting:
    """That as many requests as were sent in it are on the page."""

    def __init__(self, stack):
        self.stack, self.sent = stack, 0

    def __enter__(self):
        self.before = self.stack.settled()
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            eventually("all are counted", lambda: self.stack.counted() - self.before == self.sent, 20)
            assert self.stack.settled() - self.before == self.sent


def test_every_request_is_picked_for_and_counted(stack):
    pods = set()
    picks, fallbacks = (total(stack.page(), "inpick_picks_total", **of) or 0 for of in ({}, {"reason": "fallback"}))
    with Counting(stack) as counting, Streams(GATEWAY, clients=4, tokens=5) as streams:
        for number in range(200):
            answer = chat(f"question {number}")
            assert answer.status == 200, answer.body
            pods.add(answer.headers["x-inference-pod"])
        streams.over.set()
        for thread in streams.threads:
            thread.join(PATIENCE)
        counting.sent = 200 + streams.done
    assert not streams.failed, streams.failed
    assert streams.done > 0 and pods == {"vllm-1", "vllm-2", "vllm-3"}
    page = stack.page()
    assert total(page, "inpick_picks_total") - picks == counting.sent
    # Envoy's own choice is what is made where inpick has none.
    assert (total(page, "inpick_picks_total", reason="fallback") or 0) == fallbacks
    print(f"{counting.sent} requests, each counted")


def test_a_conversation_stays_where_its_prefix_is(stack):
    text = "It was a dark and stormy night. " * 400
    pods = {chat(text + str(turn)).headers["x-inference-pod"] for turn in range(8)}
    assert len(pods) == 1, pods


def test_a_pod_does_not_see_whom_the_picker_chose(stack):
    pod = chat("who").headers["x-inference-pod"]
    number = pod.removeprefix("vllm-")
    names = {name.lower() for name, _ in json.loads(ask(f"http://127.0.1.{number}:8000/sim/last-request").body)["headers"]}
    assert "content-type" in names
    assert not {name for name in names if name.startswith(("x-gateway-destination", "x-inpick"))}, names


def test_what_the_patches_say_is_in_envoy(stack):
    dump = json.loads(ask(f"{ADMIN}/config_dump").body)["configs"]
    (patches,) = [each["spec"]["jsonPatches"] for each in shipped() if each["kind"] == "EnvoyPatchPolicy"]
    operations = {patch["type"].rsplit(".", 1)[1]: patch["operation"]["value"] for patch in patches}
    (routes,) = [each["route_config"] for part in dump for each in part.get("dynamic_route_configs", [])]
    (listener,) = [each["active_state"]["listener"] for part in dump for each in part.get("dynamic_listeners", []) if each["name"] == LISTENER]
    (cluster,) = [each["cluster"] for part in dump for each in part.get("dynamic_active_clusters", []) if each["cluster"]["name"] == CLUSTER]
    assert int(routes["virtual_hosts"][0]["request_body_buffer_limit"]) == operations["RouteConfiguration"]
    filters = listener["default_filter_chain"]["filters"][0]["typed_config"]["http_filters"]
    assert filters[0]["name"] == operations["Listener"]["name"]
    plugin, wanted = (each["typed_config"]["config"] for each in (filters[0], operations["Listener"]))
    for member in ("root_id", "failure_policy", "allow_on_headers_stop_iteration"):
        assert plugin[member] == wanted[member], member
    (options,) = cluster["typed_extension_protocol_options"].values()
    (wanted,) = operations["Cluster"].values()
    assert [each["name"] for each in options["http_filters"]] == [each["name"] for each in wanted["http_filters"]]
    assert options["common_http_protocol_options"] == wanted["common_http_protocol_options"]
    policy = cluster["load_balancing_policy"]["policies"][0]["typed_extension_config"]
    assert policy["name"] == "envoy.load_balancing_policies.override_host"
    assert [each["header"] for each in policy["typed_config"]["override_host_sources"]] == ["x-gateway-destination-endpoint"]


def test_a_body_of_more_than_envoys_own_limit_reaches_a_pod(stack):
    answer = chat("x" * LARGE)
    # It is more than the model takes.
    assert answer.status == 400 and answer.headers["x-inference-pod"], answer.body[:200]


def test_a_pod_that_refuses_is_followed_by_the_next_of_the_list(stack):
    with Counting(stack) as counting:
        fault(2, kind="status", status=503)
        try:
            pods = set()
            for number in range(30):
                answer = chat(f"another {number}")
                assert answer.status == 200, answer.body
                pods.add(answer.headers["x-inference-pod"])
            counting.sent = 30
        finally:
            fault(2)
    assert pods == {"vllm-1", "vllm-3"}
    assert total(stack.page(), "inpick_picks_total", reason="retry") > 0


def test_closed_paths_reach_no_pod_and_open_ones_do(stack):
    for path in OPEN:
        answer = ask(GATEWAY + path)
        assert answer.status == 200 and "x-inference-pod" in answer.headers, (path, answer.status)
    for path in CLOSED:
        answer = ask(GATEWAY + path)
        assert answer.status in (400, 404) and "x-inference-pod" not in answer.headers, (path, answer.status, answer.body[:200])
        assert "vllm:" not in answer.body, path


def test_labels_are_on_the_page_without_stats_tags(stack):
    page = stack.page()
    assert total(page, "inference_objective_request_total", model_name=MODEL, target_model_name=MODEL) > 0
    assert total(page, "inpick_endpoints", pool="default", state="fresh") == 3
    assert total(page, "inference_pool_ready_pods", name="default") == 3
    # Nothing of Envoy's own is lost.
    assert "envoy_server_live" in page and f'envoy_cluster_name="{CLUSTER}"' in page


def test_pods_come_and_go_under_streams(stack):
    stack.serve(4)
    with Counting(stack) as counting:
        with Streams(GATEWAY, clients=4, tokens=5) as streams:
            eventually("streams", lambda: streams.done >= 4)
            stack.publish([1, 3, 4])
            stack.wait_for_members([1, 3, 4])
            eventually("the new pod serves", lambda: "vllm-4" in streams.pods)
            stack.publish([1, 2, 3, 4])
            stack.wait_for_members([1, 2, 3, 4])
        counting.sent = streams.done
    assert not streams.failed, streams.failed
    print(f"pods came and went: {streams.done} streams, 0 failed")
