"""A control plane for all tests of this folder."""

import os
import tempfile
from pathlib import Path

import pytest
from kubernetes import client

import definitions
import node
import objects
from cluster import Cluster
from gateway import Envoy
from scene import Scene

REFUSED = pytest.StashKey()


def pytest_sessionstart(session):
    """Before anything runs, everything moves into a network of its own, where the machine allows it."""
    try:
        node.isolate()
    except node.Refused as refusal:
        session.config.stash[REFUSED] = str(refusal)


@pytest.fixture(scope="session")
def machine(request):
    """That pods can run here, each in a network of its own."""
    refusal = request.config.stash.get(REFUSED, None)
    if refusal is not None:
        assert os.environ.get("CI") != "true", refusal
        pytest.skip(refusal)


@pytest.fixture(scope="session")
def envoy():
    """The Envoy that tests share. It starts while the control plane does."""
    assert os.environ.get("API_SERVER"), "run it by `make test STEPS=kube`, or set API_SERVER and ENVOY"
    with tempfile.TemporaryDirectory(prefix="inpick-kube-", ignore_cleanup_errors=True) as made:
        envoy = Envoy(made)
        envoy.launch()
        yield envoy
        envoy.stop()


@pytest.fixture(scope="session")
def cluster(request, envoy):
    """A control plane, which pods can reach where there are any, with the definitions of pools, objectives and rewrites and one node."""
    with tempfile.TemporaryDirectory(prefix="inpick-kube-", ignore_cleanup_errors=True) as folder:
        cluster = Cluster(folder, "127.0.0.1" if REFUSED in request.config.stash else node.ADDRESS)
        try:
            cluster.start()
            for definition in [definitions.pools(), *definitions.policies(objects.POLICY_GROUP)]:
                cluster.install(definition)
            client.CoreV1Api(cluster.api()).create_node(objects.node())
            yield cluster
        finally:
            cluster.stop()


@pytest.fixture
def namespace(cluster):
    """A namespace of the test's own."""
    return cluster.namespace()


@pytest.fixture
def folder():
    with tempfile.TemporaryDirectory(prefix="inpick-kube-", ignore_cleanup_errors=True) as made:
        yield Path(made)


@pytest.fixture
def scene(cluster, namespace, folder, envoy):
    scene = Scene(cluster, namespace, folder, envoy)
    try:
        yield scene
    finally:
        scene.stop()
