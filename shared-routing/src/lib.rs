//! One routing for all threads of a process.
//!
//! A thread that serves requests never waits for one that the system may have stopped: it tries the lock for as long as a few picks take, and
//! where that fails it leaves its step in a queue without locks. Whoever gets the lock next runs the steps that were left, in their order,
//! before its own. So what is in flight is exact whenever a step runs, and a stopped thread costs the others some picks by their own
//! knowledge, which are counted.

use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use crossbeam_queue::SegQueue;
use endpoint_picker::director::Director;
use endpoint_picker::flow_control::FlowSettings;
use endpoint_picker::shared_state::{Note, SharedState, Step, View};

/// How long a thread tries. A pick among a hundred endpoints takes a tenth of that; a thread that holds the routing for longer was
/// stopped by the system, for milliseconds.
const PATIENCE: Duration = Duration::from_micros(50);
/// Tries between looks at the clock.
const TRIES_AT_ONCE: u32 = 64;

/// The routing of a process, and what its threads tell one another.
#[derive(Debug)]
pub struct SharedRouting {
    director: Mutex<Director>,
    steps: SegQueue<LeftStep>,
    notes: SegQueue<Note>,
    view: ArcSwap<View>,
}

struct LeftStep(Step);

impl std::fmt::Debug for LeftStep {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("LeftStep")
    }
}

impl SharedRouting {
    /// A routing that knows no endpoint yet. The seed decides ties: draw it at random.
    #[must_use]
    pub fn new(seed: u64) -> Arc<Self> {
        Self::with_flow_control(seed, None)
    }

    /// The same, where requests may wait.
    #[must_use]
    pub fn with_flow_control(seed: u64, settings: Option<FlowSettings>) -> Arc<Self> {
        Arc::new(Self {
            director: Mutex::new(Director::only(seed, settings)),
            steps: SegQueue::new(),
            notes: SegQueue::new(),
            view: ArcSwap::default(),
        })
    }

    fn hold(&self) -> Option<MutexGuard<'_, Director>> {
        let mut until = None;
        loop {
            for _ in 0..TRIES_AT_ONCE {
                match self.director.try_lock() {
                    Ok(director) => return Some(director),
                    // A step that panicked has left things as they were between two of its calls, each of which keeps them whole.
                    Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
                    Err(TryLockError::WouldBlock) => std::hint::spin_loop(),
                }
            }
            let now = Instant::now();
            if now >= *until.get_or_insert(now + PATIENCE) {
                return None;
            }
        }
    }
}

impl SharedState for SharedRouting {
    fn try_run(&self, step: &mut dyn FnMut(&mut Director)) -> bool {
        let Some(mut director) = self.hold() else { return false };
        while let Some(LeftStep(left)) = self.steps.pop() {
            left(&mut director);
        }
        step(&mut director);
        true
    }

    fn leave(&self, step: Step) {
        self.steps.push(LeftStep(step));
    }

    fn tell(&self, note: Note) {
        self.notes.push(note);
    }

    fn hear(&self) -> Option<Note> {
        self.notes.pop()
    }

    fn view(&self) -> Arc<View> {
        self.view.load_full()
    }

    fn change_view(&self, change: &mut dyn FnMut(&mut View)) {
        self.view.rcu(|view| {
            let mut view = View::clone(view);
            change(&mut view);
            view
        });
    }
}
