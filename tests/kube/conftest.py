"""A control plane for all tests of this folder."""

import os
import tempfile
from pathlib import Path

import pytest
from kubernetes import client

import objects
from cluster import Cluster


@pytest.fixture(scope="session")
def cluster():
    """A control plane on loopback, with the definitions of pools, objectives and rewrites and one node."""
    assert os.environ.get("API_SERVER"), "run it by `make test STEPS=kube`, or set API_SERVER and ENVOY"
    with tempfile.TemporaryDirectory(prefix="inpick-kube-", ignore_cleanup_errors=True) as folder:
        cluster = Cluster(folder)
        try:
            cluster.start()
            cluster.install_crds()
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
