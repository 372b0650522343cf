//! State that all threads of a process share, where the host lets them: one routing, and one thread that counts.
//!
//! A thread that serves requests never waits for another. It runs its steps on the routing where nobody holds that; where somebody does, it
//! picks by its own [`View`] and leaves its step to whoever holds the routing next. Steps are run in the order in which a thread left them.
//! Settled records and what else is to be counted go to the one thread that keeps the statistics, the keeper.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::fmt::Debug;

use snapshot::Loads;

use crate::director::Director;
use crate::filter_time::FilterTime;
use crate::pool::{EndpointId, Pool};
use crate::record::ExchangeRecord;
use crate::scheduling::Failure;
use crate::telemetry::WaitingNote;
use crate::time::Timestamp;

/// What is done to the routing later.
pub type Step = Box<dyn FnOnce(&mut Director) + Send>;

/// What a thread tells the keeper.
#[derive(Debug)]
pub enum Note {
    /// An exchange has settled.
    Settled(Box<ExchangeRecord>),
    /// An endpoint failed a request.
    Failed(EndpointId, Failure),
    /// An endpoint is left out from now on.
    Ejected(EndpointId),
    /// A pick took so many microseconds.
    Picked(u64),
    /// What the filter took for a request.
    Timed(FilterTime),
    /// A request began or ceased to wait in flow control.
    Waiting(WaitingNote),
    /// A look for requests to send took so many microseconds.
    Dispatched(u64),
    /// A pick was made without the shared routing, which another thread held.
    Alone,
}

/// What every thread knows by itself: enough to name endpoints, and to pick by load.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// The endpoints with their ids, as they were when the membership was installed. Another `Arc` is another membership.
    pub pool: Arc<Pool>,
    /// The newest loads and when they came.
    pub loads: Option<(Arc<Loads>, Timestamp)>,
    /// When the loads were last true.
    pub confirmed_at: Option<Timestamp>,
    /// The table of labels, as [`crate::admission::Table`] encodes it.
    pub labels: Option<Arc<[u8]>>,
    /// Whether somebody watches which endpoints are picked, and wants to know why.
    pub is_watched: bool,
}

/// What a native host implements.
pub trait SharedState: Debug + Send + Sync {
    /// Runs a step on the routing, after those that were left, unless another thread holds it for longer than a pick takes. False: it was
    /// not run.
    fn try_run(&self, step: &mut dyn FnMut(&mut Director)) -> bool;

    /// Leaves a step to whoever runs one next.
    fn leave(&self, step: Step);

    /// Tells the keeper.
    fn tell(&self, note: Note);

    /// The oldest of what the keeper was not told yet.
    fn hear(&self) -> Option<Note>;

    /// The newest view.
    fn view(&self) -> Arc<View>;

    /// Replaces the view by what `change` makes of it; only one thread at a time does.
    fn change_view(&self, change: &mut dyn FnMut(&mut View));
}
