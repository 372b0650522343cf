//! The sidecar inside another process: on a thread of its own that is started anew when it fails, read through memory.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use snapshot::Tag;
use tokio::sync::watch;
use tracing::error;
use tracing_subscriber::EnvFilter;

use crate::config::Config;
use crate::published::known_tags;
use crate::shared::{Shared, lock, try_lock, wall_ms};
use crate::sidecar::{LOG_FILTER, Sidecar};

/// Where the snapshot is served.
const SNAPSHOT_PATH: &str = "/snapshot";
/// Pause before the first restart; doubled for each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Longest pause before a restart.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A sidecar that ran for so long begins again with the first pause.
const GOOD_RUN: Duration = Duration::from_secs(60);
/// Threads that look names up: a name server that is silent holds one for seconds.
const LOOKUP_THREADS: usize = 4;
/// A sidecar that did not look at its endpoints for so long hangs; it does so ten times a second.
const HANGS_AFTER: Duration = Duration::from_secs(1);
/// Tries to get at the fleet, whose lock the sidecar holds for microseconds.
const TRIES: usize = 64;

/// A sidecar on a thread of its own. Dropping it stops the thread without waiting for its end.
#[derive(Debug)]
pub struct Embedded {
    inner: Arc<Inner>,
    stop: watch::Sender<bool>,
}

/// How it goes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Vitals {
    /// Whether the sidecar runs now.
    pub is_up: bool,
    /// How often it was started anew after a failure or a panic.
    pub restarts: u64,
}

/// An answer of the sidecar.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Fetched {
    /// HTTP status.
    pub status: u16,
    /// The body.
    pub body: Bytes,
    /// Somebody watches the live page.
    pub is_watched: bool,
}

#[derive(Debug, Default)]
struct Inner {
    /// The sidecar that runs now.
    shared: Mutex<Option<Arc<Shared>>>,
    restarts: AtomicU64,
}

impl Embedded {
    /// Starts the thread. What cannot work, such as a certificate that cannot be read, is tried again and again. An address that another listener
    /// has keeps it from being read and from pushing metrics, not from its work.
    ///
    /// # Errors
    ///
    /// When there can be no thread.
    pub fn start(config: Config) -> io::Result<Self> {
        // The first one in the process decides how to log; whoever set another up wants that.
        let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(LOG_FILTER));
        let _ = tracing_subscriber::fmt().with_writer(io::stderr).with_ansi(false).with_env_filter(filter).try_init();
        Self::keep(move |inner, stopped| live(&config, inner, stopped))
    }

    /// Starts the thread, on which `live` is called again after a pause for as long as it returns an error or panics.
    fn keep(
        mut live: impl FnMut(&Inner, &mut watch::Receiver<bool>) -> io::Result<()> + Send + 'static,
    ) -> io::Result<Self> {
        let inner = Arc::new(Inner::default());
        let (stop, mut stopped) = watch::channel(false);
        let kept = Arc::clone(&inner);
        std::thread::Builder::new().name("inpick-sidecar".to_owned()).spawn(move || {
            let mut backoff = Backoff::default();
            loop {
                let began = Instant::now();
                let ended = catch_unwind(AssertUnwindSafe(|| live(&kept, &mut stopped)));
                kept.set(None);
                let problem = match ended {
                    Ok(Ok(())) => return,
                    Ok(Err(problem)) => problem.to_string(),
                    Err(_) => "it panicked".to_owned(),
                };
                let pause = backoff.next(began.elapsed());
                error!(problem, ?pause, "the sidecar failed and is started again");
                if is_stopped_within(&mut stopped, pause) {
                    return;
                }
                kept.restarts.fetch_add(1, Ordering::Relaxed);
            }
        })?;
        Ok(Self { inner, stop })
    }

    /// What the sidecar would answer to a request for `path` with this `If-None-Match` and recent picks as its body. It waits for nothing, and not for news
    /// either, whatever `path` asks for. `None`: the sidecar does not run, or hangs.
    #[must_use]
    pub fn fetch(&self, path: &str, if_none_match: Option<&str>, report: &[u8]) -> Option<Fetched> {
        let shared = try_lock(&self.inner.shared)?.clone()?;
        if shared.silent_for() > HANGS_AFTER {
            return None;
        }
        if path.split('?').next() != Some(SNAPSHOT_PATH) {
            return Some(Fetched { status: 404, body: Bytes::new(), is_watched: false });
        }
        // Whoever is told something at this moment holds it for microseconds: picks are lost then, and asked for again.
        let is_watched = try_lock(&shared.audience).is_some_and(|mut audience| {
            audience.report(report, shared.now(), wall_ms());
            audience.is_there(shared.now())
        });
        let known: Vec<Tag> = if_none_match.into_iter().flat_map(known_tags).collect();
        let news = match news(&shared, &known) {
            Some(news) => news,
            // Whoever has a snapshot can go on with it until the next time.
            None if known.is_empty() => return None,
            None => None,
        };
        let (count, status) = match news {
            Some(_) => (&shared.snapshots_sent, 200),
            None => (&shared.snapshots_unchanged, 304),
        };
        count.fetch_add(1, Ordering::Relaxed);
        Some(Fetched { status, body: news.unwrap_or_default(), is_watched })
    }

    /// Whether the sidecar runs, and how often it had to be started anew.
    #[must_use]
    pub fn vitals(&self) -> Vitals {
        // While the thread puts a sidecar there or takes one away, either answer is true.
        let is_up = try_lock(&self.inner.shared).is_none_or(|shared| shared.is_some());
        Vitals { is_up, restarts: self.inner.restarts.load(Ordering::Relaxed) }
    }
}

/// What is new to a reader, if the sidecar is not at work on just that.
fn news(shared: &Shared, known: &[Tag]) -> Option<Option<Bytes>> {
    for _ in 0..TRIES {
        if let Some(fleet) = shared.fleet_if_free()
            && let Some(mut published) = try_lock(&shared.published)
        {
            return Some(published.news(&fleet, shared.now(), wall_ms, known));
        }
        std::hint::spin_loop();
    }
    None
}

/// Runs one sidecar until it fails or is told to stop.
fn live(config: &Config, inner: &Inner, stopped: &mut watch::Receiver<bool>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(LOOKUP_THREADS)
        .thread_name("inpick-lookup")
        .build()?;
    let result = runtime.block_on(async {
        let running = Sidecar::start_embedded(config.clone()).await?;
        inner.set(Some(running.shared()));
        let failure = tokio::select! {
            failure = running.failed() => Some(failure),
            // A sender that is gone means the same as one that says so.
            _ = stopped.wait_for(|stopped| *stopped) => None,
        };
        inner.set(None);
        running.stop().await;
        failure.map_or(Ok(()), |failure| Err(io::Error::other(failure)))
    });
    // A name lookup that hangs must not hold the restart.
    runtime.shutdown_background();
    result
}

/// Waits; returns early, with true, when told to stop.
fn is_stopped_within(stopped: &mut watch::Receiver<bool>, pause: Duration) -> bool {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_time().build() else {
        std::thread::sleep(pause);
        return *stopped.borrow();
    };
    runtime.block_on(async {
        tokio::select! {
            // A sender that is gone means the same as one that says so.
            _ = stopped.wait_for(|stopped| *stopped) => true,
            () = tokio::time::sleep(pause) => false,
        }
    })
}

/// How long to wait before the next restart.
#[derive(Debug)]
struct Backoff(Duration);

impl Default for Backoff {
    fn default() -> Self {
        Self(FIRST_PAUSE)
    }
}

impl Backoff {
    /// The pause after a sidecar that ran for so long.
    fn next(&mut self, ran: Duration) -> Duration {
        if ran >= GOOD_RUN {
            *self = Self::default();
        }
        let pause = self.0;
        self.0 = (pause * 2).min(LONGEST_PAUSE);
        pause
    }
}

impl Inner {
    fn set(&self, shared: Option<Arc<Shared>>) {
        // Dropped after the lock is free.
        let _last = std::mem::replace(&mut *lock(&self.shared), shared);
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

#[cfg(test)]
mod tests;
