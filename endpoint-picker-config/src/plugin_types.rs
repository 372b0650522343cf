//! What becomes of each type of plugin that an EPP of any version knows.

use endpoint_picker::scheduling::{Picker, Scorer};

/// What becomes of a plugin.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Treatment {
    /// A scorer here too.
    Scorer,
    /// A picker here too.
    Picker,
    /// Fills the index of prefixes: its parameters are the prefix scorer's here.
    PrefixProducer,
    /// A saturation detector: its thresholds are settings of the filter here.
    UtilizationDetector,
    /// The filter of conformance tests: a switch here.
    TestingFilter,
    /// A policy of flow control, which the section of flow control refers to.
    QueuePolicy,
    /// Left out, because of that.
    Idle(&'static str),
    /// Runs profiles for the stages of a request: fine here as long as there is one stage.
    StageHandler,
    /// Not to be had here, because of that.
    Unsupported(&'static str),
    /// The same, but it does nothing unless a profile refers to it.
    UnsupportedInProfile(&'static str),
}

pub(crate) const ONE_PROFILE: &str = "one profile picks for every request";
const DECODE: &str = "roles of endpoints are not known here: all of the pool are taken for those that decode";
const PAGES: &str = "the metrics sidecar reads the model servers' pages";
const BODIES: &str = "the path says which API a body is of";
pub(crate) const QUEUE: &str = "only flow control uses it";
const IN_FLIGHT: &str = "requests in flight are always counted";
const LEARNS: &str = "latencies are learned from the answers that pass through";

pub(crate) const ROLES: &str = "a request is served by one endpoint, which computes its prompt and its answer";
const LABELS: &str = "labels of endpoints are not known here";
const FIGURES: &str = "figures besides those of the model servers' pages are not read";
const EVENTS: &str =
    "KV events and tokenizers are not at hand in a proxy: prefix-cache-scorer goes by what was sent where";
const PREDICTION: &str = "predicted-latency-scorer is what predicts here, and it needs no filter";
const FLOW: &str =
    "with flow control a request waits for an endpoint that has room, and without it a full one is not left out";
const CLUSTERS: &str = "endpoints that are clusters";
const ANSWERS: &str = "answers carry no attributes for the load balancer";

/// Types that need more than a name, or that inpick does without or not at all.
const TYPES: &[(&str, Treatment)] = &[
    ("approx-prefix-cache-producer", Treatment::PrefixProducer),
    ("utilization-detector", Treatment::UtilizationDetector),
    ("header-based-testing-filter", Treatment::TestingFilter),
    // Without effect.
    ("single-profile-handler", Treatment::Idle(ONE_PROFILE)),
    ("decode-filter", Treatment::Idle(DECODE)),
    ("metrics-data-source", Treatment::Idle(PAGES)),
    ("core-metrics-extractor", Treatment::Idle(PAGES)),
    ("model-server-protocol-metrics", Treatment::Idle(PAGES)),
    ("models-data-source", Treatment::Idle(PAGES)),
    ("models-data-extractor", Treatment::Idle(PAGES)),
    ("k8s-notification-source", Treatment::Idle(PAGES)),
    ("endpoint-notification-source", Treatment::Idle(PAGES)),
    ("openai-parser", Treatment::Idle(BODIES)),
    ("anthropic-parser", Treatment::Idle(BODIES)),
    ("vllmhttp-parser", Treatment::Idle(BODIES)),
    ("sglanghttp-parser", Treatment::Idle(BODIES)),
    ("passthrough-parser", Treatment::Idle(BODIES)),
    ("inflight-load-producer", Treatment::Idle(IN_FLIGHT)),
    ("predicted-latency-producer", Treatment::Idle(LEARNS)),
    (
        "destination-endpoint-served-verifier",
        Treatment::Idle("what Envoy says of the endpoint that served is always taken in"),
    ),
    ("global-strict-fairness-policy", Treatment::QueuePolicy),
    ("round-robin-fairness-policy", Treatment::QueuePolicy),
    ("program-aware-fairness", Treatment::QueuePolicy),
    ("fcfs-ordering-policy", Treatment::QueuePolicy),
    ("edf-ordering-policy", Treatment::QueuePolicy),
    ("slo-deadline-ordering-policy", Treatment::QueuePolicy),
    ("static-usage-limit-policy", Treatment::QueuePolicy),
    ("priority-holdback-policy", Treatment::QueuePolicy),
    ("soft-reflective-ceiling-policy", Treatment::QueuePolicy),
    ("sheddable-eviction-filter", Treatment::Idle(QUEUE)),
    ("priority-then-time-eviction-order-policy", Treatment::Idle(QUEUE)),
    ("eviction-sheddable-filter", Treatment::Idle(QUEUE)),
    ("eviction-priority-then-time-ordering", Treatment::Idle(QUEUE)),
    // Not to be had.
    ("prefill-filter", Treatment::UnsupportedInProfile(ROLES)),
    ("encode-filter", Treatment::UnsupportedInProfile(ROLES)),
    ("pd-profile-handler", Treatment::Unsupported(ROLES)),
    ("disagg-profile-handler", Treatment::StageHandler),
    ("disagg-headers-handler", Treatment::Unsupported(ROLES)),
    ("prefill-header-handler", Treatment::Unsupported(ROLES)),
    ("prefix-based-pd-decider", Treatment::UnsupportedInProfile(ROLES)),
    ("always-disagg-pd-decider", Treatment::UnsupportedInProfile(ROLES)),
    ("always-disagg-multimodal-decider", Treatment::UnsupportedInProfile(ROLES)),
    ("disaggregatedset-rollout-screener", Treatment::Unsupported(ROLES)),
    ("disaggregatedset-rollout-pod-extractor", Treatment::Unsupported(ROLES)),
    ("p2p-source-producer", Treatment::Unsupported(ROLES)),
    (
        "data-parallel-profile-handler",
        Treatment::Unsupported("ranks of a data-parallel pod are endpoints of their own here"),
    ),
    ("header-profile-handler", Treatment::Unsupported(ONE_PROFILE)),
    ("by-label", Treatment::UnsupportedInProfile(LABELS)),
    ("by-label-selector", Treatment::UnsupportedInProfile(LABELS)),
    ("label-selector-filter", Treatment::UnsupportedInProfile(LABELS)),
    ("header-label-affinity-scorer", Treatment::UnsupportedInProfile(LABELS)),
    ("topology-extractor", Treatment::Unsupported(LABELS)),
    ("topology-affinity-filter", Treatment::UnsupportedInProfile(LABELS)),
    ("topology-affinity-scorer", Treatment::UnsupportedInProfile(LABELS)),
    ("precise-prefix-cache-scorer", Treatment::UnsupportedInProfile(EVENTS)),
    ("precise-prefix-cache-producer", Treatment::Unsupported(EVENTS)),
    ("burst-prefix-cache-producer", Treatment::Unsupported(EVENTS)),
    ("token-producer", Treatment::Unsupported(EVENTS)),
    ("tokenizer", Treatment::Unsupported(EVENTS)),
    ("mm-embeddings-cache-producer", Treatment::Unsupported(EVENTS)),
    ("mm-embeddings-cache-scorer", Treatment::UnsupportedInProfile(EVENTS)),
    ("context-length-aware", Treatment::UnsupportedInProfile(LABELS)),
    ("prefix-cache-affinity-filter", Treatment::UnsupportedInProfile(PREDICTION)),
    ("slo-headroom-tier-filter", Treatment::UnsupportedInProfile(PREDICTION)),
    ("latency-scorer", Treatment::UnsupportedInProfile(PREDICTION)),
    ("latency-slo-admitter", Treatment::Unsupported(PREDICTION)),
    ("probabilistic-admitter", Treatment::Unsupported("requests of negative priority are shed, and no others")),
    ("concurrency-detector", Treatment::Unsupported("utilization-detector is the one that there is")),
    (
        "token-load-scorer",
        Treatment::UnsupportedInProfile(
            "active-request-scorer counts requests in flight, and predicted-latency-scorer tokens",
        ),
    ),
    ("utilization-filter", Treatment::UnsupportedInProfile(FLOW)),
    ("endpoint-attribute-filter", Treatment::UnsupportedInProfile(FIGURES)),
    ("endpoint-attribute-scorer", Treatment::UnsupportedInProfile(FIGURES)),
    ("dcgm-data-source", Treatment::Unsupported(FIGURES)),
    ("dcgm-extractor", Treatment::Unsupported(FIGURES)),
    (
        "session-affinity-filter",
        Treatment::UnsupportedInProfile(
            "session-affinity-scorer prefers the session's endpoint and leaves others for a retry",
        ),
    ),
    ("session-id-producer", Treatment::Unsupported("the filter reads the session's header itself")),
    ("vllmgrpc-parser", Treatment::Unsupported("bodies of gRPC")),
    ("vertexai-parser", Treatment::Unsupported("bodies of Vertex AI")),
    ("request-attribute-reporter", Treatment::Unsupported(ANSWERS)),
    ("agent-identity", Treatment::Unsupported(QUEUE)),
    ("file-discovery", Treatment::Unsupported("the metrics sidecar finds the endpoints")),
    ("multicluster-file-discovery", Treatment::Unsupported(CLUSTERS)),
    ("multicluster-metrics-data-source", Treatment::Unsupported(CLUSTERS)),
    ("multicluster-metrics-extractor", Treatment::Unsupported(CLUSTERS)),
    ("multicluster-approx-prefix-cache-producer", Treatment::Unsupported(CLUSTERS)),
    ("multicluster-session-affinity-filter", Treatment::UnsupportedInProfile(CLUSTERS)),
    ("multicluster-queue-scorer", Treatment::UnsupportedInProfile(CLUSTERS)),
    ("multicluster-kv-cache-utilization-scorer", Treatment::UnsupportedInProfile(CLUSTERS)),
    ("multicluster-prefix-cache-scorer", Treatment::UnsupportedInProfile(CLUSTERS)),
    ("local-syncer", Treatment::Unsupported("workers of one Envoy share what they know, Envoys do not")),
    ("cross-replica-publisher", Treatment::Unsupported("workers of one Envoy share what they know, Envoys do not")),
];

/// What becomes of a plugin of that type; `None`: no EPP knows it.
pub(crate) fn treatment(plugin_type: &str) -> Option<Treatment> {
    if Scorer::ALL.iter().any(|scorer| scorer.as_str() == plugin_type) {
        return Some(Treatment::Scorer);
    }
    if Picker::ALL.iter().any(|picker| picker.as_str() == plugin_type) {
        return Some(Treatment::Picker);
    }
    TYPES.iter().find(|(name, _)| *name == plugin_type).map(|&(_, treatment)| treatment)
}

#[cfg(test)]
mod tests {
    use super::{TYPES, Treatment, treatment};

    #[test]
    fn each_type_is_treated_in_one_way() {
        for (place, (name, kind)) in TYPES.iter().enumerate() {
            assert_eq!(treatment(name), Some(*kind), "{name} is a scorer or picker, or listed before");
            assert!(TYPES[place + 1..].iter().all(|(other, _)| other != name), "{name} twice");
        }
        assert_eq!(treatment("queue-scorer"), Some(Treatment::Scorer));
        assert_eq!(treatment("weighted-random-picker"), Some(Treatment::Picker));
        assert_eq!(treatment("queue"), None);
    }
}
