"""The chart in each of its shapes, installed by helm into a real API server, its pods run by a kubelet of the tests' own from what they say:
traffic through its Service, each request counted, while models and the gateway itself are replaced."""

import base64
import json
import os
import subprocess

import pytest
import yaml
from kubernetes import client

import objects
from gateway import ask, module, total
from kubelet import Kubelet
from process import PATIENCE, ROOT, binary, eventually
from service_proxy import ServiceProxy
from streams import Streams

CHART = ROOT / "deploy" / "chart"
RELEASE = "my"
LABELS = {"app": "vllm"}
# What a drain takes at least here; a stream takes about as long.
DRAIN_SECONDS = 4
VALUES = {
    "router": {
        "modelServers": {"matchLabels": LABELS},
        "epp": {"image": {"registry": "registry.example"}, "replicas": 2},
    },
    "inpick": {"concurrency": 1, "drain": {"least": DRAIN_SECONDS, "most": 60}},
}


def images():
    """Files of the images that deploy/*.Containerfile build, from what is built here."""
    inpick = {"/usr/local/bin/inpick": binary("inpick")}
    envoy = {"/usr/local/bin/envoy": os.environ["ENVOY"], "/opt/inpick/filter.wasm": module(),
             "/opt/inpick/libinpick.so": os.environ.get("INPICK_NATIVE", str(ROOT / "target" / "native" / "libinpick.so"))}
    return {
        "inpick-sidecar": {"files": inpick, "entrypoint": ["/usr/local/bin/inpick"]},
        "inpick-gateway": {"files": {**inpick, **envoy}, "entrypoint": ["/usr/local/bin/envoy"]},
        "vllm-sim": {"files": {"/usr/local/bin/vllm-sim": binary("vllm-sim")}, "entrypoint": ["/usr/local/bin/vllm-sim"]},
    }


def models(name, replicas, version="1"):
    """A Deployment of simulated model servers. A pod that is to end serves on while gateways hear of it, and ends its streams."""
    container = {
        "name": "vllm", "image": "vllm-sim",
        "args": ["--host", "0.0.0.0", "--port", "8000", "--pod-name", "$(POD_NAME)", "--speed", "1"],
        "env": [{"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}, {"name": "VERSION", "value": version}],
        "ports": [{"containerPort": 8000}],
        "readinessProbe": {"httpGet": {"path": "/health", "port": 8000}, "periodSeconds": 1},
        "lifecycle": {"preStop": {"sleep": {"seconds": 5}}},
    }
    return {
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": LABELS}, "minReadySeconds": 1,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "template": {"metadata": {"labels": LABELS}, "spec": {"containers": [container], "automountServiceAccountToken": False}},
        },
    }


class Release:
    """The chart, installed in a shape; its pods run."""

    def __init__(self, cluster, namespace, folder, shape):
        self.cluster, self.namespace, self.folder, self.shape = cluster, namespace, folder, shape
        self.apps, self.core = client.AppsV1Api(cluster.api()), client.CoreV1Api(cluster.api())
        self.kubeconfig = folder / "kubeconfig"
        self.kubeconfig.write_text(cluster.kubeconfig(cluster.admin_token, namespace))
        self.kubeconfig.chmod(0o600)
        self.kubelet = Kubelet(cluster, [namespace], images(), folder / "pods").start()
        self.proxy, self.chats = None, 0

    def helm(self, *arguments):
        values = self.folder / "values.yaml"
        values.write_text(yaml.safe_dump({**VALUES, "inpick": {**VALUES["inpick"], "shape": self.shape}}))
        command = ["helm", "--kubeconfig", self.kubeconfig, "--namespace", self.namespace, *arguments, "--values", values]
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=PATIENCE * 2)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def rolled_out(self, name):
        """Whether a Deployment runs its newest version only."""
        deployment = self.apps.read_namespaced_deployment(name, self.namespace)
        status, wanted = deployment.status, deployment.spec.replicas
        newest = (status.observed_generation or 0) >= deployment.metadata.generation
        return newest and status.updated_replicas == wanted and status.available_replicas == wanted and status.replicas == wanted

    def wait_for(self, name, patience=PATIENCE * 3):
        try:
            eventually(f"{name} is rolled out", lambda: self.kubelet.wrong[:] or self.rolled_out(name), patience, pause=0.3)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.kubelet.wrong}\n{self.kubelet.said()}") from None
        assert not self.kubelet.wrong, f"{self.kubelet.wrong}\n{self.kubelet.said()}"

    def pods(self, selector):
        """Names of pods that are not to end."""
        listed = self.core.list_namespaced_pod(self.namespace, label_selector=selector).items
        return {pod.metadata.name for pod in listed if pod.metadata.deletion_timestamp is None}

    def reader_token(self):
        """The token of the Secret that the seeds name."""
        data = self.core.read_namespaced_secret("inference-gateway-sa-metrics-reader-secret", self.namespace).data
        return base64.b64decode(data["token"]).decode()

    def pages(self):
        """The metrics page of each gateway, read with that token."""
        headers = {"authorization": f"Bearer {self.reader_token()}"}
        gateways = self.core.list_namespaced_pod(self.namespace, label_selector=f"app.kubernetes.io/instance={RELEASE}").items
        answers = [ask(f"http://{pod.status.pod_ip}:9090/metrics", headers=headers) for pod in gateways]
        assert [answer.status for answer in answers] == [200] * len(answers), [answer.body[:200] for answer in answers]
        return [answer.body for answer in answers]

    def counted(self):
        """Requests that the gateways have counted."""
        return sum(total(page, "inference_objective_request_total") or 0 for page in self.pages())

    def stop(self):
        if self.proxy is not None:
            self.proxy.stop()
        self.kubelet.stop()


@pytest.fixture(scope="module", params=["sidecar", "embedded"])
def release(request, cluster, machine, tmp_path_factory):
    namespace = cluster.namespace()
    folder = tmp_path_factory.mktemp("release")
    release = Release(cluster, namespace, folder, request.param)
    try:
        release.apps.create_namespaced_deployment(namespace, models("vllm", 3))
        release.helm("install", RELEASE, CHART)
        release.wait_for("vllm")
        release.wait_for(f"{RELEASE}-epp")
        release.proxy = ServiceProxy(cluster, namespace, f"{RELEASE}-epp").start()
        eventually("the Service has two gateways", lambda: len(release.proxy.targets.get("http", [])) == 2)
        yield release
    finally:
        release.stop()


def chat(release):
    release.chats += 1
    body = {"model": objects.MODEL, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 3}
    return ask(f"{release.proxy.url('http')}/v1/chat/completions", body)


def test_the_gateway_has_the_containers_of_its_shape(release):
    pods = release.core.list_namespaced_pod(release.namespace, label_selector=f"app.kubernetes.io/instance={RELEASE}").items
    assert len(pods) == 2
    for pod in pods:
        lasting = [container.name for container in pod.spec.init_containers or [] if container.restart_policy == "Always"]
        lasting += [container.name for container in pod.spec.containers]
        assert lasting == (["inpick", "envoy"] if release.shape == "sidecar" else ["envoy"])


def test_a_first_request_is_answered_and_a_first_scrape_needs_a_token(release):
    answer = chat(release)
    assert answer.status == 200, answer.body
    assert answer.headers["x-inference-pod"] in release.pods("app=vllm")
    metrics = release.proxy.url("http-metrics") + "/metrics"
    assert ask(metrics).status == 401
    page = ask(metrics, headers={"authorization": f"Bearer {release.reader_token()}"})
    assert page.status == 200 and "inference_pool_ready_pods" in page.body


def test_the_token_of_the_scraper_opens_the_live_page_and_that_of_another_account_does_not(release):
    url = release.proxy.url("http-metrics")
    # The page itself holds no data; a browser sends no token for it.
    assert ask(f"{url}/").status == 200
    assert ask(f"{url}/api/state").status == 401
    state = ask(f"{url}/api/state", headers={"authorization": f"Bearer {release.reader_token()}"})
    assert state.status == 200, state.body
    assert {endpoint["pod"] for endpoint in json.loads(state.body)["endpoints"]} == release.pods("app=vllm")
    stranger = release.cluster.token(release.namespace, "default")
    assert ask(f"{url}/api/state", headers={"authorization": f"Bearer {stranger}"}).status == 403


def test_every_request_through_the_service_is_counted(release):
    pods = set()
    for _ in range(60):
        answer = chat(release)
        assert answer.status == 200, answer.body
        pods.add(answer.headers["x-inference-pod"])
    eventually("all are counted, those of other tests too", lambda: release.counted() == release.chats, 20)
    assert pods == release.pods("app=vllm")


def test_models_are_replaced_under_streams(release):
    before = release.pods("app=vllm")
    counted = release.counted()
    with Streams(release.proxy.url("http")) as streams:
        eventually("streams", lambda: streams.done >= 6)
        release.apps.patch_namespaced_deployment("vllm", release.namespace, models("vllm", 3, version="2"))
        release.wait_for("vllm")
        eventually("new pods serve", lambda: release.pods("app=vllm") <= set(streams.pods))
    assert not before & release.pods("app=vllm")
    assert not streams.failed, streams.failed
    eventually("all are counted", lambda: release.counted() - counted == streams.done, 20)
    print(f"models replaced: {streams.done} streams, 0 failed")


def test_the_gateway_is_replaced_under_streams(release):
    selector = f"app.kubernetes.io/instance={RELEASE}"
    before = release.pods(selector)
    with Streams(release.proxy.url("http")) as streams:
        eventually("streams", lambda: streams.done >= 6)
        release.helm("upgrade", RELEASE, CHART, "--set-string", "router.epp.podAnnotations.version=2")
        release.wait_for(f"{RELEASE}-epp")
        done = streams.done
        eventually("streams through the new ones", lambda: streams.done > done + 6)
    assert not before & release.pods(selector)
    assert not streams.failed, streams.failed
    eventually("the old ones have ended", lambda: not release.kubelet.wrong and all(run.ended() for run in release.kubelet.runs.values() if run.name in before))
    assert not release.kubelet.wrong, release.kubelet.wrong
    print(f"gateway replaced: {streams.done} streams, 0 failed")


def test_uninstalled_nothing_is_left(release):
    subprocess.run(["helm", "--kubeconfig", release.kubeconfig, "--namespace", release.namespace, "uninstall", RELEASE], check=True, timeout=PATIENCE)
    selector = f"app.kubernetes.io/instance={RELEASE}"
    eventually("the gateways end", lambda: not release.core.list_namespaced_pod(release.namespace, label_selector=selector).items, PATIENCE * 2)
    rbac = client.RbacAuthorizationV1Api(release.cluster.api())
    assert not [role.metadata.name for role in rbac.list_cluster_role(label_selector=selector).items]
