//! The metrics sidecar of one Envoy: it polls pages and answers with snapshots, as the real one does.

use endpoint_picker::rng::Rng;
use snapshot::{EndpointIdentity, Load, Loads, Membership, PoolMembers, ServedModel, Snapshot, State, Tag};

use crate::gateway::POLL_MICROS;
use crate::pod::Pod;
use crate::prompt::BLOCK_TOKENS;
use crate::text::unit;

/// Age from which the real sidecar calls a page stale.
const STALE_AFTER_MICROS: u64 = 2_000_000;

/// How signals are lost on their way.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Mishaps {
    /// Part of the polls that get no answer.
    pub(crate) lost_polls: f64,
    /// Microseconds by which every page is older than it seems.
    pub(crate) delay_micros: u64,
}

/// One sidecar.
#[derive(Debug)]
pub(crate) struct Sidecar {
    mishaps: Mishaps,
    rng: Rng,
    models: Vec<ServedModel>,
    membership: Membership,
    /// Pods by place in the membership.
    members: Vec<usize>,
    pages: Vec<ScrapedPage>,
    generation: u64,
    next_poll: u64,
    polled_at: u64,
}

/// The sidecar's view of one pod.
#[derive(Clone, Copy, Debug, Default)]
struct ScrapedPage {
    load: Load,
    read_at: Option<u64>,
    /// Pages on their way, where they are delayed: the newest, and when it was made.
    delayed: Option<(Load, u64)>,
    incarnation: u32,
}

impl Sidecar {
    pub(crate) fn new(mishaps: Mishaps, models: Vec<ServedModel>, pods: usize, seed: u64, first_poll: u64) -> Self {
        Self {
            mishaps,
            rng: Rng::new(seed),
            models,
            membership: Membership { epoch: seed.max(1), ..Membership::default() },
            members: Vec::new(),
            pages: vec![ScrapedPage::default(); pods],
            generation: 0,
            next_poll: first_poll,
            polled_at: 0,
        }
    }

    pub(crate) const fn next_poll(&self) -> u64 {
        self.next_poll
    }

    /// Reads every page.
    pub(crate) fn poll(&mut self, pods: &[Pod], now: u64) {
        self.next_poll = now + POLL_MICROS;
        self.polled_at = now;
        let members: Vec<usize> = (0..pods.len()).filter(|&pod| pods[pod].is_member()).collect();
        if members != self.members {
            self.list(members, pods);
        }
        let mut is_changed = false;
        for (page, pod) in self.pages.iter_mut().zip(pods) {
            let is_lost = self.mishaps.lost_polls > 0.0 && unit(&mut self.rng) < self.mishaps.lost_polls;
            is_changed |= page.poll(pod, is_lost, self.mishaps.delay_micros, now);
        }
        self.generation += u64::from(is_changed);
    }

    /// The answer to a client that has the state of that tag: status and body; `None`: nothing is new.
    pub(crate) fn answer(&self, tag: Option<Tag>, now: u64) -> Option<Vec<u8>> {
        let pages = self.members.iter().map(|&pod| self.pages[pod].reported(now));
        let loads = Loads {
            epoch: self.membership.epoch,
            membership_version: self.membership.version,
            generation: self.generation,
            captured_at_ms: now / 1_000,
            endpoints: pages.collect(),
            adapters: Vec::new(),
        };
        if tag == Some(loads.tag()) {
            return None;
        }
        let has_membership =
            tag.is_some_and(|tag| tag.epoch == loads.epoch && tag.membership_version == loads.membership_version);
        let membership = (!has_membership).then(|| self.membership.clone());
        Some(Snapshot { membership, loads }.encode())
    }

    fn list(&mut self, members: Vec<usize>, pods: &[Pod]) {
        let served: Vec<u32> = (0..self.models.len() as u32).collect();
        let identity = |&pod: &usize| EndpointIdentity {
            pod: format!("pod-{pod}"),
            models: Some(served.clone()),
            ..EndpointIdentity::unnamed(pods[pod].address())
        };
        let pool = PoolMembers {
            name: "default".into(),
            endpoints: members.iter().map(identity).collect(),
            models: self.models.clone(),
            ..PoolMembers::default()
        };
        self.members = members;
        self.membership.version += 1;
        self.membership.pools = vec![pool];
        self.generation += 1;
    }
}

impl ScrapedPage {
    /// Whether what is known changed.
    fn poll(&mut self, pod: &Pod, is_lost: bool, delay: u64, now: u64) -> bool {
        let before = (self.load, self.state(now));
        if let Some(page) = pod.page().filter(|_| !is_lost) {
            if self.load.started_at_ms.is_some_and(|started| started != page.started_at / 1_000) {
                self.incarnation += 1;
            }
            let calibration = pod.engine().calibration();
            let load = Load {
                waiting: Some(page.waiting),
                running: Some(page.running),
                kv_cache_usage: Some(page.kv_usage),
                block_size: Some(BLOCK_TOKENS as u32),
                num_gpu_blocks: Some(calibration.num_gpu_blocks as u32),
                max_lora: Some(calibration.max_lora as u32),
                started_at_ms: Some(page.started_at / 1_000),
                incarnation: self.incarnation,
                ..Load::default()
            };
            if delay == 0 {
                (self.load, self.read_at) = (load, Some(now));
            } else if self.delayed.is_none() {
                self.delayed = Some((load, now));
            }
        }
        if let Some((load, made_at)) = self.delayed
            && now >= made_at + delay
        {
            (self.load, self.read_at, self.delayed) = (load, Some(now), None);
        }
        before != (self.load, self.state(now))
    }

    fn state(&self, now: u64) -> State {
        match self.read_at.map(|at| now - at) {
            None => State::Unknown,
            Some(age) if age <= STALE_AFTER_MICROS => State::Fresh,
            Some(_) => State::Stale,
        }
    }

    fn reported(&self, now: u64) -> Load {
        Load { state: self.state(now), age_ms: self.read_at.map(|at| (now - at) / 1_000), ..self.load }
    }
}
