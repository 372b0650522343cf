//! What became of pushes, for the page.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::page::OwnFamily;

/// How a request to the collector ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum PushOutcome {
    /// It was taken.
    Success,
    /// It was taken but for some points.
    Partial,
    /// It was refused, and is not sent again.
    Refused,
    /// There was no answer, or one that asks for another try.
    Unavailable,
}

impl PushOutcome {
    const ALL: [Self; 4] = [Self::Partial, Self::Refused, Self::Success, Self::Unavailable];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Partial => "partial",
            Self::Refused => "refused",
            Self::Unavailable => "unavailable",
        }
    }
}

/// Counts of pushes.
#[derive(Debug, Default)]
pub(crate) struct PushCounts {
    success: AtomicU64,
    partial: AtomicU64,
    refused: AtomicU64,
    unavailable: AtomicU64,
    /// Points that the collector did not take.
    rejected: AtomicU64,
    /// Points that were not sent to it.
    left_out: AtomicU64,
}

impl PushCounts {
    /// Counts a request.
    pub(crate) fn add(&self, outcome: PushOutcome) {
        self.of(outcome).fetch_add(1, Ordering::Relaxed);
    }

    /// Counts points that the collector did not take.
    pub(crate) fn add_rejected(&self, points: u64) {
        self.rejected.fetch_add(points, Ordering::Relaxed);
    }

    /// Counts points that were not sent.
    pub(crate) fn add_left_out(&self, points: u64) {
        self.left_out.fetch_add(points, Ordering::Relaxed);
    }

    /// How many requests ended so.
    pub(crate) fn count(&self, outcome: PushOutcome) -> u64 {
        self.of(outcome).load(Ordering::Relaxed)
    }

    const fn of(&self, outcome: PushOutcome) -> &AtomicU64 {
        match outcome {
            PushOutcome::Success => &self.success,
            PushOutcome::Partial => &self.partial,
            PushOutcome::Refused => &self.refused,
            PushOutcome::Unavailable => &self.unavailable,
        }
    }

    /// The families that say so.
    pub(crate) fn families(&self) -> [OwnFamily; 2] {
        let pushes = "inpick_sidecar_otlp_pushes_total";
        let points = "inpick_sidecar_otlp_lost_points_total";
        let push =
            |outcome: PushOutcome| format!("{pushes}{{outcome=\"{}\"}} {}\n", outcome.as_str(), self.count(outcome));
        let lost = [("not_sent", &self.left_out), ("rejected", &self.rejected)];
        let lost =
            lost.map(|(reason, count)| format!("{points}{{reason=\"{reason}\"}} {}\n", count.load(Ordering::Relaxed)));
        [
            OwnFamily {
                name: pushes,
                help: "Requests to the OpenTelemetry collector by how they ended; what ended as unavailable is sent again, or newer figures are.",
                kind: "counter",
                lines: PushOutcome::ALL.map(push).concat(),
            },
            OwnFamily {
                name: points,
                help: "Points that the OpenTelemetry collector rejected, or that were not sent since they cannot be read or are too large.",
                kind: "counter",
                lines: lost.concat(),
            },
        ]
    }
}
