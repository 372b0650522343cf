//! What stands between clients and pods: a model of a policy, or Envoys with the real core.

use endpoint_picker::rng::Rng;

use crate::engine::Page;
use crate::pod::Pod;
use crate::policy::{Candidate, Offer, Policy};
use crate::prompt::{Chat, Prompt};

/// How a pod's answer went.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    pub(crate) prompt_tokens: u32,
    pub(crate) output_tokens: u32,
    pub(crate) cached_tokens: u32,
}

/// A gateway, or several that share nothing.
pub(crate) trait Gateway {
    /// A request came: the pods to try, in that order.
    fn send(&mut self, request: usize, chat: &Chat, prompt: &Prompt, pods: &[Pod], now: u64) -> Vec<usize>;
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

/// One gateway that does as a policy says.
pub(crate) struct ModelGateway {
    policy: Box<dyn Policy>,
    rng: Rng,
    pages: Vec<Page>,
    in_flight: Vec<u32>,
    /// Where each request is.
    sent_to: Vec<usize>,
    next_poll: u64,
}

impl ModelGateway {
    pub(crate) fn new(policy: Box<dyn Policy>, pods: usize, seed: u64) -> Self {
        Self {
            policy,
            rng: Rng::new(seed),
            pages: vec![Page::default(); pods],
            in_flight: vec![0; pods],
            sent_to: Vec::new(),
            next_poll: 0,
        }
    }

    fn charge(&mut self, request: usize, pod: usize) {
        while self.sent_to.len() <= request {
            self.sent_to.push(0);
        }
        self.sent_to[request] = pod;
        self.in_flight[pod] += 1;
    }

    fn settle(&mut self, request: usize) {
        let pod = self.sent_to[request];
        self.in_flight[pod] -= 1;
    }
}

impl Gateway for ModelGateway {
    fn send(&mut self, request: usize, chat: &Chat, prompt: &Prompt, pods: &[Pod], _: u64) -> Vec<usize> {
        let body = chat.body();
        let offer = Offer { body: &body, prompt };
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
        // An entry is used only after the one before it failed: the policy then chooses again among the rest.
        while !candidates.is_empty() && ranked.len() < MAX_ATTEMPTS {
            let pod = self.policy.pick(&offer, &candidates, &mut self.rng);
            ranked.push(pod);
            if pods[pod].is_alive() {
                break;
            }
            candidates.retain(|candidate| candidate.pod != pod);
        }
        if let Some(&pod) = ranked.last() {
            self.charge(request, pod);
        }
        ranked
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
        for (page, pod) in self.pages.iter_mut().zip(pods) {
            if let Some(read) = pod.page() {
                *page = read;
            }
        }
        self.next_poll = now + POLL_MICROS;
    }
}
