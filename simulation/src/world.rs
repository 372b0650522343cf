//! One run: clients, a gateway and pods, event after event in virtual time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::engine::Output;
use crate::gateway::{Gateway, Sending, Usage};
use crate::pod::Pod;
use crate::prompt::{Prompt, Tokenizer};
use crate::workload::{Ticket, Workload};

/// Moment of the first arrival: everybody has read the first pages by then.
pub(crate) const BEGIN_MICROS: u64 = 1_003_000_000;
/// Moment at which the world begins.
pub(crate) const START_MICROS: u64 = 1_000_000_000;
/// The pods' queues are looked at this often.
const SAMPLE_MICROS: u64 = 100_000;
/// Clients are waited for this long after the last arrival, then a run is over however it stands.
const PATIENCE_MICROS: u64 = 1_800_000_000;

/// What happened to one request, in microseconds of virtual time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outcome {
    pub(crate) ticket: Ticket,
    pub(crate) sent_at: u64,
    pub(crate) first_token: Option<u64>,
    pub(crate) done: Option<u64>,
    pub(crate) prompt_tokens: u32,
    pub(crate) cached_tokens: u32,
    pub(crate) is_failed: bool,
}

/// What a run came to.
#[derive(Debug, Default)]
pub(crate) struct Record {
    pub(crate) outcomes: Vec<Outcome>,
    /// Mean of requests in each pod.
    pub(crate) mean_load: Vec<f64>,
    pub(crate) prefilled_tokens: u64,
    pub(crate) preemptions: u64,
}

/// Something that happens to the pods.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mishap {
    /// Its times are multiplied.
    Slow { pod: usize, slowness: f64 },
    /// It dies, connections and all.
    Dies { pod: usize },
    /// It serves again, with an empty cache.
    Starts { pod: usize },
    /// Discovery drops it, or lists it again.
    Listed { pod: usize, is_member: bool },
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Arrival(Ticket),
    Engine(usize),
    Gateway,
    Sample,
    Mishap(Mishap),
}

struct Queued {
    at: u64,
    sequence: u64,
    event: Event,
}

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.sequence) == (other.at, other.sequence)
    }
}

impl Eq for Queued {}

impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Queued {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}

struct Request {
    ticket: Ticket,
    ranked: Vec<usize>,
    attempts: usize,
    prompt: Prompt,
}

/// One run under way.
pub(crate) struct World<'a> {
    workload: &'a dyn Workload,
    tokenizer: Tokenizer,
    gateway: Box<dyn Gateway>,
    pods: Vec<Pod>,
    /// The moment for which each engine's next event is queued.
    scheduled: Vec<Option<u64>>,
    events: BinaryHeap<Reverse<Queued>>,
    sequence: u64,
    now: u64,
    requests: Vec<Request>,
    outcomes: Vec<Outcome>,
    open: usize,
    expected: usize,
    samples: u64,
    load: Vec<f64>,
    outputs: Vec<Output>,
}

impl<'a> World<'a> {
    pub(crate) fn new(
        workload: &'a dyn Workload,
        tokenizer: Tokenizer,
        gateway: Box<dyn Gateway>,
        pods: Vec<Pod>,
        mishaps: &[(u64, Mishap)],
    ) -> Self {
        let mut world = Self {
            workload,
            tokenizer,
            gateway,
            scheduled: vec![None; pods.len()],
            load: vec![0.0; pods.len()],
            pods,
            events: BinaryHeap::new(),
            sequence: 0,
            now: START_MICROS,
            requests: Vec::new(),
            outcomes: Vec::new(),
            open: 0,
            expected: 0,
            samples: 0,
            outputs: Vec::new(),
        };
        for &(at, mishap) in mishaps {
            world.at(BEGIN_MICROS + at, Event::Mishap(mishap));
        }
        for (at, ticket) in workload.arrivals() {
            world.expected += 1;
            world.at(BEGIN_MICROS + at, Event::Arrival(ticket));
        }
        world.at(world.now, Event::Gateway);
        world.at(BEGIN_MICROS, Event::Sample);
        world
    }

    /// Lets everything happen until every client has its answer.
    pub(crate) fn run(mut self) -> Record {
        let mut last = BEGIN_MICROS;
        while let Some(Reverse(Queued { at, event, .. })) = self.events.pop() {
            self.now = at;
            match event {
                Event::Arrival(ticket) => {
                    self.expected -= 1;
                    last = at;
                    self.arrive(ticket);
                }
                Event::Engine(pod) => self.step_engine(pod),
                Event::Gateway => {
                    self.gateway.step(&self.pods, at);
                    let due = self.gateway.next_due().max(at + 1);
                    self.at(due, Event::Gateway);
                }
                Event::Sample => {
                    for (load, pod) in self.load.iter_mut().zip(&self.pods) {
                        let page = pod.engine().page();
                        *load += f64::from(page.waiting + page.running);
                    }
                    self.samples += 1;
                    self.at(at + SAMPLE_MICROS, Event::Sample);
                }
                Event::Mishap(mishap) => self.happen(mishap),
            }
            self.resume();
            if (self.expected == 0 && self.open == 0) || at > last + PATIENCE_MICROS {
                break;
            }
        }
        let samples = self.samples.max(1) as f64;
        Record {
            outcomes: self.outcomes,
            mean_load: self.load.iter().map(|load| load / samples).collect(),
            prefilled_tokens: self.pods.iter().map(Pod::prefilled_tokens).sum(),
            preemptions: self.pods.iter().map(Pod::preemptions).sum(),
        }
    }

    fn at(&mut self, at: u64, event: Event) {
        self.sequence += 1;
        self.events.push(Reverse(Queued { at, sequence: self.sequence, event }));
    }

    fn arrive(&mut self, ticket: Ticket) {
        let chat = self.workload.chat(ticket);
        let prompt = chat.prompt(self.tokenizer);
        let index = self.requests.len();
        self.outcomes.push(Outcome {
            ticket,
            sent_at: self.now,
            first_token: None,
            done: None,
            prompt_tokens: prompt.tokens,
            cached_tokens: 0,
            is_failed: false,
        });
        let sending = self.gateway.send(index, &chat, &prompt, &self.pods, self.now);
        self.open += 1;
        let is_sent = matches!(sending, Sending::To(_));
        let ranked = if let Sending::To(ranked) = sending { ranked } else { Vec::new() };
        self.requests.push(Request { ticket, ranked, attempts: 0, prompt });
        if is_sent {
            self.attempt(index);
        }
    }

    /// Sends on whatever waited and waits no more.
    fn resume(&mut self) {
        for (index, ranked) in self.gateway.take_resumed(&self.pods, self.now) {
            self.requests[index].ranked = ranked;
            self.attempt(index);
        }
    }

    /// Sends a request to the next pod of its list that lives.
    fn attempt(&mut self, index: usize) {
        loop {
            let request = &mut self.requests[index];
            let Some(&pod) = request.ranked.get(request.attempts) else {
                return self.lose(index, false);
            };
            request.attempts += 1;
            if self.pods[pod].is_alive() {
                let prompt = request.prompt.clone();
                self.pods[pod].engine_mut().submit(index, prompt, self.now);
                self.schedule(pod);
                return;
            }
        }
    }

    fn lose(&mut self, index: usize, is_begun: bool) {
        let request = &self.requests[index];
        let attempt = request.attempts.max(1);
        if let Some(&pod) = request.ranked.get(attempt - 1) {
            self.gateway.lost(index, pod, attempt as u64, is_begun, self.now);
        }
        self.outcomes[index].is_failed = true;
        self.end(index);
    }

    /// The client has what it will get, and goes on.
    fn end(&mut self, index: usize) {
        self.open -= 1;
        if let Some((think, ticket)) = self.workload.follow_up(self.requests[index].ticket) {
            self.expected += 1;
            self.at(self.now + think, Event::Arrival(ticket));
        }
    }

    fn schedule(&mut self, pod: usize) {
        let due = self.pods[pod].engine().next_due();
        if due != self.scheduled[pod] {
            self.scheduled[pod] = due;
            if let Some(due) = due {
                self.at(due, Event::Engine(pod));
            }
        }
    }

    fn step_engine(&mut self, pod: usize) {
        if self.scheduled[pod] != Some(self.now) {
            return;
        }
        self.scheduled[pod] = None;
        let mut outputs = std::mem::take(&mut self.outputs);
        self.pods[pod].engine_mut().step(self.now, &mut outputs);
        for output in outputs.drain(..) {
            match output {
                Output::First { id, cached_tokens } => {
                    let outcome = &mut self.outcomes[id];
                    outcome.first_token = Some(self.now);
                    outcome.cached_tokens = cached_tokens;
                    self.gateway.first_token(id, pod, self.requests[id].attempts as u64, self.now);
                }
                Output::Done { id } => {
                    let request = &self.requests[id];
                    let usage = Usage {
                        prompt_tokens: request.prompt.tokens,
                        output_tokens: request.prompt.output_tokens,
                        cached_tokens: self.outcomes[id].cached_tokens,
                    };
                    self.outcomes[id].done = Some(self.now);
                    self.gateway.done(id, pod, request.attempts as u64, usage, self.now);
                    self.end(id);
                }
            }
        }
        self.outputs = outputs;
        self.schedule(pod);
    }

    fn happen(&mut self, mishap: Mishap) {
        match mishap {
            Mishap::Slow { pod, slowness } => self.pods[pod].engine_mut().slow_down(slowness),
            Mishap::Dies { pod } => {
                for index in self.pods[pod].kill() {
                    if self.outcomes[index].first_token.is_some() {
                        self.lose(index, true);
                    } else {
                        self.attempt(index);
                    }
                }
                self.schedule(pod);
            }
            Mishap::Starts { pod } => self.pods[pod].start(self.now),
            Mishap::Listed { pod, is_member } => self.pods[pod].set_member(is_member),
        }
    }
}
