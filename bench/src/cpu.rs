//! What a process has spent on CPU.

use std::collections::BTreeMap;

use anyhow::Context as _;

/// Nanoseconds on CPU by thread name. The scheduler counts them exactly; the `utime` and `stime` of `/proc/PID/stat` are
/// sampled. Threads that ended are not in it: Envoy's do not end.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Cpu(BTreeMap<String, u64>);

impl Cpu {
    /// Of a process so far.
    ///
    /// # Errors
    /// There is no such process, or the kernel keeps no such account.
    pub(crate) fn of(pid: u32) -> anyhow::Result<Self> {
        let mut threads = BTreeMap::new();
        for task in std::fs::read_dir(format!("/proc/{pid}/task")).context("a measured process is gone")? {
            let task = task?.path();
            // A helper thread may end between the listing and the reading.
            let (Ok(name), Ok(account)) =
                (std::fs::read_to_string(task.join("comm")), std::fs::read_to_string(task.join("schedstat")))
            else {
                continue;
            };
            *threads.entry(name.trim().to_owned()).or_default() += on_cpu(&account)?;
        }
        Ok(Self(threads))
    }

    /// What was spent since an earlier look.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        let spent = |(name, now): (&String, &u64)| {
            (name.clone(), now.saturating_sub(earlier.0.get(name).copied().unwrap_or(0)))
        };
        Self(self.0.iter().map(spent).collect())
    }

    /// By all threads, nanoseconds.
    pub(crate) fn total(&self) -> u64 {
        self.0.values().sum()
    }

    /// By threads whose name starts so, nanoseconds.
    pub(crate) fn of_threads(&self, prefix: &str) -> u64 {
        self.0.iter().filter(|(name, _)| name.starts_with(prefix)).map(|(_, spent)| spent).sum()
    }
}

/// Time of all processors of the machine, in the kernel's ticks.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Machine {
    idle: u64,
    total: u64,
}

/// Of the machine so far.
///
/// # Errors
/// The kernel keeps no such account.
pub(crate) fn machine() -> anyhow::Result<Machine> {
    machine_account(&std::fs::read_to_string("/proc/stat")?)
}

/// First line of `/proc/stat`: user, nice, system, idle, iowait and others (proc_stat(5)); guests' time is in the first two already.
fn machine_account(stat: &str) -> anyhow::Result<Machine> {
    let line =
        stat.lines().next().and_then(|line| line.strip_prefix("cpu ")).context("no account of all processors")?;
    let ticks = line.split_whitespace().map(str::parse).collect::<Result<Vec<u64>, _>>()?;
    let [_, _, _, idle, waiting, ..] = ticks[..] else { anyhow::bail!("the account of all processors is short") };
    Ok(Machine { idle: idle + waiting, total: ticks.iter().take(8).sum() })
}

impl Machine {
    /// Part of the time since an earlier look that was not idle, 0 to 1.
    pub(crate) fn busy_since(&self, earlier: &Self) -> f64 {
        let (idle, total) = (self.idle.saturating_sub(earlier.idle), self.total.saturating_sub(earlier.total));
        if total == 0 { 0.0 } else { 1.0 - idle as f64 / total as f64 }
    }
}

/// First field of a `schedstat`: time spent on the CPU, in nanoseconds (Documentation/scheduler/sched-stats.rst of Linux).
fn on_cpu(account: &str) -> anyhow::Result<u64> {
    let field = account.split_whitespace().next().context("this kernel keeps no scheduler account of processes")?;
    Ok(field.parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_work_shows_in_the_account() {
        let pid = std::process::id();
        let before = Cpu::of(pid).unwrap();
        let started = std::time::Instant::now();
        while started.elapsed() < std::time::Duration::from_millis(50) {
            std::hint::spin_loop();
        }
        let spent = Cpu::of(pid).unwrap().since(&before);
        assert!(spent.total() > 1_000_000, "{spent:?}");
        assert_eq!(spent.of_threads(""), spent.total());
    }

    #[test]
    fn machine_is_busy_for_what_is_not_idle() {
        let before = machine_account("cpu  10 0 10 70 10 0 0 0 5 0\ncpu0 1 2\n").unwrap();
        let now = machine_account("cpu  40 0 10 130 20 0 0 0 5 0\n").unwrap();
        assert!((now.busy_since(&before) - 0.3).abs() < 1e-9);
        assert!(machine_account("intr 1\n").is_err() && machine_account("cpu  1 2\n").is_err());
        assert!(machine().unwrap().total > 0);
    }

    #[test]
    fn account_without_numbers_is_an_error() {
        assert!(on_cpu("").is_err());
        assert_eq!(on_cpu("123 4 5\n").unwrap(), 123);
    }
}
