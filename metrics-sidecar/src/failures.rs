//! Tasks of a sidecar, and those that panicked. Without one of them the rest would go on and tell of pods that nobody reads.

use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A task that ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Task(pub(crate) JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Where tasks report that they cannot go on.
#[derive(Clone, Debug)]
pub(crate) struct Failures(watch::Sender<Option<String>>);

impl Default for Failures {
    fn default() -> Self {
        Self(watch::Sender::new(None))
    }
}

impl Failures {
    /// Starts a task on the current runtime and watches for its panic.
    pub(crate) fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        let guard = Guard { name, failures: self.clone() };
        tokio::spawn(async move {
            let _guard = guard;
            task.await;
        })
    }

    /// Starts a thread and watches for its panic.
    ///
    /// # Errors
    ///
    /// When there can be no thread.
    pub(crate) fn spawn_thread(&self, name: &'static str, run: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
        let guard = Guard { name, failures: self.clone() };
        let guarded = move || {
            let _guard = guard;
            run();
        };
        std::thread::Builder::new().name(name.to_owned()).spawn(guarded).map(drop)
    }

    /// Says that the sidecar cannot go on.
    pub(crate) fn report(&self, what: String) {
        self.0.send_replace(Some(what));
    }

    /// Whether the sidecar cannot go on.
    #[cfg(feature = "otlp")]
    pub(crate) fn is_any(&self) -> bool {
        self.0.borrow().is_some()
    }

    /// Returns a failure once there is one.
    pub(crate) async fn first(&self) -> String {
        let mut failures = self.0.subscribe();
        // The sender lives as long as this, so the wait ends with a failure only.
        failures.wait_for(Option::is_some).await.ok().and_then(|failure| failure.clone()).unwrap_or_default()
    }
}

/// Reports if it is dropped by a panic.
struct Guard {
    name: &'static str,
    failures: Failures,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.failures.report(format!("{} panicked", self.name));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    #[allow(clippy::panic, reason = "it is what is tested")]
    async fn a_panic_of_a_task_or_a_thread_is_told_and_an_end_is_not() {
        let failures = Failures::default();
        failures.spawn("one that ends", async {}).await.unwrap();
        failures.spawn("one that is ended", std::future::pending()).abort();
        failures.spawn_thread("a thread that ends", || {}).unwrap();
        assert!(tokio::time::timeout(Duration::from_millis(50), failures.first()).await.is_err());
        let _ = failures.spawn("one that panics", async { panic!("on purpose") }).await;
        assert_eq!(failures.first().await, "one that panics panicked");

        let failures = Failures::default();
        failures.spawn_thread("a thread that panics", || panic!("on purpose")).unwrap();
        assert_eq!(failures.first().await, "a thread that panics panicked");
    }
}
