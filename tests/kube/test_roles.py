"""The chart's roles are enough, and no more: without a verb of them something is missing, and the metrics page names it. Without the verb watch of
objectives and rewrites nothing else does: they are listed again every few seconds, so a change only comes later."""

import itertools
import re
import subprocess

import pytest
import yaml
from kubernetes import client

import definitions
import objects
from fleet import Fleet
from gateway import Gateway, ask, total
from process import ROOT, eventually

RELEASE, ACCOUNT = "my", "my-epp"
LABELS = {"app": "vllm"}
PRIORITY = -7
POLICIES = ("inferenceobjectives", "inferencemodelrewrites")


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

    def __init__(self, cluster, namespace, folder, envoy):
        self.cluster, self.namespace = cluster, namespace
        self.rbac, self.reviews = client.RbacAuthorizationV1Api(cluster.api()), client.AuthorizationV1Api(cluster.api())
        core = client.CoreV1Api(cluster.api())
        core.create_namespaced_service_account(namespace, client.V1ServiceAccount(metadata=client.V1ObjectMeta(name=ACCOUNT)))
        self.roles = [document for document in rendered(namespace) if document["kind"] == "Role"]
        for role in self.roles:
            self.rbac.create_namespaced_role(namespace, objects.role("Role", role["metadata"]["name"], role["rules"]))
            self.rbac.create_namespaced_role_binding(namespace, objects.role_binding("Role", role["metadata"]["name"], ACCOUNT, namespace))
        self.objects = client.CustomObjectsApi(cluster.api())
        self._create("inferencepools", objects.pool(RELEASE, LABELS, [8000]))
        self.group, self.served = None, {"": ("pods",), objects.POOL_GROUP: ("inferencepools",)}
        self.serve(objects.POLICY_GROUP)
        self.numbers = itertools.count(100)
        self.fleet = Fleet(cluster, namespace, folder)
        self.fleet.add("a", 1, LABELS)
        token = cluster.token(namespace, ACCOUNT)
        self.gateway = Gateway(folder / "gateway", cluster, token, f"inferencepool:{namespace}/{RELEASE}", envoy=envoy)

    def _create(self, plural, body):
        group, version = body["apiVersion"].split("/")
        self.objects.create_namespaced_custom_object(group, version, self.namespace, plural, body)

    def serve(self, group):
        """An objective and a rewrite in a group that the cluster serves, and none in another: without a right to the newer, the older counts."""
        for plural in POLICIES if self.group else ():
            self.objects.delete_collection_namespaced_custom_object(self.group, objects.POLICY_VERSION, self.namespace, plural)
        self.group = group
        self.served[group] = POLICIES
        self._create("inferenceobjectives", objects.objective("batch", RELEASE, PRIORITY, group))
        self._create("inferencemodelrewrites", objects.rewrite("alias", RELEASE, "alias", objects.MODEL, group))

    def verbs(self):
        """Each (group, resource, verb) of the roles whose kind this cluster serves."""
        return [
            (group, resource, verb) for role in self.roles for rule in role["rules"] for group in rule["apiGroups"]
            for resource in rule["resources"] if resource in self.served.get(group, ()) for verb in rule["verbs"]
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

    def refused(self):
        """Each (group, resource, verb) that the metrics page says is forbidden."""
        pattern = r'inpick_sidecar_kubernetes_forbidden\{group="([^"]*)",pool="default",resource="([^"]*)",verb="([^"]*)"\} 1'
        return re.findall(pattern, self.gateway.page())

    def works(self, resource):
        """Whether what the cluster says by this kind of object is so in the gateway."""
        if resource == "inferenceobjectives":
            return self.gateway.priority_of("batch") == PRIORITY
        if resource == "inferencemodelrewrites":
            return self.gateway.envoy.chat("alias").status == 200
        return bool(self.gateway.envoy.members())

    def says(self, resource, verb):
        """Whether the sidecar, since its start, names a right that is missing."""
        text = self.gateway.sidecar.process.log.read_text()[self.logged:] + ask(f"http://127.0.0.1:{self.gateway.sidecar.port}/readyz").body
        return f"the right to {verb} {resource} is missing" in text

    def restart(self, resource):
        """Starts the sidecar anew, and waits until the gateway has what this one knows, be it nothing of that resource."""
        self.gateway.sidecar.stop()
        self.logged = len(self.gateway.sidecar.process.log.read_text())
        self.gateway.eds_file.unlink(missing_ok=True)
        number, other = next(self.numbers), POLICIES[resource == POLICIES[0]]
        if other == "inferenceobjectives":
            self._create(other, objects.objective(f"newest-{number}", RELEASE, number, self.group))
        else:
            self._create(other, objects.rewrite(f"newest-{number}", RELEASE, f"newest-{number}", objects.MODEL, self.group))
        self.gateway.sidecar.start()
        if resource in ("pods", "inferencepools"):
            return
        eventually("the pool is known", lambda: self.works("pods"))
        eventually("it serves", lambda: self.gateway.envoy.chat().status == 200)
        if other == "inferenceobjectives":
            eventually("the newest objective counts", lambda: self.gateway.priority_of(f"newest-{number}") == number)
        else:
            eventually("the newest rewrite counts", lambda: self.gateway.envoy.chat(f"newest-{number}").status == 200)

    def wait_until_all_work(self):
        self.gateway.wait_for_members({f"{self.fleet.address(1)}:8000": {"pod": "a", "namespace": self.namespace}})
        resources = {resource for _, resource, _ in self.verbs()}
        eventually("every watch stands", lambda: all(self.away(resource) == 0 for resource in resources))
        for resource in resources:
            eventually(f"{resource} work", lambda: self.works(resource))
        eventually("nothing is forbidden", lambda: not self.refused())

    def try_without(self, taken):
        """What is missing without one verb, and what says so."""
        group, resource, verb = taken
        self.allow(taken)
        self.restart(resource)
        eventually(f"the page says that {taken} is missing, and no other", lambda: self.refused() == [taken])
        eventually(f"the log says that {taken} is missing", lambda: self.says(resource, verb))
        # With a list alone it knows what is there and does not hear of changes.
        if verb == "list":
            assert not self.works(resource), f"{resource} work without {taken}"

    def stop(self):
        self.gateway.stop()
        self.fleet.stop()


@pytest.fixture
def account(cluster, namespace, folder, envoy):
    account = Account(cluster, namespace, folder, envoy)
    try:
        yield account
    finally:
        account.stop()
        if objects.NEWER_POLICY_GROUP in account.served:
            for definition in definitions.policies(objects.NEWER_POLICY_GROUP):
                cluster.uninstall(definition)


def test_the_roles_are_enough_and_no_more(account):
    verbs = account.verbs()
    assert {resource for _, resource, _ in verbs} == {"pods", "inferencepools", *POLICIES}
    account.wait_until_all_work()
    for taken in verbs:
        account.try_without(taken)
    account.allow()
    account.restart(POLICIES[0])
    account.wait_until_all_work()
    # The group that counts once it is there.
    for definition in definitions.policies(objects.NEWER_POLICY_GROUP):
        account.cluster.install(definition)
    account.serve(objects.NEWER_POLICY_GROUP)
    newer = [right for right in account.verbs() if right[0] == objects.NEWER_POLICY_GROUP]
    assert len(newer) == 4
    account.restart(POLICIES[0])
    account.wait_until_all_work()
    for taken in newer:
        account.try_without(taken)
    # A right that is given while the sidecar runs is used.
    account.allow()
    account.wait_until_all_work()


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
