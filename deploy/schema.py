"""The chart's values.schema.json: what each value may be. A value that is not listed is refused."""

import json

# Flags of the sidecar that the chart does not set itself, with what they may be.
DURATION = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(ms|s|m)$"}
COUNT = {"type": "integer", "minimum": 1}
FLAGS = {
    "poll-interval": DURATION,
    "request-timeout": DURATION,
    "discovery-interval": DURATION,
    "staleness": DURATION,
    "models-interval": DURATION,
    "envoy-page-timeout": DURATION,
    "metrics-endpoint-auth-ttl": DURATION,
    "metrics-path": {"type": "string", "pattern": "^/[^ ]*$"},
    "max-page-bytes": COUNT,
    "max-envoy-page-bytes": COUNT,
    "threads": COUNT,
    # YAML reads on and off as true and false.
    "llm-d": {"enum": ["on", "off", True, False]},
    "otlp-endpoint": {"type": "string", "pattern": "^https?://[^ ]+$"},
    "otlp-interval": DURATION,
    "otlp-timeout": DURATION,
    "otlp-compression": {"enum": ["gzip", "none"]},
    # A file of `volumeMounts`.
    "otlp-ca-file": {"type": "string", "pattern": "^/[^ ]*$"},
    "commit": {"type": "string"},
    "build-ref": {"type": "string"},
    # The Endpoint Picker's words for poll-interval, staleness and what is logged.
    "refresh-metrics-interval": DURATION,
    "metrics-staleness-threshold": DURATION,
    "v": {"type": "integer", "minimum": 0, "maximum": 10},
}
TEXT = {"type": "string"}
FLAG = {"type": "boolean"}
PORT = {"type": "integer", "minimum": 1, "maximum": 65535}
ANY = {"type": "object"}
LIST = {"type": "array", "items": {"type": "object"}}
TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
PULL_POLICY = {"enum": ["Always", "IfNotPresent", "Never"]}
# Another program's, which may be in a values file as long as it is off.
OFF = {"type": ["object", "null"], "properties": {"enabled": {"const": False}}}


def closed(required=(), **properties):
    """An object with these members and no other."""
    return {"type": "object", "additionalProperties": False, "required": list(required), "properties": properties}


def nullable(schema):
    """The same, or null: what another file of values said is taken back."""
    if "enum" in schema:
        return {**schema, "enum": [*schema["enum"], None]}
    return {**schema, "type": [schema["type"], "null"]}


def with_required(schema, defaults):
    """The schema of an object, which requires each member whose default null, by which Helm deletes defaults, would leave without a meaning.
    An empty default stays what it is without its key, and an object with any members is an empty one."""
    properties = dict(schema["properties"])
    required = list(schema["required"])
    for key, default in defaults.items():
        is_closed = default and "properties" in properties[key]
        if is_closed:
            properties[key] = with_required(properties[key], default)
        if is_closed or (default and properties[key].get("type") != "object" and "null" not in properties[key].get("type", ())):
            required.append(key)
    return {**schema, "properties": properties, "required": required}


MODEL_SERVERS = closed(
    matchLabels=TEXTS,
    targetPorts={"type": "array", "minItems": 1, "maxItems": 8, "uniqueItems": True, "items": closed(["number"], number=PORT)},
    type={"enum": ["", "vllm", "sglang", "trtllm-serve", "triton-tensorrt-llm", "triton"]},
    # gRPC has no body that could be read.
    protocol={"const": "http"},
)
SUBJECT = closed(["kind", "name"], kind={"enum": ["User", "Group", "ServiceAccount"]}, name={"type": "string", "minLength": 1}, namespace=TEXT, apiGroup=TEXT)
ENVIRONMENT = {"type": "array", "items": {"type": "object", "required": ["name"], "properties": {"name": TEXT, "value": TEXT}}}
AUTOSCALING = closed(
    enabled=FLAG, minReplicas=COUNT, maxReplicas=COUNT, behavior=ANY,
    targetCPUUtilizationPercentage={"type": ["integer", "null"], "minimum": 1},
    targetInFlight={"type": ["integer", "null"], "minimum": 1},
)
PICKER = closed(
    replicas={"type": "integer", "minimum": 0},
    image=closed(registry=TEXT, repository=TEXT, tag=TEXT, pullPolicy=PULL_POLICY),
    env=ENVIRONMENT, flags=closed(**{name: nullable(flag) for name, flag in FLAGS.items()}), pluginsConfigFile=TEXT, pluginsConfig=ANY, pluginsCustomConfig=TEXTS,
    resources=ANY, affinity=ANY, nodeSelector=TEXTS, tolerations=LIST, podAnnotations=TEXTS, podLabels=TEXTS,
    volumes=LIST, volumeMounts=LIST, autoscaling=AUTOSCALING,
)
PROXY = closed(
    enabled={"const": True}, proxyType={"const": "envoy"}, mode={"const": "sidecar"}, failOpen={"type": ["boolean", "null"]},
    image=TEXT, imagePullPolicy=PULL_POLICY, env=ENVIRONMENT, resources=ANY,
)
MONITORING = closed(
    interval={"type": "string", "pattern": "^[0-9]+(ms|s|m|h)$"},
    provider=closed(name={"enum": ["", "prometheusoperator"]}, gmp=closed(autopilot={"const": False})),
    prometheus=closed(enabled=FLAG, auth=closed(enabled=FLAG, secretName={"type": "string", "minLength": 1}), extraLabels=TEXTS),
)
ROUTER = closed(
    modelServers=MODEL_SERVERS,
    inferencePool=closed(create=FLAG, failureMode={"enum": ["FailOpen", "FailClose"]}),
    inferenceObjectives={"type": "array", "items": closed(["name"], name={"type": "string", "minLength": 1}, priority={"type": "integer"})},
    extraServicePorts={"type": "array", "minItems": 1, "items": {"type": "object", "required": ["name", "port"]}},
    imagePullSecrets=LIST, epp=PICKER, proxy=PROXY, monitoring=MONITORING, tokenizer=OFF, latencyPredictor=OFF, tracing=OFF,
)
OWN = closed(
    shape={"enum": ["sidecar", "embedded"]}, filter=ANY, concurrency=COUNT, bindAddress={"enum": ["0.0.0.0", "::"]},
    drain=closed(least={"type": "integer", "minimum": 0}, most={"type": "integer", "minimum": 1, "maximum": 86400}),
    metricsReader=closed(create=FLAG), livePageReader=closed(create=FLAG, subjects={"type": "array", "items": SUBJECT}), metricsTLS=closed(secretName=TEXT),
    monitoring=closed(podMonitor=FLAG, rules=FLAG, dashboards=FLAG, dashboardLabels=TEXTS),
    podDisruptionBudget=closed(enabled=FLAG, maxUnavailable={"type": ["integer", "string"], "minimum": 0, "pattern": "^[0-9]+%?$"}),
    networkPolicy=closed(enabled=FLAG, **{"from": LIST}, metricsFrom=LIST),
    topologySpread=FLAG,
    service=closed(type={"enum": ["ClusterIP", "NodePort", "LoadBalancer"]}, annotations=TEXTS),
)


def text(defaults):
    """The schema as JSON, made with the chart's values.yaml. `global` is Helm's own."""
    values = with_required(closed(router=ROUTER, inpick=OWN, **{"global": ANY}), defaults)
    schema = {"$schema": "http://json-schema.org/draft-07/schema#", **values}
    return json.dumps(schema, indent=1) + "\n"
