"""The chart's roles are enough, and no more: without a verb of them something is missing. The verb watch of objectives and rewrites is the
one whose loss does not show: they are listed again every few seconds, so a change only comes later."""

import subprocess
import time

import pytest
import yaml
from kubernetes import client

import objects
from fleet import Fleet
from gateway import Gateway, ask, total
from process import ROOT, eventually

RELEASE, ACCOUNT = "my", "my-epp"
LABELS = {"app": "vllm"}
PRIORITY = -7
# The filter writes its counters every 100 ms in these tests.
FLUSH_SECONDS = 0.4
# What shall not happen would have happened by then.
SETTLED_SECONDS = 3


def rendered(namespace):
    """The chart's roles for its own account, as what helm makes of it: (kind, name, rules)."""
    done = subprocess.run([
        "helm", "template", RELEASE, ROOT / "deploy" / "chart", "--namespace", namespace, "--set", "router.epp.image.registry=registry.example",
        "--set", "router.modelServers.matchLabels.app=vllm",
    ], capture_output=True, text=True, timeout=60, check=True)
    documents = [document for document in yaml.safe_load_all(done.stdout) if document]
    bound = {
        (document["roleRef"]["kind"], document["roleRef"]["name"]) for document in documents if document["kind"].endswith("Binding")
        and any(subject["name"] == ACCOUNT for subject in document["subjects"])
    }
    return [document for document in documents if (document["kind"], document["metadata"]["name"]) in bound]


def without(rules, group, resource, verb):
    """The rules less one verb of one resource."""
    kept = []
    for rule in rules:
        for one_group in rule["apiGroups"]:
            for one_resource in rule["resources"]:
                verbs = [one for one in rule["verbs"] if (one_group, one_resource, one) != (group, resource, verb)]
                if verbs:
                    kept.append(objects.rule([one_group], [one_resource], verbs))
    return kept


class Account:
    """The chart's account with its roles, a gateway that runs as it, and a pod."""

    def __init__(self, cluster, namespace, folder):
        self.cluster, self.namespace = cluster, namespace
        self.rbac, self.reviews = client.RbacAuthorizationV1Api(cluster.api()), client.AuthorizationV1Api(cluster.api())
        core = client.CoreV1Api(cluster.api())
        core.create_namespaced_service_account(namespace, client.V1ServiceAccount(metadata=client.V1ObjectMeta(name=ACCOUNT)))
        self.roles = [document for document in rendered(namespace) if document["kind"] == "Role"]
        for role in self.roles:
            self.rbac.create_namespaced_role(namespace, objects.role("Role", role["metadata"]["name"], role["rules"]))
            self.rbac.create_namespaced_role_binding(namespace, objects.role_binding("Role", role["metadata"]["name"], ACCOUNT, namespace))
        create = client.CustomObjectsApi(cluster.api()).create_namespaced_custom_object
        create(objects.POOL_GROUP, "v1", namespace, "inferencepools", objects.pool(RELEASE, LABELS, [8000]))
        create(objects.POLICY_GROUP, objects.POLICY_VERSION, namespace, "inferenceobjectives", objects.objective("batch", RELEASE, PRIORITY))
        create(objects.POLICY_GROUP, objects.POLICY_VERSION, namespace, "inferencemodelrewrites", objects.rewrite("alias", RELEASE, "alias", objects.MODEL))
        self.prioritised = 0
        self.fleet = Fleet(cluster, namespace, folder)
        self.fleet.add("a", 1, LABELS)
        token = cluster.token(namespace, ACCOUNT)
        self.gateway = Gateway(folder / "gateway", cluster, token, f"inferencepool:{namespace}/{RELEASE}")

    def verbs(self):
        """Each (group, resource, verb) of the roles whose kind this cluster serves."""
        served = {"": {"pods"}, objects.POOL_GROUP: {"inferencepools"}, objects.POLICY_GROUP: {"inferenceobjectives", "inferencemodelrewrites"}}
        return [
            (group, resource, verb) for role in self.roles for rule in role["rules"] for group in rule["apiGroups"]
            for resource in rule["resources"] if resource in served.get(group, ()) for verb in rule["verbs"]
        ]

    def allow(self, taken=None):
        """Gives the account its roles, less one verb, and waits until the API server acts upon it."""
        for role in self.roles:
            rules = without(role["rules"], *taken) if taken else role["rules"]
            self.rbac.replace_namespaced_role(role["metadata"]["name"], self.namespace, objects.role("Role", role["metadata"]["name"], rules))
        for group, resource, verb in self.verbs():
            expected = (group, resource, verb) != taken
            eventually(f"{verb} {resource}: {expected}", lambda: self._may(group, resource, verb) == expected)

    def _may(self, group, resource, verb):
        spec = {
            "user": f"system:serviceaccount:{self.namespace}:{ACCOUNT}",
            "resourceAttributes": {"namespace": self.namespace, "group": group, "resource": resource, "verb": verb},
        }
        review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}
        return self.reviews.create_subject_access_review(review).status.allowed

    def away(self, resource):
        return total(self.gateway.page(), "inpick_sidecar_kubernetes_away_seconds", resource=resource)

    def works(self, resource):
        """Whether what the cluster says by this kind of object is so in the gateway."""
        if resource == "inferenceobjectives":
            assert self.gateway.envoy.chat(headers={"x-gateway-inference-objective": "batch"}).status in (200, 503)
            time.sleep(FLUSH_SECONDS)
            # The counter only grows, so what counts is whether this request is in it.
            before, self.prioritised = self.prioritised, total(self.gateway.page(), "inference_objective_request_total", priority=str(PRIORITY)) or 0
            return self.prioritised > before
        if resource == "inferencemodelrewrites":
            return self.gateway.envoy.chat("alias").status == 200
        return bool(self.gateway.envoy.members())

    def says(self, resource, verb):
        """Whether the sidecar, since its start, names a right that is missing."""
        text = self.gateway.sidecar.process.log.read_text()[self.logged:] + ask(f"http://127.0.0.1:{self.gateway.sidecar.port}/readyz").body
        return f"the right to {verb} {resource} is missing" in text

    def restart(self):
        self.gateway.sidecar.stop()
        self.logged = len(self.gateway.sidecar.process.log.read_text())
        self.gateway.eds_file.unlink(missing_ok=True)
        self.gateway.sidecar.start()

    def wait_until_settled(self, resource):
        """Waits until the pool is known, where it can be, and some time more."""
        if resource not in ("pods", "inferencepools"):
            eventually("the pool is known", lambda: self.works("pods"))
            eventually("it serves", lambda: self.gateway.envoy.chat().status == 200)
        time.sleep(SETTLED_SECONDS)
        self.works("inferenceobjectives")

    def stop(self):
        self.gateway.stop()
        self.fleet.stop()


@pytest.fixture
def account(cluster, namespace, folder):
    account = Account(cluster, namespace, folder)
    try:
        yield account
    finally:
        account.stop()


def test_the_roles_are_enough_and_no_more(account):
    address = f"{Fleet.address(1)}:8000"
    verbs = account.verbs()
    assert {resource for _, resource, _ in verbs} == {"pods", "inferencepools", "inferenceobjectives", "inferencemodelrewrites"}
    resources = {resource for _, resource, _ in verbs}
    account.gateway.wait_for_members({address: {"pod": "a", "namespace": account.namespace}})
    eventually("every watch stands", lambda: all(account.away(resource) == 0 for resource in resources))
    for resource in resources:
        eventually(f"{resource} work", lambda: account.works(resource))
    for taken in verbs:
        _, resource, verb = taken
        if verb == "watch" and resource not in ("pods", "inferencepools"):
            continue
        account.allow(taken)
        account.restart()
        # Objectives and rewrites are optional: where they cannot be listed they count as absent, and nothing is said.
        if resource in ("pods", "inferencepools"):
            eventually(f"it says that {taken} is missing", lambda: account.says(resource, verb))
        # With a list alone it knows what is there and does not hear of changes.
        if verb == "list":
            account.wait_until_settled(resource)
            assert not account.works(resource), f"{resource} work without {taken}"
    account.allow()
    account.restart()
    account.gateway.wait_for_members({address: {"pod": "a", "namespace": account.namespace}})
    eventually("every watch stands again", lambda: all(account.away(resource) == 0 for resource in resources))
    for resource in resources:
        eventually(f"{resource} work again", lambda: account.works(resource))


def test_the_roles_have_no_verb_beside_those_that_are_tried(cluster, namespace):
    allowed = {
        ("", "pods"): {"list", "watch"}, (objects.POOL_GROUP, "inferencepools"): {"list", "watch"},
        ("authentication.k8s.io", "tokenreviews"): {"create"}, ("authorization.k8s.io", "subjectaccessreviews"): {"create"},
    }
    for group in (objects.POLICY_GROUP, "llm-d.ai"):
        for resource in ("inferenceobjectives", "inferencemodelrewrites"):
            allowed[group, resource] = {"list", "watch"}
    for document in rendered(namespace):
        for rule in document["rules"]:
            for group in rule["apiGroups"]:
                for resource in rule["resources"]:
                    assert set(rule["verbs"]) <= allowed.get((group, resource), set()), f"{group}/{resource}: {rule['verbs']}"
