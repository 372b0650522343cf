//! The singleton service: fetches the sidecar's snapshots and gathers the workers' posts, for all virtual machines.

use std::time::Duration;

use catalogue::Stat;
use endpoint_picker::Timestamp;
use endpoint_picker::board::{Board, Post, Roster, Version, key};
use endpoint_picker::config::{ServiceConfig, StatsConfig};
use endpoint_picker::ledger::Ledger;
use hashbrown::HashSet;
use prost::Message;
use snapshot::{Snapshot, State};

use crate::host::{self, Buffer, Map};
use crate::sink::Flusher;

/// Gauges reach Envoy this often, like the workers' counters by default.
const FLUSH_INTERVAL_MS: u64 = 1_000;

pub(crate) struct SnapshotService {
    config: ServiceConfig,
    version: Version,
    etag: Option<String>,
    /// A request to the sidecar is under way.
    waiting: bool,
    healthy: bool,
    board: Board,
    ledger: Ledger,
    flusher: Flusher,
    /// Series that were set once and must go to 0 when what they count is gone.
    gathered: HashSet<Series>,
    endpoints: HashSet<(String, String)>,
}

impl SnapshotService {
    pub(crate) fn new(config: ServiceConfig) -> Self {
        // Whoever reads the gauges was told by the workers' switches; the service itself has none.
        let stats = StatsConfig { objective: true, model: true, ..StatsConfig::default() };
        let mut ledger = Ledger::new(stats, std::iter::empty());
        ledger.set(
            Stat::ExtensionInfo,
            &[option_env!("INPICK_COMMIT").unwrap_or_default(), option_env!("INPICK_BUILD_REF").unwrap_or_default()],
            1,
        );
        // A service that was restarted goes on counting, so that no worker takes new data for old.
        let version = host::shared_data(key::VERSION)
            .and_then(|(bytes, _)| Version::decode(bytes.as_slice()).ok())
            .unwrap_or_default();
        Self {
            config,
            version,
            etag: None,
            waiting: false,
            healthy: true,
            board: Board::default(),
            ledger,
            flusher: Flusher::default(),
            gathered: HashSet::new(),
            endpoints: HashSet::new(),
        }
    }

    pub(crate) fn tick(&mut self, now: Timestamp) {
        self.fetch();
        self.gather(now);
        if self.version.snapshot > 0 {
            let age = now.millis_since(Timestamp::from_micros(self.version.confirmed_at_micros));
            self.ledger.set(Stat::SnapshotAgeSeconds, &[], age / 1_000);
        }
        self.flusher.tick(&mut self.ledger, FLUSH_INTERVAL_MS, now);
    }

    fn fetch(&mut self) {
        if self.waiting {
            return;
        }
        let path = format!("{}?wait_ms={}", self.config.path, self.config.wait_ms);
        let mut headers = vec![(":method", "GET"), (":path", path.as_str()), (":authority", &self.config.cluster)];
        if let Some(etag) = &self.etag {
            headers.push(("if-none-match", etag));
        }
        let timeout = Duration::from_millis(self.config.timeout_ms);
        match host::call(&self.config.cluster, headers, timeout) {
            Ok(()) => self.waiting = true,
            Err(refused) => self.failed("refused", &format!("cluster {}: {refused:?}", self.config.cluster)),
        }
    }

    /// The sidecar answered, or the host says that it did not: then there are no headers.
    pub(crate) fn on_response(&mut self, headers: usize, body_size: usize, now: Timestamp) {
        self.waiting = false;
        if headers == 0 {
            self.failed("no_answer", "no answer from the sidecar");
            return;
        }
        let Ok(headers) = host::headers(Map::CallResponse) else { return };
        let mut status: &[u8] = b"";
        let mut etag = None;
        for (name, value) in headers.iter() {
            match name {
                b":status" => status = value,
                b"etag" => etag = String::from_utf8(value.to_vec()).ok(),
                _ => {}
            }
        }
        match status {
            b"304" => self.confirmed("unchanged", now),
            b"200" => {
                let body = host::buffer(Buffer::CallResponseBody, 0, body_size).unwrap_or_default();
                match Snapshot::decode(&body) {
                    Ok(snapshot) => match host::set_shared_data(key::SNAPSHOT, &body, 0) {
                        Ok(()) => {
                            self.version.snapshot += 1;
                            self.etag = etag;
                            self.publish(&snapshot);
                            self.confirmed("changed", now);
                        }
                        Err(refused) => self.failed("refused", &format!("shared data: {refused:?}")),
                    },
                    Err(error) => self.failed("malformed", &error.to_string()),
                }
            }
            status => self.failed("error_status", &format!("the sidecar answered {}", String::from_utf8_lossy(status))),
        }
    }

    fn confirmed(&mut self, outcome: &str, now: Timestamp) {
        self.ledger.count(Stat::SnapshotFetchesTotal, &[outcome]);
        if !self.healthy {
            self.healthy = true;
            log::info!("the sidecar answers again");
        }
        self.version.confirmed_at_micros = now.as_micros();
        self.write_version();
    }

    fn failed(&mut self, outcome: &str, reason: &str) {
        self.ledger.count(Stat::SnapshotFetchesTotal, &[outcome]);
        // Once for each change, or a dead sidecar would fill the log.
        if self.healthy {
            self.healthy = false;
            log::warn!("no snapshot: {reason}");
        }
    }

    fn write_version(&self) {
        if let Err(refused) = host::set_shared_data(key::VERSION, &self.version.encode_to_vec(), 0) {
            log::warn!("the version cannot be written: {refused:?}");
        }
    }

    /// Gathers what the workers posted and drops those that are gone.
    fn gather(&mut self, now: Timestamp) {
        let Some((bytes, cas)) = host::shared_data(key::ROSTER) else { return };
        let Ok(roster) = Roster::decode(bytes.as_slice()) else { return };
        let posts: Vec<Post> = roster
            .workers
            .iter()
            .filter_map(|&worker| Post::decode(host::shared_data(&key::post(worker))?.0.as_slice()).ok())
            .filter(|post| post.is_alive(now))
            .collect();
        if posts.len() < roster.workers.len() {
            let alive = Roster { workers: posts.iter().map(|post| post.worker).collect() };
            // A worker that enrolled meanwhile wins; the next tick tries again.
            if host::set_shared_data(key::ROSTER, &alive.encode_to_vec(), cas).is_ok() {
                for gone in roster.workers.iter().filter(|worker| !alive.workers.contains(worker)) {
                    let _ = host::set_shared_data(&key::post(*gone), b"", 0);
                }
            }
        }
        let unchanged = posts.len() == self.board.posts.len()
            && posts.iter().zip(&self.board.posts).all(|(new, old)| new.worker == old.worker && new.says_the_same(old));
        if unchanged {
            return;
        }
        self.board = Board { posts };
        if host::set_shared_data(key::BOARD, &self.board.encode_to_vec(), 0).is_ok() {
            self.version.board += 1;
            self.write_version();
        }
        self.publish_board();
    }

    fn publish_board(&mut self) {
        let mut gone = std::mem::take(&mut self.gathered);
        for (series, value) in gauges(&self.board) {
            set(&mut self.ledger, &series, value);
            gone.remove(&series);
            self.gathered.insert(series);
        }
        for series in gone {
            set(&mut self.ledger, &series, 0);
            self.gathered.insert(series);
        }
        self.ledger.set(Stat::VmMemoryBytes, &[], self.board.memory_bytes());
    }

    /// Sets the pool gauges that fit into integers.
    fn publish(&mut self, snapshot: &Snapshot) {
        self.ledger.set(Stat::SnapshotGeneration, &[], snapshot.generation);
        let mut gone = std::mem::take(&mut self.endpoints);
        for pool in &snapshot.pools {
            for (state, name) in [
                (State::Fresh, "fresh"),
                (State::Stale, "stale"),
                (State::Unknown, "unknown"),
                (State::Sleeping, "sleeping"),
                (State::Unready, "unready"),
            ] {
                let count = pool.endpoints.iter().filter(|endpoint| endpoint.state == state).count() as u64;
                self.ledger.set(Stat::Endpoints, &[&pool.name, name], count);
                if state == State::Fresh {
                    self.ledger.set(Stat::PoolReadyPods, &[&pool.name], count);
                }
            }
            for endpoint in &pool.endpoints {
                let pod = if endpoint.pod.is_empty() { endpoint.address.to_string() } else { endpoint.pod.clone() };
                let labels = [pool.name.as_str(), pod.as_str()];
                if let Some(waiting) = endpoint.waiting {
                    self.ledger.set(Stat::PoolPerPodQueueSize, &labels, u64::from(waiting));
                }
                if let Some(running) = endpoint.running {
                    self.ledger.set(Stat::PoolRunningRequests, &labels, u64::from(running));
                }
                if let Some(usage) = endpoint.kv_cache_usage {
                    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a ratio: 0 to 1000")]
                    let permille = (usage * 1000.0 + 0.5) as u64;
                    self.ledger.set(Stat::PoolKvCacheUtilizationPermille, &labels, permille);
                }
                gone.remove(&(pool.name.clone(), pod.clone()));
                self.endpoints.insert((pool.name.clone(), pod));
            }
        }
        // Envoy never frees a stat, so those of an endpoint that left go to 0.
        for (pool, pod) in gone {
            for stat in [Stat::PoolPerPodQueueSize, Stat::PoolRunningRequests, Stat::PoolKvCacheUtilizationPermille] {
                self.ledger.set(stat, &[&pool, &pod], 0);
            }
        }
    }
}

/// A gauge and its label values.
type Series = (Stat, Vec<String>);

/// What the workers have under way.
fn gauges(board: &Board) -> Vec<(Series, u64)> {
    let one = |name: &str| vec![name.to_owned()];
    let objective = board.running(|post| post.objective);
    let model = board.running(|post| post.model);
    let objective = objective.iter().map(|(name, &count)| ((Stat::ObjectiveRunningRequests, one(name)), count));
    let model = model.iter().map(|(name, &count)| ((Stat::ModelRunningRequests, one(name)), count));
    let in_flight = board.in_flight();
    let in_flight = in_flight
        .iter()
        .map(|((pool, at), &count)| ((Stat::InFlightRequests, vec![(*pool).to_owned(), (*at).to_owned()]), count));
    objective.chain(model).chain(in_flight).collect()
}

fn set(ledger: &mut Ledger, (stat, labels): &Series, value: u64) {
    let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
    ledger.set(*stat, &labels, value);
}
