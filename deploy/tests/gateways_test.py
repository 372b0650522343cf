"""The manifests for Envoy Gateway and Istio carry the pieces of envoy/fragment.yaml as they stand there."""

import json
import re
import unittest

import kubernetes_validate
import yaml

from rendered import ROOT, objects, pick

FRAGMENT = yaml.safe_load((ROOT / "envoy" / "fragment.yaml").read_text())
MODULE = "target/wasm32-wasip1/wasm/filter.wasm"
# Of Kubernetes itself; the others are checked by those who define them.
OWN = {"Service", "ServiceAccount", "ConfigMap", "Deployment", "ClusterRole", "ClusterRoleBinding"}


def manifests(folder):
    return [document for file in sorted((ROOT / "deploy" / folder).glob("*.yaml")) for document in objects(file.read_text())]


def resource(name):
    clusters = FRAGMENT["static_resources"]["clusters"]
    return next(cluster for cluster in clusters if cluster["name"] == name)


def manager():
    (listener,) = FRAGMENT["static_resources"]["listeners"]
    return listener["filter_chains"][0]["filters"][0]["typed_config"]


def filter_of_fragment():
    """Piece 8, with the module where the images have it."""
    found = next(one for one in manager()["http_filters"] if one["name"] == "inpick")
    return json.loads(json.dumps(found).replace(MODULE, "/opt/inpick/filter.wasm"))


def sidecar_of_fragment():
    """Piece 12, with the snapshot's port beside a page for scrapers."""
    return json.loads(json.dumps(resource("inpick-sidecar")).replace("9090", "9091"))


def options_of_fragment():
    return resource("pool-default")["typed_extension_protocol_options"]


def host():
    return manager()["route_config"]["virtual_hosts"][0]


def seconds(text):
    number, unit = re.fullmatch(r"([\d.]+)(ms|s)", text).groups()
    return float(number) / (1000 if unit == "ms" else 1)


def pod_flags(container):
    return dict(argument.removeprefix("--").split("=", 1) for argument in container["args"][1:])


class Shared(unittest.TestCase):
    def test_kubernetes_knows_its_own(self):
        for folder in ("envoy-gateway", "istio"):
            for document in manifests(folder):
                if document["kind"] in OWN and "istio.io" not in document["apiVersion"]:
                    kubernetes_validate.validate(document, "1.37", strict=True)

    def test_images_are_those_of_this_version(self):
        version = yaml.safe_load((ROOT / "deploy" / "chart" / "Chart.yaml").read_text())["appVersion"]
        for folder in ("envoy-gateway", "istio"):
            text = "".join(file.read_text() for file in (ROOT / "deploy" / folder).glob("*.yaml"))
            images = set(re.findall(r"image: (\S+)", text))
            self.assertEqual(images, {f"registry.example/inpick-{name}:{version}" for name in ("sidecar", "gateway")})

    def test_experimental_is_said(self):
        for file in (ROOT / "deploy" / "istio").glob("*.yaml"):
            self.assertTrue(file.read_text().startswith("# Experimental."), file.name)


class EnvoyGateway(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.documents = manifests("envoy-gateway")
        patches = pick(cls.documents, "EnvoyPatchPolicy")["spec"]["jsonPatches"]
        cls.patches = {patch["type"].rsplit(".", 1)[1]: patch for patch in patches}

    def test_names_are_made_of_the_objects(self):
        route, gateway = pick(self.documents, "HTTPRoute")["metadata"], pick(self.documents, "Gateway")
        listener = f"{gateway['metadata']['namespace']}/{gateway['metadata']['name']}/{gateway['spec']['listeners'][0]['name']}"
        cluster = f"httproute/{route['namespace']}/{route['name']}/rule/0"
        # Each rule with pods is a cluster of its own.
        first, *others = pick(self.documents, "HTTPRoute")["spec"]["rules"]
        self.assertIn("backendRefs", first)
        self.assertFalse([rule for rule in others if "backendRefs" in rule])
        self.assertEqual([self.patches[kind]["name"] for kind in ("Listener", "RouteConfiguration", "Cluster")], [listener, listener, cluster])
        deployment = pick(self.documents, "EnvoyProxy")["spec"]["provider"]["kubernetes"]["envoyDeployment"]
        self.assertEqual(pod_flags(deployment["initContainers"][0])["pool"], f"default=envoy:{cluster}")

    def test_pieces_are_those_of_the_fragment(self):
        operations = {kind: patch["operation"] for kind, patch in self.patches.items()}
        self.assertEqual(operations["Listener"]["value"], filter_of_fragment())
        self.assertEqual(operations["Listener"]["path"], "/default_filter_chain/filters/0/typed_config/http_filters/0")
        self.assertEqual(operations["RouteConfiguration"]["value"], host()["request_body_buffer_limit"])
        self.assertEqual(operations["Cluster"]["value"], options_of_fragment())
        bootstrap = pick(self.documents, "EnvoyProxy")["spec"]["bootstrap"]
        self.assertEqual(yaml.safe_load(bootstrap["value"]), {"static_resources": {"clusters": [sidecar_of_fragment()]}})

    def test_policies_say_what_the_fragment_says(self):
        policy = pick(self.documents, "BackendTrafficPolicy")["spec"]
        retry = host()["retry_policy"]
        self.assertEqual(policy["retry"]["numRetries"], retry["num_retries"])
        self.assertEqual(policy["retry"]["retryOn"]["triggers"], retry["retry_on"].split(","))
        self.assertEqual(policy["retry"]["retryOn"]["httpStatusCodes"], retry["retriable_status_codes"])
        back_off = policy["retry"]["perRetry"]["backOff"]
        self.assertEqual([seconds(back_off["baseInterval"]), seconds(back_off["maxInterval"])],
                         [seconds(retry["retry_back_off"]["base_interval"]), seconds(retry["retry_back_off"]["max_interval"])])
        override = resource("pool-default")["load_balancing_policy"]["policies"][0]["typed_extension_config"]["typed_config"]
        self.assertEqual(policy["loadBalancer"]["endpointOverride"]["extractFrom"], override["override_host_sources"])
        (limits,) = resource("pool-default")["circuit_breakers"]["thresholds"]
        names = {"maxConnections": "max_connections", "maxPendingRequests": "max_pending_requests", "maxParallelRequests": "max_requests",
                 "maxParallelRetries": "max_retries"}
        self.assertEqual(policy["circuitBreaker"], {name: limits[piece] for name, piece in names.items()})
        client = pick(self.documents, "ClientTrafficPolicy")["spec"]["timeout"]["http"]
        self.assertEqual(client, {
            "requestHeadersReceivedTimeout": manager()["request_headers_timeout"], "requestReceivedTimeout": manager()["request_timeout"],
            "idleTimeout": manager()["common_http_protocol_options"]["idle_timeout"], "streamIdleTimeout": manager()["stream_idle_timeout"]})

    def test_paths_are_open_in_the_fragment_too(self):
        expressions = [route["match"]["safe_regex"]["regex"] for route in host()["routes"] if "safe_regex" in route["match"]]
        matches = pick(self.documents, "HTTPRoute")["spec"]["rules"][0]["matches"]
        for match in matches:
            self.assertTrue(any(re.fullmatch(one, match["path"]["value"]) for one in expressions), match)
        # What is closed below open paths is closed here, too.
        (closed,) = [rule for rule in pick(self.documents, "HTTPRoute")["spec"]["rules"] if "backendRefs" not in rule]
        (header,) = next(route["match"]["headers"] for route in host()["routes"] if "safe_regex" in route["match"])
        self.assertEqual(closed["matches"][0]["path"], {"type": "RegularExpression", "value": header["string_match"]["safe_regex"]["regex"].replace("[^?]", ".")})
        (reference,) = [each["extensionRef"] for each in closed["filters"]]
        self.assertEqual(pick(self.documents, reference["kind"], reference["name"])["spec"]["directResponse"]["statusCode"], 404)
        # And nothing that is open there is missing here, but for prefixes.
        paths = {match["path"]["value"] for match in matches}
        words = {word for one in expressions for word in re.findall(r"[a-z]+(?:/[a-z]+)?", re.sub(r"\[[^]]*\]", "", one)) if word not in ("v", "v/")}
        for word in words:
            self.assertTrue(any(path.endswith(f"/{word}") for path in paths), word)


class Istio(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.documents = manifests("istio")
        patches = pick(cls.documents, "EnvoyFilter")["spec"]["configPatches"]
        cls.patches = {(patch["applyTo"], patch["patch"]["operation"]): patch for patch in patches}

    def value(self, *of):
        return self.patches[of]["patch"]["value"]

    def test_pieces_are_those_of_the_fragment(self):
        self.assertEqual(self.value("CLUSTER", "ADD"), sidecar_of_fragment())
        self.assertEqual(self.value("HTTP_FILTER", "INSERT_BEFORE"), filter_of_fragment())
        self.assertEqual(self.value("VIRTUAL_HOST", "MERGE"), {"request_body_buffer_limit": host()["request_body_buffer_limit"]})
        pool = resource("pool-default")
        self.assertEqual(self.value("CLUSTER", "MERGE"),
                         {name: pool[name] for name in ("load_balancing_policy", "typed_extension_protocol_options")})
        connection_manager = self.value("NETWORK_FILTER", "MERGE")["typed_config"]
        self.assertGreater(len(connection_manager), 5)
        for name, value in connection_manager.items():
            self.assertEqual(value, manager()[name], name)

    def test_routes_are_those_of_the_fragment(self):
        (rule,) = pick(self.documents, "VirtualService")["spec"]["http"]
        routes = [route["match"] for route in host()["routes"] if "safe_regex" in route["match"]]
        self.assertEqual([match["uri"]["regex"] for match in rule["match"]], [match["safe_regex"]["regex"] for match in routes])
        for match, route in zip(rule["match"], routes):
            (header,) = route["headers"]
            self.assertTrue(header["invert_match"])
            self.assertEqual(match["withoutHeaders"], {header["name"]: {"regex": header["string_match"]["safe_regex"]["regex"]}})
        retry = host()["retry_policy"]
        self.assertEqual(rule["retries"], {"attempts": retry["num_retries"], "retryOn": ",".join([retry["retry_on"], "503"])})

    def test_names_are_made_of_the_objects(self):
        service = pick(self.documents, "Service", "vllm")
        name = f"{service['metadata']['name']}.{service['metadata']['namespace']}.svc.cluster.local"
        self.assertEqual(self.patches["CLUSTER", "MERGE"]["match"]["cluster"], {"service": name, "portNumber": service["spec"]["ports"][0]["port"]})
        pod = pick(self.documents, "Deployment")["spec"]["template"]["spec"]
        self.assertEqual(pod_flags(pod["initContainers"][0])["pool"], f"default=envoy:outbound|8000||{name}")
        labels = pick(self.documents, "Deployment")["spec"]["template"]["metadata"]["labels"]
        for selector in (pick(self.documents, "EnvoyFilter")["spec"]["workloadSelector"]["labels"], pick(self.documents, "Gateway")["spec"]["selector"]):
            self.assertLessEqual(selector.items(), labels.items())
        bootstrap = yaml.safe_load(pick(self.documents, "ConfigMap")["data"]["envoy.yaml"])
        self.assertEqual(bootstrap["admin"]["address"]["socket_address"]["port_value"], 15000)
        self.assertEqual(bootstrap["node"]["metadata"]["LABELS"].items() & labels.items(), {("istio", "inpick-gateway")})


if __name__ == "__main__":
    unittest.main()
