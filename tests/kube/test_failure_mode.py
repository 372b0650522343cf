"""`failureMode` of an InferencePool: what becomes of requests for which no endpoint is left, changed while everything runs."""

import json

import pytest

from gateway import ask, total
from process import eventually
from scene import LABELS
from sleeping_engine import SleepingEngine


def set_mode(scene, mode):
    scene.patch("inferencepools", "models", {"spec": {"endpointPickerRef": {"failureMode": mode}}})


def left_to_envoy(gateway):
    """How many requests were."""
    return total(gateway.page(), "inpick_picks_total", reason="fallback") or 0


def refusal(answer):
    """The error of an answer in OpenAI's shape, if this is the picker's refusal."""
    error = json.loads(answer.body)["error"] if answer.status == 503 else {}
    return error if error.get("code") == "no_endpoint" else None


@pytest.fixture
def gateway(scene):
    gateway = scene.gateway()
    processes = [gateway.sidecar.process, gateway.envoy.process]
    pids = [process.pid for process in processes]
    yield gateway
    assert [process.pid for process in processes if process.running()] == pids, "something was restarted"


@pytest.fixture
def engine(scene):
    engine = SleepingEngine(scene.fleet.address(1), 8000)
    yield engine
    engine.stop()


def test_an_endpoint_that_cannot_be_picked_is_tried_only_if_the_pool_fails_open(scene, gateway, engine):
    scene.fleet.create("a", LABELS)
    scene.fleet.report("a", 1)
    # Envoy has it, so it can be tried.
    gateway.wait_for_members(scene.member("a", 1))
    before = left_to_envoy(gateway)
    eventually("the sidecar knows that it sleeps", lambda: total(gateway.page(), "inpick_sidecar_endpoints", state="sleeping") == 1)
    for _ in range(2):
        set_mode(scene, "FailClose")
        error = eventually("a request is refused", lambda: refusal(gateway.envoy.chat()))
        assert error["type"] == "server_error" and "default" in error["message"], error
        tried = engine.requests
        for _ in range(5):
            assert refusal(gateway.envoy.chat())
        assert engine.requests == tried
        set_mode(scene, "FailOpen")
        eventually("a request is tried", lambda: gateway.envoy.chat().status == 200)
        tried = engine.requests
        for _ in range(5):
            assert gateway.envoy.chat().status == 200
        assert engine.requests == tried + 5
    eventually("they are counted as left to Envoy", lambda: left_to_envoy(gateway) >= before + 12)


def test_the_refusal_has_the_shape_of_the_api_that_was_asked(scene, gateway):
    set_mode(scene, "FailClose")
    eventually("a request is refused", lambda: refusal(gateway.envoy.chat()))
    body = {"model": "m", "max_tokens": 3, "messages": [{"role": "user", "content": "hello"}]}
    answer = ask(f"http://127.0.0.1:{gateway.envoy.port}/v1/messages", body)
    assert (answer.status, answer.headers["content-type"]) == (503, "application/json")
    error = json.loads(answer.body)
    assert (error["type"], error["error"]["type"]) == ("error", "overloaded_error")


def test_the_last_pod_leaves_and_returns(scene, gateway):
    scene.fleet.add("a", 1, LABELS)
    set_mode(scene, "FailClose")
    gateway.wait_for_members(scene.member("a", 1))
    eventually("it serves", lambda: gateway.envoy.chat().status == 200)
    scene.fleet.report("a", 1, ready=False)
    gateway.wait_for_members({})
    eventually("a request is refused", lambda: refusal(gateway.envoy.chat()))
    set_mode(scene, "FailOpen")

    def has_nobody():
        answer = gateway.envoy.chat()
        assert answer.status == 503
        return not refusal(answer) and "no_healthy_upstream" in answer.body

    eventually("Envoy itself has nobody", has_nobody)
    scene.fleet.report("a", 1)
    eventually("it serves again", lambda: gateway.envoy.chat().status == 200)
