"""Releases of the chart as helm installs and upgrades them in a real API server: names, a second release, and the autoscaler's replicas. No pod runs."""

import base64
import re
import subprocess

import pytest
import yaml
from kubernetes import client

from process import PATIENCE, ROOT, eventually

CHART = ROOT / "deploy" / "chart"
PAGE = (ROOT / "deploy" / "docs" / "helm.md").read_text()
VALUES = {"router": {"modelServers": {"matchLabels": {"app": "vllm"}}, "epp": {"image": {"registry": "registry.example"}}}}
NO_READER = "inpick.metricsReader.create=false"


def section(heading):
    """Of the chart's page."""
    text = PAGE[PAGE.index(f"\n## {heading}\n") :]
    return text.split("\n## ")[1]


class Helm:
    """Helm and kubectl with a namespace of their own for each release. All releases end with it."""

    def __init__(self, cluster, folder):
        self.folder, self.releases = folder, []
        self.kubeconfig = folder / "kubeconfig"
        self.kubeconfig.write_text(cluster.kubeconfig(cluster.admin_token))
        self.kubeconfig.chmod(0o600)

    def run(self, *command, text=None):
        command = [str(word) for word in (command[0], "--kubeconfig", self.kubeconfig, *command[1:])]
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=PATIENCE * 2)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def apply(self, verb, release, namespace, values, *more):
        """Installs or upgrades a release with these values over those that must be given."""
        file = self.folder / f"{release}.yaml"
        file.write_text(yaml.safe_dump(VALUES))
        own = self.folder / f"{release}-own.yaml"
        own.write_text(yaml.safe_dump(values))
        if verb == "install":
            self.releases.append((release, namespace))
        return self.run("helm", "--namespace", namespace, verb, release, CHART, "--values", file, "--values", own, *more)

    def uninstall(self):
        for release, namespace in self.releases:
            self.run("helm", "--namespace", namespace, "uninstall", release, "--ignore-not-found")


@pytest.fixture
def helm(cluster, folder):
    helm = Helm(cluster, folder)
    # Those that other tests have applied are nobody's release.
    for kind, name in (("clusterrole", "inference-gateway-metrics-reader"), ("clusterrolebinding", "inference-gateway-sa-metrics-reader-role-binding")):
        helm.run("kubectl", "delete", kind, name, "--ignore-not-found")
    try:
        yield helm
    finally:
        helm.uninstall()


def test_names_that_look_like_numbers_and_names_with_dots_are_installed(cluster, helm):
    values = {"router": {"inferenceObjectives": [{"name": "1"}, {"name": "on"}]}, "inpick": {"networkPolicy": {"enabled": True}, "monitoring": {"dashboards": True}}}
    core, custom = client.CoreV1Api(cluster.api()), client.CustomObjectsApi(cluster.api())
    no_reader = ("--set", NO_READER)
    for release, name in (("123", "inpick-123-epp"), ("my.rel", "my-rel-epp"), ("a" * 39 + ".b", "a" * 39 + "-epp")):
        namespace = str(2026 + len(helm.releases))
        helm.apply("install", release, namespace, values, "--create-namespace", *(no_reader if helm.releases else ()))
        assert core.read_namespaced_service(name, namespace).spec.selector["app.kubernetes.io/instance"] == release
        pool = custom.get_namespaced_custom_object("inference.networking.k8s.io", "v1", namespace, "inferencepools", release)
        assert pool["spec"]["endpointPickerRef"]["name"] == name


def test_a_second_release_has_its_scraper_by_what_the_page_says(cluster, helm):
    core, reviews = client.CoreV1Api(cluster.api()), client.AuthorizationV1Api(cluster.api())
    helm.apply("install", "my", cluster.namespace(), {})
    second = cluster.namespace()
    helm.apply("install", "second", second, {}, "--set", NO_READER)
    (block,) = re.findall(r"```yaml\n(.*?)```", section("A second release"), re.S)
    try:
        helm.run("kubectl", "apply", "-f", "-", text=block.replace("other", second))
        secret = "inference-gateway-sa-metrics-reader-secret"
        token = eventually("a token in the Secret", lambda: (core.read_namespaced_secret(secret, second).data or {}).get("token"))
        assert base64.b64decode(token).count(b".") == 2
        for path in ("/metrics", "/live"):
            rights = client.V1NonResourceAttributes(path=path, verb="get")
            user = f"system:serviceaccount:{second}:inference-gateway-sa-metrics-reader"
            review = client.V1SubjectAccessReview(spec=client.V1SubjectAccessReviewSpec(user=user, non_resource_attributes=rights))
            eventually(f"a right to {path}", lambda: reviews.create_subject_access_review(review).status.allowed)
    finally:
        helm.run("kubectl", "delete", "--ignore-not-found", "-f", "-", text=block.replace("other", second))


@pytest.mark.parametrize("handed_over", [True, False])
def test_the_number_of_gateways_is_handed_to_the_autoscaler(cluster, helm, handed_over):
    apps = client.AppsV1Api(cluster.api())
    namespace = cluster.namespace()

    def replicas():
        return apps.read_namespaced_deployment("my-epp", namespace).spec.replicas

    helm.apply("install", "my", namespace, {}, "--set", NO_READER)
    assert replicas() == 2
    if handed_over:
        (command, handed) = re.search(r"kubectl (.*) <<END\n(.*?)\nEND\n", section("Scaling by requests in flight"), re.S).groups()
        helm.run("kubectl", *command.replace("inference", namespace).split(), text=handed)
    on = ("--set", f"{NO_READER},router.epp.autoscaling.enabled=true")
    helm.apply("upgrade", "my", namespace, {}, *on)
    # What the page warns of.
    assert replicas() == (2 if handed_over else 1)
    # The autoscaler's own word, which the next upgrade leaves alone.
    apps.patch_namespaced_deployment_scale("my-epp", namespace, {"spec": {"replicas": 5}})
    helm.apply("upgrade", "my", namespace, {}, *on, "--set-string", "router.epp.podAnnotations.version=2")
    assert replicas() == 5
