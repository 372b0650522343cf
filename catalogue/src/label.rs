//! The labels and their one order.

macro_rules! labels {
    ($($id:ident = $name:literal,)*) => {
        /// A label. The order of the variants is the order in which stat names carry them.
        #[allow(missing_docs, reason = "the label's own name says it")]
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub enum Label { $($id,)* }

        impl Label {
            /// Every label, in order.
            pub const ALL: &'static [Self] = &[$(Self::$id,)*];

            /// Its name in Prometheus.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$id => $name,)* }
            }
        }
    };
}

labels! {
    Le = "le",
    ModelRewriteName = "model_rewrite_name",
    Status = "status",
    ModelName = "model_name",
    TargetModelName = "target_model_name",
    TargetModel = "target_model",
    Priority = "priority",
    ErrorCode = "error_code",
    FairnessId = "fairness_id",
    Streaming = "streaming",
    GenAiOperationName = "gen_ai_operation_name",
    GenAiProviderName = "gen_ai_provider_name",
    GenAiRequestModel = "gen_ai_request_model",
    GenAiResponseModel = "gen_ai_response_model",
    GenAiTokenType = "gen_ai_token_type",
    ErrorType = "error_type",
    PodName = "pod_name",
    EndpointName = "endpoint_name",
    Namespace = "namespace",
    Port = "port",
    Name = "name",
    ModelServerPod = "model_server_pod",
    ModelServerEndpoint = "model_server_endpoint",
    PluginName = "plugin_name",
    PluginType = "plugin_type",
    Commit = "commit",
    BuildRef = "build_ref",
    Pool = "pool",
    Endpoint = "endpoint",
    Reason = "reason",
    Outcome = "outcome",
    State = "state",
    Phase = "phase",
    Engine = "engine",
    Signal = "signal",
    Overflown = "label",
    InferencePool = "inference_pool",
    Stage = "stage",
    Detector = "detector",
}
