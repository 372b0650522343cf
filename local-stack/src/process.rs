//! Child processes that do not outlive their parent.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

/// How long a process may take to end by itself before it is killed.
const GRACE: Duration = Duration::from_secs(3);
/// How often a process and its log are looked at.
const POLL: Duration = Duration::from_millis(10);
/// Lines of a log shown with an error.
const TAIL_LINES: usize = 25;
/// Bytes from the end of a log in which those lines are looked for.
const TAIL_BYTES: u64 = 32 * 1024;
/// What a server prints in front of its address when it is ready.
const LISTENING: &str = "listening on http://";

/// Reads `+ PID` and `- PID` from a pipe; when the pipe ends, whatever ended its writer, kills the process groups still listed.
const WATCH: &str = r#"
trap '' INT TERM HUP
listed=
while read -r sign pid; do
  kept=
  for other in $listed; do [ "$other" = "$pid" ] || kept="$kept $other"; done
  case $sign in +) listed="$kept $pid" ;; *) listed=$kept ;; esac
done
for pid in $listed; do kill -KILL "-$pid"; done
"#;

/// A process could not be started or did not become what it should.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// It could not be started.
    #[error("{name} could not be started: {source}")]
    Spawn {
        /// Name of the process.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// It ended.
    #[error("{name} ended ({status}); the end of its log:\n{log}")]
    Ended {
        /// Name of the process.
        name: String,
        /// How it ended.
        status: String,
        /// Last lines of its log.
        log: String,
    },
    /// It did not become ready in time.
    #[error("{name} was not ready after {after:?}; the end of its log:\n{log}")]
    TimedOut {
        /// Name of the process.
        name: String,
        /// How long was waited.
        after: Duration,
        /// Last lines of its log.
        log: String,
    },
}

/// Ends the processes on its list when its owner is gone, even by SIGKILL.
#[derive(Debug)]
pub(crate) struct Watcher {
    child: Child,
    list: Mutex<Option<ChildStdin>>,
}

impl Watcher {
    pub(crate) fn start() -> Result<Arc<Self>, ProcessError> {
        let spawn = |source| ProcessError::Spawn { name: "the watcher (sh)".to_owned(), source };
        let mut child = Command::new("sh")
            .args(["-c", WATCH])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(spawn)?;
        let list = Mutex::new(child.stdin.take());
        Ok(Arc::new(Self { child, list }))
    }

    fn note(&self, sign: char, pid: u32) {
        // The list only matters when this process dies, so a watcher that is gone already is no reason to fail.
        if let Ok(mut list) = self.list.lock()
            && let Some(pipe) = list.as_mut()
        {
            let _ = writeln!(pipe, "{sign} {pid}");
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        if let Ok(mut list) = self.list.lock() {
            list.take();
        }
        let _ = self.child.wait();
    }
}

/// A child process in a process group of its own, its output in a log file. Dropping it ends it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    log_start: u64,
    ended: Option<ExitStatus>,
    watcher: Arc<Watcher>,
}

impl Process {
    pub(crate) fn spawn(
        name: &str,
        command: &mut Command,
        log: &Path,
        watcher: &Arc<Watcher>,
    ) -> Result<Self, ProcessError> {
        let spawn = |source| ProcessError::Spawn { name: name.to_owned(), source };
        let output = OpenOptions::new().create(true).append(true).open(log).map_err(spawn)?;
        let log_start = output.metadata().map_err(spawn)?.len();
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone().map_err(spawn)?)
            .stderr(output)
            // A Ctrl-C at the terminal goes to the foreground group; children are stopped in order by their owner instead.
            .process_group(0)
            .spawn()
            .map_err(spawn)?;
        watcher.note('+', child.id());
        let (name, log) = (name.to_owned(), log.to_owned());
        Ok(Self { name, child, log, log_start, ended: None, watcher: Arc::clone(watcher) })
    }

    /// Its name in messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Where its output goes.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The last lines of its log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let text = read_from(&self.log, |length| length.saturating_sub(TAIL_BYTES)).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let skipped = lines.len().saturating_sub(TAIL_LINES);
        lines.into_iter().skip(skipped).map(|line| format!("  {line}\n")).collect()
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none()
            && let Ok(Some(status)) = self.child.try_wait()
        {
            self.watcher.note('-', self.child.id());
            self.ended = Some(status);
        }
        self.ended
    }

    /// An error if it has ended.
    ///
    /// # Errors
    /// [`ProcessError::Ended`].
    pub fn check(&mut self) -> Result<(), ProcessError> {
        match self.ended() {
            None => Ok(()),
            Some(status) => {
                Err(ProcessError::Ended { name: self.name.clone(), status: status.to_string(), log: self.log_tail() })
            }
        }
    }

    /// The error of waiting too long for it.
    pub(crate) fn timed_out(&self, after: Duration) -> ProcessError {
        ProcessError::TimedOut { name: self.name.clone(), after, log: self.log_tail() }
    }

    /// Waits until it says where it listens; returns that `host:port`.
    ///
    /// # Errors
    /// [`ProcessError::Ended`], [`ProcessError::TimedOut`].
    pub async fn listening(&mut self, timeout: Duration) -> Result<String, ProcessError> {
        let deadline = Instant::now() + timeout;
        loop {
            let start = self.log_start;
            let text = read_from(&self.log, |_| start).unwrap_or_default();
            if let Some(addr) = announced(&text) {
                return Ok(addr.to_owned());
            }
            self.check()?;
            if Instant::now() > deadline {
                return Err(self.timed_out(timeout));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Sends a signal to its group; does nothing if it has ended.
    pub fn signal(&mut self, signal: Signal) {
        if self.ended().is_some() {
            return;
        }
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // It fails only if the group has just ended, which is as good.
            let _ = kill_process_group(group, signal);
        }
    }

    /// Freezes it: its sockets stay open and it does nothing.
    pub fn freeze(&mut self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub fn thaw(&mut self) {
        self.signal(Signal::CONT);
    }

    /// Asks it to end, and kills it after three seconds.
    pub async fn stop(&mut self) {
        self.signal(Signal::TERM);
        self.gone_within(GRACE).await;
        self.kill().await;
    }

    /// Kills it.
    pub async fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.gone_within(GRACE).await;
    }

    async fn gone_within(&mut self, timeout: Duration) {
        let deadline = Instant::now() + timeout;
        while self.ended().is_none() && Instant::now() < deadline {
            tokio::time::sleep(POLL).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        end_all(std::iter::once(self));
    }
}

/// Ends processes together: all get SIGTERM, and those that are left after three seconds SIGKILL. Blocks meanwhile.
pub(crate) fn end_all<'a>(processes: impl Iterator<Item = &'a mut Process>) {
    let mut processes: Vec<&mut Process> =
        processes.filter_map(|process| process.ended().is_none().then_some(process)).collect();
    for signal in [Signal::TERM, Signal::KILL] {
        for process in &mut processes {
            process.signal(signal);
            // A frozen process gets SIGTERM only when it goes on.
            process.signal(Signal::CONT);
        }
        let deadline = Instant::now() + GRACE;
        while Instant::now() < deadline {
            processes.retain_mut(|process| process.ended().is_none());
            if processes.is_empty() {
                return;
            }
            std::thread::sleep(POLL);
        }
    }
}

/// `host:port` that a server announced.
fn announced(log: &str) -> Option<&str> {
    let (_, rest) = log.split_once(LISTENING)?;
    // Without the end of the line the port may be cut.
    let (line, _) = rest.split_once('\n')?;
    line.split_whitespace().next().map(|addr| addr.trim_end_matches('/'))
}

fn read_from(log: &Path, start: impl FnOnce(u64) -> u64) -> io::Result<String> {
    let mut file = File::open(log)?;
    let start = start(file.metadata()?.len());
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, folder: &Path, watcher: &Arc<Watcher>) -> Process {
        Process::spawn("shell", Command::new("sh").args(["-c", script]), &folder.join("shell.log"), watcher).unwrap()
    }

    fn alive(pid: u32) -> bool {
        rustix::process::test_kill_process(Pid::from_raw(pid.cast_signed()).unwrap()).is_ok()
    }

    #[test]
    fn address_is_read_once_its_line_is_whole() {
        assert_eq!(announced("starting\nlistening on http://127.0.0.1:80"), None);
        assert_eq!(announced("starting\nlistening on http://127.0.0.1:8001\n"), Some("127.0.0.1:8001"));
        assert_eq!(announced("INFO listening on http://127.0.0.1:8001/ now\n"), Some("127.0.0.1:8001"));
    }

    #[tokio::test]
    async fn server_is_ready_when_it_says_where_it_listens() {
        let folder = tempfile::tempdir().unwrap();
        let watcher = Watcher::start().unwrap();
        let mut process = shell("echo 'listening on http://127.0.0.1:81'; exec sleep 60", folder.path(), &watcher);
        assert_eq!(process.listening(Duration::from_secs(5)).await.unwrap(), "127.0.0.1:81");
        let pid = process.id();
        drop(process);
        assert!(!alive(pid));
    }

    #[tokio::test]
    async fn process_that_ends_at_once_is_reported_with_its_log() {
        let folder = tempfile::tempdir().unwrap();
        let watcher = Watcher::start().unwrap();
        let mut process = shell("echo no such option >&2; exit 7", folder.path(), &watcher);
        let error = process.listening(Duration::from_secs(5)).await.unwrap_err().to_string();
        assert!(error.contains("exit status: 7") && error.contains("no such option"), "{error}");
    }

    #[tokio::test]
    async fn silent_process_times_out() {
        let folder = tempfile::tempdir().unwrap();
        let watcher = Watcher::start().unwrap();
        let mut process = shell("echo warming up; exec sleep 60", folder.path(), &watcher);
        let error = process.listening(Duration::from_millis(300)).await.unwrap_err().to_string();
        assert!(error.contains("not ready after 300ms") && error.contains("warming up"), "{error}");
    }

    #[tokio::test]
    async fn restarted_process_is_not_taken_for_its_predecessor() {
        let folder = tempfile::tempdir().unwrap();
        let watcher = Watcher::start().unwrap();
        let mut first = shell("echo 'listening on http://127.0.0.1:1'", folder.path(), &watcher);
        first.listening(Duration::from_secs(5)).await.unwrap();
        first.stop().await;
        let mut second = shell("exec sleep 60", folder.path(), &watcher);
        assert!(second.listening(Duration::from_millis(200)).await.is_err());
    }

    #[test]
    fn process_that_ignores_sigterm_is_killed() {
        let folder = tempfile::tempdir().unwrap();
        let watcher = Watcher::start().unwrap();
        let process = shell("trap '' TERM; echo ready; while :; do sleep 0.1; done", folder.path(), &watcher);
        let pid = process.id();
        while process.log_tail().is_empty() {
            std::thread::sleep(POLL);
        }
        let start = Instant::now();
        drop(process);
        assert!(start.elapsed() >= GRACE, "it was not given time to end");
        assert!(!alive(pid));
    }

    #[test]
    fn watcher_kills_what_is_listed_when_its_pipe_ends() {
        let folder = tempfile::tempdir().unwrap();
        let watcher = Watcher::start().unwrap();
        let mut process = shell("exec sleep 60", folder.path(), &watcher);
        // What the kernel does to the pipe when its writer is killed.
        watcher.list.lock().unwrap().take();
        let deadline = Instant::now() + Duration::from_secs(5);
        while process.ended().is_none() && Instant::now() < deadline {
            std::thread::sleep(POLL);
        }
        assert!(process.ended().is_some_and(|status| !status.success()));
    }
}
