//! What Linux tells of this process; zero where it tells nothing.

use std::fs;

/// Size of a page and length of a tick on every Linux this is run on.
const PAGE_BYTES: f64 = 4096.0;
const TICKS_PER_SECOND: f64 = 100.0;

/// Figures of this process.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Process {
    pub(crate) virtual_bytes: f64,
    pub(crate) resident_bytes: f64,
    pub(crate) cpu_seconds: f64,
    pub(crate) open_fds: f64,
    pub(crate) max_fds: f64,
}

impl Process {
    pub(crate) fn read() -> Self {
        let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
        let mut pages = statm.split_whitespace().map(parse);
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        // The command name may hold spaces, so fields count from behind it: user time is the 12th, system time the 13th.
        let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
        let ticks: f64 = after.split_whitespace().skip(11).take(2).map(parse).sum();
        let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
        let max_fds = limits
            .lines()
            .find_map(|line| line.strip_prefix("Max open files"))
            .and_then(|line| line.split_whitespace().next())
            .map_or(0.0, parse);
        Self {
            virtual_bytes: pages.next().unwrap_or_default() * PAGE_BYTES,
            resident_bytes: pages.next().unwrap_or_default() * PAGE_BYTES,
            cpu_seconds: ticks / TICKS_PER_SECOND,
            open_fds: fs::read_dir("/proc/self/fd").map_or(0.0, |dir| dir.count() as f64),
            max_fds,
        }
    }
}

fn parse(text: &str) -> f64 {
    text.parse().unwrap_or_default()
}
