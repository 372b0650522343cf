//! The text that jemalloc writes: `heap_v2/RATE`, totals, and for each stack a line `@ ADDRESS…` followed by one line of counts for all
//! threads, `t*: OBJECTS: BYTES [OBJECTS: BYTES]`, and one for each. See the manual of jemalloc, section "HEAP PROFILE FORMAT".

use crate::{Heap, LiveAllocations};

/// What is live, stack by stack.
///
/// # Errors
///
/// What the text has that the format does not.
pub(crate) fn parse(text: &str) -> Result<Heap, String> {
    let mut lines = text.lines();
    let head = lines.next().unwrap_or_default();
    let sample_bytes: u64 = head
        .strip_prefix("heap_v2/")
        .and_then(|rate| rate.trim().parse().ok())
        .filter(|rate| *rate > 0)
        .ok_or_else(|| format!("expected heap_v2/RATE, not {head:?}"))?;
    let mut heap = Heap { sample_bytes, live: Vec::new() };
    let mut stack = None;
    for line in lines {
        let line = line.trim();
        if line.starts_with("MAPPED_LIBRARIES") {
            break;
        }
        if let Some(addresses) = line.strip_prefix('@') {
            stack = Some(addresses.split_whitespace().map(address).collect::<Result<Vec<_>, _>>()?);
        } else if let Some(counts) = line.strip_prefix("t*:")
            // The totals stand before the first stack.
            && let Some(stack) = stack.take()
        {
            let (objects, bytes) = live(counts).ok_or_else(|| format!("counts that are none: {line:?}"))?;
            if objects > 0 {
                let (objects, bytes) = unsampled(objects, bytes, sample_bytes as f64);
                heap.live.push(LiveAllocations { stack, objects, bytes });
            }
        }
    }
    Ok(heap)
}

fn address(text: &str) -> Result<u64, String> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    u64::from_str_radix(digits, 16).map_err(|_| format!("an address that is none: {text:?}"))
}

/// `OBJECTS: BYTES` before the bracket, which holds what was ever allocated.
fn live(counts: &str) -> Option<(u64, u64)> {
    let (live, _) = counts.split_once('[').unwrap_or((counts, ""));
    let (objects, bytes) = live.split_once(':')?;
    Some((objects.trim().parse().ok()?, bytes.trim().parse().ok()?))
}

/// What so many samples stand for: an allocation of `size` bytes is sampled with the chance `1 - e^(-size/rate)`. jemalloc writes its
/// counts so that this is right for the mean size, which is how `jeprof` reads them.
fn unsampled(objects: u64, bytes: u64, rate: f64) -> (u64, u64) {
    let size = bytes as f64 / objects as f64;
    let chance = -(-size / rate).exp_m1();
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a cast from a float saturates")]
    let scaled = |value: u64| if chance > 0.0 { (value as f64 / chance).round() as u64 } else { value };
    (scaled(objects), scaled(bytes))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test should stop at what it did not expect")]
mod tests {
    use super::*;

    const TEXT: &str = "heap_v2/524288\n  t*: 3: 2100000 [0: 0]\n  t0: 3: 2100000 [0: 0]\n\
        @ 0x10 0xff 0x7f0000000001\n  t*: 2: 2097152 [5: 9]\n  t0: 2: 2097152 [0: 0]\n\
        @ 0x20\n  t*: 1: 64 [0: 0]\n  t3: 1: 64 [0: 0]\n\
        @ 0x30\n  t*: 0: 0 [0: 0]\n\nMAPPED_LIBRARIES:\n@ 0x40\n t*: 1: 1 [0: 0]\n";

    #[test]
    fn stacks_come_with_what_they_stand_for() {
        let Heap { sample_bytes, live } = parse(TEXT).unwrap();
        assert_eq!(sample_bytes, 524_288);
        assert_eq!(live.len(), 2, "what is freed, and the libraries, are left out: {live:?}");
        assert_eq!(live[0].stack, [0x10, 0xff, 0x7f00_0000_0001]);
        // A megabyte is sampled nearly always, 64 bytes once in 8192.
        assert_eq!((live[0].objects, live[0].bytes), (2, 2_425_393));
        assert!((8_192..8_194).contains(&live[1].objects), "{live:?}");
        assert!(live[1].bytes.abs_diff(524_288) < 64, "{live:?}");
    }

    #[test]
    fn what_is_not_the_format_is_told() {
        for (text, word) in [
            ("", "heap_v2"),
            ("heap_v2/0\n", "heap_v2"),
            ("heap profile: 1: 2", "heap_v2"),
            ("heap_v2/8\n@ 0x1 zz\n", "zz"),
            ("heap_v2/8\n@ 0x1\n  t*: many: 1 [0: 0]\n", "many"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(word), "{text:?}: {error}");
        }
        assert_eq!(parse("heap_v2/524288\n  t*: 0: 0 [0: 0]\n").unwrap().live, []);
    }
}
