//! What stands between clients and pods: a model of a policy, or Envoys with the real core.

use endpoint_picker::rng::Rng;
use hashbrown::HashMap;

use crate::engine::Page;
use crate::pod::Pod;
use crate::policy::{Candidate, Offer, Policy};
use crate::prompt::{Chat, Prompt};
use crate::text::unit;

/// How a pod's answer went.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    pub(crate) prompt_tokens: u32,
    pub(crate) output_tokens: u32,
    pub(crate) cached_tokens: u32,
}

/// What a gateway does with a request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Sending {
    /// It goes to one of these pods, tried in that order; to none: it is refused.
    To(Vec<usize>),
    /// It waits; [`Gateway::take_resumed`] names it later.
    Later,
}

/// A gateway, or several that share nothing.
pub(crate) trait Gateway {
    /// A request came.
    fn send(&mut self, request: usize, chat: &Chat, prompt: &Prompt, pods: &[Pod], now: u64) -> Sending;
    /// Requests that waited and go on now, each to pods to try in that order; to none: it is refused.
    fn take_resumed(&mut self, _: &[Pod], _: u64) -> Vec<(usize, Vec<usize>)> {
        Vec::new()
    }
    /// The first token of its answer came from that pod, which was tried as number `attempt`, 1 the first.
    fn first_token(&mut self, request: usize, pod: usize, attempt: u64, now: u64);
    /// The answer is complete.
    fn done(&mut self, request: usize, pod: usize, attempt: u64, usage: Usage, now: u64);
    /// No pod gave an answer, or the one that did died; `is_begun`: the client had got its first token.
    fn lost(&mut self, request: usize, pod: usize, attempt: u64, is_begun: bool, now: u64);
    /// When it wants to be called next.
    fn next_due(&self) -> u64;
    /// Does what is due.
    fn step(&mut self, pods: &[Pod], now: u64);
}

/// Pods that are tried for one request at most, as the bootstraps' retry policy says.
pub(crate) const MAX_ATTEMPTS: usize = 3;

/// How often pages are polled.
pub(crate) const POLL_MICROS: u64 = 50_000;

/// How signals are lost on their way.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SignalLoss {
    /// Part of the polls that get no answer.
    pub(crate) lost_polls: f64,
    /// Microseconds that a page takes to arrive.
    pub(crate) delay_micros: u64,
}

impl SignalLoss {
    /// Whether the next poll gets no answer.
    pub(crate) fn strikes(&self, rng: &mut Rng) -> bool {
        self.lost_polls > 0.0 && unit(rng) < self.lost_polls
    }
}

/// One gateway that does as a policy says.
pub(crate) struct ModelGateway {
    policy: Box<dyn Policy>,
    rng: Rng,
    loss: SignalLoss,
    pages: Vec<Page>,
    /// A page on its way from each pod, and when it was made.
    delayed: Vec<Option<(Page, u64)>>,
    in_flight: Vec<u32>,
    /// Which pod each request is charged to.
    sent_to: HashMap<usize, usize>,
    next_poll: u64,
}

impl ModelGateway {
    pub(crate) fn new(policy: Box<dyn Policy>, pods: usize, loss: SignalLoss, seed: u64) -> Self {
        Self {
            policy,
            rng: Rng::new(seed),
            loss,
            pages: vec![Page::default(); pods],
            delayed: vec![None; pods],
            in_flight: vec![0; pods],
            sent_to: HashMap::new(),
            next_poll: 0,
        }
    }

    fn charge(&mut self, request: usize, pod: usize) {
        self.sent_to.insert(request, pod);
        self.in_flight[pod] += 1;
    }

    fn settle(&mut self, request: usize) {
        if let Some(pod) = self.sent_to.remove(&request) {
            self.in_flight[pod] -= 1;
        }
    }
}

impl Gateway for ModelGateway {
    fn send(&mut self, request: usize, chat: &Chat, prompt: &Prompt, pods: &[Pod], _: u64) -> Sending {
        let body = chat.body();
        let offer = Offer { model: &chat.model, body: &body, prompt };
        let mut candidates: Vec<Candidate<'_>> = pods
            .iter()
            .enumerate()
            .filter(|(_, pod)| pod.is_member())
            .map(|(index, pod)| Candidate {
                pod: index,
                page: self.pages[index],
                in_flight: self.in_flight[index],
                engine: pod.engine(),
            })
            .collect();
        let mut ranked = Vec::new();
        // A pod that does not answer is given up, and the policy chooses again among the rest.
        while !candidates.is_empty() && ranked.len() < MAX_ATTEMPTS {
            let pod = self.policy.pick(&offer, &candidates, &mut self.rng);
            ranked.push(pod);
            candidates.retain(|candidate| candidate.pod != pod);
            if pods[pod].is_alive() {
                self.charge(request, pod);
                break;
            }
        }
        // Should that one die too before it answers, those with the fewest requests are tried.
        candidates.sort_by_key(|candidate| candidate.in_flight);
        let rest = candidates.iter().map(|candidate| candidate.pod);
        ranked.extend(rest.take(MAX_ATTEMPTS.saturating_sub(ranked.len())));
        Sending::To(ranked)
    }

    fn first_token(&mut self, _: usize, _: usize, _: u64, _: u64) {}

    fn done(&mut self, request: usize, _: usize, _: u64, _: Usage, _: u64) {
        self.settle(request);
    }

    fn lost(&mut self, request: usize, _: usize, _: u64, _: bool, _: u64) {
        self.settle(request);
    }

    fn next_due(&self) -> u64 {
        self.next_poll
    }

    fn step(&mut self, pods: &[Pod], now: u64) {
        for ((page, delayed), pod) in self.pages.iter_mut().zip(&mut self.delayed).zip(pods) {
            let is_lost = self.loss.strikes(&mut self.rng);
            if delayed.is_none() {
                *delayed = pod.page().filter(|_| !is_lost).map(|read| (read, now));
            }
            if let Some((read, _)) = delayed.take_if(|(_, made_at)| now >= *made_at + self.loss.delay_micros) {
                *page = read;
            }
        }
        self.next_poll = now + POLL_MICROS;
    }
}
