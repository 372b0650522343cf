//! The metrics sidecar of one Envoy: it polls pages and answers with snapshots, as the real one does.

use endpoint_picker::rng::Rng;
use snapshot::{AdapterUse, EndpointIdentity, Load, Loads, Membership, PoolMembers, ServedModel, Snapshot, State, Tag};

use crate::gateway::{POLL_MICROS, SignalLoss};
use crate::pod::Pod;
use crate::prompt::BLOCK_TOKENS;

/// Age from which the real sidecar calls a page stale.
const STALE_AFTER_MICROS: u64 = 2_000_000;

/// One sidecar.
#[derive(Debug)]
pub(crate) struct Sidecar {
    loss: SignalLoss,
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
#[derive(Clone, Debug, Default)]
struct ScrapedPage {
    load: Load,
    adapters: Vec<(u16, bool)>,
    read_at: Option<u64>,
    delayed: Option<DelayedPage>,
    incarnation: u32,
}

/// A page on its way.
#[derive(Clone, Debug)]
struct DelayedPage {
    load: Load,
    adapters: Vec<(u16, bool)>,
    made_at: u64,
}

impl Sidecar {
    pub(crate) fn new(loss: SignalLoss, models: Vec<ServedModel>, pods: usize, seed: u64, first_poll: u64) -> Self {
        Self {
            loss,
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
            let is_lost = self.loss.strikes(&mut self.rng);
            is_changed |= page.poll(pod, is_lost, self.loss.delay_micros, now);
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
            adapters: self.adapter_uses(),
        };
        if tag == Some(loads.tag()) {
            return None;
        }
        let has_membership =
            tag.is_some_and(|tag| tag.epoch == loads.epoch && tag.membership_version == loads.membership_version);
        let membership = (!has_membership).then(|| self.membership.clone());
        Some(Snapshot { membership, loads }.encode())
    }

    fn adapter_uses(&self) -> Vec<AdapterUse> {
        let uses = |(endpoint, &pod): (usize, &usize)| {
            let uses = self.pages[pod].adapters.iter();
            uses.map(move |&(adapter, waiting)| AdapterUse {
                endpoint: endpoint as u32,
                adapter: u32::from(adapter),
                waiting,
            })
        };
        self.members.iter().enumerate().flat_map(uses).collect()
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
            adapters: self
                .models
                .iter()
                .filter(|model| !model.parent.is_empty())
                .map(|model| model.name.clone())
                .collect(),
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
        let before = (self.load, self.adapters.clone(), self.state(now));
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
            let adapters = pod.engine().adapters_in_use();
            self.delayed.get_or_insert(DelayedPage { load, adapters, made_at: now });
        }
        if let Some(page) = self.delayed.take_if(|page| now >= page.made_at + delay) {
            (self.load, self.adapters, self.read_at) = (page.load, page.adapters, Some(now));
        }
        (&before.0, &before.1, before.2) != (&self.load, &self.adapters, self.state(now))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calibration::Calibration;
    use crate::prompt::Prompt;

    fn pods() -> Vec<Pod> {
        (0..2).map(|pod| Pod::new(pod, Calibration::INFERENCE_SIM, 1_000_000)).collect()
    }

    fn sidecar(loss: SignalLoss) -> Sidecar {
        Sidecar::new(loss, vec![ServedModel::default()], 2, 7, 2_000_000)
    }

    fn snapshot(sidecar: &Sidecar, now: u64) -> Snapshot {
        Snapshot::decode(&sidecar.answer(None, now).unwrap()).unwrap()
    }

    fn submit(pod: &mut Pod, now: u64) {
        let prompt = Prompt { tokens: 160, output_tokens: 10, blocks: vec![1; 10].into(), adapter: None };
        pod.engine_mut().submit(0, prompt, now);
    }

    #[test]
    fn pages_are_reported_with_their_age_and_only_news_is_sent() {
        let (mut pods, mut sidecar) = (pods(), sidecar(SignalLoss::default()));
        sidecar.poll(&pods, 2_000_000);
        let first = snapshot(&sidecar, 2_010_000);
        assert_eq!(first.membership.unwrap().pools[0].endpoints.len(), 2);
        let load = first.loads.endpoints[0];
        assert_eq!((load.state, load.age_ms, load.running), (State::Fresh, Some(10), Some(0)));
        assert_eq!((load.block_size, load.num_gpu_blocks), (Some(16), Some(1_024)));
        let tag = Some(first.loads.tag());
        sidecar.poll(&pods, 2_050_000);
        assert_eq!(sidecar.answer(tag, 2_051_000), None);
        submit(&mut pods[0], 2_060_000);
        sidecar.poll(&pods, 2_100_000);
        let news = Snapshot::decode(&sidecar.answer(tag, 2_101_000).unwrap()).unwrap();
        assert!(news.membership.is_none());
        assert_eq!(news.loads.endpoints[0].running, Some(1));
    }

    #[test]
    fn adapters_in_use_are_named_by_their_place_among_the_adapters() {
        let mut pods = pods();
        let model = |name: &str, parent: &str| ServedModel {
            name: name.into(),
            parent: parent.into(),
            ..ServedModel::default()
        };
        let models = vec![model("m", ""), model("a0", "m"), model("a1", "m")];
        let mut sidecar = Sidecar::new(SignalLoss::default(), models, 2, 7, 2_000_000);
        let prompt = Prompt { tokens: 160, output_tokens: 10, blocks: vec![1; 10].into(), adapter: Some(1) };
        pods[1].engine_mut().submit(0, prompt, 1_990_000);
        sidecar.poll(&pods, 2_000_000);
        let snapshot = snapshot(&sidecar, 2_000_000);
        assert_eq!(snapshot.membership.unwrap().pools[0].adapters, ["a0", "a1"]);
        assert_eq!(snapshot.loads.adapters, [AdapterUse { endpoint: 1, adapter: 1, waiting: false }]);
    }

    #[test]
    fn a_dead_pod_turns_stale_leaves_and_returns_as_another_process() {
        let (mut pods, mut sidecar) = (pods(), sidecar(SignalLoss::default()));
        sidecar.poll(&pods, 2_000_000);
        pods[1].kill();
        sidecar.poll(&pods, 3_000_000);
        assert_eq!(snapshot(&sidecar, 3_000_000).loads.endpoints[1].age_ms, Some(1_000));
        sidecar.poll(&pods, 4_100_000);
        assert_eq!(snapshot(&sidecar, 4_100_000).loads.endpoints[1].state, State::Stale);
        pods[1].set_member(false);
        sidecar.poll(&pods, 4_150_000);
        assert_eq!(snapshot(&sidecar, 4_150_000).loads.endpoints.len(), 1);
        pods[1].start(5_000_000);
        pods[1].set_member(true);
        sidecar.poll(&pods, 5_050_000);
        let load = snapshot(&sidecar, 5_050_000).loads.endpoints[1];
        assert_eq!((load.state, load.incarnation, load.started_at_ms), (State::Fresh, 1, Some(5_000)));
    }

    #[test]
    fn news_is_lost_or_late_where_it_shall_be() {
        let (mut pods, mut late) = (pods(), sidecar(SignalLoss { lost_polls: 0.0, delay_micros: 100_000 }));
        let mut deaf = sidecar(SignalLoss { lost_polls: 1.0, delay_micros: 0 });
        submit(&mut pods[0], 1_990_000);
        for poll in 0..3 {
            let now = 2_000_000 + poll * POLL_MICROS;
            late.poll(&pods, now);
            deaf.poll(&pods, now);
            let running = |sidecar: &Sidecar| snapshot(sidecar, now).loads.endpoints[0].running;
            assert_eq!(running(&late), (poll == 2).then_some(1));
            assert_eq!(running(&deaf), None);
        }
    }
}
