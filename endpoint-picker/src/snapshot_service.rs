//! The sidecar's client: which request to send, what an answer means, and what it leaves in shared data for all workers.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

pub use snapshot::WATCHED_HEADER;
use snapshot::{DecodeError, Loads, LoadsDecoder, Membership, Snapshot, Tag};

use crate::board::{Order, Version, key};
use crate::config::ServiceConfig;
use crate::shared_data::SharedData;
use crate::time::Timestamp;

/// A request to the sidecar.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SidecarRequest {
    /// Envoy cluster that it goes to.
    pub cluster: String,
    /// Path and query.
    pub path: String,
    /// Value of `if-none-match`.
    pub if_none_match: Option<String>,
    /// Milliseconds after which the host gives it up.
    pub timeout_ms: u64,
    /// Recent picks, a JSON object a line; empty: none, and no body.
    pub body: Vec<u8>,
}

impl SidecarRequest {
    /// Its headers, as a host sends them.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        let method = if self.body.is_empty() { "GET" } else { "POST" };
        let always = [(":method", method), (":path", self.path.as_str()), (":authority", self.cluster.as_str())];
        always.into_iter().chain(self.if_none_match.as_deref().map(|tag| ("if-none-match", tag)))
    }
}

/// What the sidecar answered.
#[derive(Clone, Copy, Debug)]
pub struct SidecarResponse<'a> {
    /// Value of `:status`.
    pub status: &'a [u8],
    /// The body.
    pub body: &'a [u8],
    /// It has the header [`snapshot::WATCHED_HEADER`].
    pub is_watched: bool,
}

/// What came of a request, as `inpick_snapshot_fetches_total` spells it.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum FetchOutcome {
    /// New loads, and perhaps a new membership, are in shared data.
    Changed,
    /// What is in shared data is still true.
    Unchanged,
    /// The host did not send the request, or did not store the answer.
    Refused,
    /// No answer in time.
    NoAnswer,
    /// The answer is no snapshot, or not the one that was asked for.
    Malformed,
    /// Another status than 200 and 304.
    ErrorStatus,
}

impl FetchOutcome {
    /// The label's value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Changed => "changed",
            Self::Unchanged => "unchanged",
            Self::Refused => "refused",
            Self::NoAnswer => "no_answer",
            Self::Malformed => "malformed",
            Self::ErrorStatus => "error_status",
        }
    }

    const fn is_good(self) -> bool {
        matches!(self, Self::Changed | Self::Unchanged)
    }
}

/// One line for the log: once for each change, or a dead sidecar would fill it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum News {
    /// The sidecar answers again.
    Recovered,
    /// It does not: why.
    Failed(String),
}

/// How long what the sidecar said of those who watch is true: some requests.
const WATCHED_MICROS: u64 = 2_000_000;

/// The sidecar's client.
#[derive(Debug)]
pub struct SnapshotService {
    config: ServiceConfig,
    /// The request under way was sent at that time.
    asked_at: Option<Timestamp>,
    next_at: Timestamp,
    /// What is in shared data by this client's own hand; nothing when it has just taken the lease.
    tag: Option<Tag>,
    membership: Option<Membership>,
    /// The membership before the current one, until it is taken.
    replaced: Option<Membership>,
    loads: Loads,
    is_healthy: bool,
}

impl SnapshotService {
    /// A client that has asked nothing yet.
    #[must_use]
    pub fn new(config: ServiceConfig) -> Self {
        Self {
            config,
            asked_at: None,
            next_at: Timestamp::default(),
            tag: None,
            membership: None,
            replaced: None,
            loads: Loads::default(),
            is_healthy: true,
        }
    }

    /// The settings.
    #[must_use]
    pub const fn config(&self) -> &ServiceConfig {
        &self.config
    }

    /// The newest membership and its loads; the loads may be of an older membership while the holder is new.
    #[must_use]
    pub const fn snapshot(&self) -> (Option<&Membership>, &Loads) {
        (self.membership.as_ref(), &self.loads)
    }

    /// Another instance held the lease: what it left in shared data is all that is known, and the sidecar is asked for everything.
    pub fn begin(&mut self, shared: &mut impl SharedData) {
        self.tag = None;
        self.asked_at = None;
        self.next_at = Timestamp::default();
        if let Some(membership) = shared.get(key::MEMBERSHIP).and_then(|(bytes, _)| Membership::decode(&bytes).ok()) {
            self.membership = Some(membership);
        }
        if let Some((bytes, _)) = shared.get(key::LOADS)
            && let Ok(loads) = LoadsDecoder::default().decode(&bytes)
        {
            self.loads = loads.clone();
        }
    }

    /// The membership that the newest one replaced, once.
    pub const fn take_replaced(&mut self) -> Option<Membership> {
        self.replaced.take()
    }

    /// The request to send now, if there is one: one at a time, and no more often than the interval says.
    pub fn poll_request(&mut self, now: Timestamp) -> Option<SidecarRequest> {
        // The host ends a call after its time-out; one that it forgot is given up after twice that.
        let lost = self.config.timeout_ms.saturating_mul(2_000);
        if self.asked_at.is_some_and(|at| now.micros_since(at) < lost) || now < self.next_at {
            return None;
        }
        self.asked_at = Some(now);
        // Ticks come a little early and a little late.
        self.next_at = now.plus_micros(self.config.interval_ms.saturating_mul(750));
        Some(SidecarRequest {
            cluster: self.config.cluster.clone(),
            path: format!("{}?wait_ms={}", self.config.path, self.config.wait_ms),
            if_none_match: self.tag.map(|tag| tag.to_string()),
            timeout_ms: self.config.timeout_ms,
            body: Vec::new(),
        })
    }

    /// The host did not send the request.
    pub fn handle_refusal(&mut self, reason: &str) -> (FetchOutcome, Option<News>) {
        self.asked_at = None;
        let reason = format!("cluster {}: {reason}", self.config.cluster);
        self.conclude(FetchOutcome::Refused, &reason)
    }

    /// The sidecar answered, or did not: `None`. What it said is stored for all workers.
    pub fn handle_response(
        &mut self,
        shared: &mut impl SharedData,
        response: Option<SidecarResponse<'_>>,
        now: Timestamp,
    ) -> (FetchOutcome, Option<News>) {
        self.asked_at = None;
        let Some(response) = response else {
            return self.conclude(FetchOutcome::NoAnswer, "no answer from the sidecar");
        };
        match response.status {
            b"304" if self.tag.is_some() => {
                let confirmed = Version::change(shared, |version| {
                    version.confirmed_at_micros = now.as_micros();
                    version.watched_until_micros = watched_until(&response, now);
                });
                if confirmed {
                    self.conclude(FetchOutcome::Unchanged, "")
                } else {
                    self.conclude(FetchOutcome::Refused, "shared data cannot be written")
                }
            }
            b"200" => match self.take(response.body) {
                Ok((membership, loads)) => {
                    if self.store(shared, membership, loads, watched_until(&response, now), now) {
                        self.conclude(FetchOutcome::Changed, "")
                    } else {
                        // What is stored is not known any more, so all of it is asked for again.
                        self.tag = None;
                        self.conclude(FetchOutcome::Refused, "shared data cannot be written")
                    }
                }
                Err(error) => {
                    self.tag = None;
                    self.conclude(FetchOutcome::Malformed, &error.to_string())
                }
            },
            status => {
                let status = String::from_utf8_lossy(status).into_owned();
                self.conclude(FetchOutcome::ErrorStatus, &format!("the sidecar answered {status}"))
            }
        }
    }

    /// Checks an answer against what was asked for.
    fn take(&self, body: &[u8]) -> Result<(Option<Membership>, Loads), DecodeError> {
        let Snapshot { membership, loads } = Snapshot::decode(body)?;
        // Left out means: as in the tag.
        let is_known = self.tag.is_some() && self.membership.as_ref().is_some_and(|known| loads.belong_to(known));
        if membership.is_none() && !is_known {
            return Err(DecodeError::Mismatch);
        }
        Ok((membership, loads))
    }

    fn store(
        &mut self,
        shared: &mut impl SharedData,
        membership: Option<Membership>,
        loads: Loads,
        watched_until_micros: u64,
        now: Timestamp,
    ) -> bool {
        let mut written = true;
        // A membership that all have already need not be read again by all.
        let is_new = membership.as_ref().is_some_and(|new| self.membership.as_ref() != Some(new) || self.tag.is_none());
        if let Some(membership) = membership.as_ref().filter(|_| is_new) {
            written = shared.set(key::MEMBERSHIP, &membership.encode(), 0).is_ok();
        }
        written = written && shared.set(key::LOADS, &loads.encode(), 0).is_ok();
        written = written
            && Version::change(shared, |version| {
                version.membership += u64::from(is_new);
                version.loads += 1;
                version.confirmed_at_micros = now.as_micros();
                version.loads_received_at_micros = now.as_micros();
                version.watched_until_micros = watched_until_micros;
            });
        self.tag = written.then(|| loads.tag());
        if let Some(membership) = membership.filter(|new| self.membership.as_ref() != Some(new)) {
            self.replaced = self.membership.replace(membership);
        }
        self.loads = loads;
        written
    }

    fn conclude(&mut self, outcome: FetchOutcome, reason: &str) -> (FetchOutcome, Option<News>) {
        let was_healthy = core::mem::replace(&mut self.is_healthy, outcome.is_good());
        let news = match (was_healthy, outcome.is_good()) {
            (true, false) => Some(News::Failed(reason.to_string())),
            (false, true) => Some(News::Recovered),
            _ => None,
        };
        (outcome, news)
    }

    /// Which membership is in force.
    #[must_use]
    pub fn order(&self) -> Option<Order> {
        self.membership.as_ref().map(Order::of)
    }
}

/// What an answer says of those who watch, as [`Version`] has it.
const fn watched_until(response: &SidecarResponse<'_>, now: Timestamp) -> u64 {
    if response.is_watched { now.plus_micros(WATCHED_MICROS).as_micros() } else { 0 }
}

#[cfg(test)]
mod tests {
    use alloc::vec;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use snapshot::{EndpointIdentity, Load, PoolMembers};

    use super::*;
    use crate::shared_data::fake::FakeSharedData;

    fn config() -> ServiceConfig {
        ServiceConfig {
            cluster: "s".into(),
            path: "/snapshot".into(),
            interval_ms: 50,
            wait_ms: 200,
            timeout_ms: 1_000,
            embedded: None,
        }
    }

    const fn at(millis: u64) -> Timestamp {
        Timestamp::from_micros(millis * 1_000)
    }

    fn snapshot(version: u64, generation: u64, with_membership: bool) -> Vec<u8> {
        let endpoints = vec![EndpointIdentity::unnamed("10.0.0.1:80".parse().unwrap())];
        let pools = vec![PoolMembers { name: "p".into(), endpoints, ..PoolMembers::default() }];
        let loads = Loads {
            epoch: 7,
            membership_version: version,
            generation,
            endpoints: vec![Load::default()],
            ..Loads::default()
        };
        let membership = Membership { epoch: 7, version, pools };
        Snapshot { membership: with_membership.then_some(membership), loads }.encode()
    }

    fn ok(body: &[u8]) -> Option<SidecarResponse<'_>> {
        Some(SidecarResponse { status: b"200", body, is_watched: false })
    }

    const NOT_MODIFIED: Option<SidecarResponse<'static>> =
        Some(SidecarResponse { status: b"304", body: b"", is_watched: false });

    #[test]
    fn one_request_at_a_time_and_no_more_often_than_the_interval() {
        let (mut service, mut shared) = (SnapshotService::new(config()), FakeSharedData::default());
        let request = service.poll_request(at(0)).unwrap();
        assert_eq!((request.path.as_str(), request.if_none_match), ("/snapshot?wait_ms=200", None));
        assert_eq!(service.poll_request(at(500)), None);
        service.handle_response(&mut shared, ok(&snapshot(1, 1, true)), at(500));
        assert_eq!(service.poll_request(at(500)).unwrap().if_none_match.as_deref(), Some("\"7.1.1\""));
        service.handle_response(&mut shared, NOT_MODIFIED, at(510));
        assert_eq!(service.poll_request(at(520)), None);
        assert!(service.poll_request(at(549)).is_some());
        // A call that the host forgot.
        assert_eq!(service.poll_request(at(2_548)), None);
        assert!(service.poll_request(at(2_549)).is_some());
    }

    #[test]
    fn versions_say_what_changed() {
        let (mut service, mut shared) = (SnapshotService::new(config()), FakeSharedData::default());
        let mut step = |service: &mut SnapshotService, response: Option<SidecarResponse<'_>>, millis: u64| {
            let (outcome, _) = service.handle_response(&mut shared, response, at(millis));
            let version = Version::read(&mut shared);
            let received = version.loads_received_at_micros / 1_000;
            (outcome, version.membership, version.loads, version.confirmed_at_micros / 1_000, received)
        };
        assert_eq!(step(&mut service, NOT_MODIFIED, 1), (FetchOutcome::ErrorStatus, 0, 0, 0, 0));
        assert_eq!(step(&mut service, ok(&snapshot(1, 1, false)), 2), (FetchOutcome::Malformed, 0, 0, 0, 0));
        assert_eq!(step(&mut service, ok(&snapshot(1, 1, true)), 3), (FetchOutcome::Changed, 1, 1, 3, 3));
        assert_eq!(step(&mut service, ok(&snapshot(1, 2, false)), 4), (FetchOutcome::Changed, 1, 2, 4, 4));
        assert_eq!(step(&mut service, NOT_MODIFIED, 5), (FetchOutcome::Unchanged, 1, 2, 5, 4));
        assert_eq!(step(&mut service, ok(&snapshot(2, 3, true)), 6), (FetchOutcome::Changed, 2, 3, 6, 6));
        // Loads of a membership that was never sent: the next request asks for all.
        assert_eq!(step(&mut service, ok(&snapshot(3, 4, false)), 7), (FetchOutcome::Malformed, 2, 3, 6, 6));
        assert_eq!(service.poll_request(at(100)).unwrap().if_none_match, None);
        assert_eq!(step(&mut service, ok(b"\xff"), 8), (FetchOutcome::Malformed, 2, 3, 6, 6));
        assert_eq!(step(&mut service, None, 9), (FetchOutcome::NoAnswer, 2, 3, 6, 6));
    }

    #[test]
    fn the_next_holder_asks_for_all_knows_the_members_at_once_and_goes_on_counting() {
        let (mut first, mut second) = (SnapshotService::new(config()), SnapshotService::new(config()));
        let mut shared = FakeSharedData::default();
        first.begin(&mut shared);
        first.handle_response(&mut shared, ok(&snapshot(1, 9, true)), at(0));
        second.begin(&mut shared);
        assert_eq!((second.order(), second.snapshot().1.generation), (first.order(), 9));
        assert_eq!(second.poll_request(at(1)).unwrap().if_none_match, None);
        second.handle_response(&mut shared, ok(&snapshot(1, 9, true)), at(1));
        let version = Version::read(&mut shared);
        assert_eq!((version.membership, version.loads), (2, 2));
        // The first one, which was paused, gets a late answer: whoever reads gets newer numbers still.
        first.handle_response(&mut shared, ok(&snapshot(1, 10, false)), at(2));
        assert_eq!(Version::read(&mut shared).loads, 3);
    }

    #[test]
    fn what_cannot_be_stored_is_asked_for_again() {
        let (mut service, mut shared) = (SnapshotService::new(config()), FakeSharedData::default());
        shared.refuses = true;
        let (outcome, news) = service.handle_response(&mut shared, ok(&snapshot(1, 1, true)), at(0));
        assert_eq!(outcome, FetchOutcome::Refused);
        assert!(matches!(news, Some(News::Failed(_))));
        shared.refuses = false;
        assert_eq!(service.poll_request(at(100)).unwrap().if_none_match, None);
        assert_eq!(
            service.handle_response(&mut shared, ok(&snapshot(1, 1, true)), at(101)),
            (FetchOutcome::Changed, Some(News::Recovered))
        );
        assert_eq!(Version::read(&mut shared).membership, 1);
        assert!(matches!(service.handle_refusal("no such cluster"), (FetchOutcome::Refused, Some(News::Failed(_)))));
        assert_eq!(service.handle_refusal("no such cluster"), (FetchOutcome::Refused, None));
    }

    #[test]
    fn workers_learn_whether_somebody_watches() {
        let (mut service, mut shared) = (SnapshotService::new(config()), FakeSharedData::default());
        let snapshot = snapshot(1, 1, true);
        let mut until = |response: Option<SidecarResponse<'_>>, millis| {
            service.handle_response(&mut shared, response, at(millis));
            Version::read(&mut shared).watched_until_micros / 1_000
        };
        let watched =
            |response: Option<SidecarResponse<'static>>| response.map(|it| SidecarResponse { is_watched: true, ..it });
        assert_eq!(until(ok(&snapshot), 0), 0);
        assert_eq!(until(watched(NOT_MODIFIED), 1_000), 3_000);
        assert_eq!(until(Some(SidecarResponse { is_watched: true, status: b"200", body: &snapshot }), 1_500), 3_500);
        assert_eq!(until(None, 2_000), 3_500);
        assert_eq!(until(NOT_MODIFIED, 2_500), 0);
    }

    #[test]
    fn a_request_with_picks_is_a_post() {
        let mut service = SnapshotService::new(config());
        let mut request = service.poll_request(at(0)).unwrap();
        let method = |request: &SidecarRequest| request.headers().next().unwrap().1.to_string();
        assert_eq!(method(&request), "GET");
        request.body = b"{}\n".to_vec();
        assert_eq!(method(&request), "POST");
    }
}
