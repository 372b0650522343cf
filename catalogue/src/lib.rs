//! Every stat that inpick publishes: its name, labels, bucket bounds, help text and who publishes it.
//!
//! One table for all who must agree on it: the picker's ledger, the filter that defines the stats in Envoy, the sidecar that
//! adds `# HELP` and `# TYPE` to Envoy's page, and the generator of the bootstrap's `stats_tags`.
//!
//! Envoy has no labels for proxy-wasm stats. A labelled stat is therefore given a name that carries its labels in front,
//! `le=0.005;model_name=m;target_model_name=t;family_bucket`, and one regular expression a label in the bootstrap cuts them out
//! again ([`tag_regex`]). Labels stand in front and in one fixed order, so that each expression says exactly where its label can
//! stand and none has to search: Envoy runs every expression on every new name with a backtracking matcher.

#![no_std]

extern crate alloc;

mod bounds;
mod label;
mod name;

use alloc::vec::Vec;

pub use bounds::{Bounds, Scale};
pub use label::Label;
pub use name::{MAX_LABEL_VALUE_BYTES, label_value, split_stat_name, stat_name, tag_regex};

/// What kind of series a family is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// A gauge that is a ratio. Envoy's gauges are integers, so its stat counts thousandths under a name of its own: see
    /// [`PERMILLE_SUFFIX`].
    Ratio,
    /// Classic Prometheus histogram: cumulative `_bucket`, `_sum`, `_count`.
    Histogram(Bounds),
}

impl Kind {
    /// The word behind `# TYPE`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge | Self::Ratio => "gauge",
            Self::Histogram(_) => "histogram",
        }
    }
}

/// Who publishes a family.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Publisher {
    /// The filter or its singleton service, through Envoy's stats: on Envoy's page, and on the sidecar's by merging.
    Envoy,
    /// The sidecar alone: a float that Envoy's integer stats cannot hold.
    Sidecar,
    /// Both; the sidecar's own value stands on its page.
    Both,
}

/// A configuration switch that turns a group of families on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Switch {
    /// No switch: always there.
    Always,
    /// `inference_objective_*`, on by default.
    Objective,
    /// The older spelling `inference_model_*`, off by default.
    Model,
    /// OpenTelemetry's `gen_ai_*`, on by default.
    GenAi,
    /// The newest spelling `llm_d_epp_*`, off by default.
    LlmD,
    /// `inference_extension_flow_control_*`, on with flow control.
    FlowControl,
    /// The newest spelling of these: both switches must be on.
    LlmDFlowControl,
}

/// One family of series.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    /// Name in Prometheus; for a counter with its `_total`.
    pub name: &'static str,
    /// Text behind `# HELP`.
    pub help: &'static str,
    /// Counter, gauge or histogram.
    pub kind: Kind,
    /// Labels in [`Label`]'s order, without `le`.
    pub labels: &'static [Label],
    /// What turns it on.
    pub switch: Switch,
    /// Who publishes it.
    pub publisher: Publisher,
}

macro_rules! families {
    ($($(#[$meta:meta])* $id:ident = $name:literal, $kind:expr, [$($label:ident),*], $switch:ident, $publisher:ident, $help:literal;)*) => {
        /// A family of the catalogue.
        #[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
        pub enum Stat { $($(#[$meta])* #[doc = $help] $id,)* }

        impl Stat {
            /// Every family, in the order of the catalogue.
            pub const ALL: &'static [Self] = &[$(Self::$id,)*];

            /// What the catalogue says of it.
            #[must_use]
            pub const fn family(self) -> &'static Family {
                match self {
                    $(Self::$id => &Family {
                        name: $name, help: $help, kind: $kind, labels: &[$(Label::$label,)*],
                        switch: Switch::$switch, publisher: Publisher::$publisher,
                    },)*
                }
            }
        }
    };
}

use Kind::{Counter, Gauge, Histogram, Ratio};

families! {
    // The endpoint picker's families, named as dashboards and alerts for it name them.
    ObjectiveRequestTotal = "inference_objective_request_total", Counter, [ModelName, TargetModelName, Priority], Objective, Envoy,
        "Requests whose model was known: admitted, or refused afterwards.";
    ObjectiveRequestErrorTotal = "inference_objective_request_error_total", Counter, [ModelName, TargetModelName, ErrorCode], Objective, Envoy,
        "Requests that failed, once each: refused here, answered with an error by the model server, reset, timed out or left by the client.";
    ObjectiveRequestDurationSeconds = "inference_objective_request_duration_seconds", Histogram(Bounds::LATENCY), [ModelName, TargetModelName], Objective, Envoy,
        "Seconds from the request's headers to the end of its response, measured in the proxy.";
    ObjectiveRequestSizes = "inference_objective_request_sizes", Histogram(Bounds::REQUEST_BYTES), [ModelName, TargetModelName], Objective, Envoy,
        "Bytes of request bodies as received.";
    ObjectiveResponseSizes = "inference_objective_response_sizes", Histogram(Bounds::RESPONSE_BYTES), [ModelName, TargetModelName], Objective, Envoy,
        "Bytes of response bodies, streamed or not.";
    ObjectiveInputTokens = "inference_objective_input_tokens", Histogram(Bounds::INPUT_TOKENS), [ModelName, TargetModelName], Objective, Envoy,
        "Prompt tokens of a request as the model server counted them, cached ones included.";
    ObjectiveOutputTokens = "inference_objective_output_tokens", Histogram(Bounds::OUTPUT_TOKENS), [ModelName, TargetModelName], Objective, Envoy,
        "Generated tokens of a request as the model server counted them.";
    ObjectivePromptCachedTokens = "inference_objective_prompt_cached_tokens", Histogram(Bounds::INPUT_TOKENS), [ModelName, TargetModelName], Objective, Envoy,
        "Prompt tokens of a request that the model server took from its prefix cache.";
    ObjectiveNormalizedTimePerOutputToken = "inference_objective_normalized_time_per_output_token_seconds", Histogram(Bounds::NORMALIZED_TIME), [ModelName, TargetModelName], Objective, Envoy,
        "Seconds of a request's duration for each generated token.";
    ObjectiveRequestTtftSeconds = "inference_objective_request_ttft_seconds", Histogram(Bounds::LATENCY), [ModelName, TargetModelName], Objective, Envoy,
        "Seconds from the request's headers to the first event with content of a streamed response, measured in the proxy.";
    ObjectiveRequestTpotSeconds = "inference_objective_request_tpot_seconds", Histogram(Bounds::TIME_PER_TOKEN), [ModelName, TargetModelName], Objective, Envoy,
        "Seconds for each generated token after the first of a streamed response.";
    NormalizedTimePerOutputToken = "normalized_time_per_output_token_seconds", Histogram(Bounds::NORMALIZED_TIME), [ModelName, TargetModelName], Objective, Envoy,
        "Spelling without a prefix of inference_objective_normalized_time_per_output_token_seconds.";
    ObjectiveRunningRequests = "inference_objective_running_requests", Gauge, [ModelName], Objective, Envoy,
        "Requests that were sent to an endpoint and have not finished.";

    // The same families under the spelling of older dashboards.
    ModelRequestTotal = "inference_model_request_total", Counter, [ModelName, TargetModelName], Model, Envoy,
        "Older spelling of inference_objective_request_total.";
    ModelRequestErrorTotal = "inference_model_request_error_total", Counter, [ModelName, TargetModelName, ErrorCode], Model, Envoy,
        "Older spelling of inference_objective_request_error_total.";
    ModelRequestDurationSeconds = "inference_model_request_duration_seconds", Histogram(Bounds::LATENCY), [ModelName, TargetModelName], Model, Envoy,
        "Older spelling of inference_objective_request_duration_seconds.";
    ModelRequestSizes = "inference_model_request_sizes", Histogram(Bounds::REQUEST_BYTES), [ModelName, TargetModelName], Model, Envoy,
        "Older spelling of inference_objective_request_sizes.";
    ModelResponseSizes = "inference_model_response_sizes", Histogram(Bounds::RESPONSE_BYTES), [ModelName, TargetModelName], Model, Envoy,
        "Older spelling of inference_objective_response_sizes.";
    ModelInputTokens = "inference_model_input_tokens", Histogram(Bounds::INPUT_TOKENS), [ModelName, TargetModelName], Model, Envoy,
        "Older spelling of inference_objective_input_tokens.";
    ModelOutputTokens = "inference_model_output_tokens", Histogram(Bounds::OUTPUT_TOKENS), [ModelName, TargetModelName], Model, Envoy,
        "Older spelling of inference_objective_output_tokens.";
    ModelNormalizedTimePerOutputToken = "inference_model_normalized_time_per_output_token_seconds", Histogram(Bounds::NORMALIZED_TIME), [ModelName, TargetModelName], Model, Envoy,
        "Older spelling of inference_objective_normalized_time_per_output_token_seconds.";
    ModelRunningRequests = "inference_model_running_requests", Gauge, [ModelName], Model, Envoy,
        "Older spelling of inference_objective_running_requests.";

    // The GenAI families of OpenTelemetry's semantic conventions, in Prometheus spelling.
    GenAiClientOperationDuration = "gen_ai_client_operation_duration_seconds", Histogram(Bounds::GEN_AI_DURATION), [GenAiOperationName, GenAiProviderName, GenAiRequestModel, GenAiResponseModel, ErrorType], GenAi, Envoy,
        "Seconds from the request's headers to the end of its response, failures included, measured in the proxy.";
    GenAiServerRequestDuration = "gen_ai_server_request_duration_seconds", Histogram(Bounds::GEN_AI_DURATION), [GenAiOperationName, GenAiProviderName, GenAiRequestModel, GenAiResponseModel, ErrorType], GenAi, Envoy,
        "The same of requests that were sent to a model server.";
    GenAiClientTokenUsage = "gen_ai_client_token_usage", Histogram(Bounds::GEN_AI_TOKENS), [GenAiOperationName, GenAiProviderName, GenAiRequestModel, GenAiResponseModel, GenAiTokenType], GenAi, Envoy,
        "Tokens of a request as the model server counted them: input with cached ones, output with reasoning.";
    GenAiInputTokensTotal = "gen_ai_client_inference_usage_input_tokens_total", Counter, [GenAiOperationName, GenAiProviderName, GenAiRequestModel, GenAiResponseModel], GenAi, Envoy,
        "Input tokens, cached ones included.";
    GenAiOutputTokensTotal = "gen_ai_client_inference_usage_output_tokens_total", Counter, [GenAiOperationName, GenAiProviderName, GenAiRequestModel, GenAiResponseModel], GenAi, Envoy,
        "Output tokens, those of reasoning included.";
    GenAiCacheReadInputTokensTotal = "gen_ai_client_inference_usage_cache_read_input_tokens_total", Counter, [GenAiOperationName, GenAiProviderName, GenAiRequestModel, GenAiResponseModel], GenAi, Envoy,
        "Input tokens that the model server took from its prefix cache.";
    GenAiReasoningOutputTokensTotal = "gen_ai_client_inference_usage_reasoning_output_tokens_total", Counter, [GenAiOperationName, GenAiProviderName, GenAiRequestModel, GenAiResponseModel], GenAi, Envoy,
        "Output tokens spent on reasoning.";
    GenAiServerTimeToFirstToken = "gen_ai_server_time_to_first_token_seconds", Histogram(Bounds::GEN_AI_FIRST_TOKEN), [GenAiOperationName, GenAiProviderName, GenAiRequestModel, GenAiResponseModel], GenAi, Envoy,
        "Seconds from the request's headers to the first event with content of a streamed response, measured in the proxy.";
    GenAiServerTimePerOutputToken = "gen_ai_server_time_per_output_token_seconds", Histogram(Bounds::GEN_AI_TIME_PER_TOKEN), [GenAiOperationName, GenAiProviderName, GenAiRequestModel, GenAiResponseModel], GenAi, Envoy,
        "Seconds for each generated token after the first of a streamed response.";

    // The picker's newest spelling.
    LlmDRequestTotal = "llm_d_epp_request_total", Counter, [ModelName, TargetModelName, Priority, FairnessId], LlmD, Envoy,
        "Newest spelling of inference_objective_request_total.";
    LlmDRequestErrorTotal = "llm_d_epp_request_error_total", Counter, [ModelName, TargetModelName, Priority, ErrorCode, FairnessId], LlmD, Envoy,
        "Newest spelling of inference_objective_request_error_total.";
    LlmDRequestRunning = "llm_d_epp_request_running", Gauge, [ModelName, TargetModelName, Priority, FairnessId], LlmD, Envoy,
        "Newest spelling of inference_objective_running_requests.";
    LlmDRequestDuration = "llm_d_epp_request_duration_seconds", Histogram(Bounds::LATENCY), [ModelName, TargetModelName, Priority, FairnessId], LlmD, Envoy,
        "Newest spelling of inference_objective_request_duration_seconds.";
    LlmDRequestTtft = "llm_d_epp_request_ttft_seconds", Histogram(Bounds::LLM_D_FIRST_TOKEN), [ModelName, TargetModelName, Priority, FairnessId, Streaming], LlmD, Envoy,
        "Seconds to the first event with content of a streamed response, and to the end of any other.";
    LlmDRequestStreamingTpot = "llm_d_epp_request_streaming_tpot_seconds", Histogram(Bounds::LLM_D_TIME_PER_TOKEN), [ModelName, TargetModelName, Priority, FairnessId], LlmD, Envoy,
        "Newest spelling of inference_objective_request_tpot_seconds.";
    LlmDRequestStreamingItl = "llm_d_epp_request_streaming_itl_seconds", Histogram(Bounds::INTER_TOKEN), [ModelName, TargetModelName, Priority, FairnessId], LlmD, Envoy,
        "Seconds between pieces of a streamed response that carry content.";
    LlmDRequestNtpot = "llm_d_epp_request_ntpot_seconds", Histogram(Bounds::NORMALIZED_TIME), [ModelName, TargetModelName, Priority, FairnessId], LlmD, Envoy,
        "Newest spelling of inference_objective_normalized_time_per_output_token_seconds.";
    LlmDRequestInputTokens = "llm_d_epp_request_input_tokens", Histogram(Bounds::INPUT_TOKENS), [ModelName, TargetModelName, Priority, FairnessId], LlmD, Envoy,
        "Newest spelling of inference_objective_input_tokens.";
    LlmDRequestCachedTokens = "llm_d_epp_request_cached_tokens", Histogram(Bounds::INPUT_TOKENS), [ModelName, TargetModelName, Priority, FairnessId], LlmD, Envoy,
        "Newest spelling of inference_objective_prompt_cached_tokens.";
    LlmDRequestOutputTokens = "llm_d_epp_request_output_tokens", Histogram(Bounds::OUTPUT_TOKENS), [ModelName, TargetModelName, Priority, FairnessId], LlmD, Envoy,
        "Newest spelling of inference_objective_output_tokens.";
    LlmDRequestSizeBytes = "llm_d_epp_request_size_bytes", Histogram(Bounds::REQUEST_BYTES), [ModelName, TargetModelName, Priority, FairnessId], LlmD, Envoy,
        "Newest spelling of inference_objective_request_sizes.";
    LlmDResponseSizeBytes = "llm_d_epp_response_size_bytes", Histogram(Bounds::RESPONSE_BYTES), [ModelName, TargetModelName, Priority, FairnessId], LlmD, Envoy,
        "Newest spelling of inference_objective_response_sizes.";
    LlmDRequestProcessingDuration = "llm_d_epp_request_processing_duration_seconds", Histogram(Bounds::REQUEST_PROCESSING), [], LlmD, Envoy,
        "Seconds from a request's headers until it was sent on or refused: its body is waited for, read, and an endpoint picked.";
    LlmDResponseProcessingDuration = "llm_d_epp_response_processing_duration_seconds", Histogram(Bounds::RESPONSE_PROCESSING), [], LlmD, Envoy,
        "Seconds that the filter took for a response, all its pieces together, of the requests that are timed.";
    LlmDSchedulerAttemptsTotal = "llm_d_epp_scheduler_attempts_total", Counter, [Status, TargetModelName, EndpointName, Namespace, Port], LlmD, Envoy,
        "Newest spelling of inference_extension_scheduler_attempts_total.";
    LlmDSchedulerE2eDuration = "llm_d_epp_scheduler_e2e_duration_seconds", Histogram(Bounds::SCHEDULER), [], LlmD, Envoy,
        "Newest spelling of inference_extension_scheduler_e2e_duration_seconds.";
    LlmDModelRewriteDecisionsTotal = "llm_d_epp_model_rewrite_decisions_total", Counter, [ModelRewriteName, ModelName, TargetModel], LlmD, Envoy,
        "Newest spelling of inference_extension_model_rewrite_decisions_total.";
    LlmDPrefixIndexerSize = "llm_d_epp_prefix_indexer_size", Gauge, [PluginName, PluginType], LlmD, Envoy,
        "Newest spelling of inference_extension_prefix_indexer_size.";
    LlmDPrefixIndexerHitRatio = "llm_d_epp_prefix_indexer_hit_ratio", Histogram(Bounds::PREFIX_RATIO), [PluginName, PluginType], LlmD, Envoy,
        "Newest spelling of inference_extension_prefix_indexer_hit_ratio.";
    LlmDPrefixIndexerHitBytes = "llm_d_epp_prefix_indexer_hit_bytes", Histogram(Bounds::PREFIX_BYTES), [PluginName, PluginType], LlmD, Envoy,
        "Newest spelling of inference_extension_prefix_indexer_hit_bytes.";
    LlmDFlowRequestQueueDuration = "llm_d_epp_flow_control_request_queue_duration_seconds", Histogram(Bounds::QUEUE_WAIT), [ModelName, TargetModelName, Priority, FairnessId, Outcome, InferencePool], LlmDFlowControl, Envoy,
        "Newest spelling of inference_extension_flow_control_request_queue_duration_seconds.";
    LlmDFlowQueueSize = "llm_d_epp_flow_control_queue_size", Gauge, [ModelName, TargetModelName, Priority, FairnessId, InferencePool], LlmDFlowControl, Envoy,
        "Newest spelling of inference_extension_flow_control_queue_size.";
    LlmDFlowQueueBytes = "llm_d_epp_flow_control_queue_bytes", Gauge, [ModelName, TargetModelName, Priority, FairnessId, InferencePool], LlmDFlowControl, Envoy,
        "Newest spelling of inference_extension_flow_control_queue_bytes.";
    LlmDFlowDispatchCycleDuration = "llm_d_epp_flow_control_dispatch_cycle_duration_seconds", Histogram(Bounds::SCHEDULER), [], LlmDFlowControl, Envoy,
        "Newest spelling of inference_extension_flow_control_dispatch_cycle_duration_seconds.";
    LlmDFlowRequestEnqueueDuration = "llm_d_epp_flow_control_request_enqueue_duration_seconds", Histogram(Bounds::SCHEDULER), [Priority, FairnessId, Outcome], LlmDFlowControl, Envoy,
        "Newest spelling of inference_extension_flow_control_request_enqueue_duration_seconds.";
    LlmDFlowPoolSaturation = "llm_d_epp_flow_control_pool_saturation", Ratio, [InferencePool, Stage], LlmDFlowControl, Envoy,
        "Newest spelling of inference_extension_flow_control_pool_saturation; all endpoints are of one stage.";
    LlmDFlowStaleEndpoints = "llm_d_epp_flow_control_stale_endpoints", Gauge, [Detector], LlmDFlowControl, Envoy,
        "Endpoints of the pool whose load is missing or stale.";
    LlmDFlowCapacityRequests = "llm_d_epp_flow_control_capacity_utilization_requests", Ratio, [Priority, InferencePool], LlmDFlowControl, Envoy,
        "Requests waiting in a band, divided by how many may.";
    LlmDFlowCapacityBytes = "llm_d_epp_flow_control_capacity_utilization_bytes", Ratio, [Priority, InferencePool], LlmDFlowControl, Envoy,
        "Bytes of the requests waiting in a band, divided by how many may.";
    LlmDFlowGlobalCapacityRequests = "llm_d_epp_flow_control_global_capacity_utilization_requests", Ratio, [InferencePool], LlmDFlowControl, Envoy,
        "Requests waiting in all bands, divided by how many may; there only with a limit.";
    LlmDFlowGlobalCapacityBytes = "llm_d_epp_flow_control_global_capacity_utilization_bytes", Ratio, [InferencePool], LlmDFlowControl, Envoy,
        "Bytes of the requests waiting in all bands, divided by how many may; there only with a limit.";
    LlmDFlowRequestsTotal = "llm_d_epp_flow_control_requests_total", Counter, [Priority, Outcome, InferencePool], LlmDFlowControl, Envoy,
        "Requests that came to flow control, by how their waiting ended.";
    LlmDAverageKvCacheUtilization = "llm_d_epp_average_kv_cache_utilization", Gauge, [Name], LlmD, Sidecar,
        "Newest spelling of inference_pool_average_kv_cache_utilization.";
    LlmDAverageQueueSize = "llm_d_epp_average_queue_size", Gauge, [Name], LlmD, Sidecar,
        "Newest spelling of inference_pool_average_queue_size.";
    LlmDAverageRunningRequests = "llm_d_epp_average_running_requests", Gauge, [Name], LlmD, Sidecar,
        "Newest spelling of inference_pool_average_running_requests.";
    LlmDStdDevKvCacheUtilization = "llm_d_epp_std_dev_kv_cache_utilization", Gauge, [Name], LlmD, Sidecar,
        "Standard deviation of KV cache use over the pool's fresh endpoints.";
    LlmDStdDevQueueSize = "llm_d_epp_std_dev_queue_size", Gauge, [Name], LlmD, Sidecar,
        "Standard deviation of the number of requests waiting over the pool's fresh endpoints.";
    LlmDStdDevRunningRequests = "llm_d_epp_std_dev_running_requests", Gauge, [Name], LlmD, Sidecar,
        "Standard deviation of the number of requests running over the pool's fresh endpoints.";
    LlmDReadyEndpoints = "llm_d_epp_ready_endpoints", Gauge, [Name], LlmD, Sidecar,
        "Newest spelling of inference_pool_ready_pods.";
    LlmDPerEndpointQueueSize = "llm_d_epp_per_endpoint_queue_size", Gauge, [Name, ModelServerEndpoint], LlmD, Sidecar,
        "Newest spelling of inference_pool_per_pod_queue_size.";
    LlmDInfo = "llm_d_epp_info", Gauge, [Commit, BuildRef], LlmD, Sidecar,
        "Newest spelling of inference_extension_info.";

    // Pools.
    PoolAverageKvCacheUtilization = "inference_pool_average_kv_cache_utilization", Gauge, [Name], Always, Sidecar,
        "Mean KV cache use of the pool's fresh endpoints, 0 to 1.";
    PoolAverageQueueSize = "inference_pool_average_queue_size", Gauge, [Name], Always, Sidecar,
        "Mean number of requests waiting in the queues of the pool's fresh endpoints.";
    PoolAverageRunningRequests = "inference_pool_average_running_requests", Gauge, [Name], Always, Sidecar,
        "Mean number of requests running on the pool's fresh endpoints.";
    PoolReadyPods = "inference_pool_ready_pods", Gauge, [Name], Always, Both,
        "Endpoints of the pool with fresh metrics.";
    PoolPerPodQueueSize = "inference_pool_per_pod_queue_size", Gauge, [Name, ModelServerPod], Always, Both,
        "Requests waiting in the queue of each known endpoint of the pool.";
    PoolKvCacheUtilizationPermille = "inference_pool_kv_cache_utilization_permille", Gauge, [Name, ModelServerPod], Always, Envoy,
        "KV cache use of each fresh endpoint in thousandths, for scrapers of Envoy's page alone.";
    PoolRunningRequests = "inference_pool_per_pod_running_requests", Gauge, [Name, ModelServerPod], Always, Envoy,
        "Requests running on each fresh endpoint, for scrapers of Envoy's page alone.";

    // The picker itself.
    ExtensionInfo = "inference_extension_info", Gauge, [Commit, BuildRef], Always, Both,
        "1, labelled with what was built.";
    SchedulerAttemptsTotal = "inference_extension_scheduler_attempts_total", Counter, [Status, TargetModelName, PodName, Namespace, Port], Always, Envoy,
        "Picks by outcome and, where one succeeded, by endpoint.";
    SchedulerE2eDurationSeconds = "inference_extension_scheduler_e2e_duration_seconds", Histogram(Bounds::SCHEDULER), [], Always, Envoy,
        "Seconds that one pick took.";
    PrefixIndexerSize = "inference_extension_prefix_indexer_size", Gauge, [], Always, Envoy,
        "Entries of the prefix index: marks of prompts by endpoint that should have them in its cache.";
    PrefixIndexerHitRatio = "inference_extension_prefix_indexer_hit_ratio", Histogram(Bounds::PREFIX_RATIO), [], Always, Envoy,
        "Part of a prompt that the picked endpoint should have in its cache.";
    PrefixIndexerHitBytes = "inference_extension_prefix_indexer_hit_bytes", Histogram(Bounds::PREFIX_BYTES), [], Always, Envoy,
        "Bytes of a prompt that the picked endpoint should have in its cache.";
    ModelRewriteDecisionsTotal = "inference_extension_model_rewrite_decisions_total", Counter, [ModelRewriteName, ModelName, TargetModel], Always, Envoy,
        "Requests whose model a rewrite rule decided.";

    // Flow control.
    FlowRequestQueueDuration = "inference_extension_flow_control_request_queue_duration_seconds", Histogram(Bounds::QUEUE_WAIT), [Priority, FairnessId, Outcome], FlowControl, Envoy,
        "Seconds that a request spent in flow control, from its arrival there to its outcome.";
    FlowQueueSize = "inference_extension_flow_control_queue_size", Gauge, [Priority, FairnessId], FlowControl, Envoy,
        "Requests that wait in flow control.";
    FlowQueueBytes = "inference_extension_flow_control_queue_bytes", Gauge, [Priority, FairnessId], FlowControl, Envoy,
        "Bytes of the bodies of requests that wait in flow control.";
    FlowDispatchCycleDuration = "inference_extension_flow_control_dispatch_cycle_duration_seconds", Histogram(Bounds::SCHEDULER), [], FlowControl, Envoy,
        "Seconds that one look for requests to send took.";
    FlowRequestEnqueueDuration = "inference_extension_flow_control_request_enqueue_duration_seconds", Histogram(Bounds::SCHEDULER), [Priority, FairnessId, Outcome], FlowControl, Envoy,
        "Seconds that putting a request into its queue, or refusing it there, took.";
    FlowPoolSaturation = "inference_extension_flow_control_pool_saturation", Ratio, [InferencePool], FlowControl, Envoy,
        "How full the pool is, in the mean: 1 is an endpoint without room, one that takes no requests, or one whose page is stale.";

    // What no other picker shows.
    PicksTotal = "inpick_picks_total", Counter, [Pool, Endpoint, Reason], Always, Envoy,
        "Picks by the endpoint that served and by what decided.";
    RequestBodiesTotal = "inpick_request_bodies_total", Counter, [Outcome], Always, Envoy,
        "Request bodies by what reading them gave.";
    ResponseBodiesTotal = "inpick_response_bodies_total", Counter, [Outcome], Always, Envoy,
        "Responses of endpoints by what reading them gave; of an encoded one the usage is lost.";
    LoadOnlyRequestsTotal = "inpick_load_only_requests_total", Counter, [Outcome], Always, Envoy,
        "Requests that were routed by load alone, by their end: complete, or the error_code.";
    SnapshotAgeSeconds = "inpick_snapshot_age_seconds", Gauge, [], Always, Envoy,
        "Whole seconds since the sidecar last confirmed the snapshot.";
    SnapshotGeneration = "inpick_snapshot_generation", Gauge, [], Always, Envoy,
        "Generation of the snapshot in use.";
    SnapshotFetchesTotal = "inpick_snapshot_fetches_total", Counter, [Outcome], Always, Envoy,
        "Requests for the sidecar's snapshot by outcome.";
    Endpoints = "inpick_endpoints", Gauge, [Pool, State], Always, Envoy,
        "Endpoints of the pool by state: what the sidecar says of them, or ejected while requests are kept from them because others failed.";
    InFlightRequests = "inpick_in_flight_requests", Gauge, [Pool, Endpoint], Always, Envoy,
        "Requests that this Envoy has sent to the endpoint and that have not finished.";
    EndpointFailuresTotal = "inpick_endpoint_failures_total", Counter, [Pool, Endpoint, Reason], Always, Envoy,
        "Requests that an endpoint failed, by how; rejected are those that it would not serve, which are held against it only where the others serve them.";
    EjectionsTotal = "inpick_ejections_total", Counter, [Pool, Endpoint], Always, Envoy,
        "Times that a worker left an endpoint out because it failed several times in a row.";
    Ejected = "inpick_ejected", Gauge, [Pool, Endpoint], Always, Envoy,
        "1 while requests are kept from the endpoint because others failed: it is counted as ejected then. There is none for one that never was.";
    LonePicksTotal = "inpick_lone_picks_total", Counter, [], Always, Envoy,
        "Picks of a thread that found the state of the process held by another, and went by the loads that it knows itself.";
    PrefixPredictedTokensTotal = "inpick_prefix_predicted_tokens_total", Counter, [Pool], Always, Envoy,
        "Prompt tokens that the endpoint was predicted to have in its cache, of answers that reported how many it had.";
    PrefixReportedTokensTotal = "inpick_prefix_reported_tokens_total", Counter, [Pool], Always, Envoy,
        "Prompt tokens that these answers reported as cached.";
    TtftRatio = "inpick_ttft_ratio", Histogram(Bounds::PREDICTION_RATIO), [Pool], Always, Envoy,
        "Time from sending a streamed request to its first token, divided by what the pick predicted: above 1 it took longer.";
    FilterTime = "inpick_filter_time_seconds", Histogram(Bounds::FILTER_TIME), [Phase], Always, Envoy,
        "Seconds that the filter took for one phase of a request, all callbacks of the phase together, of one request in 16.";
    SignalAge = "inpick_signal_age_thousandths", Gauge, [Pool, Endpoint], Always, Envoy,
        "Milliseconds since the page that the load of the endpoint in use is from.";
    MissingSignals = "inpick_missing_signals", Gauge, [Pool, Engine, Signal], Always, Sidecar,
        "Endpoints of that engine whose last page lacks the signal.";
    LabelOverflowsTotal = "inpick_label_overflows_total", Counter, [Overflown], Always, Envoy,
        "Times that a value of that label became `other` because there was no place for it.";
    LearnedFixedTime = "inpick_learned_fixed_time_millionths", Gauge, [Pool, Endpoint], Always, Envoy,
        "Time to the first token of a request that needs no prefill, in millionths of a second, as learned from the endpoint's answers.";
    LearnedPrefillRate = "inpick_learned_prefill_tokens_per_second", Gauge, [Pool, Endpoint], Always, Envoy,
        "Prompt tokens that the endpoint computes in a second, as learned from its answers.";
    LearnedSlotTime = "inpick_learned_slot_time_millionths", Gauge, [Pool, Endpoint], Always, Envoy,
        "Time for which a request holds its place in the endpoint's batch, in millionths of a second, as learned from its answers.";
    LearnedSlots = "inpick_learned_slots", Gauge, [Pool, Endpoint], Always, Envoy,
        "Requests that the endpoint runs at once, as its pages told while requests waited; 0: not known yet.";
    VmStartsTotal = "inpick_vm_starts_total", Counter, [], Always, Envoy,
        "Virtual machines of the filter that were started; a crash of one adds one, a new configuration none. Natively 1.";
    FlowControlLostTotal = "inpick_flow_control_lost_total", Counter, [], Always, Envoy,
        "Requests that waited in flow control when their virtual machine crashed, and were answered 503 then; never natively.";
    PanicsTotal = "inpick_panics_total", Counter, [Reason], Always, Envoy,
        "Faults of the native module that were caught, by the hook of Envoy's in which they happened.";
    EmbeddedSidecarUp = "inpick_embedded_sidecar_up", Gauge, [Pool], Always, Envoy,
        "1 while the sidecar in Envoy runs, 0 while it waits to be started again; there only if the native module runs it.";
    EmbeddedSidecarRestartsTotal = "inpick_embedded_sidecar_restarts_total", Counter, [Pool], Always, Envoy,
        "Times that the sidecar in Envoy was started again after an error or a panic.";
    VmMemoryBytes = "inpick_vm_memory_bytes", Gauge, [], Always, Envoy,
        "Linear memory of the virtual machines of the workers that serve, all together.";
}

impl Stat {
    /// The families that a switch setting publishes through Envoy.
    pub fn published_by_envoy() -> impl Iterator<Item = Self> {
        Self::ALL.iter().copied().filter(|stat| !matches!(stat.family().publisher, Publisher::Sidecar))
    }
}

/// The family of that name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Family> {
    Stat::ALL.iter().map(|stat| stat.family()).find(|family| family.name == name)
}

/// Every label that some family published through Envoy carries, `le` included, in the order in which names carry them.
#[must_use]
pub fn envoy_labels() -> Vec<Label> {
    Label::ALL
        .iter()
        .copied()
        .filter(|label| {
            *label == Label::Le || Stat::published_by_envoy().any(|stat| stat.family().labels.contains(label))
        })
        .collect()
}

/// Suffix of the name under which Envoy has a [`Kind::Ratio`], in thousandths.
pub const PERMILLE_SUFFIX: &str = "_permille";

/// Whether a series is the exact twin of a histogram's `_sum`, which Envoy's page alone has: see [`Scale::exact_sum_suffix`].
#[must_use]
pub fn is_exact_sum(name: &str) -> bool {
    [Scale::Microseconds, Scale::Millionths]
        .into_iter()
        .filter_map(Scale::exact_sum_suffix)
        .any(|suffix| name.ends_with(suffix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_labels_are_in_order() {
        for (index, stat) in Stat::ALL.iter().enumerate() {
            let family = stat.family();
            assert!(family.labels.is_sorted(), "{} lists its labels out of order", family.name);
            assert!(
                !Stat::ALL[..index].iter().any(|other| other.family().name == family.name),
                "{} twice",
                family.name
            );
            assert_eq!(matches!(family.kind, Counter), family.name.ends_with("_total"), "{}", family.name);
        }
    }
}
