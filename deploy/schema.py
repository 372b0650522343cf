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
OFF = {"type": "object", "properties": {"enabled": {"const": False}}}


def closed(required=(), **properties):
    """An object with these members and no other."""
    return {"type": "object", "additionalProperties": False, "required": list(required), "properties": properties}


MODEL_SERVERS = closed(
    matchLabels=TEXTS,
    targetPorts={"type": "array", "minItems": 1, "maxItems": 8, "uniqueItems": True, "items": closed(["number"], number=PORT)},
    type={"enum": ["", "vllm", "sglang", "trtllm-serve", "triton-tensorrt-llm", "triton"]},
    # gRPC has no body that could be read.
    protocol={"const": "http"},
)
SUBJECT = closed(["kind", "name"], kind={"enum": ["User", "Group", "ServiceAccount"]}, name={"type": "string", "minLength": 1}, namespace=TEXT, apiGroup=TEXT)
ENVIRONMENT = {"type": "array", "items": {"type": "object", "required": ["name"]}}
AUTOSCALING = closed(
    enabled=FLAG, minReplicas=COUNT, maxReplicas=COUNT, behavior=ANY,
    targetCPUUtilizationPercentage={"type": ["integer", "null"], "minimum": 1},
    targetInFlight={"type": ["integer", "null"], "minimum": 1},
)
PICKER = closed(
    replicas={"type": "integer", "minimum": 0},
    image=closed(registry=TEXT, repository=TEXT, tag=TEXT, pullPolicy=PULL_POLICY),
    env=ENVIRONMENT, flags=closed(**FLAGS), pluginsConfigFile=TEXT, pluginsConfig=ANY, pluginsCustomConfig=TEXTS,
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


def text():
    """The schema as JSON. `global` is Helm's own."""
    schema = {"$schema": "http://json-schema.org/draft-07/schema#", **closed(router=ROUTER, inpick=OWN, **{"global": ANY})}
    return json.dumps(schema, indent=1) + "\n"
