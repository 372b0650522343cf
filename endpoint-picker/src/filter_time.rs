//! How much of a request's time the filter itself takes, measured on one request in [`EVERY`].
//!
//! Looking at the clock is a call of the host, twice a callback: too much for every request of a virtual machine.

/// One request in so many is timed; the first one is.
pub const EVERY: u32 = 16;

/// What a callback is about. Trailers count with the body.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Phase {
    /// A request's headers.
    RequestHeaders,
    /// Its body.
    RequestBody,
    /// A response's headers.
    ResponseHeaders,
    /// Its body.
    ResponseBody,
}

impl Phase {
    /// Every phase, in order.
    pub const ALL: [Self; 4] = [Self::RequestHeaders, Self::RequestBody, Self::ResponseHeaders, Self::ResponseBody];

    /// The label's value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RequestHeaders => "request_headers",
            Self::RequestBody => "request_body",
            Self::ResponseHeaders => "response_headers",
            Self::ResponseBody => "response_body",
        }
    }
}

/// Which requests are timed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sampler(u32);

impl Sampler {
    /// The next request is the first.
    #[must_use]
    pub const fn new() -> Self {
        Self(0)
    }

    /// A place to note the time of the request that begins now; `None`: it is not timed.
    pub const fn begin(&mut self) -> Option<FilterTime> {
        let place = self.0;
        self.0 = (place + 1) % EVERY;
        if place == 0 { Some(FilterTime { micros: [None; Phase::ALL.len()] }) } else { None }
    }
}

/// What the filter took for one request.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct FilterTime {
    micros: [Option<u64>; Phase::ALL.len()],
}

impl FilterTime {
    /// One callback took so many microseconds.
    pub fn add(&mut self, phase: Phase, micros: u64) {
        if let Some(sum) = self.micros.get_mut(phase as usize) {
            *sum = Some(sum.unwrap_or(0).saturating_add(micros));
        }
    }

    /// Microseconds of all callbacks of a phase; `None`: there was none.
    #[must_use]
    pub fn micros(&self, phase: Phase) -> Option<u64> {
        self.micros.get(phase as usize).copied().flatten()
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn callbacks_of_a_phase_are_added_up_and_one_request_in_some_is_timed() {
        let mut sampler = Sampler::default();
        let timed: alloc::vec::Vec<bool> = (0..2 * EVERY).map(|_| sampler.begin().is_some()).collect();
        assert!(timed[0] && timed[EVERY as usize] && timed.iter().filter(|timed| **timed).count() == 2);
        let mut time = FilterTime::default();
        time.add(Phase::ResponseBody, 3);
        time.add(Phase::ResponseBody, 4);
        time.add(Phase::RequestHeaders, 0);
        assert_eq!(Phase::ALL.map(|phase| time.micros(phase)), [Some(0), None, None, Some(7)]);
    }
}
