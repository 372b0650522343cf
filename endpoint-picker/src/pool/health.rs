//! What an endpoint's answers say of its health: passive, by outcome.
//!
//! Evidence is ordered by the time at which the request was *sent*, not by when its end was seen: a draining server finishes old
//! requests well while it refuses every new one, and a failure that Envoy reports after a long retry says nothing of a server that was
//! restarted meanwhile. Evidence that is older than what is known changes nothing.

use crate::time::Timestamp;

/// Failures in a row after which an endpoint is ejected. One may be chance; the first one ranks it behind all others for
/// [`SUSPECT_MICROS`], so that chance costs no more than that.
pub const EJECT_AFTER_FAILURES: u32 = 2;
/// How long a single failure ranks an endpoint last: long enough that the next request after it goes elsewhere, short enough that an
/// endpoint that failed by chance has its share back soon.
pub const SUSPECT_MICROS: u64 = 1_000_000;
/// First ejection, doubled each time that the trial request after it fails.
pub const EJECTION_MICROS: u64 = 2_000_000;
/// Longest ejection: what a server that recovered unseen waits at most for a trial request.
pub const MAX_EJECTION_MICROS: u64 = 30_000_000;
/// A trial request that has not answered after this long no longer keeps others from being tried: it may be a long generation.
pub const TRIAL_MICROS: u64 = 10_000_000;
/// How much longer a worker waits that only heard of a failure: the time in which the news of a first trial reaches all workers.
pub const LEARNT_MICROS: u64 = 250_000;
/// An endpoint that was well for this long after an ejection starts with the first ejection's length again.
pub const FORGIVEN_AFTER_MICROS: u64 = 60_000_000;

/// The health of one endpoint as this worker's requests show it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Health {
    state: State,
    /// Failures since a request was last served to its end.
    failures: u32,
    /// Ejections without [`FORGIVEN_AFTER_MICROS`] of health between them.
    ejections: u32,
    /// The end of the last ejection.
    well_since: Timestamp,
    /// When the newest request that was served well was sent, or when the sidecar saw the endpoint return.
    good_at: Option<Timestamp>,
    /// When the newest request that failed was sent.
    bad_at: Option<Timestamp>,
    /// The state was taken over from another worker.
    is_learnt: bool,
}

#[derive(Clone, Copy, Debug, Default)]
enum State {
    /// Takes requests.
    #[default]
    Closed,
    /// Ranks last, or is ejected, from `since` until `until`, and after that until a trial request is served.
    Open { since: Timestamp, until: Timestamp, trial_since: Option<Timestamp>, is_ejection: bool },
}

/// What a worker holds against an endpoint, as workers tell each other.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Suspicion {
    /// When the newest request that failed was sent.
    pub bad_at: Timestamp,
    /// Until when it ranks last or is ejected.
    pub until: Timestamp,
    /// It is ejected.
    pub is_ejection: bool,
}

/// What an endpoint's health allows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Standing {
    /// Nothing is held against it.
    Good,
    /// It failed a moment ago: only when the others cannot.
    Suspect,
    /// Its ejection is over, and one request may try it.
    OnTrial,
    /// It is left out, or a trial request is under way.
    Ejected,
}

impl Health {
    /// What the endpoint may be given now.
    #[must_use]
    pub fn standing(&self, now: Timestamp) -> Standing {
        let State::Open { until, trial_since, is_ejection, .. } = self.state else { return Standing::Good };
        let is_tried = trial_since.is_some_and(|since| now.micros_since(since) < TRIAL_MICROS);
        match is_ejection {
            _ if now >= until && !is_tried => Standing::OnTrial,
            true => Standing::Ejected,
            false => Standing::Suspect,
        }
    }

    /// When an endpoint that ranks last or is ejected may be tried again; the past for any other.
    #[must_use]
    pub const fn until(&self) -> Timestamp {
        match self.state {
            State::Closed => self.well_since,
            State::Open { until, .. } => until,
        }
    }

    /// A request goes to it now. True: it is the trial of an endpoint that failed.
    pub(super) fn sent(&mut self, now: Timestamp) -> bool {
        if self.standing(now) != Standing::OnTrial {
            return false;
        }
        if let State::Open { trial_since, .. } = &mut self.state {
            *trial_since = Some(now);
        }
        true
    }

    /// The trial request ended and says nothing of the endpoint: another one may try.
    pub(super) const fn trial_ended(&mut self) {
        if let State::Open { trial_since, .. } = &mut self.state {
            *trial_since = None;
        }
    }

    /// A request sent at `sent_at` began to be served. It ends an ejection, so that a long answer keeps nobody out, but forgives no
    /// failure: the answer may still break off.
    pub(super) fn answered(&mut self, sent_at: Timestamp, now: Timestamp) {
        if self.bad_at.is_none_or(|bad_at| bad_at < sent_at) {
            self.close(EJECT_AFTER_FAILURES - 1, now);
        }
    }

    /// A request sent at `sent_at` was served well.
    pub(super) fn succeeded(&mut self, sent_at: Timestamp, now: Timestamp) {
        self.good_at = self.good_at.max(Some(sent_at));
        if self.bad_at.is_none_or(|bad_at| bad_at < sent_at) {
            self.close(0, now);
        }
    }

    /// A request sent at `sent_at` failed through the endpoint's fault. True: the endpoint is ejected from now on.
    pub(super) fn failed(&mut self, sent_at: Timestamp, now: Timestamp) -> bool {
        if self.good_at.is_some_and(|good_at| sent_at < good_at) {
            return false;
        }
        self.bad_at = self.bad_at.max(Some(sent_at));
        self.is_learnt = false;
        let is_ejected = match self.state {
            // It was sent before the ejection, of whose reason it is part.
            State::Open { since, is_ejection: true, .. } if sent_at < since => return false,
            State::Open { is_ejection, .. } => is_ejection,
            State::Closed => false,
        };
        self.failures = self.failures.saturating_add(1);
        if self.failures < EJECT_AFTER_FAILURES {
            self.open(now, now.plus_micros(SUSPECT_MICROS), false);
            return false;
        }
        if !is_ejected && now.micros_since(self.well_since) >= FORGIVEN_AFTER_MICROS {
            self.ejections = 0;
        }
        let micros = EJECTION_MICROS.saturating_mul(1 << self.ejections.min(10)).min(MAX_EJECTION_MICROS);
        self.ejections = self.ejections.saturating_add(1);
        self.open(now, now.plus_micros(micros), true);
        true
    }

    /// A request sent at `sent_at` was turned away by an endpoint that is full. It ranks last for `micros`, or for [`SUSPECT_MICROS`] where that is
    /// longer, and after that one request tries. That is no failure: it never ejects.
    pub(super) fn turned_away(&mut self, micros: u64, sent_at: Timestamp, now: Timestamp) {
        let is_ejected = matches!(self.state, State::Open { is_ejection: true, .. });
        if is_ejected || self.good_at.is_some_and(|good_at| sent_at < good_at) {
            return;
        }
        self.bad_at = self.bad_at.max(Some(sent_at));
        self.is_learnt = false;
        let until = now.plus_micros(micros.clamp(SUSPECT_MICROS, MAX_EJECTION_MICROS));
        self.open(now, until.max(self.until()), false);
    }

    /// What this worker's own requests hold against the endpoint now, for the other workers.
    pub(super) fn suspicion(&self, now: Timestamp) -> Option<Suspicion> {
        let State::Open { until, is_ejection, .. } = self.state else { return None };
        (now < until && !self.is_learnt).then_some(Suspicion { bad_at: self.bad_at?, until, is_ejection })
    }

    /// Takes over what another worker holds against the endpoint. This worker's own evidence, if newer, stands against it. The worker that
    /// knows from experience tries first, so the others wait [`LEARNT_MICROS`] longer.
    pub(super) fn learn(&mut self, suspicion: Suspicion, now: Timestamp) {
        let Suspicion { bad_at, until, is_ejection } = suspicion;
        let until = until.plus_micros(LEARNT_MICROS);
        let is_ejected = matches!(self.state, State::Open { is_ejection: true, .. });
        if self.good_at.is_some_and(|good_at| bad_at < good_at)
            || self.until() >= until
            || now >= until
            || (is_ejected && !is_ejection)
        {
            return;
        }
        self.open(now, until, is_ejection);
        self.bad_at = self.bad_at.max(Some(bad_at));
        self.is_learnt = true;
        self.failures = self.failures.max(if is_ejection { EJECT_AFTER_FAILURES } else { 1 });
        if is_ejection {
            self.ejections = self.ejections.max(1);
        }
    }

    /// The sidecar saw the endpoint come back at `at`: what failed before says nothing any more. A page is no proof that requests
    /// are served, though, so the first failure of an endpoint that had been ejected ejects it again.
    pub(super) fn returned(&mut self, at: Timestamp) {
        if self.bad_at.is_none_or(|bad_at| bad_at <= at) {
            self.good_at = self.good_at.max(Some(at));
            let is_ejected = matches!(self.state, State::Open { is_ejection: true, .. });
            self.close(if is_ejected { EJECT_AFTER_FAILURES - 1 } else { 0 }, at);
        }
    }

    const fn open(&mut self, since: Timestamp, until: Timestamp, is_ejection: bool) {
        self.state = State::Open { since, until, trial_since: None, is_ejection };
    }

    /// Takes requests again, with at most so many failures on record.
    fn close(&mut self, failures: u32, now: Timestamp) {
        if matches!(self.state, State::Open { is_ejection: true, .. }) {
            self.well_since = now;
        }
        self.failures = self.failures.min(failures);
        self.state = State::Closed;
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_micros(millis * 1_000)
    }

    fn ejected() -> Health {
        let mut health = Health::default();
        assert!(!health.failed(at(1_000), at(1_001)));
        assert!(health.failed(at(1_002), at(1_003)));
        health
    }

    #[test]
    fn one_failure_ranks_last_for_a_second_and_two_eject() {
        let mut health = Health::default();
        health.failed(at(1_000), at(1_000));
        assert_eq!([1_500, 2_000].map(|now| health.standing(at(now))), [Standing::Suspect, Standing::OnTrial]);
        assert!(health.failed(at(2_100), at(2_100)), "nothing was served well between the two");
        assert_eq!(
            [2_100, 4_099, 4_100].map(|now| health.standing(at(now))),
            [Standing::Ejected, Standing::Ejected, Standing::OnTrial]
        );
    }

    #[test]
    fn one_request_tries_at_a_time_and_its_success_closes() {
        let mut health = ejected();
        assert!(health.sent(at(4_000)));
        assert!(!health.sent(at(4_000)));
        assert_eq!(health.standing(at(4_001)), Standing::Ejected);
        health.succeeded(at(4_000), at(4_100));
        assert_eq!(health.standing(at(4_100)), Standing::Good);
    }

    #[test]
    fn a_trial_that_begins_to_be_served_closes_and_ejects_again_when_it_breaks_off() {
        let mut health = ejected();
        health.sent(at(4_000));
        health.answered(at(4_000), at(4_050));
        assert_eq!(health.standing(at(4_050)), Standing::Good);
        assert!(health.failed(at(4_000), at(4_100)));
        let mut sound = Health::default();
        for request in 0..3 {
            sound.answered(at(request), at(request));
            sound.failed(at(request), at(request));
        }
        assert_eq!(sound.standing(at(3)), Standing::Ejected, "answers that break off are failures in a row");
    }

    #[test]
    fn after_one_failure_too_one_request_tries_at_a_time() {
        let mut health = Health::default();
        health.failed(at(1_000), at(1_000));
        assert!(health.sent(at(2_000)));
        assert!(!health.sent(at(2_000)));
        assert_eq!(health.standing(at(2_001)), Standing::Suspect, "it comes last, and is not left out");
        health.answered(at(2_000), at(2_100));
        assert_eq!(health.standing(at(2_100)), Standing::Good);
        assert!(health.failed(at(2_200), at(2_200)), "what began well may still break off");
    }

    #[test]
    fn each_failed_trial_doubles_the_ejection_up_to_a_bound() {
        let mut health = ejected();
        let mut now = health.until();
        for expected in [4, 8, 16, 30, 30] {
            assert!(health.sent(now));
            assert!(health.failed(now, now));
            assert_eq!(health.until().micros_since(now), expected * 1_000_000);
            now = health.until();
        }
    }

    #[test]
    fn a_trial_that_tells_nothing_lets_the_next_one_try() {
        let mut health = ejected();
        assert!(health.sent(at(4_000)));
        health.trial_ended();
        assert!(health.sent(at(4_001)));
        assert_eq!(health.standing(at(4_002)), Standing::Ejected);
        assert_eq!(health.standing(at(14_001)), Standing::OnTrial, "a long generation blocks no other trial");
    }

    #[test]
    fn a_failure_sent_before_a_later_success_is_old_news() {
        let mut health = Health::default();
        health.succeeded(at(12_000), at(20_000));
        for _ in 0..5 {
            assert!(!health.failed(at(1_000), at(30_000)));
        }
        assert_eq!(health.standing(at(30_000)), Standing::Good);
    }

    #[test]
    fn a_draining_server_that_finishes_old_requests_stays_out() {
        let mut health = ejected();
        health.succeeded(at(500), at(1_500));
        assert_eq!(health.standing(at(1_500)), Standing::Ejected);
    }

    #[test]
    fn failures_sent_before_an_ejection_do_not_prolong_it() {
        let mut health = ejected();
        let until = health.until();
        for _ in 0..10 {
            assert!(!health.failed(at(1_002), at(1_500)));
        }
        assert_eq!(health.until(), until);
    }

    #[test]
    fn a_return_that_the_sidecar_saw_closes_and_makes_older_failures_old_news() {
        let mut health = ejected();
        health.returned(at(3_000));
        assert_eq!(health.standing(at(3_000)), Standing::Good);
        assert!(!health.failed(at(2_900), at(9_000)));
        assert_eq!(health.standing(at(9_000)), Standing::Good);
        assert!(health.failed(at(9_100), at(9_100)), "a page is no proof that requests are served");
        let mut failing = ejected();
        failing.returned(at(1_001));
        assert_eq!(failing.standing(at(1_100)), Standing::Ejected, "it failed after that page was made");
    }

    #[test]
    fn what_another_worker_met_is_learnt_unless_newer_evidence_stands_against_it() {
        let ejection = ejected().suspicion(at(2_000)).unwrap();
        assert_eq!(ejection, Suspicion { bad_at: at(1_002), until: at(3_003), is_ejection: true });
        assert_eq!(ejected().suspicion(at(3_003)), None);
        let mut healthy = Health::default();
        healthy.succeeded(at(900), at(950));
        healthy.learn(ejection, at(1_100));
        assert_eq!(
            [1_100, 3_252, 3_253].map(|now| healthy.standing(at(now))),
            [Standing::Ejected, Standing::Ejected, Standing::OnTrial]
        );
        assert_eq!(healthy.suspicion(at(1_200)), None, "hearsay is not passed on");
        let mut newer = Health::default();
        newer.succeeded(at(1_003), at(1_050));
        newer.learn(ejection, at(1_100));
        assert_eq!(newer.standing(at(1_100)), Standing::Good);
    }

    #[test]
    fn a_failure_that_another_worker_met_counts_as_the_first_of_two() {
        let mut other = Health::default();
        other.failed(at(1_000), at(1_000));
        let suspicion = other.suspicion(at(1_100)).unwrap();
        let mut health = Health::default();
        health.learn(suspicion, at(1_100));
        assert_eq!([2_249, 2_250].map(|now| health.standing(at(now))), [Standing::Suspect, Standing::OnTrial]);
        assert!(health.failed(at(2_300), at(2_300)));
    }

    #[test]
    fn an_endpoint_that_turns_requests_away_ranks_last_and_is_never_ejected() {
        let mut health = Health::default();
        for round in 0..20 {
            let now = at(1_000 + 1_000 * round);
            health.turned_away(0, now, now);
            assert_eq!(health.standing(now), Standing::Suspect);
            assert_eq!(health.standing(now.plus_micros(SUSPECT_MICROS)), Standing::OnTrial);
        }
        let now = at(30_000);
        health.turned_away(5_000_000, now, now);
        health.turned_away(0, now, now);
        assert_eq!([34_999, 35_000].map(|now| health.standing(at(now))), [Standing::Suspect, Standing::OnTrial]);
        health.turned_away(u64::MAX, now, now);
        assert_eq!(health.until(), now.plus_micros(MAX_EJECTION_MICROS));
        health.succeeded(at(29_000), at(31_000));
        assert_eq!(health.standing(at(31_000)), Standing::Suspect, "it was sent before the queue was full");
        health.succeeded(at(30_500), at(31_000));
        assert_eq!(health.standing(at(31_000)), Standing::Good);
        let mut ejected = ejected();
        let until = ejected.until();
        ejected.turned_away(0, at(1_500), at(1_500));
        assert_eq!((ejected.standing(at(1_500)), ejected.until()), (Standing::Ejected, until));
    }

    #[test]
    fn a_long_time_of_health_forgives() {
        let mut health = ejected();
        health.sent(at(4_000));
        health.failed(at(4_000), at(4_000));
        health.sent(at(9_000));
        health.succeeded(at(9_000), at(9_000));
        health.failed(at(100_000), at(100_000));
        health.failed(at(100_001), at(100_001));
        assert_eq!(health.until().micros_since(at(100_001)), EJECTION_MICROS);
    }
}
