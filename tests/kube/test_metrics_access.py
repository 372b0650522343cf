"""Who may read the metrics page, as a real API server says: TokenReview for who it is, SubjectAccessReview for what they may get."""

import base64
import tempfile
import time
from pathlib import Path

import pytest
import yaml
from kubernetes import client, utils

import objects
from gateway import Sidecar
from process import ROOT, eventually

# How long the sidecar keeps the API server's word in these tests.
TTL_SECONDS = 2
# How long the API server keeps its own word on a token.
SERVER_TTL_SECONDS = 10
METRICS = [objects.path_rule(["/metrics"], ["get"])]
REVIEWS = [
    objects.rule(["authentication.k8s.io"], ["tokenreviews"], ["create"]),
    objects.rule(["authorization.k8s.io"], ["subjectaccessreviews"], ["create"]),
]


class Scene:
    """A sidecar that may ask for reviews, a reader and a stranger, each a service account."""

    def __init__(self, cluster, namespace, folder, envoy):
        self.cluster, self.namespace = cluster, namespace
        self.core, self.rbac = client.CoreV1Api(cluster.api()), client.RbacAuthorizationV1Api(cluster.api())
        for account, rules in (("picker", REVIEWS), ("reader", METRICS), ("stranger", [])):
            self.core.create_namespaced_service_account(namespace, client.V1ServiceAccount(metadata=client.V1ObjectMeta(name=account)))
            name = f"{namespace}-{account}"
            self.rbac.create_cluster_role(objects.role("ClusterRole", name, rules))
            self.rbac.create_cluster_role_binding(objects.role_binding("ClusterRole", name, account, namespace))
        self.sidecar = Sidecar(folder / "sidecar", cluster, cluster.token(namespace, "picker"), [
            "--pool", "default=static:127.0.0.1:9", "--pool-option", f"default=eds-file={envoy.eds_file}",
            "--metrics-endpoint-auth", "--metrics-endpoint-auth-ttl", f"{TTL_SECONDS}s",
        ], envoy)
        # Its page is part of what is read.
        envoy.start()

    def read(self, token):
        return self.sidecar.metrics(token).status

    def reader(self, **more):
        return self.cluster.token(self.namespace, "reader", **more)

    def wait_for(self, status, token, patience=60):
        eventually(f"status {status}", lambda: self.read(token) == status, patience, pause=0.3)

    def stop(self):
        self.sidecar.stop()
        for account in ("picker", "reader", "stranger"):
            self.rbac.delete_cluster_role(f"{self.namespace}-{account}")
            self.rbac.delete_cluster_role_binding(f"{self.namespace}-{account}")


@pytest.fixture(scope="module")
def scene(cluster, envoy):
    with tempfile.TemporaryDirectory(prefix="inpick-kube-") as folder:
        scene = Scene(cluster, cluster.namespace(), Path(folder), envoy)
        try:
            yield scene
        finally:
            scene.stop()


def test_a_bound_token_reads_the_page_and_others_do_not(scene):
    page = scene.sidecar.metrics(scene.reader())
    assert page.status == 200
    assert "inference_extension_info" in page.body and "envoy_server_live" in page.body
    assert scene.read(None) == 401
    assert scene.read("not-a-token") == 401
    # Known, and without the right to get /metrics.
    assert scene.read(scene.cluster.token(scene.namespace, "stranger")) == 403


def test_a_token_for_somebody_else_is_refused(scene):
    spec = client.V1TokenRequestSpec(audiences=["https://vault.example"], expiration_seconds=600)
    request = client.AuthenticationV1TokenRequest(spec=spec)
    token = scene.core.create_namespaced_service_account_token("reader", scene.namespace, request).status.token
    assert scene.read(token) == 401


def test_a_token_is_refused_once_it_has_expired_or_what_it_is_bound_to_is_gone(scene):
    # Both at once, for the API server keeps its word for 10 s either way.
    brief = scene.cluster.brief_token(scene.namespace, "reader", 8)
    secret = client.V1Secret(kind="Secret", metadata=client.V1ObjectMeta(name="holder"))
    made = scene.core.create_namespaced_secret(scene.namespace, secret)
    made.kind = "Secret"
    bound = scene.reader(bound_to=made)
    assert (scene.read(brief), scene.read(bound)) == (200, 200)
    deleted = time.monotonic()
    scene.core.delete_namespaced_secret("holder", scene.namespace)
    scene.wait_for(401, bound)
    # Both keep their word, the one behind the other.
    assert time.monotonic() - deleted < TTL_SECONDS + SERVER_TTL_SECONDS + 15
    scene.wait_for(401, brief)


def test_a_right_that_is_taken_away_or_given_counts_within_the_ttl(scene):
    token, name = scene.reader(), f"{scene.namespace}-reader"
    assert scene.read(token) == 200
    scene.rbac.patch_cluster_role(name, {"rules": []})
    scene.wait_for(403, token)
    scene.rbac.patch_cluster_role(name, {"rules": METRICS})
    scene.wait_for(200, token)


def test_it_fails_closed_while_the_api_server_is_away(scene):
    known, unknown = scene.reader(), scene.reader()
    assert scene.read(known) == 200
    scene.cluster.server.kill()
    try:
        # Nobody can say whose token this is: that says nothing about the token, and gives no page.
        assert scene.read(unknown) == 500
        scene.wait_for(500, known)
    finally:
        scene.cluster.start_server()
    scene.wait_for(200, known)


@pytest.mark.parametrize("missing", ["tokenreviews", "subjectaccessreviews"])
def test_without_the_right_to_ask_nobody_reads(scene, missing):
    token, name = scene.reader(), f"{scene.namespace}-picker"
    assert scene.read(token) == 200
    try:
        scene.rbac.patch_cluster_role(name, {"rules": [rule for rule in REVIEWS if missing not in rule["resources"]]})
        scene.wait_for(500, token)
    finally:
        scene.rbac.patch_cluster_role(name, {"rules": REVIEWS})
    scene.wait_for(200, token)


def test_the_shipped_roles_let_a_scraper_in(scene, cluster):
    """observability/helm/rbac.yaml as it is, with the Secret whose token people use with curl."""
    files = ROOT / "observability" / "helm" / "rbac.yaml"
    documents = list(yaml.safe_load_all(files.read_text()))
    scene.core.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name="monitoring")))
    for document in documents:
        utils.create_from_dict(cluster.api(), document)
    secret = next(document["metadata"]["name"] for document in documents if document["kind"] == "Secret")

    def token():
        data = scene.core.read_namespaced_secret(secret, "monitoring").data
        return data and data.get("token")

    scene.wait_for(200, base64.b64decode(eventually("the Secret has a token", token)).decode())
