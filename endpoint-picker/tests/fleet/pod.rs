//! A scripted model server: slots, a queue, a metrics page, and what is wrong with it.

use std::collections::VecDeque;
use std::net::SocketAddr;

use snapshot::Load;

/// How a pod treats requests.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Behaviour {
    /// Serves each in so many milliseconds, as many at a time as it has slots.
    Serve { millis: u64 },
    /// Answers each at once with that status.
    Answer { status: u16 },
    /// Answers 200 at once, with a body that is no answer of the API.
    Babble,
    /// Takes requests and never answers.
    Freeze,
    /// Refuses connections.
    Dead,
    /// Finishes what it has and answers new requests with 500, as vLLM does while it drains.
    Drain { millis: u64 },
}

/// What its metrics page is like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum PageKind {
    /// True and at once.
    Live,
    /// True when it comes, after so many milliseconds.
    Slow { millis: u64 },
    /// 200 without any signal.
    Silent,
    /// Says that nothing is waiting or running, whatever is.
    Idle,
}

/// One pod.
#[derive(Clone, Debug)]
pub(crate) struct Pod {
    pub(crate) address: SocketAddr,
    pub(crate) behaviour: Behaviour,
    pub(crate) page: PageKind,
    pub(crate) slots: usize,
    /// Requests waiting from elsewhere, which this fleet does not see.
    pub(crate) foreign_waiting: u32,
    pub(crate) running: Vec<usize>,
    pub(crate) waiting: VecDeque<usize>,
    pub(crate) started_at_ms: u64,
    /// Requests that it took, whatever came of them.
    pub(crate) taken: u64,
}

/// What a pod does with a request that reaches it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Reaction {
    /// The connection fails.
    Refuse,
    /// It answers with that status now.
    Answer { status: u16 },
    /// It answers 200 with nonsense now.
    Babble,
    /// It is busy with it for so many milliseconds from now.
    Run { millis: u64 },
    /// It waits for a slot.
    Queue,
    /// Nothing ever comes.
    Silence,
}

impl Pod {
    pub(crate) fn new(index: u8) -> Self {
        Self {
            address: SocketAddr::from(([10, 0, 0, index], 8000)),
            behaviour: Behaviour::Serve { millis: 50 },
            page: PageKind::Live,
            slots: 8,
            foreign_waiting: 0,
            running: Vec::new(),
            waiting: VecDeque::new(),
            started_at_ms: 1,
            taken: 0,
        }
    }

    pub(crate) fn take(&mut self, request: usize) -> Reaction {
        if self.behaviour == Behaviour::Dead {
            return Reaction::Refuse;
        }
        self.taken += 1;
        match self.behaviour {
            Behaviour::Answer { status } => Reaction::Answer { status },
            Behaviour::Drain { .. } => Reaction::Answer { status: 500 },
            Behaviour::Babble => Reaction::Babble,
            Behaviour::Freeze | Behaviour::Dead => {
                self.running.push(request);
                Reaction::Silence
            }
            Behaviour::Serve { millis } if self.running.len() < self.slots => {
                self.running.push(request);
                Reaction::Run { millis }
            }
            Behaviour::Serve { .. } => {
                self.waiting.push_back(request);
                Reaction::Queue
            }
        }
    }

    /// A request has finished; the next one in the queue, if any, runs now for so long.
    pub(crate) fn finish(&mut self, request: usize) -> Option<(usize, u64)> {
        self.running.retain(|&other| other != request);
        let (Behaviour::Serve { millis } | Behaviour::Drain { millis }) = self.behaviour else { return None };
        let next = self.waiting.pop_front()?;
        self.running.push(next);
        Some((next, millis))
    }

    /// What its page says, if it answers at all.
    pub(crate) fn load(&self) -> Option<Load> {
        if self.behaviour == Behaviour::Dead {
            return None;
        }
        let load = Load { started_at_ms: Some(self.started_at_ms), ..Load::default() };
        let count = |requests: usize| u32::try_from(requests).unwrap_or(u32::MAX);
        Some(match self.page {
            PageKind::Silent => Load { started_at_ms: None, ..load },
            PageKind::Idle => Load { waiting: Some(0), running: Some(0), kv_cache_usage: Some(0.0), ..load },
            PageKind::Live | PageKind::Slow { .. } => Load {
                waiting: Some(count(self.waiting.len()) + self.foreign_waiting),
                running: Some(count(self.running.len())),
                kv_cache_usage: Some((self.running.len() as f64 / self.slots as f64 * 0.6).min(1.0)),
                ..load
            },
        })
    }
}
