//! One request on its way through the engine: the events it gets back, and the answer written from them.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::engine::RequestId;
use crate::pod::Pod;
use crate::reply::{error_body, kind_of};

/// The pause before a connection breaks, so that the client has read what was sent until then.
const BREAK_PAUSE: Duration = Duration::from_millis(5);

/// An engine event, addressed to one choice of one answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Delivery {
    Token {
        choice: usize,
        index: u32,
    },
    Finished {
        choice: usize,
        generated: u32,
        cached_tokens: u32,
    },
    /// The engine died; nothing more comes.
    Died,
}

/// What became of one choice.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Outcome {
    pub(crate) generated: u32,
    pub(crate) cached_tokens: u32,
}

/// A request that the engine holds. Dropping it before its end aborts it.
pub(crate) struct Ticket {
    pub(crate) pod: Arc<Pod>,
    pub(crate) lane: usize,
    pub(crate) open: Vec<(usize, RequestId)>,
    pub(crate) deliveries: UnboundedReceiver<Delivery>,
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").field("lane", &self.lane).field("open", &self.open).finish_non_exhaustive()
    }
}

impl Ticket {
    /// The next event; none when every choice has ended.
    pub(crate) async fn next(&mut self) -> Option<Delivery> {
        if self.open.is_empty() {
            return None;
        }
        let delivery = self.deliveries.recv().await?;
        match delivery {
            Delivery::Token { .. } => {}
            Delivery::Finished { choice, .. } => self.open.retain(|(open, _)| *open != choice),
            Delivery::Died => self.open.clear(),
        }
        Some(delivery)
    }

    /// Waits for the end of every choice; outcomes in the order of the choices. None when the engine died.
    pub(crate) async fn outcomes(mut self) -> Option<Vec<Outcome>> {
        let mut outcomes = vec![Outcome::default(); self.open.len()];
        while let Some(delivery) = self.next().await {
            match delivery {
                Delivery::Token { .. } => {}
                Delivery::Finished { choice, generated, cached_tokens } => {
                    if let Some(outcome) = outcomes.get_mut(choice) {
                        *outcome = Outcome { generated, cached_tokens };
                    }
                }
                Delivery::Died => return None,
            }
        }
        Some(outcomes)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.open.is_empty() {
            let open = std::mem::take(&mut self.open);
            self.pod.abort(self.lane, &open);
        }
    }
}

/// Writes an answer in the format of one API.
pub(crate) trait Answer: Send {
    /// Events sent before the engine has done anything.
    fn begin(&mut self, _out: &mut VecDeque<Bytes>) {}
    /// A token that is not the last of its choice.
    fn token(&mut self, choice: usize, index: u32, out: &mut VecDeque<Bytes>);
    /// The last token of a choice.
    fn last(&mut self, choice: usize, outcome: Outcome, out: &mut VecDeque<Bytes>);
    /// What follows when all choices have ended.
    fn end(&mut self, outcomes: &[Outcome], out: &mut VecDeque<Bytes>);
    /// The same answer as one JSON body.
    fn whole(&self, outcomes: &[Outcome]) -> String;
}

/// How a stream ends if not by itself.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Break {
    /// The connection is closed with the response unfinished.
    Cut,
    /// The response ends as if complete.
    Short,
    /// Nothing more is sent.
    Stall,
    /// An error event and `[DONE]`.
    ErrorEvent,
}

enum Stage {
    Start,
    Open,
    Done,
}

/// A response body of server-sent events, one chunk each.
pub(crate) struct EventStream {
    ticket: Ticket,
    answer: Box<dyn Answer>,
    outcomes: Vec<Outcome>,
    queue: VecDeque<Bytes>,
    stage: Stage,
    sent: u32,
    broken: Option<(u32, Break)>,
}

impl fmt::Debug for EventStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventStream").field("ticket", &self.ticket).field("sent", &self.sent).finish_non_exhaustive()
    }
}

/// The connection is to break here.
#[derive(Debug, thiserror::Error)]
#[error("the connection breaks on purpose")]
pub(crate) struct Broken;

impl EventStream {
    pub(crate) fn new(ticket: Ticket, answer: Box<dyn Answer>) -> Self {
        let outcomes = vec![Outcome::default(); ticket.open.len()];
        Self { ticket, answer, outcomes, queue: VecDeque::new(), stage: Stage::Start, sent: 0, broken: None }
    }

    /// Breaks the stream after `events` events.
    pub(crate) fn break_after(&mut self, events: u32, how: Break) {
        self.broken = Some((events, how));
    }

    /// The next event; none at the end of the body.
    pub(crate) async fn next(&mut self) -> Option<Result<Bytes, Broken>> {
        if let Some((events, how)) = self.broken
            && self.sent >= events
        {
            return self.break_here(how).await;
        }
        loop {
            if let Some(event) = self.queue.pop_front() {
                self.sent += 1;
                return Some(Ok(event));
            }
            match self.stage {
                Stage::Start => {
                    self.answer.begin(&mut self.queue);
                    self.stage = Stage::Open;
                }
                Stage::Open => self.pull().await,
                Stage::Done => return None,
            }
        }
    }

    async fn pull(&mut self) {
        match self.ticket.next().await {
            Some(Delivery::Token { choice, index }) => {
                self.answer.token(choice, index, &mut self.queue);
            }
            Some(Delivery::Finished { choice, generated, cached_tokens }) => {
                let outcome = Outcome { generated, cached_tokens };
                if let Some(slot) = self.outcomes.get_mut(choice) {
                    *slot = outcome;
                }
                self.answer.last(choice, outcome, &mut self.queue);
            }
            Some(Delivery::Died) => self.fail(),
            None => {
                self.answer.end(&self.outcomes, &mut self.queue);
                self.stage = Stage::Done;
            }
        }
    }

    /// Ends the stream with vLLM's error event.
    fn fail(&mut self) {
        let error = error_body(500, kind_of(500), None, ENGINE_DEAD);
        self.queue = VecDeque::from([Bytes::from(format!("data: {error}\n\n")), Bytes::from_static(DONE)]);
        self.stage = Stage::Done;
    }

    async fn break_here(&mut self, how: Break) -> Option<Result<Bytes, Broken>> {
        match how {
            Break::Cut => {
                tokio::time::sleep(BREAK_PAUSE).await;
                Some(Err(Broken))
            }
            Break::Short => None,
            Break::Stall => std::future::pending().await,
            Break::ErrorEvent => {
                self.fail();
                self.broken = None;
                self.queue.pop_front().map(Ok)
            }
        }
    }
}

/// What vLLM says of a dead engine.
pub(crate) const ENGINE_DEAD: &str = "EngineCore encountered an issue. See stack trace (above) for the root cause.";

/// The event that ends OpenAI streams.
pub(crate) const DONE: &[u8] = b"data: [DONE]\n\n";

/// Lets the client read what was sent, then asks for the connection to break.
pub(crate) async fn break_soon() -> Broken {
    tokio::time::sleep(BREAK_PAUSE).await;
    Broken
}
