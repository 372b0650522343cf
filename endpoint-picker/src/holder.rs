//! What the holder of the lease does for the whole Envoy: it fetches snapshots, adds up the workers' posts and sets the gauges.

use alloc::vec::Vec;

use catalogue::Stat;
use snapshot::Membership;

use crate::board::{CONTENDED_TICK_MILLIS, Gatherer, Version};
use crate::config::{ServiceConfig, StatsConfig};
use crate::flusher::{Flusher, HostStats};
use crate::gauges::{Facts, Gauges};
use crate::lease::{EXPIRE_AFTER_MICROS, Lease, Rank};
use crate::ledger::Ledger;
use crate::recent_picks::Courier;
use crate::shared_data::SharedData;
use crate::snapshot_service::{FetchOutcome, News, SidecarRequest, SidecarResponse, SnapshotService};
use crate::time::Timestamp;

/// The outcomes of fetches reach Envoy this often.
const FLUSH_INTERVAL_MS: u64 = 1_000;

/// The membership before the first snapshot.
static NOBODY: Membership = Membership { epoch: 0, version: 0, pools: Vec::new() };

/// A holder ticks at least this often: four times within a lease.
const MAX_PERIOD_MILLIS: u32 = 500;

/// The commit and the reference that the module was built from.
pub const BUILD: [&str; 2] = [
    match option_env!("INPICK_COMMIT") {
        Some(commit) => commit,
        None => "",
    },
    match option_env!("INPICK_BUILD_REF") {
        Some(reference) => reference,
        None => "",
    },
];

/// What an instance of the filter can ask of its host between requests.
pub trait Binding: SharedData + HostStats {
    /// Asks for a tick every so many milliseconds; false: refused.
    fn set_tick_period(&mut self, millis: u32) -> bool;
    /// Size of this virtual machine's linear memory in bytes.
    fn memory_bytes(&mut self) -> u64;
    /// Sends a request to the sidecar; the answer comes later.
    ///
    /// # Errors
    ///
    /// Why it was not sent.
    fn call(&mut self, request: &SidecarRequest) -> Result<(), alloc::string::String>;
    /// Tells the operator.
    fn log(&mut self, news: &News);
}

/// One instance's part in the snapshot service: waiting for the lease, or holding it.
#[derive(Debug)]
pub struct Holder {
    lease: Lease,
    service: SnapshotService,
    /// `None`: another instance holds the lease.
    duty: Option<Duty>,
    counters: Ledger,
    flusher: Flusher,
    build: [&'static str; 2],
}

/// What lives as long as the lease is held.
#[derive(Debug)]
struct Duty {
    gatherer: Gatherer,
    gauges: Gauges,
    courier: Courier,
    renewed_at: Timestamp,
}

impl Holder {
    /// Of the instance with that random id. `build` are the commit and the reference that the module was built from.
    #[must_use]
    pub fn new(instance: u64, config: ServiceConfig, build: [&'static str; 2]) -> Self {
        Self {
            lease: Lease::new(instance),
            service: SnapshotService::new(config),
            duty: None,
            counters: Ledger::new(StatsConfig::default()),
            flusher: Flusher::default(),
            build,
        }
    }

    /// Whether this instance holds the lease.
    #[must_use]
    pub const fn is_held(&self) -> bool {
        self.duty.is_some()
    }

    /// Milliseconds between a holder's ticks: as often as the sidecar is asked, often enough to keep the lease, and as often as workers tick while
    /// requests wait in several of them.
    #[must_use]
    pub fn period_millis(&self) -> u32 {
        let is_contended = self.duty.as_ref().is_some_and(|duty| duty.gatherer.board().is_contended());
        let most = if is_contended { CONTENDED_TICK_MILLIS } else { MAX_PERIOD_MILLIS };
        u32::try_from(self.service.config().interval_ms).map_or(most, |interval| interval.min(most))
    }

    /// Takes or renews the lease, and does what its holder does.
    pub fn tick(&mut self, host: &mut impl Binding, rank: Rank, now: Timestamp) {
        if self.lease.tick(host, rank, now) {
            self.serve(host, now);
        } else {
            // Gauges on their way would overwrite those of the new holder.
            self.duty = None;
        }
        self.flusher.tick(&mut self.counters, host, FLUSH_INTERVAL_MS, now);
    }

    fn serve(&mut self, host: &mut impl Binding, now: Timestamp) {
        if self.duty.is_none() {
            self.service.begin(host);
        }
        let duty = self.duty.get_or_insert_with(|| Duty {
            gatherer: Gatherer::default(),
            gauges: Gauges::new(host, self.build),
            courier: Courier::default(),
            renewed_at: now,
        });
        duty.renewed_at = now;
        if let Some(mut request) = self.service.poll_request(now) {
            if now.as_micros() < Version::read(host).watched_until_micros {
                request.body = duty.courier.collect(host);
            }
            if let Err(reason) = host.call(&request) {
                let concluded = self.service.handle_refusal(&reason);
                conclude(&mut self.counters, host, concluded);
            }
        }
        let (membership, loads) = self.service.snapshot();
        // Requests run, and memory is used, before any endpoint is known.
        duty.gatherer.tick(host, membership.unwrap_or(&NOBODY), now);
        if duty.gauges.is_due(now) {
            let version = Version::read(host);
            let confirmed_at = Timestamp::from_micros(version.confirmed_at_micros);
            let facts = Facts {
                membership,
                loads,
                board: duty.gatherer.board(),
                snapshot_age_ms: (version.loads > 0).then(|| now.millis_since(confirmed_at)),
                loads_age_ms: (version.loads > 0)
                    .then(|| now.millis_since(Timestamp::from_micros(version.loads_received_at_micros))),
            };
            duty.gauges.compute(host, &facts, duty.gatherer.posts(), now);
        }
        duty.gauges.flush(host, now);
    }

    /// The sidecar answered; `None`: it did not in time. An instance that no longer holds the lease drops the answer.
    pub fn handle_response(&mut self, host: &mut impl Binding, response: Option<SidecarResponse<'_>>, now: Timestamp) {
        let Some(duty) = self.duty.as_mut().filter(|duty| now.micros_since(duty.renewed_at) < EXPIRE_AFTER_MICROS)
        else {
            return;
        };
        let concluded = self.service.handle_response(host, response, now);
        if let Some(old) = self.service.take_replaced() {
            duty.gatherer.membership_replaced(old);
        }
        conclude(&mut self.counters, host, concluded);
    }

    /// The last chance to carry counters to the host; another instance may take the lease at once.
    pub fn finish(&mut self, host: &mut impl Binding) {
        self.lease.release(host);
        self.duty = None;
        self.flusher.finish(&mut self.counters, host);
    }
}

fn conclude(counters: &mut Ledger, host: &mut impl Binding, (outcome, news): (FetchOutcome, Option<News>)) {
    counters.count(Stat::SnapshotFetchesTotal, &[outcome.as_str()]);
    if let Some(news) = news {
        host.log(&news);
    }
}
