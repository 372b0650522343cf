"""What the tests of other gateways share with those of Kubernetes: processes, a network of their own, clients."""

import os
import sys
import tempfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "kube"))
import node  # noqa: E402

REFUSED = pytest.StashKey()


def pytest_sessionstart(session):
    """A controller listens on ports that cannot be changed, so everything moves into a network of its own first."""
    try:
        node.isolate()
    except node.Refused as refusal:
        session.config.stash[REFUSED] = str(refusal)


@pytest.fixture(scope="session")
def machine(request):
    """That a network of one's own can be had."""
    refusal = request.config.stash.get(REFUSED, None)
    if refusal is not None:
        assert os.environ.get("CI") != "true", refusal
        pytest.skip(refusal)


@pytest.fixture(scope="module")
def folder():
    with tempfile.TemporaryDirectory(prefix="inpick-gateways-", ignore_cleanup_errors=True) as made:
        yield Path(made)
