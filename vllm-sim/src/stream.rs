//! Streamed responses: events written as the engine's come, and the ways in which a stream can break.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use crate::refusal::{error_body, kind_of};
use crate::ticket::{Delivery, Outcome, Ticket};

/// The pause before a connection breaks, so that the client has read what was sent until then.
const BREAK_PAUSE: Duration = Duration::from_millis(5);

/// Writes a response in the format of one API.
pub(crate) trait ResponseWriter: Send {
    /// Events sent before the engine has done anything.
    fn begin(&mut self, _out: &mut VecDeque<Bytes>) {}
    /// A token that is not the last of its choice.
    fn token(&mut self, choice: usize, index: u32, out: &mut VecDeque<Bytes>);
    /// The last token of a choice.
    fn last(&mut self, choice: usize, outcome: Outcome, out: &mut VecDeque<Bytes>);
    /// What follows when all choices have ended.
    fn end(&mut self, outcomes: &[Outcome], out: &mut VecDeque<Bytes>);
    /// The same response as one JSON body.
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

/// How a stream is to end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Ending {
    /// As its API says.
    Whole,
    /// Without the event that says that it is the last: `[DONE]`, `response.completed`, `message_stop`.
    Unterminated,
    /// Broken after that many events.
    Broken { after: u32, how: Break },
}

enum Stage {
    Start,
    Open,
    Done,
}

/// A response body of server-sent events, one chunk each.
pub(crate) struct EventStream {
    ticket: Ticket,
    writer: Box<dyn ResponseWriter>,
    outcomes: Vec<Outcome>,
    queue: VecDeque<Bytes>,
    stage: Stage,
    sent: u32,
    ending: Ending,
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
    pub(crate) fn new(ticket: Ticket, writer: Box<dyn ResponseWriter>) -> Self {
        let outcomes = vec![Outcome::default(); ticket.open.len()];
        Self { ticket, writer, outcomes, queue: VecDeque::new(), stage: Stage::Start, sent: 0, ending: Ending::Whole }
    }

    /// Lets the stream end so.
    pub(crate) fn end_as(&mut self, ending: Ending) {
        self.ending = ending;
    }

    /// The next event; none at the end of the body.
    pub(crate) async fn next(&mut self) -> Option<Result<Bytes, Broken>> {
        if let Ending::Broken { after, how } = self.ending
            && self.sent >= after
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
                    self.writer.begin(&mut self.queue);
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
                self.writer.token(choice, index, &mut self.queue);
            }
            Some(Delivery::Finished { choice, generated, cached_tokens }) => {
                let outcome = Outcome { generated, cached_tokens };
                if let Some(slot) = self.outcomes.get_mut(choice) {
                    *slot = outcome;
                }
                self.writer.last(choice, outcome, &mut self.queue);
            }
            Some(Delivery::Died) => self.fail(),
            None => {
                self.writer.end(&self.outcomes, &mut self.queue);
                if self.ending == Ending::Unterminated {
                    self.queue.pop_back();
                }
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
                self.ending = Ending::Whole;
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
