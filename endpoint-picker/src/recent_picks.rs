//! Recent picks for whoever watches the sidecar's live page: a worker explains some of the exchanges that settle, keeps them under a key of
//! its own, and the holder of the lease takes them along to the sidecar. While nobody watches nothing of it is done.

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;

use hashbrown::HashMap;
use prost::Message;

use crate::board::{Roster, key};
use crate::explanation::Explanation;
use crate::pool::Pool;
use crate::record::{End, ExchangeRecord};
use crate::shared_data::SharedData;
use crate::time::Timestamp;

/// Exchanges of one worker that are explained in a second, and as many more that failed or were tried again: more than anybody reads, for
/// a thousandth of the worker's time.
const MAX_PER_SECOND: usize = 16;
const SECOND_MICROS: u64 = 1_000_000;
/// Explanations of one worker that are kept until the holder takes them: those of more than one second.
const MAX_KEPT: usize = 64;
/// Most bytes that go to the sidecar at once, which reads no more; what is beyond goes with the next request.
const MAX_REPORT_BYTES: usize = 128 * 1024;

/// Explains some of the exchanges that settle, while somebody watches.
#[derive(Debug, Default)]
pub struct RecentPicks {
    is_watched: bool,
    /// How many more of this second: usual ones, and those that failed or were tried again.
    left: [usize; 2],
    refilled_at: Timestamp,
    lines: Vec<String>,
}

impl RecentPicks {
    /// Says whether somebody watches; to be called on ticks.
    pub fn set_watched(&mut self, is_watched: bool, now: Timestamp) {
        self.is_watched = is_watched;
        if !is_watched {
            self.lines = Vec::new();
        } else if now.micros_since(self.refilled_at) >= SECOND_MICROS {
            self.refilled_at = now;
            self.left = [MAX_PER_SECOND; 2];
        }
    }

    /// Whether somebody watches.
    #[must_use]
    pub const fn is_watched(&self) -> bool {
        self.is_watched
    }

    /// Takes in an exchange that has settled.
    pub fn see(&mut self, record: &ExchangeRecord, pool: &Pool, pool_name: &str) {
        if !self.is_watched {
            return;
        }
        let is_remarkable = record.end != End::Complete || record.attempts > 1;
        let [usual, remarkable] = &mut self.left;
        let left = if is_remarkable { remarkable } else { usual };
        let Some(fewer) = left.checked_sub(1) else { return };
        *left = fewer;
        self.lines.push(Explanation::of(record, pool, pool_name).to_json());
    }

    /// What was explained since this was last asked, a JSON object each.
    pub fn take(&mut self) -> Vec<String> {
        core::mem::take(&mut self.lines)
    }
}

/// What a worker has explained.
#[derive(Clone, Message, PartialEq)]
struct PickNews {
    /// Number of the first of the lines; each has the next one.
    #[prost(uint64, tag = "1")]
    first: u64,
    #[prost(string, repeated, tag = "2")]
    lines: Vec<String>,
}

/// One worker's part: it keeps the newest where the holder finds them.
#[derive(Debug, Default)]
pub struct Narrator {
    first: u64,
    lines: VecDeque<String>,
}

impl Narrator {
    /// Keeps these too. While nobody watches there are none, and what was kept is taken back.
    pub fn tick(&mut self, worker: u64, is_watched: bool, new: Vec<String>, shared: &mut impl SharedData) {
        if !is_watched && !self.lines.is_empty() {
            self.first = self.first.saturating_add(self.lines.len() as u64);
            self.lines.clear();
            // What the host refuses to take back stands there until the next one watches.
            let _ = shared.set(&key::picks(worker), b"", 0);
        }
        if new.is_empty() {
            return;
        }
        self.lines.extend(new);
        let beyond = self.lines.len().saturating_sub(MAX_KEPT);
        self.lines.drain(..beyond);
        self.first = self.first.saturating_add(beyond as u64);
        let news = PickNews { first: self.first, lines: self.lines.iter().cloned().collect() };
        // A refusal loses nothing that the next tick does not write.
        let _ = shared.set(&key::picks(worker), &news.encode_to_vec(), 0);
    }
}

/// The holder's part: it takes what workers keep, each once. The next holder takes again what is still kept.
#[derive(Debug, Default)]
pub struct Courier {
    /// Number of the line that is next, by worker.
    next: HashMap<u64, u64>,
}

impl Courier {
    /// What is new, a JSON object a line.
    pub fn collect(&mut self, shared: &mut impl SharedData) -> Vec<u8> {
        let mut report = Vec::new();
        let stored = shared.get(key::ROSTER);
        let Some(Ok(roster)) = stored.map(|(bytes, _)| Roster::decode(bytes.as_slice())) else { return report };
        self.next.retain(|worker, _| roster.workers.contains(worker));
        for &worker in &roster.workers {
            let stored = shared.get(&key::picks(worker));
            let Some(Ok(news)) = stored.map(|(bytes, _)| PickNews::decode(bytes.as_slice())) else { continue };
            let next = self.next.entry(worker).or_default();
            let begin = *next;
            for (number, line) in (news.first..).zip(&news.lines).skip_while(|(number, _)| *number < begin) {
                if report.len() + line.len() >= MAX_REPORT_BYTES {
                    return report;
                }
                report.extend_from_slice(line.as_bytes());
                report.push(b'\n');
                *next = number + 1;
            }
        }
        report
    }
}

#[cfg(test)]
mod tests {
    use alloc::format;
    use alloc::string::ToString;
    use alloc::vec;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::board::enroll;
    use crate::reply::ErrorCode;
    use crate::shared_data::fake::FakeSharedData;

    const fn at(millis: u64) -> Timestamp {
        Timestamp::from_micros(millis * 1_000)
    }

    fn record(end: End, attempts: u32) -> ExchangeRecord {
        ExchangeRecord { end, attempts, model: "m".into(), ..ExchangeRecord::begin(at(0)) }
    }

    #[test]
    fn so_many_are_explained_in_a_second_and_failures_have_their_own_part() {
        let (pool, mut recent) = (Pool::default(), RecentPicks::default());
        recent.see(&record(End::Complete, 1), &pool, "p");
        assert_eq!(recent.take(), Vec::<String>::new(), "nobody watches");
        let mut explained = |millis, count: usize| {
            recent.set_watched(true, at(millis));
            for _ in 0..count {
                recent.see(&record(End::Complete, 1), &pool, "p");
                recent.see(&record(End::Complete, 2), &pool, "p");
                recent.see(&record(End::Failed(ErrorCode::Timeout), 1), &pool, "p");
            }
            let lines = recent.take();
            assert!(lines.iter().all(|line| line.starts_with("{\"pool\":\"p\"") && line.contains("\"model\":\"m\"")));
            (
                lines.len(),
                lines.iter().filter(|line| line.contains("\"error\"") || line.contains("\"attempts\":2")).count(),
            )
        };
        assert_eq!(explained(5_000, 100), (2 * MAX_PER_SECOND, MAX_PER_SECOND));
        assert_eq!(explained(5_999, 100), (0, 0));
        assert_eq!(explained(6_000, 2), (6, 4));
        assert_eq!(explained(6_500, 2), (6, 4));
        recent.see(&record(End::Complete, 1), &pool, "p");
        recent.set_watched(false, at(6_600));
        assert_eq!(recent.take(), Vec::<String>::new());
    }

    #[test]
    fn each_line_goes_to_the_sidecar_once() {
        let mut shared = FakeSharedData::default();
        let (mut one, mut two, mut courier) = (Narrator::default(), Narrator::default(), Courier::default());
        assert_eq!(courier.collect(&mut shared), b"");
        enroll(&mut shared, 1);
        enroll(&mut shared, 2);
        one.tick(1, true, vec!["a".to_string(), "b".to_string()], &mut shared);
        two.tick(2, true, vec!["c".to_string()], &mut shared);
        assert_eq!(courier.collect(&mut shared), b"a\nb\nc\n");
        let writes = shared.writes;
        one.tick(1, true, vec![], &mut shared);
        assert_eq!((courier.collect(&mut shared), shared.writes), (vec![], writes));
        one.tick(1, true, vec!["d".to_string()], &mut shared);
        assert_eq!(courier.collect(&mut shared), b"d\n");
        // More than are kept: the newest.
        two.tick(2, true, (0..MAX_KEPT + 3).map(|number| number.to_string()).collect(), &mut shared);
        let newest: String = (3..MAX_KEPT + 3).map(|number| format!("{number}\n")).collect();
        assert_eq!(String::from_utf8(courier.collect(&mut shared)).unwrap(), newest);
        // Nobody watches any more, and then somebody does again.
        two.tick(2, false, vec![], &mut shared);
        assert_eq!((shared.get(&key::picks(2)).unwrap().0, courier.collect(&mut shared)), (vec![], vec![]));
        let writes = shared.writes;
        two.tick(2, false, vec![], &mut shared);
        assert_eq!(shared.writes, writes);
        two.tick(2, true, vec!["e".to_string()], &mut shared);
        assert_eq!(courier.collect(&mut shared), b"e\n");
    }

    #[test]
    fn what_is_too_much_for_one_request_goes_with_the_next() {
        let (mut shared, mut worker, mut courier) =
            (FakeSharedData::default(), Narrator::default(), Courier::default());
        enroll(&mut shared, 1);
        let long = "x".repeat(MAX_REPORT_BYTES / 3);
        worker.tick(1, true, vec![long.clone(); 5], &mut shared);
        let lines = [0; 4].map(|_| courier.collect(&mut shared).split(|byte| *byte == b'\n').count() - 1);
        assert_eq!(lines, [2, 2, 1, 0]);
    }
}
