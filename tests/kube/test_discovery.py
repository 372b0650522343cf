"""The pool as Envoy has it follows the cluster: a real API server, the real sidecar, the real Envoy, simulated model servers."""

import signal
import time

import objects
from gateway import Gateway, total
from process import PATIENCE, eventually
from scene import LABELS
from streams import Clients


class Traffic(Clients):
    """Chat completions one after the other, from some threads, until it is left; every status is kept."""

    def __init__(self, gateway, threads=2):
        super().__init__(threads)
        self.gateway, self.statuses, self.pods = gateway, [], set()

    def _run(self, _):
        while not self.over.is_set():
            answer = self.gateway.envoy.chat()
            self.statuses.append(answer.status)
            self.pods.add(answer.headers.get("x-inference-pod"))
            time.sleep(0.01)

    def failed(self):
        return [status for status in self.statuses if status != 200]


def test_pods_come_become_ready_end_and_move(scene):
    gateway = scene.gateway()
    gateway.wait_for_members({})
    # Scheduled, with an address, and not ready: no endpoint.
    scene.fleet.create("a", LABELS)
    scene.fleet.serve("a", 1)
    scene.fleet.report("a", 1, ready=False)
    scene.fleet.add("b", 2, LABELS)
    scene.fleet.add("other", 3, {"app": "web"})
    gateway.wait_for_members(scene.member("b", 2))
    scene.fleet.report("a", 1)
    gateway.wait_for_members({**scene.member("a", 1), **scene.member("b", 2)})
    scene.fleet.report("b", 2, ready=False)
    gateway.wait_for_members(scene.member("a", 1))
    scene.fleet.report("b", 2)
    gateway.wait_for_members({**scene.member("a", 1), **scene.member("b", 2)})
    counted = total(gateway.page(), "inference_objective_request_total") or 0
    with Traffic(gateway) as traffic:
        eventually("both serve", lambda: {"a", "b"} <= traffic.pods)
        # It serves to its end, and gets nothing new from the moment that it is to end.
        scene.fleet.begin_to_end("b")
        gateway.wait_for_members(scene.member("a", 1))
        scene.fleet.end("b")
        # A pod of the same name at another address.
        scene.fleet.add("b", 4, LABELS)
        gateway.wait_for_members({**scene.member("a", 1), **scene.member("b", 4)})
        scene.fleet.report("a", None)
        gateway.wait_for_members(scene.member("b", 4))
        scene.fleet.serve("a", 5)
        scene.fleet.report("a", 5)
        gateway.wait_for_members({**scene.member("a", 5), **scene.member("b", 4)})
    assert len(traffic.statuses) > 10 and not traffic.failed()
    eventually("each is counted", lambda: total(gateway.page(), "inference_objective_request_total") - counted == len(traffic.statuses))


def test_a_pod_that_changes_its_labels_enters_and_leaves(scene):
    scene.fleet.add("a", 1, LABELS)
    scene.fleet.add("b", 2, {"app": "web"})
    gateway = scene.gateway()
    gateway.wait_for_members(scene.member("a", 1))
    core = scene.fleet.core
    core.patch_namespaced_pod("b", scene.namespace, {"metadata": {"labels": LABELS}})
    gateway.wait_for_members({**scene.member("a", 1), **scene.member("b", 2)})
    core.patch_namespaced_pod("a", scene.namespace, {"metadata": {"labels": {"app": "web"}}})
    gateway.wait_for_members(scene.member("b", 2))


def test_selector_and_ports_of_the_pool_change(scene):
    scene.fleet.add("a", 1, LABELS, ports=(8000, 8001))
    scene.fleet.add("b", 2, {"app": "sglang"}, ports=(8000, 8001))
    gateway = scene.gateway()
    gateway.wait_for_members(scene.member("a", 1))
    scene.patch("inferencepools", "models", {"spec": {"selector": {"matchLabels": {"app": "sglang"}}}})
    gateway.wait_for_members(scene.member("b", 2))
    scene.patch("inferencepools", "models", {"spec": {"targetPorts": [{"number": 8001}]}})
    gateway.wait_for_members(scene.member("b", 2, 8001))
    assert gateway.envoy.chat().headers["x-inference-pod"] == "b"


def test_several_ports_are_endpoints_and_the_annotation_narrows_them(scene):
    scene.patch("inferencepools", "models", {"spec": {"targetPorts": [{"number": 8000}, {"number": 8001}]}})
    scene.fleet.add("a", 1, LABELS, ports=(8000, 8001))
    gateway = scene.gateway()
    both = {**scene.member("a", 1, 8000), **scene.member("a", 1, 8001)}
    gateway.wait_for_members(both)
    annotation = "inference.networking.k8s.io/active-ports"
    core = scene.fleet.core
    core.patch_namespaced_pod("a", scene.namespace, {"metadata": {"annotations": {annotation: "8001"}}})
    gateway.wait_for_members(scene.member("a", 1, 8001))
    core.patch_namespaced_pod("a", scene.namespace, {"metadata": {"annotations": {annotation: None}}})
    gateway.wait_for_members(both)


def test_pods_by_a_selector_need_no_pool(scene):
    scene.fleet.add("a", 1, {"app": "vllm", "tier": "fast"})
    scene.fleet.add("b", 2, {"app": "vllm", "tier": "slow"})
    gateway = scene.gateway("pods:app=vllm,tier in (fast, faster):8000", ["--pool-option", f"default=namespace={scene.namespace}"])
    gateway.wait_for_members(scene.member("a", 1))
    assert gateway.envoy.chat().headers["x-inference-pod"] == "a"


def test_a_deleted_pool_is_empty_and_one_that_returns_is_full(scene):
    scene.fleet.add("a", 1, LABELS)
    gateway = scene.gateway()
    gateway.wait_for_members(scene.member("a", 1))
    scene.delete("inferencepools", "models")
    gateway.wait_for_members({})
    scene.create("inferencepools", objects.pool("models", LABELS, [8000]))
    gateway.wait_for_members(scene.member("a", 1))


def away(gateway):
    """The longest that a watch of the pool's pods has been away, seconds."""
    return total(gateway.page(), "inpick_sidecar_kubernetes_away_seconds", resource="pods")


def test_the_api_server_is_killed_and_returns_under_traffic(scene):
    """One gateway runs all the time, and one starts meanwhile."""
    for number, name in enumerate("abc", 1):
        scene.fleet.add(name, number, LABELS)
    gateway = scene.gateway()
    everyone = {**scene.member("a", 1), **scene.member("b", 2), **scene.member("c", 3)}
    gateway.wait_for_members(everyone)
    assert away(gateway) == 0
    token = scene.cluster.token(scene.namespace, "default")
    with Traffic(gateway) as traffic:
        scene.cluster.server.kill()
        try:
            late = Gateway(scene.folder / "late", scene.cluster, token, f"inferencepool:{scene.namespace}/models")
            scene.gateways.append(late)
            # Envoy runs: an empty file was there before anything else.
            assert late.envoy.members() == {}
            assert not late.sidecar.ready()
            eventually("the gauge says that it is away", lambda: away(gateway) > 1)
            # The last list stands.
            assert gateway.envoy.members() == everyone
        finally:
            scene.cluster.start_server()
        scene.fleet.add("d", 4, LABELS)
        everyone.update(scene.member("d", 4))
        for each in (gateway, late):
            each.wait_for_members(everyone, 60)
            eventually("the watch is back", lambda: away(each) == 0)
        eventually("the new pod serves", lambda: "d" in traffic.pods)
        eventually("the late sidecar is ready", late.sidecar.ready)
    assert not traffic.failed()


def test_a_revision_that_is_gone_is_listed_anew(scene):
    scene.fleet.add("a", 1, LABELS)
    scene.fleet.add("b", 2, LABELS)
    gateway = scene.gateway()
    gateway.wait_for_members({**scene.member("a", 1), **scene.member("b", 2)})
    # It sleeps while pods change, past revisions are forgotten, and the server that knew them is another one.
    gateway.sidecar.process.signal(signal.SIGSTOP)
    try:
        scene.fleet.begin_to_end("a")
        scene.fleet.end("a")
        scene.fleet.add("c", 3, LABELS)
        for round_number in range(20):
            scene.fleet.core.patch_namespaced_pod("b", scene.namespace, {"metadata": {"annotations": {"round": str(round_number)}}})
        before = scene.cluster.compact()
        scene.cluster.restart_server()
        # etcd has what the server that was killed wrote.
        assert scene.fleet.core.read_namespaced_pod("b", scene.namespace).metadata.annotations == {"round": "19"}
        assert scene.cluster.compact() >= before
    finally:
        gateway.sidecar.process.signal(signal.SIGCONT)
    gateway.wait_for_members({**scene.member("b", 2), **scene.member("c", 3)}, 60)
    assert gateway.envoy.chat().status == 200


def test_a_restarted_sidecar_finds_its_pool_again(scene):
    scene.fleet.add("a", 1, LABELS)
    gateway = scene.gateway()
    gateway.wait_for_members(scene.member("a", 1))
    with Traffic(gateway) as traffic:
        gateway.sidecar.stop()
        scene.fleet.add("b", 2, LABELS)
        gateway.sidecar.start()
        gateway.wait_for_members({**scene.member("a", 1), **scene.member("b", 2)})
        eventually("both serve", lambda: {"a", "b"} <= traffic.pods)
    assert not traffic.failed()


def test_objectives_and_rewrites_count_without_a_restart(scene):
    scene.fleet.add("a", 1, LABELS, arguments=["--served-model-name", f"{objects.MODEL},base,tuned"])
    gateway = scene.gateway()
    gateway.wait_for_members(scene.member("a", 1))

    def wait_for_priority(priority):
        eventually(f"the priority is {priority}", lambda: gateway.priority_of("batch") == priority)

    scene.create("inferenceobjectives", objects.objective("batch", "models", -7))
    scene.create("inferenceobjectives", objects.objective("elsewhere", "another-pool", 99))
    wait_for_priority(-7)
    assert gateway.priority_of("elsewhere") == 0
    scene.patch("inferenceobjectives", "batch", {"spec": {"priority": 3}})
    wait_for_priority(3)
    scene.delete("inferenceobjectives", "batch")
    wait_for_priority(0)
    assert gateway.envoy.chat("alias").status == 404
    scene.create("inferencemodelrewrites", objects.rewrite("alias", "models", "alias", "base"))
    eventually("the rewrite counts", lambda: gateway.envoy.chat("alias").status == 200)
    target = {"spec": {"rules": [{"matches": [{"model": {"value": "alias"}}], "targets": [{"modelRewrite": "tuned"}]}]}}
    scene.patch("inferencemodelrewrites", "alias", target)
    eventually("its change counts", lambda: total(gateway.page(), "inference_objective_request_total", target_model_name="tuned")
               or (gateway.envoy.chat("alias") and False))
    scene.delete("inferencemodelrewrites", "alias")
    eventually("without it the model is unknown", lambda: gateway.envoy.chat("alias").status == 404)


def test_a_thousand_pods_fit(scene):
    """Memory of the sidecar that watches 1 000 pods as the API server keeps them. Nobody answers at their addresses."""
    count = 1000
    scene.fleet.create("many-0", {"app": "many"})
    scene.fleet.report("many-0", 1)
    addresses = [f"127.250.{number // 250}.{number % 250 + 1}" for number in range(1, count)]
    scene.cluster.copy_pod(scene.namespace, "many-0", [(f"many-{number}", address) for number, address in enumerate(addresses, 1)])
    # An Envoy of its own, for it keeps something of every endpoint that it has known.
    gateway = scene.gateway(
        "pods:app=many:8000", ["--pool-option", f"default=namespace={scene.namespace}", "--poll-interval", "5s"], has_own_envoy=True,
    )

    def wait_for(number):
        eventually(f"{number} are members", lambda: len(gateway.envoy.members()) == number, PATIENCE * 2, pause=0.3)

    wait_for(count)
    scene.fleet.report("many-0", 1, ready=False)
    wait_for(count - 1)
    resident = gateway.sidecar.process.resident_bytes()
    print(f"sidecar with {count} pods: {resident / 2**20:.1f} MiB resident")
    # The limit of the chart's container is 256 MiB.
    assert resident < 128 * 2**20
