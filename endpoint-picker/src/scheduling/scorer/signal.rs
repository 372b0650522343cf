//! Signals of engines as scorers take them: with what is assumed where one is missing or old.

use alloc::vec::Vec;

use crate::pool::Endpoint;

use super::sight::{Memory, Sight};

/// Fills the memory's values with each candidate's signal. Where it is missing it is taken to be that of a typical endpoint with as many
/// requests in flight, and one that is too old to count in full moves towards that: so requests in flight decide, and
/// an endpoint that says nothing is neither idle nor full. `alone` is what is assumed where nobody's is fresh.
pub(super) fn collect(
    signal: impl Fn(&Endpoint) -> Option<f64>,
    alone: impl Fn(&Endpoint) -> f64,
    sight: &Sight<'_>,
    memory: &mut Memory,
) {
    let typical = Typical::of(&signal, sight, &mut memory.known);
    memory.set(sight.endpoints().map(|endpoint| {
        let worth = sight.validity.worth(sight.pool, endpoint);
        let assumed = || typical.map_or_else(|| alone(endpoint), |typical| typical.signal(endpoint));
        match signal(endpoint) {
            Some(signal) if worth >= 1.0 => signal,
            Some(signal) => worth * signal + (1.0 - worth) * assumed(),
            None => assumed(),
        }
    }));
}

/// What an endpoint with a fresh signal has in the middle: the medians over those endpoints.
#[derive(Clone, Copy, Debug)]
struct Typical {
    signal: f64,
    in_flight: f64,
}

impl Typical {
    /// Keeps the scale from an endpoint's first request in flight, where a ratio of small counts would say too much.
    const BASE_IN_FLIGHT: f64 = 2.0;

    fn of(signal: &impl Fn(&Endpoint) -> Option<f64>, sight: &Sight<'_>, known: &mut Vec<f64>) -> Option<Self> {
        let fresh =
            |endpoint: &Endpoint| signal(endpoint).filter(|_| sight.validity.worth(sight.pool, endpoint) >= 1.0);
        // Where every signal is fresh nobody asks.
        if sight.endpoints().all(|endpoint| fresh(endpoint).is_some()) {
            return None;
        }
        known.clear();
        known.extend(sight.endpoints().filter_map(fresh));
        if known.is_empty() {
            return None;
        }
        let signal = median(known);
        known.clear();
        let with_signal = sight.endpoints().filter(|endpoint| fresh(endpoint).is_some());
        known.extend(with_signal.map(|endpoint| f64::from(endpoint.in_flight().at_page())));
        Some(Self { signal, in_flight: median(known) })
    }

    /// The signal that an endpoint would have if it were a typical one.
    fn signal(self, endpoint: &Endpoint) -> f64 {
        self.signal * (f64::from(endpoint.in_flight().at_page()) + Self::BASE_IN_FLIGHT)
            / (self.in_flight + Self::BASE_IN_FLIGHT)
    }
}

/// The middle value, or the mean of the middle two; 0 of none.
fn median(values: &mut [f64]) -> f64 {
    let (middle, is_even) = (values.len() / 2, values.len().is_multiple_of(2));
    if values.is_empty() {
        return 0.0;
    }
    let (below, &mut upper, _) = values.select_nth_unstable_by(middle, f64::total_cmp);
    if is_even { (upper + below.iter().copied().fold(f64::NEG_INFINITY, f64::max)) / 2.0 } else { upper }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::median;

    #[test]
    fn a_median_is_the_middle() {
        assert_eq!(median(&mut []), 0.0);
        assert_eq!(median(&mut [3.0]), 3.0);
        assert_eq!(median(&mut [5.0, 1.0]), 3.0);
        assert_eq!(median(&mut [9.0, 1.0, 4.0]), 4.0);
        assert_eq!(median(&mut [9.0, 1.0, 4.0, 2.0]), 3.0);
    }
}
