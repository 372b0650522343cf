//! Since when each stream of cumulative figures has counted. Pure: times are nanoseconds since the Unix epoch.
//!
//! A point says since when it counts, and a reader takes a start that moved as a reset. Envoy says for how long it has been up, in whole seconds
//! of a few ago; a stream that was not there at the last reading began after it; and one whose value fell began anew after it. An Envoy that is not
//! up for longer than since the last reading was perhaps started anew meanwhile: then one value that fell says so of all, and the page is
//! looked through for one first. A hot restart counts anew and leaves the uptime as it is, which says nothing then; another epoch tells of it.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

/// Who counts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Counting {
    /// Envoy, the filter in it included.
    Envoy,
    /// The sidecar itself.
    Sidecar,
}

/// What was to be had of Envoy.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum EnvoyReading {
    /// No page.
    Away,
    /// A page.
    Read {
        /// For how long it, or the first of those that it came of by hot restarts, has been up, if the page says so.
        uptime: Option<Duration>,
        /// How many hot restarts lie between that one and it.
        epoch: u64,
    },
}

/// What Envoy's seconds may be too many by.
const ROUNDING: Duration = Duration::from_secs(2);

/// Start times of all streams.
#[derive(Debug)]
pub(crate) struct StreamStarts {
    envoy: Origin,
    sidecar: Origin,
    uptime: Option<Duration>,
    epoch: Option<u64>,
    doubt: Option<Doubt>,
    time: u64,
    hasher: RandomState,
}

/// Streams of one process.
#[derive(Debug, Default)]
struct Origin {
    /// When it began to count, if that is known.
    began: Option<u64>,
    /// When its figures were read before.
    read_before: Option<u64>,
    /// Counts readings.
    reading: u64,
    /// Whether this one is of it.
    is_read: bool,
    /// By a hash of its name and labels. Two that collide, one time in a billion for 100 000 streams, take each other's start.
    streams: HashMap<u64, Stream>,
}

/// Whether Envoy began anew is not known yet.
#[derive(Clone, Copy, Debug)]
struct Doubt {
    /// When it began, if it did.
    began: u64,
    /// Whether a value fell.
    is_proven: bool,
}

#[derive(Clone, Copy, Debug)]
struct Stream {
    start: u64,
    value: f64,
    reading: u64,
}

impl StreamStarts {
    /// Starts of a sidecar that began to count at `began`.
    pub(crate) fn new(began: u64) -> Self {
        let sidecar = Origin { began: Some(began), ..Origin::default() };
        Self {
            envoy: Origin::default(),
            sidecar,
            uptime: None,
            epoch: None,
            doubt: None,
            time: began,
            hasher: RandomState::new(),
        }
    }

    /// Begins a reading at `now`; returns the time that its points have, which is later than that of any reading before, whatever the clock did.
    /// While [`Self::is_in_doubt`] then, streams are shown to [`Self::of`] for a first time, up to [`Self::decide`].
    pub(crate) fn begin(&mut self, now: u64, envoy: EnvoyReading) -> u64 {
        self.time = now.max(self.time.saturating_add(1));
        self.sidecar.begin();
        if let EnvoyReading::Read { uptime, epoch } = envoy {
            self.envoy.begin();
            let is_handed_over = self.epoch.replace(epoch).unwrap_or(0) != epoch && epoch > 0;
            if is_handed_over {
                // Since the last reading, if there was one; when, nobody knows.
                self.envoy.began = self.envoy.read_before;
                self.uptime = uptime;
            } else if let Some(uptime) = uptime {
                let began = self.time.saturating_sub(u64::try_from(uptime.as_nanos()).unwrap_or(u64::MAX));
                let read_before = self.envoy.read_before.unwrap_or(0);
                let anew = began.max(read_before);
                match self.uptime.replace(uptime) {
                    None => self.envoy.began = Some(began),
                    Some(before) if uptime < before => self.envoy.began = Some(anew),
                    Some(_) if uptime <= Duration::from_nanos(self.time - read_before) + ROUNDING => {
                        self.doubt = Some(Doubt { began: anew, is_proven: false });
                    }
                    Some(_) => {}
                }
            }
        }
        self.time
    }

    /// Whether Envoy was perhaps started anew since the last reading.
    pub(crate) const fn is_in_doubt(&self) -> bool {
        self.doubt.is_some()
    }

    /// All streams were shown.
    pub(crate) fn decide(&mut self) {
        if let Some(Doubt { began, is_proven: true }) = self.doubt.take() {
            self.envoy.began = Some(began);
        }
    }

    /// The start of a stream that has this value now; of no meaning while in doubt.
    pub(crate) fn of(&mut self, counting: Counting, name: &str, labels: &[u8], value: f64) -> u64 {
        let hash = self.hasher.hash_one((name, labels));
        let time = self.time;
        if let Some(doubt) = &mut self.doubt {
            let before = self.envoy.streams.get(&hash).filter(|_| counting == Counting::Envoy);
            doubt.is_proven |= before.is_some_and(|before| value < before.value);
            return time;
        }
        let origin = match counting {
            Counting::Envoy => &mut self.envoy,
            Counting::Sidecar => &mut self.sidecar,
        };
        let goes_on = |stream: &&Stream| {
            stream.reading + 1 == origin.reading
                && value >= stream.value
                && origin.began.is_none_or(|began| stream.start >= began)
        };
        let start = match origin.streams.get(&hash).filter(goes_on) {
            Some(stream) => stream.start,
            // Without either time the first point says that it knows no more than itself.
            None => origin.began.max(origin.read_before).unwrap_or(time),
        };
        origin.streams.insert(hash, Stream { start, value, reading: origin.reading });
        start
    }

    /// Ends a reading: forgets streams that are gone.
    pub(crate) fn end(&mut self) {
        for origin in [&mut self.envoy, &mut self.sidecar] {
            origin.end(self.time);
        }
    }
}

impl Origin {
    fn begin(&mut self) {
        self.reading += 1;
        self.is_read = true;
    }

    fn end(&mut self, time: u64) {
        if std::mem::take(&mut self.is_read) {
            self.streams.retain(|_, stream| stream.reading == self.reading);
            self.read_before = Some(time);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const AT: u64 = 1_000 * SECOND;

    const fn up(seconds: u64) -> EnvoyReading {
        handed_over(seconds, 0)
    }

    const fn handed_over(seconds: u64, epoch: u64) -> EnvoyReading {
        EnvoyReading::Read { uptime: Some(Duration::from_secs(seconds)), epoch }
    }

    /// One reading of Envoy's streams `a` and `b`, as far as they have values; gives their starts.
    fn read(
        starts: &mut StreamStarts,
        seconds: u64,
        envoy: EnvoyReading,
        values: [Option<f64>; 2],
    ) -> [Option<u64>; 2] {
        let time = starts.begin(AT + seconds * SECOND, envoy);
        if starts.is_in_doubt() {
            for (name, value) in ["a", "b"].into_iter().zip(values) {
                value.map(|value| starts.of(Counting::Envoy, name, b"", value));
            }
            starts.decide();
        }
        let mut start = |name: &str, value: Option<f64>| {
            let start = starts.of(Counting::Envoy, name, b"", value?);
            assert!(start <= time);
            Some((start.saturating_sub(AT)) / SECOND)
        };
        let found = [start("a", values[0]), start("b", values[1])];
        starts.end();
        found
    }

    #[test]
    fn a_stream_counts_since_its_process_began_or_since_it_was_not_there() {
        let mut starts = StreamStarts::new(AT);
        assert_eq!(read(&mut starts, 100, up(30), [Some(5.0), None]), [Some(70), None]);
        // A gauge of uptime that lags moves nothing.
        assert_eq!(read(&mut starts, 110, up(35), [Some(6.0), Some(1.0)]), [Some(70), Some(100)]);
        assert_eq!(read(&mut starts, 120, up(50), [Some(6.0), None]), [Some(70), None]);
        assert_eq!(read(&mut starts, 130, up(60), [Some(6.0), Some(9.0)]), [Some(70), Some(120)], "it was gone");
    }

    #[test]
    fn a_start_moves_forward_when_a_value_falls_or_envoy_began_anew() {
        let mut starts = StreamStarts::new(AT);
        assert_eq!(read(&mut starts, 100, up(100), [Some(5.0), Some(5.0)]), [Some(0), Some(0)]);
        assert_eq!(read(&mut starts, 110, up(110), [Some(4.0), Some(5.0)]), [Some(100), Some(0)], "one fell");
        assert_eq!(read(&mut starts, 120, up(4), [Some(4.0), Some(50.0)]), [Some(116), Some(116)], "a restart");
        assert_eq!(read(&mut starts, 130, up(14), [Some(4.0), Some(50.0)]), [Some(116), Some(116)]);
        // It was up for longer than there was no reading of it: the start is no earlier than the last point.
        assert_eq!(read(&mut starts, 140, up(13), [Some(1.0), Some(1.0)]), [Some(130), Some(130)]);
    }

    #[test]
    fn a_young_envoy_was_started_anew_if_any_value_fell() {
        let mut starts = StreamStarts::new(AT);
        assert_eq!(read(&mut starts, 100, up(3), [Some(5.0), Some(5.0)]), [Some(97), Some(97)]);
        assert_eq!(read(&mut starts, 110, up(8), [Some(5.0), Some(6.0)]), [Some(97), Some(97)], "it went on");
        assert_eq!(read(&mut starts, 120, up(9), [Some(5.0), Some(1.0)]), [Some(111), Some(111)], "a fell with b");
        // One that is known to go on drops a stat and has it again.
        assert_eq!(read(&mut starts, 125, up(14), [Some(5.0), Some(2.0)]), [Some(111), Some(111)]);
        assert_eq!(read(&mut starts, 130, up(19), [Some(6.0), Some(1.0)]), [Some(111), Some(125)]);
    }

    #[test]
    fn a_hot_restart_counts_anew_though_the_uptime_goes_on() {
        let mut starts = StreamStarts::new(AT);
        assert_eq!(read(&mut starts, 100, up(100), [Some(5.0), Some(5.0)]), [Some(0), Some(0)]);
        assert_eq!(read(&mut starts, 110, handed_over(110, 1), [Some(7.0), Some(1.0)]), [Some(100), Some(100)]);
        assert_eq!(read(&mut starts, 120, handed_over(120, 1), [Some(8.0), Some(1.0)]), [Some(100), Some(100)]);
        assert_eq!(read(&mut starts, 130, handed_over(130, 3), [Some(9.0), Some(1.0)]), [Some(120), Some(120)]);
        // Another Envoy at the same place.
        assert_eq!(read(&mut starts, 140, up(4), [Some(9.0), Some(1.0)]), [Some(136), Some(136)]);
    }

    #[test]
    fn after_a_hot_restart_that_nobody_saw_the_first_point_is_its_own_start() {
        let mut starts = StreamStarts::new(AT);
        assert_eq!(read(&mut starts, 100, handed_over(100, 2), [Some(5.0), None]), [Some(100), None]);
        assert_eq!(read(&mut starts, 110, handed_over(110, 2), [Some(6.0), Some(1.0)]), [Some(100), Some(100)]);
    }

    #[test]
    fn while_envoy_is_away_its_streams_stay_as_they_were() {
        let mut starts = StreamStarts::new(AT);
        read(&mut starts, 100, up(100), [Some(5.0), None]);
        assert_eq!(read(&mut starts, 110, EnvoyReading::Away, [None, None]), [None, None]);
        assert_eq!(read(&mut starts, 120, up(120), [Some(5.0), Some(1.0)]), [Some(0), Some(100)]);
    }

    #[test]
    fn without_an_uptime_the_first_point_is_its_own_start_and_later_ones_keep_it() {
        let mut starts = StreamStarts::new(AT);
        let unknown = EnvoyReading::Read { uptime: None, epoch: 0 };
        assert_eq!(read(&mut starts, 100, unknown, [Some(5.0), None]), [Some(100), None]);
        assert_eq!(read(&mut starts, 110, unknown, [Some(6.0), Some(1.0)]), [Some(100), Some(100)]);
        assert_eq!(read(&mut starts, 120, unknown, [Some(2.0), Some(1.0)]), [Some(110), Some(100)]);
    }

    #[test]
    fn the_sidecars_own_streams_count_since_it_began_and_time_never_stands_still() {
        let mut starts = StreamStarts::new(AT);
        let first = starts.begin(AT - 5 * SECOND, EnvoyReading::Away);
        assert_eq!((first, starts.of(Counting::Sidecar, "own", b"", 0.0)), (AT + 1, AT));
        starts.end();
        let second = starts.begin(AT - 4 * SECOND, EnvoyReading::Away);
        assert_eq!((second, starts.of(Counting::Sidecar, "own", b"", 1.0)), (AT + 2, AT));
        assert_eq!(starts.of(Counting::Sidecar, "new", b"", 1.0), first);
        starts.end();
    }
}
