"""Values as YAML and Helm read them: large numbers, texts that look like something else, and nulls. Each by a file, as users give them."""

import json
import re
import tempfile
import unittest

import kubernetes_validate
import yaml

import rendered
from rendered import Refused, pick

NEEDED = {"router": {"modelServers": {"matchLabels": {"app": "vllm"}}, "epp": {"image": {"registry": "registry.example"}}}}
# What Kubernetes takes as the name of a Service, and of most other objects.
SERVICE = r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?"
OBJECT = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
# Kinds whose API server takes any name without slashes.
ANY_NAME = ("Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding")


class Loader(yaml.SafeLoader):
    """YAML as Kubernetes reads it, to which 1e3 is a number."""


Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789"))


def together(one, other):
    """The members of both, those of `other` first."""
    if isinstance(one, dict) and isinstance(other, dict):
        return {key: together(one[key], other[key]) if key in one and key in other else {**one, **other}[key] for key in {**one, **other}}
    return other


def at(path, value):
    """Values of which one is given, by its path."""
    for key in reversed(path.split(".")):
        value = {key: value}
    return value


def helm(*command, values):
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        json.dump(together(NEEDED, values), file)
        file.flush()
        return rendered.run("helm", *command, "--values", file.name)


def made(values, release="my", namespace="inference"):
    text = helm("template", release, str(rendered.CHART), "--namespace", namespace, values=values)
    return [document for document in yaml.load_all(text, Loader) if document]


def notes(values, release="my", namespace="inference"):
    """What `helm install` would say."""
    said = helm("install", release, str(rendered.CHART), "--namespace", namespace, "--dry-run=client", values=values)
    return said[said.index("\nNOTES:\n") :]


def members(value, path=""):
    """(path, value) of each text and number."""
    if isinstance(value, dict):
        for key, member in value.items():
            yield from members(member, f"{path}.{key}")
    elif isinstance(value, list):
        for index, member in enumerate(value):
            yield from members(member, f"{path}.{index}")
    else:
        yield path, value


class Numbers(unittest.TestCase):
    """Helm reads numbers of files as floats, which print as 1e+06 from a million on."""

    MILLION = 1_000_000
    LARGE = 16_777_216

    def test_a_large_number_is_printed_as_it_was_written(self):
        given = {
            "router": {
                "epp": {
                    "flags": {"max-page-bytes": self.LARGE, "max-envoy-page-bytes": self.LARGE + 1},
                    "resources": {"limits": {"memory": self.LARGE + 2}},
                    "replicas": self.MILLION,
                },
                "proxy": {"resources": {"limits": {"memory": 4 << 30}}},
                "inferenceObjectives": [{"name": "a", "priority": self.MILLION}],
            },
            "inpick": {
                "concurrency": self.MILLION, "filter": {"max_body_bytes": self.LARGE + 3},
                "drain": {"least": 86_399, "most": 86_400}, "podDisruptionBudget": {"maxUnavailable": self.MILLION},
            },
        }
        documents = made(given)
        deployment = pick(documents, "Deployment")["spec"]
        pod = deployment["template"]["spec"]
        sidecar, envoy = pod["initContainers"][0], pod["containers"][0]
        self.assertIn(f"--max-page-bytes={self.LARGE}", sidecar["args"])
        self.assertIn(f"--max-envoy-page-bytes={self.LARGE + 1}", sidecar["args"])
        self.assertEqual(sidecar["resources"]["limits"]["memory"], self.LARGE + 2)
        self.assertEqual(envoy["resources"]["limits"]["memory"], 4 << 30)
        self.assertIn("1000000", envoy["args"])
        self.assertEqual(envoy["lifecycle"]["preStop"]["exec"]["command"][-4:], ["--least", "86399", "--most", "86400"])
        self.assertEqual(pod["terminationGracePeriodSeconds"], 86_430)
        self.assertEqual(pick(documents, "InferenceObjective")["spec"]["priority"], self.MILLION)
        bootstrap = rendered.bootstrap(documents)
        self.assertIn(f"max_heap_size_bytes: {(4 << 30) - (512 << 20)}\n", bootstrap)
        self.assertIn(f'"max_body_bytes":{self.LARGE + 3}', bootstrap)
        for path, number in ((("Deployment", "replicas"), deployment["replicas"]),
                             (("PodDisruptionBudget", "maxUnavailable"), pick(documents, "PodDisruptionBudget")["spec"]["maxUnavailable"])):
            self.assertEqual((type(number), number), (int, self.MILLION), path)

    def test_so_are_those_of_the_autoscaler_and_of_the_module(self):
        given = {"router": {"epp": {"flags": {"max-page-bytes": self.LARGE}, "autoscaling": {
            "enabled": True, "minReplicas": self.MILLION, "maxReplicas": self.LARGE, "targetInFlight": 2 * self.MILLION,
            "targetCPUUtilizationPercentage": self.MILLION}}}, "inpick": {"shape": "embedded"}}
        documents = made(given)
        scaler = pick(documents, "HorizontalPodAutoscaler")["spec"]
        in_flight, cpu = scaler["metrics"]
        self.assertEqual(in_flight["pods"]["target"]["averageValue"], "2000000")
        for number, expected in ((scaler["minReplicas"], self.MILLION), (scaler["maxReplicas"], self.LARGE),
                                 (cpu["containerResource"]["target"]["averageUtilization"], self.MILLION)):
            self.assertEqual((type(number), number), (int, expected))
        self.assertIn(f'"max-page-bytes":"{self.LARGE}"', rendered.bootstrap(documents))
        config = {"kind": "EndpointPickerConfig", "flowControl": {"maxBytes": self.LARGE}}
        self.assertIn(f"maxBytes: {self.LARGE}\n", rendered.bootstrap(made(at("router.epp.pluginsConfig", config))))


class Texts(unittest.TestCase):
    """Texts that YAML would read as a number, a truth or nothing."""

    def test_names_that_look_like_something_else_stay_texts(self):
        odd = {
            "router": {
                "modelServers": {"matchLabels": {"app": "1", "on": "off"}},
                "inferenceObjectives": [{"name": "1"}, {"name": "on"}, {"name": "1e3"}, {"name": "null"}],
                "epp": {"podLabels": {"a": "1"}, "podAnnotations": {"b": "true"}, "nodeSelector": {"c": "0x1"}},
                "proxy": {"image": "123"},
                "monitoring": {"prometheus": {"enabled": True, "auth": {"secretName": "123"}, "extraLabels": {"release": "1"}}},
            },
            "inpick": {"metricsTLS": {"secretName": "456"}, "monitoring": {"dashboards": True, "dashboardLabels": {"d": "1"}},
                       "networkPolicy": {"enabled": True}, "service": {"annotations": {"e": "1"}}},
        }
        for release, namespace in (("123", "2026"), ("1e3", "1e3"), ("null", "true"), ("on", "off"), ("0x1", "0b1")):
            documents = made(odd, release, namespace)
            for document in documents:
                names = [(path, value) for path, value in members(document)
                         if re.search(r"\.(name|namespace|secretName|serverName|image|kubernetes\.io/[a-z]+|matchNames\.0)$", path)
                         or re.search(r"\.(labels|matchLabels|annotations|nodeSelector|selector)\.", path)]
                self.assertTrue(names)
                for path, value in names:
                    with self.subTest(release=release, kind=document["kind"], path=path):
                        self.assertIsInstance(value, str)
                if document["kind"] in ("Deployment", "Service", "Role", "ConfigMap", "Secret", "NetworkPolicy", "ServiceAccount", "ClusterRoleBinding"):
                    kubernetes_validate.validate(document, "1.37", strict=True)
            self.assertEqual(pick(documents, "InferencePool")["metadata"]["name"], release)
            self.assertEqual({document["metadata"]["name"] for document in documents if document["kind"] == "InferenceObjective"}, {"1", "on", "1e3", "null"})

    def test_a_flag_that_is_on_or_off_may_be_what_yaml_makes_of_it(self):
        for value, expected in ((True, "on"), (False, "off"), ("on", "on"), ("off", "off")):
            args = pick(made(at("router.epp.flags.llm-d", value)), "Deployment")["spec"]["template"]["spec"]["initContainers"][0]["args"]
            self.assertIn(f"--llm-d={expected}", args)

    def test_a_variable_that_is_no_text_is_refused(self):
        for place in ("epp", "proxy"):
            with self.assertRaisesRegex(Refused, f"'/router/{place}/env/0/value': got number, want string"):
                made(at(f"router.{place}.env", [{"name": "a", "value": 1}]))
            (value,) = [variable["value"] for container in self.containers(at(f"router.{place}.env", [{"name": "a", "value": "1"}]))
                        for variable in container["env"] if variable["name"] == "a"]
            self.assertEqual(value, "1")

    def containers(self, values):
        pod = pick(made(values), "Deployment")["spec"]["template"]["spec"]
        return pod["initContainers"] + pod["containers"]

    def test_what_is_no_number_of_pods_is_refused(self):
        for value, expected in ((1, 1), ("1", 1), ("50%", "50%")):
            budget = pick(made(at("inpick.podDisruptionBudget.maxUnavailable", value)), "PodDisruptionBudget")
            self.assertEqual(budget["spec"]["maxUnavailable"], expected)
        with self.assertRaisesRegex(Refused, "/inpick/podDisruptionBudget/maxUnavailable"):
            made(at("inpick.podDisruptionBudget.maxUnavailable", "half"))


class Names(unittest.TestCase):
    """Of a release: as Helm takes them, 53 characters at most."""

    RELEASES = ("my", "my.rel", "a" * 39 + ".b", "a" * 38 + ".b", "a" * 39 + "-b", "1", "123.4", "9" * 53, "a.b-c.d" * 7)

    def test_every_object_has_a_name_that_kubernetes_takes(self):
        more = {"inpick": {"monitoring": {"dashboards": True, "rules": True}, "networkPolicy": {"enabled": True}},
                "router": {"monitoring": {"prometheus": {"enabled": True}}, "epp": {"autoscaling": {"enabled": True}}}}
        for release in self.RELEASES:
            documents = made(more, release)
            for document in documents:
                kind, name = document["kind"], document["metadata"]["name"]
                with self.subTest(release=release, kind=kind, name=name):
                    if kind not in ANY_NAME:
                        self.assertRegex(name, rf"\A{SERVICE if kind == 'Service' else OBJECT}\Z")
                    for value in document["metadata"]["labels"].values():
                        self.assertRegex(value, r"\A[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?\Z")
            # What refers to each other means the same.
            name = pick(documents, "Service")["metadata"]["name"]
            self.assertTrue(name.endswith("-epp"))
            for kind in ("Deployment", "HorizontalPodAutoscaler", "NetworkPolicy", "PodDisruptionBudget"):
                self.assertEqual(pick(documents, kind)["metadata"]["name"], name)
            self.assertEqual(pick(documents, "InferencePool")["spec"]["endpointPickerRef"]["name"], name)
            self.assertEqual(pick(documents, "Deployment")["spec"]["template"]["spec"]["serviceAccountName"], name)

    def test_a_dot_becomes_a_dash_and_a_digit_gets_a_word_before_it(self):
        for release, name in (("my", "my-epp"), ("a" * 39 + "-b", "a" * 39 + "-epp"), ("my.rel", "my-rel-epp"), ("123", "inpick-123-epp")):
            self.assertEqual(pick(made({}, release), "Service")["metadata"]["name"], name)


def paths(value, path=""):
    """The path of each default."""
    for key, member in value.items():
        yield (below := f"{path}.{key}".removeprefix("."))
        if isinstance(member, dict):
            yield from paths(member, below)


class Nulls(unittest.TestCase):
    """By null Helm takes a default away. What may be empty is empty then; what must be there is missed by its name."""

    # What the chart cannot do without has no default.
    REQUIRED = ("router.modelServers.matchLabels", "router.epp.image.registry")

    def outcome(self, path, values):
        try:
            return made(together(values, at(path, None)))
        except Refused as refusal:
            return str(refusal)

    def test_each_default_may_be_null_or_is_missed_by_its_name(self):
        everything = yaml.safe_load((rendered.VALUES / "everything.yaml").read_text())
        # Where the default is empty.
        empty = {path for path in paths(rendered.values()) if self.default(path) in ("", None, False, {}, [])}
        allowed = set()
        for path in paths(rendered.values()):
            parent, _, key = path.rpartition(".")
            for name, values in (("everything", everything), ("embedded", at("inpick.shape", "embedded"))):
                found = self.outcome(path, values)
                with self.subTest(path, values=name):
                    if isinstance(found, str):
                        where = "".join(f"/{part}" for part in parent.split(".") if part)
                        missed = f"at '{where}': missing property '{key}'"
                        self.assertTrue(missed in found or f"{path} is required" in found, found)
                        self.assertNotIn(path, empty - set(self.REQUIRED))
                        # Whatever the other values are.
                        break
                    else:
                        allowed.add(path)
                        for document in found:
                            if document["kind"] in ("Deployment", "Service", "HorizontalPodAutoscaler", "NetworkPolicy"):
                                kubernetes_validate.validate(document, "1.37", strict=True)
        for path in ("router.epp.flags", "router.epp.pluginsCustomConfig", "router.epp.pluginsConfig", "router.proxy.resources", "inpick.filter",
                     "router.epp.resources", "router.epp.autoscaling.targetInFlight", "inpick.monitoring.podMonitor"):
            self.assertIn(path, allowed)

    def default(self, path):
        value = rendered.values()
        for key in path.split("."):
            value = value[key]
        return value

    def test_a_null_in_the_place_of_an_empty_default_is_the_default(self):
        for path in paths(rendered.values()):
            if self.default(path) in ("", False, {}, []) and path not in self.REQUIRED:
                with self.subTest(path):
                    self.assertEqual(made(at(path, None)), made({}))

    def test_a_flag_of_another_file_may_be_taken_back(self):
        args = pick(made({"router": {"epp": {"flags": {"poll-interval": None, "llm-d": None, "v": None, "threads": 2}}}}), "Deployment")
        args = args["spec"]["template"]["spec"]["initContainers"][0]["args"]
        self.assertIn("--threads=2", args)
        self.assertFalse([argument for argument in args if re.match("--(poll-interval|llm-d|v)", argument)])
        made({"router": {"epp": {"flags": {"threads": None}}}, "inpick": {"shape": "embedded"}})

    def test_what_is_another_programs_may_be_null(self):
        for path in ("router.tokenizer", "router.latencyPredictor", "router.tracing"):
            self.assertEqual(made(at(path, None)), made({}), path)

    def test_without_limits_envoy_has_a_heap_of_its_own(self):
        for path in ("router.proxy.resources", "router.proxy.resources.limits", "router.proxy.resources.limits.memory"):
            documents = made(at(path, None))
            self.assertIn("max_heap_size_bytes: 2147483648\n", rendered.bootstrap(documents))
            self.assertNotIn("memory", (pick(documents, "Deployment")["spec"]["template"]["spec"]["containers"][0].get("resources") or {}).get("limits") or {})


if __name__ == "__main__":
    unittest.main()
