//! The threads that Envoy's streams live on.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use crate::process::Process;
use crate::role::{self, Task, ThreadKind};

/// A worker's thread, and the way to it.
#[derive(Debug)]
pub(crate) struct WorkerThread {
    pub(crate) link: WorkerLink,
    pub(crate) thread: JoinHandle<()>,
}

/// The way to a worker's thread.
#[derive(Clone, Debug)]
pub(crate) struct WorkerLink {
    pub(crate) index: u32,
    tasks: Sender<Task>,
}

impl WorkerThread {
    pub(crate) fn start(process: &Arc<Process>, index: u32) -> std::io::Result<Self> {
        let (tasks, work) = channel::<Task>();
        let process = Arc::clone(process);
        let own = tasks.clone();
        let thread = std::thread::Builder::new().name(format!("wrk:worker_{index}")).spawn(move || {
            role::assume(process, ThreadKind::Worker(index), Some(own));
            for task in work {
                task();
                if role::kind().is_none() {
                    break;
                }
            }
        })?;
        Ok(Self { link: WorkerLink { index, tasks }, thread })
    }

    /// Ends the thread once it has done what it was given.
    pub(crate) fn end(self) {
        self.link.run(role::resign);
        drop(self.thread.join());
    }
}

impl WorkerLink {
    /// Runs this on the worker's thread and waits for it. A panic there is one here.
    ///
    /// # Panics
    /// The worker's thread has ended.
    #[expect(clippy::panic, reason = "a test's mistake")]
    pub(crate) fn run<R: Send + 'static>(&self, work: impl FnOnce() -> R + Send + 'static) -> R {
        self.run_if_alive(work).unwrap_or_else(|| panic!("worker {} has ended with its host", self.index))
    }

    /// The same; `None`: the worker's thread has ended.
    pub(crate) fn run_if_alive<R: Send + 'static>(&self, work: impl FnOnce() -> R + Send + 'static) -> Option<R> {
        if role::kind() == Some(ThreadKind::Worker(self.index)) {
            return Some(work());
        }
        let (answer, answered) = channel();
        let task = move || drop(answer.send(catch_unwind(AssertUnwindSafe(work))));
        self.tasks.send(Box::new(task)).ok()?;
        answered.recv().ok().map(|result| result.unwrap_or_else(|panic| resume_unwind(panic)))
    }
}
