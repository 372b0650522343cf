//! What is measured, and under which names each figure is published.

use catalogue::Stat;

use crate::error_type::ErrorType;
use crate::filter_time::Phase;
use crate::reply::ErrorCode;

macro_rules! measures {
    ($($(#[$meta:meta])* $id:ident,)*) => {
        /// One figure. Durations are in microseconds.
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        pub(super) enum Measure { $($(#[$meta])* $id,)* }

        impl Measure {
            pub(super) const ALL: &[Self] = &[$(Self::$id,)*];
            pub(super) const COUNT: usize = Self::ALL.len();
        }
    };
}

measures! {
    /// Request headers to end of response.
    Duration,
    /// Request body, bytes.
    RequestSize,
    /// Response body, bytes.
    ResponseSize,
    /// Prompt tokens.
    InputTokens,
    /// Prompt tokens from the prefix cache.
    CachedTokens,
    /// Generated tokens.
    OutputTokens,
    /// Generated tokens that were spent on reasoning.
    ReasoningTokens,
    /// Duration for each generated token.
    NormalizedTime,
    /// Request headers to first content.
    TimeToFirstToken,
    /// Time for each token after the first.
    TimePerOutputToken,
    /// Time between two pieces of a stream.
    InterTokenTime,
    /// One pick, of whatever request.
    PickDuration,
    /// Part of a prompt that the picked endpoint should have, in millionths.
    HitRatio,
    /// The same in bytes.
    HitBytes,
    /// Time to the first token divided by the predicted one, in millionths.
    TtftRatio,
    /// Request headers to the moment at which it is sent on or refused.
    RequestProcessing,
    /// What the filter took for a response.
    ResponseProcessing,
    /// Arrival in flow control to outcome.
    QueueTime,
    /// Arrival in flow control to the place in its queue, or to its refusal.
    EnqueueTime,
    /// One look for requests to send.
    DispatchCycle,
    /// What the filter took for a phase of a request.
    RequestHeadersTime,
    RequestBodyTime,
    ResponseHeadersTime,
    ResponseBodyTime,
}

/// What a family takes of a measure's samples.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Takes {
    /// A histogram takes each.
    Samples,
    /// A counter takes their number.
    Number,
    /// A counter takes their sum.
    Sum,
}

/// Of which requests a family takes them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Of {
    All,
    /// Whose response came to its end.
    Complete,
    /// That were sent to an endpoint.
    Sent,
    Failed,
    /// Whose response is complete and no stream.
    Unary,
}

/// A family that is made of a measure.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spelling {
    pub(super) stat: Stat,
    pub(super) takes: Takes,
    pub(super) of: Of,
}

const fn samples(stat: Stat) -> Spelling {
    Spelling { stat, takes: Takes::Samples, of: Of::All }
}

const fn samples_of(of: Of, stat: Stat) -> Spelling {
    Spelling { stat, takes: Takes::Samples, of }
}

const fn number_of(of: Of, stat: Stat) -> Spelling {
    Spelling { stat, takes: Takes::Number, of }
}

const fn sum(stat: Stat) -> Spelling {
    Spelling { stat, takes: Takes::Sum, of: Of::All }
}

impl Measure {
    /// In the order of [`Phase::ALL`].
    pub(super) const FILTER_TIMES: [Self; Phase::ALL.len()] =
        [Self::RequestHeadersTime, Self::RequestBodyTime, Self::ResponseHeadersTime, Self::ResponseBodyTime];

    /// The phase whose time it is.
    pub(super) fn phase(self) -> Option<Phase> {
        Self::FILTER_TIMES.iter().position(|time| *time == self).and_then(|place| Phase::ALL.get(place)).copied()
    }

    /// The families that show it.
    pub(super) const fn spellings(self) -> &'static [Spelling] {
        match self {
            Self::Duration => {
                const {
                    &[
                        number_of(Of::All, Stat::ObjectiveRequestTotal),
                        number_of(Of::All, Stat::ModelRequestTotal),
                        number_of(Of::All, Stat::LlmDRequestTotal),
                        number_of(Of::Failed, Stat::ObjectiveRequestErrorTotal),
                        number_of(Of::Failed, Stat::ModelRequestErrorTotal),
                        number_of(Of::Failed, Stat::LlmDRequestErrorTotal),
                        samples_of(Of::Complete, Stat::ObjectiveRequestDurationSeconds),
                        samples_of(Of::Complete, Stat::ModelRequestDurationSeconds),
                        samples_of(Of::Complete, Stat::LlmDRequestDuration),
                        samples_of(Of::Unary, Stat::LlmDRequestTtft),
                        samples(Stat::GenAiClientOperationDuration),
                        samples_of(Of::Sent, Stat::GenAiServerRequestDuration),
                    ]
                }
            }
            Self::RequestSize => {
                const {
                    &[
                        samples(Stat::ObjectiveRequestSizes),
                        samples(Stat::ModelRequestSizes),
                        samples(Stat::LlmDRequestSizeBytes),
                    ]
                }
            }
            Self::ResponseSize => {
                const {
                    &[
                        samples(Stat::ObjectiveResponseSizes),
                        samples(Stat::ModelResponseSizes),
                        samples(Stat::LlmDResponseSizeBytes),
                    ]
                }
            }
            Self::InputTokens => {
                const {
                    &[
                        samples(Stat::ObjectiveInputTokens),
                        samples(Stat::ModelInputTokens),
                        samples(Stat::LlmDRequestInputTokens),
                        samples(Stat::GenAiClientTokenUsage),
                        sum(Stat::GenAiInputTokensTotal),
                    ]
                }
            }
            Self::CachedTokens => {
                const {
                    &[
                        samples(Stat::ObjectivePromptCachedTokens),
                        samples(Stat::LlmDRequestCachedTokens),
                        sum(Stat::GenAiCacheReadInputTokensTotal),
                    ]
                }
            }
            Self::OutputTokens => {
                const {
                    &[
                        samples(Stat::ObjectiveOutputTokens),
                        samples(Stat::ModelOutputTokens),
                        samples(Stat::LlmDRequestOutputTokens),
                        samples(Stat::GenAiClientTokenUsage),
                        sum(Stat::GenAiOutputTokensTotal),
                    ]
                }
            }
            Self::ReasoningTokens => const { &[sum(Stat::GenAiReasoningOutputTokensTotal)] },
            Self::NormalizedTime => {
                const {
                    &[
                        samples(Stat::ObjectiveNormalizedTimePerOutputToken),
                        samples(Stat::NormalizedTimePerOutputToken),
                        samples(Stat::ModelNormalizedTimePerOutputToken),
                        samples(Stat::LlmDRequestNtpot),
                    ]
                }
            }
            Self::TimeToFirstToken => {
                const {
                    &[
                        samples(Stat::ObjectiveRequestTtftSeconds),
                        samples(Stat::LlmDRequestTtft),
                        samples(Stat::GenAiServerTimeToFirstToken),
                    ]
                }
            }
            Self::TimePerOutputToken => {
                const {
                    &[
                        samples(Stat::ObjectiveRequestTpotSeconds),
                        samples(Stat::LlmDRequestStreamingTpot),
                        samples(Stat::GenAiServerTimePerOutputToken),
                    ]
                }
            }
            Self::InterTokenTime => const { &[samples(Stat::LlmDRequestStreamingItl)] },
            Self::PickDuration => {
                const { &[samples(Stat::SchedulerE2eDurationSeconds), samples(Stat::LlmDSchedulerE2eDuration)] }
            }
            Self::HitRatio => {
                const { &[samples(Stat::PrefixIndexerHitRatio), samples(Stat::LlmDPrefixIndexerHitRatio)] }
            }
            Self::HitBytes => {
                const { &[samples(Stat::PrefixIndexerHitBytes), samples(Stat::LlmDPrefixIndexerHitBytes)] }
            }
            Self::TtftRatio => const { &[samples(Stat::TtftRatio)] },
            Self::RequestProcessing => const { &[samples(Stat::LlmDRequestProcessingDuration)] },
            Self::ResponseProcessing => const { &[samples(Stat::LlmDResponseProcessingDuration)] },
            Self::QueueTime => {
                const {
                    &[
                        samples(Stat::FlowRequestQueueDuration),
                        samples(Stat::LlmDFlowRequestQueueDuration),
                        number_of(Of::All, Stat::LlmDFlowRequestsTotal),
                    ]
                }
            }
            Self::EnqueueTime => {
                const { &[samples(Stat::FlowRequestEnqueueDuration), samples(Stat::LlmDFlowRequestEnqueueDuration)] }
            }
            Self::DispatchCycle => {
                const { &[samples(Stat::FlowDispatchCycleDuration), samples(Stat::LlmDFlowDispatchCycleDuration)] }
            }
            Self::RequestHeadersTime | Self::RequestBodyTime | Self::ResponseHeadersTime | Self::ResponseBodyTime => {
                const { &[samples(Stat::FilterTime)] }
            }
        }
    }
}

/// How a request ended, as far as families tell requests apart by it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Ending {
    pub(super) failure: Option<(ErrorCode, ErrorType)>,
    /// Its response came to its end.
    pub(super) is_complete: bool,
    /// It was sent to an endpoint.
    pub(super) is_sent: bool,
}

impl Ending {
    /// The end of a request that was served.
    pub(super) const SERVED: Self = Self { failure: None, is_complete: true, is_sent: true };

    /// Whether a family takes requests that end so; `streamed`: with a stream.
    pub(super) const fn is(self, of: Of, streamed: bool) -> bool {
        match of {
            Of::All => true,
            Of::Complete => self.is_complete,
            Of::Sent => self.is_sent,
            Of::Failed => self.failure.is_some(),
            Of::Unary => self.is_complete && !streamed,
        }
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use catalogue::Kind;

    use super::*;

    #[test]
    fn histograms_take_samples_of_one_unit_and_counters_their_number_or_sum() {
        for measure in Measure::ALL {
            let mut scales = alloc::vec::Vec::new();
            for spelling in measure.spellings() {
                match spelling.stat.family().kind {
                    Kind::Histogram(bounds) => {
                        assert_eq!(spelling.takes, Takes::Samples, "{:?}", spelling.stat);
                        scales.push(bounds.scale);
                    }
                    Kind::Counter => assert_ne!(spelling.takes, Takes::Samples, "{:?}", spelling.stat),
                    Kind::Gauge | Kind::Ratio => panic!("{:?}", spelling.stat),
                }
            }
            assert!(scales.windows(2).all(|pair| pair[0] == pair[1]), "{measure:?}: {scales:?}");
        }
    }
}
