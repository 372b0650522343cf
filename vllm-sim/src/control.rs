//! What a pod is told while it runs: to close its port and open it again, to cut connections, to lose its engine.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};

use crate::pod::Pod;

/// What a dying server has to send its last responses.
const LAST_WORDS: Duration = Duration::from_millis(100);
/// Orders that may wait for the listener.
const ORDERS: usize = 4;

/// What connections share.
#[derive(Debug)]
pub(crate) struct Control {
    pub(crate) pod: Arc<Pod>,
    commands: mpsc::Sender<Command>,
    /// Connections whose number is not the one named close when this changes.
    hang_up: watch::Sender<HangUp>,
    refusing: AtomicBool,
}

/// Which connections are cut.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct HangUp {
    round: u64,
    spare: Option<u64>,
    /// Connections with a higher number came later and stay.
    newest: u64,
}

impl HangUp {
    /// Whether a connection of this number is among them.
    pub(crate) fn cuts(&self, number: u64) -> bool {
        self.spare != Some(number) && number <= self.newest
    }
}

/// An order for the one who listens; it says when it is done.
#[derive(Debug)]
pub(crate) enum Command {
    Close(oneshot::Sender<()>),
    Open(oneshot::Sender<bool>),
}

impl Control {
    /// Control of a pod, and the orders for the one who listens.
    pub(crate) fn new(pod: Arc<Pod>) -> (Self, mpsc::Receiver<Command>) {
        let (commands, orders) = mpsc::channel(ORDERS);
        let hang_up = watch::channel(HangUp::default()).0;
        (Self { pod, commands, hang_up, refusing: AtomicBool::new(false) }, orders)
    }

    /// True while the port is to be closed.
    pub(crate) fn refusing(&self) -> bool {
        self.refusing.load(Ordering::Acquire)
    }

    /// Tells when connections are to be cut.
    pub(crate) fn hang_ups(&self) -> watch::Receiver<HangUp> {
        let mut hang_ups = self.hang_up.subscribe();
        hang_ups.mark_unchanged();
        hang_ups
    }

    pub(crate) async fn refuse(&self, spare: Option<u64>) {
        self.close().await;
        self.hang_up(spare);
    }

    pub(crate) async fn crash(self: &Arc<Self>) {
        self.close().await;
        self.pod.crash();
        let control = self.clone();
        let newest = self.pod.connections.load(Ordering::Relaxed);
        tokio::spawn(async move {
            tokio::time::sleep(LAST_WORDS).await;
            control.hang_up_until(None, newest);
        });
    }

    async fn close(&self) {
        self.refusing.store(true, Ordering::Release);
        let (done, closed) = oneshot::channel();
        if self.commands.send(Command::Close(done)).await.is_ok() {
            let _ = closed.await;
        }
    }

    pub(crate) async fn reopen(&self) -> bool {
        let (done, opened) = oneshot::channel();
        if self.commands.send(Command::Open(done)).await.is_err() {
            return false;
        }
        let open = opened.await.unwrap_or(false);
        if open {
            self.refusing.store(false, Ordering::Release);
        }
        open
    }

    pub(crate) fn state(&self) -> Value {
        self.pod.state(self.refusing())
    }

    pub(crate) fn hang_up(&self, spare: Option<u64>) {
        self.hang_up_until(spare, u64::MAX);
    }

    fn hang_up_until(&self, spare: Option<u64>, newest: u64) {
        self.hang_up.send_modify(|state| {
            state.round += 1;
            state.spare = spare;
            state.newest = newest;
        });
    }
}
