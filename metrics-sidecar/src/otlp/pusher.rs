//! The loop that pushes: one batch an interval, and a last one when the sidecar ends.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{info, warn};

use super::collector::{MetricsReceiver, PushReply};
use super::pushes::{PushCounts, PushOutcome};
use super::requests::ExportRequest;
use super::schedule::{AfterFailure, PushSchedule};
use super::source::BatchSource;
use super::standing::{Standing, Verdict};

/// Pushes what a source makes to a receiver.
pub(crate) struct Pusher<'a, S, R> {
    source: S,
    receiver: R,
    counts: &'a PushCounts,
    began: Instant,
    schedule: PushSchedule,
    standing: Standing,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Sent {
    /// It is done with.
    Answered,
    /// It should be sent again, after this time if it is known.
    Failed(Option<Duration>),
}

impl<'a, S: BatchSource, R: MetricsReceiver> Pusher<'a, S, R> {
    /// A pusher that begins now.
    pub(crate) fn new(source: S, receiver: R, counts: &'a PushCounts, schedule: PushSchedule) -> Self {
        Self { source, receiver, counts, began: Instant::now(), schedule, standing: Standing::Unknown }
    }

    /// Pushes until `closed` turns true, then once more, for which there is so much time.
    pub(crate) async fn run(mut self, mut closed: watch::Receiver<bool>, time_for_last: Duration) {
        loop {
            tokio::select! {
                // A sender that is gone means the same as one that says so.
                _ = closed.wait_for(|closed| *closed) => break,
                () = self.turn() => {}
            }
        }
        // Whoever waits for the end does so for as long.
        let _ = timeout(time_for_last, self.push_once()).await;
    }

    /// Waits until a batch is due, and pushes it, again and again while it is the newest.
    async fn turn(&mut self) {
        sleep_until(self.began + self.schedule.due()).await;
        self.schedule.begin(self.began.elapsed());
        let requests = self.batch().await;
        let mut verdict = Verdict::default();
        for request in &requests {
            while let Sent::Failed(asked) = self.push(request, &mut verdict).await {
                match self.schedule.failed(self.began.elapsed(), asked) {
                    AfterFailure::Again(at) => sleep_until(self.began + at).await,
                    AfterFailure::GivenUp => return,
                }
            }
            self.schedule.answered();
        }
        self.tell(verdict);
    }

    /// Pushes what is known now, each request once.
    async fn push_once(&mut self) {
        let mut verdict = Verdict::default();
        for request in &self.batch().await {
            if self.push(request, &mut verdict).await != Sent::Answered {
                return;
            }
        }
        self.tell(verdict);
    }

    async fn batch(&self) -> Vec<ExportRequest> {
        let batch = self.source.batch().await;
        self.counts.add_left_out(batch.left_out);
        batch.requests
    }

    async fn push(&mut self, request: &ExportRequest, verdict: &mut Verdict) -> Sent {
        match self.receiver.push(request.body.clone()).await {
            PushReply::Taken { rejected, message } => {
                self.counts.add(if rejected > 0 { PushOutcome::Partial } else { PushOutcome::Success });
                self.counts.add_rejected(rejected);
                let is_whole = rejected == 0 && message.is_empty();
                verdict.add(if is_whole { Standing::Taken } else { Standing::TakenInPart }, message);
                Sent::Answered
            }
            PushReply::Refused(problem) => {
                self.counts.add(PushOutcome::Refused);
                self.counts.add_rejected(request.points);
                verdict.add(Standing::Refused, problem);
                Sent::Answered
            }
            PushReply::Unavailable { problem, retry_after } => {
                self.counts.add(PushOutcome::Unavailable);
                if self.standing.change(Standing::Away) {
                    warn!(problem, "metrics do not reach the OpenTelemetry collector and are sent again");
                }
                Sent::Failed(retry_after)
            }
        }
    }

    /// Tells what became of a batch, if that is news.
    fn tell(&mut self, Verdict { standing, problem }: Verdict) {
        if standing == Standing::Unknown || !self.standing.change(standing) {
            return;
        }
        match standing {
            Standing::Taken => info!("metrics reach the OpenTelemetry collector"),
            Standing::TakenInPart => warn!(problem, "the OpenTelemetry collector takes metrics in part, or warns"),
            Standing::Refused => warn!(problem, "the OpenTelemetry collector refuses metrics"),
            Standing::Unknown | Standing::Away => {}
        }
    }
}
