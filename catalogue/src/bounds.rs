//! Bucket bounds, as the strings that `le` shows and as the integers that samples are compared with.

use alloc::vec::Vec;

/// What one recorded unit is worth.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Scale {
    /// Samples are in the family's own unit: bytes, tokens, microseconds.
    Unit,
    /// Samples are microseconds, the family's unit is seconds.
    Microseconds,
    /// Samples are millionths of a ratio.
    Millionths,
}

impl Scale {
    /// Suffix of the twin of a `_sum` that counts millionths of the family's unit. Envoy's counters are integers, so the plain `_sum` holds
    /// whole units; whoever divides the twin by a million has the exact sum. `None`: the plain `_sum` is exact.
    #[must_use]
    pub const fn exact_sum_suffix(self) -> Option<&'static str> {
        match self {
            Self::Unit => None,
            Self::Microseconds => Some("_sum_microseconds"),
            Self::Millionths => Some("_sum_millionths"),
        }
    }
}

/// Upper bounds of a histogram's buckets; `+Inf` is implied.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Bounds {
    /// The `le` strings, separated by single spaces, ascending.
    le: &'static str,
    /// Unit of the samples.
    pub scale: Scale,
}

impl Bounds {
    /// General latency: request duration and time to first token.
    pub const LATENCY: Self = Self::seconds(
        "0.005 0.025 0.05 0.1 0.2 0.4 0.6 0.8 1 1.25 1.5 2 3 4 5 6 8 10 15 20 30 45 60 120 180 240 300 360 480 600 900 1200 1800 2700 3600",
    );
    /// Time for one output token.
    pub const TIME_PER_TOKEN: Self = Self::seconds(
        "0.0005 0.00205 0.005 0.01 0.02 0.04 0.06 0.08 0.1 0.125 0.15 0.2 0.3 0.4 0.5 0.6 0.8 1 1.5 2 3 4.5 6 12 18 24 30 36 48 60 90 120 180 270 360",
    );
    /// Request bodies, bytes.
    pub const REQUEST_BYTES: Self = Self::units(
        "64 128 256 512 1024 2048 4096 8192 16384 32768 65536 131072 262144 524288 1.048576e+06 2.097152e+06 4.194304e+06 8.388608e+06 1.6777216e+07 3.3554432e+07 6.7108864e+07 1.34217728e+08 2.68435456e+08 5.36870912e+08 1.073741824e+09",
    );
    /// Response bodies, bytes. 32778 is what every published picker has and recording rules name; it stays.
    pub const RESPONSE_BYTES: Self = Self::units("1 8 16 32 64 128 256 512 1024 2048 4096 8192 16384 32778 65536");
    /// Prompt tokens. 32778 for the reason given at [`Self::RESPONSE_BYTES`].
    pub const INPUT_TOKENS: Self =
        Self::units("1 8 16 32 64 128 256 512 1024 2048 4096 8192 16384 32778 65536 131072 262144 524288 1.048576e+06");
    /// Generated tokens.
    pub const OUTPUT_TOKENS: Self = Self::units("1 8 16 32 64 128 256 512 1024 2048 4096 8192");
    /// Duration for each output token.
    pub const NORMALIZED_TIME: Self = Self::seconds("0.001 0.002 0.005 0.01 0.02 0.05 0.1 0.2 0.5 1 2 5 10");
    /// One pick.
    pub const SCHEDULER: Self = Self::seconds("0.0001 0.0002 0.0005 0.001 0.002 0.005 0.01 0.02 0.05 0.1");

    /// Time that a request spends in flow control.
    pub const QUEUE_WAIT: Self =
        Self::seconds("0.0001 0.0005 0.001 0.005 0.01 0.025 0.05 0.1 0.25 0.5 1 2.5 5 10 30 60");

    /// Part of a prompt that an endpoint should have cached.
    pub const PREFIX_RATIO: Self = Self { le: "0 0.1 0.2 0.3 0.4 0.5 0.6 0.7 0.8 0.9 1", scale: Scale::Millionths };
    /// Bytes of a prompt that an endpoint should have cached.
    pub const PREFIX_BYTES: Self = Self::units("0 16 32 64 128 256 512 1024 2048 4096 8192 16384 32768 65536");

    /// Duration of a request, of the GenAI conventions.
    pub const GEN_AI_DURATION: Self =
        Self::seconds("0.01 0.02 0.04 0.08 0.16 0.32 0.64 1.28 2.56 5.12 10.24 20.48 40.96 81.92");
    /// Tokens of a request, of the GenAI conventions.
    pub const GEN_AI_TOKENS: Self =
        Self::units("1 4 16 64 256 1024 4096 16384 65536 262144 1048576 4194304 16777216 67108864");
    /// Time to the first token, of the GenAI conventions.
    pub const GEN_AI_FIRST_TOKEN: Self =
        Self::seconds("0.001 0.005 0.01 0.02 0.04 0.06 0.08 0.1 0.25 0.5 0.75 1 2.5 5 7.5 10");
    /// Time for one output token, of the GenAI conventions.
    pub const GEN_AI_TIME_PER_TOKEN: Self = Self::seconds("0.01 0.025 0.05 0.075 0.1 0.15 0.2 0.3 0.4 0.5 0.75 1 2.5");

    /// Time to the first token, in the picker's newest spelling.
    pub const LLM_D_FIRST_TOKEN: Self =
        Self::seconds("0.005 0.025 0.05 0.1 0.2 0.4 0.6 0.8 1 1.25 1.5 2 3 4 5 6 8 10 15 20 30 45 60 120");
    /// Time for one output token of a stream, in the picker's newest spelling.
    pub const LLM_D_TIME_PER_TOKEN: Self =
        Self::seconds("0.0005 0.00205 0.005 0.01 0.02 0.04 0.06 0.08 0.1 0.125 0.15 0.2 0.3 0.4 0.5 0.6 0.8 1 2");
    /// Time between two pieces of a stream.
    pub const INTER_TOKEN: Self = Self::seconds("0.001 0.005 0.01 0.02 0.04 0.06 0.08 0.1 0.15 0.2 0.3 0.5 0.75 1 2");
    /// From a request's headers until it is sent on.
    pub const REQUEST_PROCESSING: Self =
        Self::seconds("0.0005 0.001 0.002 0.005 0.01 0.015 0.025 0.04 0.06 0.1 0.25 0.5 1 2.5 5 10");
    /// Time spent on an answer.
    pub const RESPONSE_PROCESSING: Self =
        Self::seconds("0.0001 0.00025 0.0005 0.001 0.0025 0.005 0.01 0.025 0.05 0.1 0.25 0.5 1 2.5 5");

    /// Time that the filter takes for one phase of a request.
    pub const FILTER_TIME: Self =
        Self::seconds("0.000001 0.000002 0.000005 0.00001 0.00002 0.00005 0.0001 0.0002 0.0005 0.001 0.002 0.005 0.01");
    /// What came divided by what was predicted.
    pub const PREDICTION_RATIO: Self =
        Self { le: "0.1 0.25 0.5 0.67 0.8 0.9 1 1.1 1.25 1.5 2 3 5 10 30", scale: Scale::Millionths };

    const fn seconds(le: &'static str) -> Self {
        Self { le, scale: Scale::Microseconds }
    }

    const fn units(le: &'static str) -> Self {
        Self { le, scale: Scale::Unit }
    }

    /// The `le` strings, ascending, without `+Inf`.
    pub fn le(self) -> impl Iterator<Item = &'static str> {
        self.le.split(' ')
    }

    /// Inclusive upper bounds in the samples' unit, ascending, without `+Inf`.
    #[must_use]
    pub fn limits(self) -> Vec<u64> {
        let factor = match self.scale {
            Scale::Unit => 1.0,
            Scale::Microseconds | Scale::Millionths => 1e6,
        };
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "bounds are small, positive and tested"
        )]
        self.le().filter_map(|le| le.parse::<f64>().ok()).map(|bound| (bound * factor + 0.5) as u64).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Bounds; 22] = [
        Bounds::GEN_AI_DURATION,
        Bounds::GEN_AI_TOKENS,
        Bounds::GEN_AI_FIRST_TOKEN,
        Bounds::GEN_AI_TIME_PER_TOKEN,
        Bounds::LLM_D_FIRST_TOKEN,
        Bounds::LLM_D_TIME_PER_TOKEN,
        Bounds::INTER_TOKEN,
        Bounds::REQUEST_PROCESSING,
        Bounds::RESPONSE_PROCESSING,
        Bounds::FILTER_TIME,
        Bounds::PREDICTION_RATIO,
        Bounds::PREFIX_RATIO,
        Bounds::PREFIX_BYTES,
        Bounds::LATENCY,
        Bounds::TIME_PER_TOKEN,
        Bounds::REQUEST_BYTES,
        Bounds::RESPONSE_BYTES,
        Bounds::INPUT_TOKENS,
        Bounds::OUTPUT_TOKENS,
        Bounds::NORMALIZED_TIME,
        Bounds::SCHEDULER,
        Bounds::QUEUE_WAIT,
    ];

    #[test]
    fn every_bound_is_a_number_and_they_ascend() {
        for bounds in ALL {
            let limits = bounds.limits();
            assert_eq!(limits.len(), bounds.le().count());
            assert!(limits.windows(2).all(|pair| pair[0] < pair[1]), "{bounds:?}");
        }
    }

    #[test]
    fn sums_that_integers_cannot_hold_have_an_exact_twin() {
        for bounds in ALL {
            let has_fractions = bounds.le().any(|le| le.parse::<f64>().unwrap().fract() != 0.0);
            assert_eq!(bounds.scale.exact_sum_suffix().is_some(), has_fractions, "{bounds:?}");
        }
    }

    #[test]
    fn seconds_become_exact_microseconds() {
        assert_eq!(Bounds::TIME_PER_TOKEN.limits()[..3], [500, 2050, 5000]);
        assert_eq!(Bounds::REQUEST_BYTES.limits().last(), Some(&(1 << 30)));
    }
}
