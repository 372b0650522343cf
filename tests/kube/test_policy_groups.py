"""Objectives and rewrites of `llm-d.ai` and of the older group, whose definitions come and go while the gateway runs."""

import time

import pytest

import definitions
import objects
from gateway import ask, total
from process import eventually
from scene import LABELS

OLDER, NEWER = objects.POLICY_GROUP, objects.NEWER_POLICY_GROUP
PLURALS = ("inferenceobjectives", "inferencemodelrewrites")
# A kind that is absent is asked for again every 5 s; the rest is for a busy machine.
NOTICED_SECONDS = 30


@pytest.fixture
def groups(cluster):
    """Neither group at first; the older one's definitions are there again at the end, as all other tests expect them."""

    class Groups:
        there = {OLDER}

        def install(self, group):
            for definition in definitions.policies(group):
                cluster.install(definition)
            self.there.add(group)

        def uninstall(self, group):
            self.there.discard(group)
            for definition in definitions.policies(group):
                cluster.uninstall(definition)

    groups = Groups()
    groups.uninstall(OLDER)
    yield groups
    for group in (OLDER, NEWER):
        wanted, there = group == OLDER, group in groups.there
        if there and not wanted:
            groups.uninstall(group)
        if wanted and not there:
            groups.install(group)


def write(scene, group, priority, model):
    scene.create("inferenceobjectives", objects.objective("batch", "models", priority, group))
    scene.create("inferencemodelrewrites", objects.rewrite("alias", "models", "alias", model, group))


def test_definitions_come_and_go_and_those_of_llm_d_count_first(scene, groups):
    scene.fleet.add("a", 1, LABELS, arguments=["--served-model-name", f"{objects.MODEL},of-older,of-newer"])
    gateway = scene.gateway()
    gateway.wait_for_members(scene.member("a", 1))
    eventually("it serves", lambda: gateway.envoy.chat().status == 200)
    pid = gateway.sidecar.process.pid

    def wait_for(priority, model):
        began = time.monotonic()
        eventually(f"the priority is {priority}", lambda: gateway.priority_of("batch") == priority, NOTICED_SECONDS)
        eventually(f"the model is {model}", lambda: serves(model), NOTICED_SECONDS)
        print(f"noticed after {time.monotonic() - began:.1f} s")

    def serves(model):
        before = total(gateway.page(), "inference_objective_request_total", target_model_name=model) or 0
        status = gateway.envoy.chat("alias").status
        if model is None:
            return status == 404
        return status == 200 and eventually(
            "the request is counted", lambda: (total(gateway.page(), "inference_objective_request_total", target_model_name=model) or 0) > before, 2,
        )

    # Kinds that a cluster has not are no trouble.
    wait_for(0, None)
    for plural in PLURALS:
        assert total(gateway.page(), "inpick_sidecar_kubernetes_away_seconds", resource=plural) == 0
    assert ask(f"http://127.0.0.1:{gateway.sidecar.port}/readyz").status == 200
    groups.install(OLDER)
    write(scene, OLDER, -7, "of-older")
    wait_for(-7, "of-older")
    # Its objects say no group of their pool: the API server puts in what the definition says.
    groups.install(NEWER)
    write(scene, NEWER, 3, "of-newer")
    scene.create("inferenceobjectives", objects.objective("older-alone", "models", 9, OLDER))
    wait_for(3, "of-newer")
    eventually("the older group's do not count", lambda: gateway.priority_of("older-alone") == 0)
    scene.patch("inferenceobjectives", "batch", {"spec": {"priority": 4}}, NEWER)
    wait_for(4, "of-newer")
    groups.uninstall(NEWER)
    wait_for(-7, "of-older")
    eventually("they count again", lambda: gateway.priority_of("older-alone") == 9)
    assert gateway.sidecar.process.running() and gateway.sidecar.process.pid == pid
    # The same from the start.
    groups.install(NEWER)
    write(scene, NEWER, 5, "of-newer")
    gateway.sidecar.stop()
    gateway.sidecar.start()
    wait_for(5, "of-newer")
