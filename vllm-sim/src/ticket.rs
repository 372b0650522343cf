//! Work that the engine holds for a client: the events it gives back, and its end if the client leaves.

use std::fmt;
use std::sync::Arc;

use tokio::sync::mpsc::UnboundedReceiver;

use crate::engine::SequenceId;

/// Engines that take requests back.
pub(crate) trait Abort: Send + Sync {
    /// Drops requests of one engine whose client has left, each with the number of its choice.
    fn abort(&self, lane: usize, open: &[(usize, SequenceId)]);
}

/// An engine event, addressed to one choice of one response.
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
    /// Who takes back what is not wanted any more.
    pub(crate) engines: Arc<dyn Abort>,
    pub(crate) lane: usize,
    pub(crate) open: Vec<(usize, SequenceId)>,
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
            self.engines.abort(self.lane, &open);
        }
    }
}
