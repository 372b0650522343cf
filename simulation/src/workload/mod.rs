//! What clients send: which requests, and when.

pub(crate) mod chats;
pub(crate) mod tenants;
pub(crate) mod trace;

use snapshot::ServedModel;

use crate::prompt::Chat;

/// The base model of every pod.
pub(crate) const MODEL: &str = "m";

/// Names one request of a workload.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct Ticket {
    /// A conversation, or a line of a trace.
    pub(crate) conversation: u32,
    pub(crate) turn: u32,
}

/// What clients send. The same for every policy: everything is a function of the seed.
pub(crate) trait Workload {
    /// What comes by itself, in microseconds from the start, in order of time.
    fn arrivals(&self) -> Vec<(u64, Ticket)>;
    /// What a request says.
    fn chat(&self, ticket: Ticket) -> Chat;
    /// Tokens of its answer.
    fn output_tokens(&self, ticket: Ticket) -> u32;
    /// The models and adapters that are asked for.
    fn models(&self) -> Vec<ServedModel> {
        vec![ServedModel { name: MODEL.into(), ..ServedModel::default() }]
    }
    /// What the same client sends next, so many microseconds after it has its answer.
    fn follow_up(&self, ticket: Ticket) -> Option<(u64, Ticket)>;
}
