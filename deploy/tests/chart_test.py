"""The chart: what it makes of values, what it refuses, and that Kubernetes would take it."""

import json
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import kubernetes_validate
import yaml

import rendered
from rendered import ROOT, Refused, of_case, objects, pick

# What must be given, on the command line.
NEEDED = ("--set", "router.modelServers.matchLabels.app=vllm", "--set", "router.epp.image.registry=registry.example")
# Kinds that are not Kubernetes' own.
DEFINED = {"InferencePool", "InferenceObjective", "ServiceMonitor", "PodMonitor", "PrometheusRule"}
# The newest of Kubernetes whose schemas there are, and the oldest that the chart says it supports.
VERSIONS = ("1.37", "1.30")


def pod_of(documents):
    return pick(documents, "Deployment")["spec"]["template"]["spec"]


def containers(pod):
    return {container["name"]: container for container in pod["initContainers"] + pod["containers"]}


class Rendered(unittest.TestCase):
    def test_each_set_of_values_makes_what_it_made(self):
        self.assertGreaterEqual(len(rendered.cases()), 5)
        for case in rendered.cases():
            with self.subTest(case):
                golden = (rendered.GOLDEN / f"{case}.yaml").read_text()
                self.assertEqual(rendered.summary(of_case(case)), golden, "if it is meant, run deploy/tests/rendered.py")

    def test_the_same_values_make_the_same_text(self):
        values = ("--values", str(rendered.VALUES / "everything.yaml"))
        self.assertEqual(rendered.template.__wrapped__(*values), rendered.template.__wrapped__(*values))

    def test_kubernetes_knows_every_member(self):
        for case in rendered.cases():
            for document in objects(of_case(case)):
                if document["kind"] in DEFINED:
                    continue
                for version in VERSIONS:
                    with self.subTest(case=case, kind=document["kind"], version=version):
                        kubernetes_validate.validate(document, version, strict=True)

    def test_helm_finds_nothing_wrong(self):
        for case in rendered.cases():
            rendered.run("helm", "lint", "--strict", str(rendered.CHART), "--values", str(rendered.VALUES / f"{case}.yaml"))

    def test_generated_files_are_up_to_date(self):
        done = subprocess.run([sys.executable, str(ROOT / "deploy" / "generate.py"), "--check"], capture_output=True, text=True, timeout=60)
        self.assertEqual((done.returncode, done.stdout), (0, ""))

    def test_another_bootstrap_is_another_pod(self):
        one, other = (objects(of_case("sidecar", *more)) for more in ((), ("--set-json", 'inpick.filter={"unknown_model":"pass"}')))
        texts = [rendered.bootstrap(documents) for documents in (one, other)]
        sums = [pick(documents, "Deployment")["spec"]["template"]["metadata"]["annotations"]["checksum/bootstrap"] for documents in (one, other)]
        self.assertNotEqual(*texts)
        self.assertNotEqual(*sums)

    def test_long_names_stay_names(self):
        name = "a" * 53
        for document in objects(rendered.template(*NEEDED, release=name)):
            self.assertLessEqual(len(document["metadata"]["name"]), 63, document["kind"])


class Packaged(unittest.TestCase):
    """A package has the files of observability/ in it, not links to them."""

    def test_rules_and_dashboards_are_those_of_observability(self):
        with tempfile.TemporaryDirectory() as scratch:
            rendered.run("helm", "package", str(rendered.CHART), "--destination", scratch)
            (package,) = Path(scratch).glob("*.tgz")
            text = rendered.run("helm", "template", "my", str(package), *NEEDED, "--set", "inpick.monitoring.rules=true,inpick.monitoring.dashboards=true")
        documents = objects(text)
        rules = yaml.safe_load((ROOT / "observability" / "rules.yml").read_text())
        self.assertEqual(pick(documents, "PrometheusRule")["spec"], rules)
        boards = pick(documents, "ConfigMap", "my-epp-dashboards")
        folder = ROOT / "observability" / "dashboards"
        self.assertEqual(set(boards["data"]), {file.name for file in folder.glob("*.json")})
        for name, text in boards["data"].items():
            self.assertEqual(json.loads(text), json.loads((folder / name).read_text()), name)
        self.assertEqual(boards["metadata"]["labels"]["grafana_dashboard"], "1")
        # etcd takes 1.5 MiB, and Helm's own record of the release is one object.
        self.assertLess(len(json.dumps(boards)), 900_000)


class Refusals(unittest.TestCase):
    def refused(self, *values, what):
        with self.assertRaises(Refused) as refusal:
            rendered.template(*NEEDED, *(word for value in values for word in ("--set", value)))
        self.assertIn(what, str(refusal.exception))

    def test_what_must_be_said(self):
        for missing, word in ((NEEDED[2:], "router.modelServers.matchLabels is required"), (NEEDED[:2], "router.epp.image.registry is required")):
            with self.assertRaises(Refused) as refusal:
                rendered.template(*missing)
            self.assertIn(word, str(refusal.exception))

    def test_a_value_that_nobody_knows(self):
        for path in ("foo", "router.foo", "router.epp.foo", "router.proxy.foo", "router.modelServers.foo", "router.monitoring.foo",
                     "router.monitoring.prometheus.auth.foo", "inpick.foo", "inpick.drain.foo", "router.epp.flags.foo"):
            self.refused(f"{path}=1", what="additional properties 'foo' not allowed")

    def test_what_is_another_programs(self):
        self.refused("router.tokenizer.enabled=true", what="'/router/tokenizer/enabled': value must be false")
        self.refused("router.latencyPredictor.enabled=true", what="'/router/latencyPredictor/enabled': value must be false")
        self.refused("router.tracing.enabled=true", what="'/router/tracing/enabled': value must be false")
        self.refused("router.proxy.enabled=false", what="'/router/proxy/enabled': value must be true")
        self.refused("router.proxy.mode=service", what="'/router/proxy/mode'")
        self.refused("router.proxy.proxyType=agentgateway", what="'/router/proxy/proxyType'")
        self.refused("router.modelServers.protocol=grpc", what="'/router/modelServers/protocol'")
        self.refused("router.monitoring.provider.name=gmp", what="'/router/monitoring/provider/name'")
        self.refused("router.epp.flags.ha-enable-leader-election=true", what="additional properties")
        self.refused("router.epp.image.repository=llm-d-router-endpoint-picker", what="is another program")

    def test_what_cannot_be(self):
        self.refused("router.modelServers.targetPorts[0].number=0", what="'/router/modelServers/targetPorts/0/number'")
        self.refused("router.inferencePool.failureMode=FailClosed", what="'/router/inferencePool/failureMode'")
        self.refused("inpick.shape=both", what="'/inpick/shape'")
        self.refused("inpick.drain.least=20", "inpick.drain.most=10", what="inpick.drain.most must not be less")
        self.refused("router.proxy.resources.limits.memory=700Mi", what="Envoy needs 768Mi")
        self.refused("router.proxy.resources.limits.memory=1.5Gi", what="expected a whole number of bytes")
        self.refused("router.epp.flags.poll-interval=fast", what="'/router/epp/flags/poll-interval'")
        self.refused("router.inferencePool.create=false", "router.inferenceObjectives[0].name=a", what="need router.inferencePool.create")
        self.refused("router.epp.pluginsCustomConfig.a=b", what="pluginsCustomConfig has no default-plugins.yaml")
        self.refused("router.epp.pluginsConfigFile=a", what="pluginsCustomConfig has no a")
        self.refused("router.epp.pluginsCustomConfig.default-plugins\\.yaml=", what="pluginsCustomConfig has no default-plugins.yaml")

    def test_what_one_shape_does_not_have(self):
        self.refused("inpick.shape=embedded", "router.epp.flags.threads=2", what="router.epp.flags.threads: the sidecar has one thread with inpick.shape=embedded")

    def test_two_words_for_one_thing(self):
        config = "router.epp.pluginsConfig.kind=EndpointPickerConfig"
        self.refused(config, "inpick.filter.pool=other", what="exclude each other")
        self.refused(config, "inpick.shape=embedded", what="inpick config convert")
        self.refused(config, "router.proxy.failOpen=true", what="inpick config convert")
        self.refused(config, "router.epp.pluginsCustomConfig.default-plugins\\.yaml=a", what="pluginsConfig and pluginsCustomConfig exclude each other")
        # Without a pool it would be the document that says so, which has no place for it.
        closed = "router.inferencePool.failureMode=FailClose"
        self.refused(config, "router.inferencePool.create=false", closed, what="router.inferencePool.failureMode=FailClose")
        for more in ((config, closed), (config, "router.inferencePool.create=false"), ("router.inferencePool.create=false", closed)):
            documents = objects(rendered.template(*NEEDED, *(word for value in more for word in ("--set", value))))
            says_so = [document["spec"]["endpointPickerRef"]["failureMode"] for document in documents if document["kind"] == "InferencePool"]
            says_so += ["FailClose"] * ('"no_endpoint":"fail_closed"' in rendered.bootstrap(documents))
            self.assertEqual(says_so, ["FailClose"] if closed in more else [], more)


class Meaning(unittest.TestCase):
    def test_every_container_is_restricted(self):
        for case in rendered.cases():
            pod = pod_of(objects(of_case(case)))
            self.assertTrue(pod["securityContext"]["runAsNonRoot"])
            self.assertEqual(pod["securityContext"]["seccompProfile"], {"type": "RuntimeDefault"})
            for name, container in containers(pod).items():
                with self.subTest(case=case, container=name):
                    context = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
                    self.assertEqual(container["securityContext"], context)
                    self.assertIn("memory", container["resources"]["limits"])
                    self.assertIn("cpu", container["resources"]["requests"])

    def test_the_token_is_where_it_is_used_and_nowhere_else(self):
        for case, user in (("sidecar", "inpick"), ("embedded", "envoy")):
            pod = pod_of(objects(of_case(case)))
            self.assertFalse(pod["automountServiceAccountToken"])
            holders = [name for name, container in containers(pod).items()
                       if any(mount["name"] == "kubernetes" for mount in container["volumeMounts"])]
            self.assertEqual(holders, [user])

    def test_volumes_and_mounts_fit(self):
        for case in rendered.cases():
            pod = pod_of(objects(of_case(case)))
            volumes = {volume["name"] for volume in pod["volumes"]}
            mounted = {mount["name"] for container in containers(pod).values() for mount in container["volumeMounts"]}
            self.assertEqual(volumes, mounted, case)

    def test_ports_that_probes_name_are_ports_of_their_container(self):
        for case in rendered.cases():
            documents = objects(of_case(case))
            for container in containers(pod_of(documents)).values():
                own = {port["name"] for port in container.get("ports", [])}
                for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                    if probe in container:
                        self.assertIn(container[probe]["httpGet"]["port"], own)
            ports = [port for container in containers(pod_of(documents)).values() for port in container.get("ports", [])]
            named = {port["name"]: port["containerPort"] for port in ports}
            self.assertEqual(named, {"http": 8081, "probes": 19001, "inpick-metrics": 9090}, case)

    def test_the_drain_ends_before_the_pod_is_killed(self):
        pod = pod_of(objects(rendered.template(*NEEDED, "--set", "inpick.drain.most=77,inpick.drain.least=3")))
        command = containers(pod)["envoy"]["lifecycle"]["preStop"]["exec"]["command"]
        self.assertEqual(command[-4:], ["--least", "3", "--most", "77"])
        self.assertGreater(pod["terminationGracePeriodSeconds"], 77)

    def test_selectors_meet_the_pods_and_no_others(self):
        documents = objects(of_case("everything"))
        labels = pick(documents, "Deployment")["spec"]["template"]["metadata"]["labels"]
        selectors = [pick(documents, "Deployment")["spec"]["selector"]["matchLabels"], pick(documents, "Service")["spec"]["selector"],
                     pick(documents, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
                     pick(documents, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
                     pick(documents, "PodMonitor")["spec"]["selector"]["matchLabels"]]
        for selector in selectors:
            self.assertEqual(selector, selectors[0])
            self.assertLessEqual(selector.items(), labels.items())
        self.assertEqual(selectors[0]["app.kubernetes.io/instance"], rendered.RELEASE)

    def test_the_rights_are_those_that_the_sidecar_needs(self):
        rights = {}
        for document in objects(of_case("sidecar")):
            if document["kind"] in ("Role", "ClusterRole"):
                for rule in document["rules"]:
                    for resource in rule.get("resources", rule.get("nonResourceURLs")):
                        rights[resource] = (document["kind"], sorted(rule["verbs"]))
        read = ("Role", ["list", "watch"])
        self.assertEqual(rights, {
            "pods": read, "inferencepools": read, "inferenceobjectives": read, "inferencemodelrewrites": read,
            "tokenreviews": ("ClusterRole", ["create"]), "subjectaccessreviews": ("ClusterRole", ["create"]),
            "/metrics": ("ClusterRole", ["get"]), "/debug/pprof/*": ("ClusterRole", ["get"]),
            "/live": ("ClusterRole", ["get"]),
        })

    def test_objectives_are_of_the_group_that_the_cluster_has(self):
        for more, group in (((), "inference.networking.x-k8s.io"), (("--api-versions", "llm-d.ai/v1alpha2/InferenceObjective"), "llm-d.ai")):
            objective = pick(objects(of_case("everything", *more)), "InferenceObjective", "batch")
            self.assertEqual(objective["apiVersion"], f"{group}/v1alpha2")
            self.assertEqual(objective["spec"]["poolRef"], {"group": "inference.networking.k8s.io", "name": rendered.RELEASE})
            roles = [rule for document in objects(of_case("everything", *more)) if document["kind"] == "Role" for rule in document["rules"]]
            self.assertTrue(any(group in rule["apiGroups"] and "inferenceobjectives" in rule["resources"] for rule in roles))

    def test_the_pool_is_read_from_the_file_that_the_sidecar_writes(self):
        for shape in ("sidecar", "embedded"):
            text = rendered.bootstrap(objects(of_case("sidecar", "--set", f"inpick.shape={shape}")))
            bootstrap = yaml.safe_load(text)
            cluster = next(one for one in bootstrap["static_resources"]["clusters"] if one["name"] == "pool-default")
            source = cluster["eds_cluster_config"]["eds_config"]["path_config_source"]
            self.assertEqual(cluster["type"], "EDS")
            self.assertNotIn("load_assignment", cluster)
            flags = f"my=eds-file={source['path']}"
            deployment = str(pick(objects(of_case("sidecar", "--set", f"inpick.shape={shape}")), "Deployment"))
            self.assertIn(flags, deployment if shape == "sidecar" else text)
            self.assertIn(str(Path(source["path"]).parent), deployment)
            self.assertEqual(source["watched_directory"], {"path": str(Path(source["path"]).parent)})

    def test_the_bootstrap_is_that_of_envoy_but_for_what_a_pod_needs(self):
        ours = yaml.safe_load(rendered.bootstrap(objects(of_case("sidecar"))))
        text = (ROOT / "envoy" / "kubernetes.yaml").read_text().replace("target/wasm32-wasip1/wasm/filter.wasm", "/opt/inpick/filter.wasm")
        theirs = yaml.safe_load(text.replace('{"pool": "default", "served_endpoint": "header", "access_log": true}', "DOCUMENT"))
        probes, gateway = ours["static_resources"]["listeners"]
        self.assertEqual(probes["name"], "probes")
        ours["static_resources"]["listeners"] = [gateway]
        gateway["address"] = theirs["static_resources"]["listeners"][0]["address"]
        filters = gateway["filter_chains"][0]["filters"][0]["typed_config"]["http_filters"]
        document = filters[0]["typed_config"]["config"]["configuration"]
        self.assertEqual(json.loads(document["value"]), {"pool": "my", "served_endpoint": "header", "access_log": True})
        document["value"] = "DOCUMENT\n"
        self.assertEqual(ours, theirs)

    def test_who_may_read_is_called_as_in_the_guide(self):
        guide = {(document["kind"], document["metadata"]["name"]): document
                 for document in objects((ROOT / "observability" / "helm" / "rbac.yaml").read_text())}
        documents = objects(of_case("sidecar"))
        for (kind, name), expected in guide.items():
            found = pick(documents, kind, name)
            for member in ("rules", "roleRef", "type"):
                self.assertEqual(found.get(member), expected.get(member), (kind, name))
            self.assertEqual(found["metadata"].get("annotations"), expected["metadata"].get("annotations"))
        for more in ("inpick.metricsReader.create=false", "router.monitoring.prometheus.auth.enabled=false"):
            names = {document["metadata"]["name"] for document in objects(of_case("sidecar", "--set", more))}
            self.assertFalse([name for name in names if name.startswith("inference-gateway-")], more)

    def test_who_may_look_at_the_live_page_is_said_beside_the_guides_role(self):
        name = "my-inference-epp-live"
        account = {"kind": "ServiceAccount", "name": "inference-gateway-sa-metrics-reader", "namespace": "inference"}
        group = {"kind": "Group", "name": "operators", "apiGroup": "rbac.authorization.k8s.io"}
        for case, subjects in (("sidecar", [account]), ("everything", [account, group])):
            documents = objects(of_case(case))
            self.assertEqual(pick(documents, "ClusterRole", name)["rules"], [{"nonResourceURLs": ["/live"], "verbs": ["get"]}])
            binding = pick(documents, "ClusterRoleBinding", name)
            self.assertEqual(binding["subjects"], subjects)
            self.assertEqual(binding["roleRef"]["name"], name)
        # A second release of the cluster has no such account: its role is there to be bound, and is to whoever is named.
        second = objects(of_case("sidecar", "--set", "inpick.metricsReader.create=false"))
        self.assertEqual([each["kind"] for each in second if each["metadata"]["name"] == name], ["ClusterRole"])
        second = objects(of_case("everything", "--set", "inpick.metricsReader.create=false"))
        self.assertEqual(pick(second, "ClusterRoleBinding", name)["subjects"], [group])
        for off in ("inpick.livePageReader.create=false", "router.monitoring.prometheus.auth.enabled=false"):
            self.assertFalse([each for each in objects(of_case("everything", "--set", off)) if each["metadata"]["name"] == name], off)

    def test_monitors_ask_for_what_there_is(self):
        for more, kind, key in (((), "ServiceMonitor", "endpoints"), (("--set", "inpick.monitoring.podMonitor=true"), "PodMonitor", "podMetricsEndpoints")):
            documents = objects(of_case("llm-d", *more))
            (endpoint,) = pick(documents, kind)["spec"][key]
            self.assertEqual(endpoint["authorization"]["credentials"], {"name": "inference-gateway-sa-metrics-reader-secret", "key": "token"})
            pick(documents, "Secret", endpoint["authorization"]["credentials"]["name"])
            # The page has labels that Prometheus would otherwise rename.
            self.assertTrue(endpoint["honorLabels"])
            # Alerts ask for jobs of this name.
            label = pick(documents, kind)["spec"]["jobLabel"]
            self.assertEqual(pick(documents, "Service")["metadata"]["labels"][label], "inpick")

    def test_both_shapes_give_the_sidecar_the_same_flags(self):
        arguments = containers(pod_of(objects(of_case("sidecar"))))["inpick"]["args"][1:]
        beside = {}
        for argument in arguments:
            name, value = argument.removeprefix("--").split("=", 1)
            beside.setdefault(name, []).append(value)
        embedded = objects(of_case("sidecar", "--set", "inpick.shape=embedded"))
        documents = [line for line in rendered.filled("embedded", rendered.bootstrap(embedded)) if line.startswith("{")]
        inside = json.loads(documents[0])["sidecar"]["embedded"]
        as_texts = {name: [json.dumps(item) if isinstance(item, bool) else item for item in (value if isinstance(value, list) else [value])]
                    for name, value in inside.items()}
        self.assertEqual(as_texts, beside)


if __name__ == "__main__":
    unittest.main()
