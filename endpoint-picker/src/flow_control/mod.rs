//! Which requests wait while no endpoint has room for them, and which of them goes when one has.

mod outcome;

pub use outcome::{FlowSize, QueueOutcome, Queued};

/// The requests that wait, by band and flow.
#[derive(Debug, Default)]
pub struct FlowControl {
    saturation: f64,
}

impl FlowControl {
    /// What waits in each flow in which something does.
    pub fn sizes(&self) -> impl Iterator<Item = FlowSize<'_>> {
        core::iter::empty()
    }

    /// How full the pool was when that was last looked at: 1 and above, no endpoint has room.
    #[must_use]
    pub const fn saturation(&self) -> f64 {
        self.saturation
    }
}
