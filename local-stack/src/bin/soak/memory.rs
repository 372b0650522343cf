//! How much memory Envoy and the VMs have, over time.

use std::time::Duration;

use catalogue::Stat;
use local_stack::Page;

/// Size of a WebAssembly page.
const PAGE_BYTES: f64 = 65_536.0;
/// Resident memory may grow by this share and this much between two thirds of a phase: allocators keep what a burst needed.
const RESIDENT_SLACK: (f64, u64) = (0.05, 4 << 20);
/// So may the VMs' linear memory, pages: it never shrinks, and a pause of Envoy ends in a burst of all that clients sent meanwhile,
/// for which each of the two workers may need a page that no burst before needed.
const GUEST_SLACK: u64 = 2;

/// Samples without which nothing can be said: half a minute's.
const ENOUGH: usize = 30;

/// One look.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Sample {
    /// Since the start of the phase.
    pub(crate) at: Duration,
    /// Bytes of Envoy's process that are in memory.
    pub(crate) resident: u64,
    /// Pages of the linear memories of all workers' VMs.
    pub(crate) guest_pages: u64,
}

impl Sample {
    /// Looks at a process and at a page of its.
    pub(crate) fn take(at: Duration, pid: u32, page: &Page) -> std::io::Result<Self> {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        // Whole pages of at most 4 GiB.
        let guest_pages = (page.sum(Stat::VmMemoryBytes.family().name, &[]) / PAGE_BYTES) as u64;
        Ok(Self { at, resident: resident(&status).unwrap_or(0), guest_pages })
    }
}

/// Bytes in the `VmRSS` line, which counts in KiB.
fn resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// Medians of the second and of the last third: the first is for warming up. `None`: too few samples.
pub(crate) fn thirds(samples: &[Sample]) -> Option<(Sample, Sample)> {
    if samples.len() < ENOUGH {
        return None;
    }
    let third = samples.len() / 3;
    Some((median(samples.get(third..2 * third)?)?, median(samples.get(2 * third..)?)?))
}

fn median(samples: &[Sample]) -> Option<Sample> {
    let middle = |of: fn(&Sample) -> u64| {
        let mut values: Vec<u64> = samples.iter().map(of).collect();
        values.sort_unstable();
        values.get(values.len() / 2).copied()
    };
    let resident = middle(|sample| sample.resident)?;
    Some(Sample { at: samples.last()?.at, resident, guest_pages: middle(|sample| sample.guest_pages)? })
}

/// What grew, if anything did that should not. Of a short phase nothing can be said.
pub(crate) fn growth(samples: &[Sample]) -> Option<String> {
    let (before, after) = thirds(samples)?;
    let (share, bytes) = RESIDENT_SLACK;
    let allowed = before.resident + bytes.max((before.resident as f64 * share) as u64);
    if after.resident > allowed {
        return Some(format!(
            "resident memory grew from {} to {}",
            mebibytes(before.resident),
            mebibytes(after.resident)
        ));
    }
    if after.guest_pages > before.guest_pages + GUEST_SLACK {
        return Some(format!("guest memory grew from {} to {} pages", before.guest_pages, after.guest_pages));
    }
    None
}

pub(crate) fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each value for ten samples.
    fn samples(resident: [u64; 6], pages: [u64; 6]) -> Vec<Sample> {
        let ten = |(resident, guest_pages): (u64, u64)| {
            std::iter::repeat_n(Sample { at: Duration::ZERO, resident: resident << 20, guest_pages }, 10)
        };
        resident.into_iter().zip(pages).flat_map(ten).collect()
    }

    #[test]
    fn growth_while_warming_up_is_none() {
        assert_eq!(growth(&samples([50, 90, 100, 100, 101, 101], [10, 20, 40, 40, 40, 40])), None);
    }

    #[test]
    fn growth_later_is_told() {
        let grown = growth(&samples([50, 90, 100, 100, 120, 120], [40; 6])).unwrap();
        assert!(grown.contains("100.0 MiB") && grown.contains("120.0 MiB"), "{grown}");
        assert_eq!(growth(&samples([100; 6], [40, 40, 40, 40, 42, 42])), None);
        assert!(growth(&samples([100; 6], [40, 40, 40, 40, 43, 43])).unwrap().contains("43 pages"));
    }

    #[test]
    fn a_short_phase_says_nothing() {
        assert_eq!(growth(&samples([1, 2, 4, 8, 16, 32], [1; 6])[..ENOUGH - 1]), None);
    }

    #[test]
    fn resident_memory_is_read_in_bytes() {
        assert_eq!(resident("Name:\tenvoy\nVmRSS:\t   1024 kB\nThreads:\t5\n"), Some(1 << 20));
        assert_eq!(resident("Name:\tenvoy\n"), None);
    }
}
