//! What scorers look at, and where they write.

use alloc::vec::Vec;

use crate::pool::{Endpoint, Pool};
use crate::scheduling::candidate::Candidate;
use crate::scheduling::cold::ColdEndpoints;
use crate::scheduling::forecast::Outlook;
use crate::scheduling::request::PickRequest;
use crate::time::Timestamp;

/// Beyond its time of validity a signal loses half of what it says every two seconds: a queue can fill or empty in that time.
const FADE_HALF_LIFE_MICROS: f64 = 2_000_000.0;

/// What the signals of one pick are worth.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Validity {
    pub(crate) now: Timestamp,
    /// Loads younger than this count in full; microseconds.
    pub(crate) max_age_micros: u64,
}

/// What the scorers of one pick look at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sight<'a> {
    pub(crate) pool: &'a Pool,
    pub(crate) candidates: &'a [Candidate],
    pub(crate) request: &'a PickRequest<'a>,
    pub(crate) validity: Validity,
    /// Who got cold prompts so far.
    pub(crate) cold: &'a ColdEndpoints,
    /// What the request would take at each candidate, where a scorer asks that.
    pub(crate) outlooks: &'a [Outlook],
}

/// Working memory of a pick, so that it allocates nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memory {
    /// One for each candidate: first what is scored, then its score.
    pub(super) values: Vec<f64>,
    /// The fresh signals among them.
    pub(super) known: Vec<f64>,
    /// Candidates by the time of their last cold prompt.
    pub(super) order: Vec<(u64, usize)>,
}

impl Sight<'_> {
    /// The candidates' endpoints, in their order.
    pub(super) fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        self.candidates.iter().filter_map(|candidate| self.pool.endpoint(candidate.id))
    }
}

impl Memory {
    pub(super) fn set(&mut self, values: impl Iterator<Item = f64>) {
        self.values.clear();
        self.values.extend(values);
    }
}

impl Validity {
    /// What an endpoint's load is still worth, 0 to 1.
    pub(super) fn worth(self, pool: &Pool, endpoint: &Endpoint) -> f64 {
        let Some(load_at) = endpoint.load_at(pool.confirmed_at()) else { return 0.0 };
        let beyond = self.now.micros_since(load_at).saturating_sub(self.max_age_micros);
        if beyond == 0 { 1.0 } else { halved(beyond as f64 / FADE_HALF_LIFE_MICROS) }
    }
}

/// `0.5^halvings`, by straight lines between whole numbers (`exp2` needs a library that the core does not have), and 0 from 16 on.
fn halved(halvings: f64) -> f64 {
    const MOST: f64 = 16.0;
    if halvings >= MOST {
        return 0.0;
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 16")]
    let whole = halvings as u32;
    let at_whole = 1.0 / f64::from(1_u32 << whole);
    at_whole * (1.0 - 0.5 * (halvings - f64::from(whole)))
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::halved;

    #[test]
    fn halving_falls_steadily_and_is_exact_at_whole_numbers() {
        assert_eq!([0.0, 1.0, 2.0, 10.0].map(halved), [1.0, 0.5, 0.25, 1.0 / 1024.0]);
        assert!((1..320).all(|step| halved(f64::from(step) / 20.0) < halved(f64::from(step - 1) / 20.0)));
        assert_eq!([16.0, 1e300].map(halved), [0.0, 0.0]);
    }
}
