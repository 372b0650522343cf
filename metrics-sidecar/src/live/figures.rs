//! What Envoy's page says of each endpoint: requests in flight, picks, failures and learned times. Pure.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use catalogue::{Label, Stat};

use crate::contents::{NamedStat, garbled_place};
use crate::exposition::{Sample, split_name};

/// The families that are read.
const FAMILIES: [Stat; 8] = [
    Stat::InFlightRequests,
    Stat::PicksTotal,
    Stat::EndpointFailuresTotal,
    Stat::EjectionsTotal,
    Stat::Ejected,
    Stat::LearnedFixedTime,
    Stat::LearnedSlotTime,
    Stat::LearnedSlots,
];
/// Shares and rates are of this time: long enough for a share to be more than chance.
const WINDOW: Duration = Duration::from_secs(10);

/// Where Envoy shows these families.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Source {
    /// The page for Prometheus.
    Page,
    /// The list of stats by their own names, which begin with the labels. Without the bootstrap's `stats_tags` the page has lost them.
    Names,
}

impl Source {
    /// The path of these families alone. Labels stand in front of a family's name in the stats of the wasm filter, and behind it in those
    /// of the native module.
    pub(crate) fn path(self) -> String {
        let names: Vec<&str> = FAMILIES.into_iter().map(|stat| stat.family().name).collect();
        let path = match self {
            Self::Page => "/stats/prometheus",
            Self::Names => "/stats",
        };
        format!("{path}?filter=%28{}%29", names.join("%7C"))
    }
}

/// Pool and address.
type Key = (String, String);

/// Of one endpoint.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct EndpointFigures {
    /// Requests that this Envoy has sent and not finished.
    pub(crate) in_flight: u64,
    /// Requests that it served.
    pub(crate) picks: u64,
    /// Requests that failed through its fault.
    pub(crate) failures: u64,
    /// Times that a worker left it out.
    pub(crate) ejections: u64,
    /// Not 0 while requests are kept from it because others failed.
    ejected: u64,
    /// Microseconds to the first token of a request that needs no prefill; 0: not learned.
    fixed_micros: u64,
    /// Microseconds for which a request holds its slot; 0: not learned.
    slot_micros: u64,
    /// Requests that it runs at once; 0: not known.
    slots: u64,
}

impl EndpointFigures {
    /// Whether requests are kept from it because others failed.
    pub(crate) const fn is_ejected(&self) -> bool {
        self.ejected > 0
    }

    /// Milliseconds after which a request without a prompt would get its first token from an endpoint that has so many requests, as far
    /// as was learned: the slots that must become free before, at the pace at which they do, and what any answer takes.
    pub(crate) fn predicted_wait_ms(&self, requests: u64) -> Option<u64> {
        if self.fixed_micros == 0 {
            return None;
        }
        let ahead = if self.slots == 0 { 0 } else { (requests + 1).saturating_sub(self.slots) };
        let wait = self.slot_micros.saturating_mul(ahead).checked_div(self.slots).unwrap_or(0);
        Some(wait.saturating_add(self.fixed_micros) / 1_000)
    }
}

/// What one page said.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figures(HashMap<Key, EndpointFigures>);

impl Figures {
    /// Reads the page for Prometheus; what is no sample of these families is passed over. `None`: it has lost their labels.
    pub(crate) fn of_page(page: &[u8]) -> Option<Self> {
        let mut figures = Self::default();
        for line in page.split(|byte| *byte == b'\n').filter(|line| !line.is_empty() && !line.starts_with(b"#")) {
            let (name, rest) = split_name(line);
            match FAMILIES.into_iter().find(|stat| stat.family().name.as_bytes() == name) {
                Some(stat) => figures.add_sample(stat, rest).unwrap_or_default(),
                None if garbled_place(line).is_some() => return None,
                None => {}
            }
        }
        Some(figures)
    }

    /// Reads the list of stats by their own names.
    pub(crate) fn of_names(names: &[u8]) -> Self {
        let mut figures = Self::default();
        for stat in names.split(|byte| *byte == b'\n').filter_map(NamedStat::read) {
            let known = Stat::ALL.get(stat.place.stat).copied().filter(|known| FAMILIES.contains(known));
            let label = |wanted| stat.labels.iter().find(|(label, _)| *label == wanted).map(|(_, value)| *value);
            if let (Some(known), Some(pool), Some(endpoint), Ok(value)) =
                (known, label(Label::Pool), label(Label::Endpoint), stat.value.parse())
            {
                figures.add(known, (pool.to_owned(), endpoint.to_owned()), value);
            }
        }
        figures
    }

    /// Whether Envoy has nothing of these families.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes what follows the name in a line of the page; `None`: it cannot be read.
    fn add_sample(&mut self, stat: Stat, rest: &[u8]) -> Option<()> {
        let sample = Sample::split(rest).ok()?;
        let (mut pool, mut endpoint) = (None, None);
        for label in sample.labels().map_while(Result::ok) {
            match label.name {
                b"pool" => pool = label.value().ok(),
                b"endpoint" => endpoint = label.value().ok(),
                _ => {}
            }
        }
        let value = sample.value().ok().filter(|value| *value >= 0.0)?;
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a cast from a float saturates")]
        let value = value as u64;
        self.add(stat, (pool?.into_owned(), endpoint?.into_owned()), value);
        Some(())
    }

    fn add(&mut self, stat: Stat, key: Key, value: u64) {
        let figures = self.0.entry(key).or_default();
        let field = match stat {
            Stat::InFlightRequests => &mut figures.in_flight,
            // One series a reason.
            Stat::PicksTotal => &mut figures.picks,
            Stat::EndpointFailuresTotal => &mut figures.failures,
            Stat::EjectionsTotal => &mut figures.ejections,
            Stat::Ejected => &mut figures.ejected,
            Stat::LearnedFixedTime => &mut figures.fixed_micros,
            Stat::LearnedSlotTime => &mut figures.slot_micros,
            _ => &mut figures.slots,
        };
        *field = field.saturating_add(value);
    }

    fn get(&self, pool: &str, address: &str) -> Option<&EndpointFigures> {
        self.0.get(&(pool.to_owned(), address.to_owned()))
    }

    /// Picks of a pool, also by endpoints that have left or have no label of their own.
    fn picks(&self, pool: &str) -> u64 {
        self.0.iter().filter(|((known, _), _)| known == pool).map(|(_, figures)| figures.picks).sum()
    }
}

/// Figures, and how they were within the last seconds.
#[derive(Debug, Default)]
pub(crate) struct Readings(VecDeque<Reading>);

/// Figures and when they were read.
type Reading = (Duration, Figures);

impl Readings {
    /// Takes a page that was read at that time.
    pub(crate) fn take(&mut self, now: Duration, figures: Figures) {
        while self.0.get(1).is_some_and(|(at, _)| now.saturating_sub(*at) >= WINDOW) {
            self.0.pop_front();
        }
        self.0.push_back((now, figures));
    }

    /// Forgets all: nobody looked for a while.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// When the newest page was read.
    pub(crate) fn newest_at(&self) -> Option<Duration> {
        self.0.back().map(|(at, _)| *at)
    }

    /// The newest figures of an endpoint; all zero for one of which Envoy knows nothing, `None` when there is no page.
    pub(crate) fn endpoint(&self, pool: &str, address: &str) -> Option<EndpointFigures> {
        let (_, newest) = self.0.back()?;
        Some(newest.get(pool, address).copied().unwrap_or_default())
    }

    /// Picks of a pool in a second; `None` before the second page.
    pub(crate) fn picks_per_second(&self, pool: &str) -> Option<f64> {
        let ((since, first), (at, last)) = self.window()?;
        let seconds = at.saturating_sub(*since).as_secs_f64();
        #[allow(clippy::cast_precision_loss, reason = "picks of some seconds")]
        let picks = last.picks(pool).saturating_sub(first.picks(pool)) as f64;
        (seconds > 0.0).then(|| picks / seconds)
    }

    /// Which part of its pool's picks went to an endpoint; `None` while the pool had none.
    pub(crate) fn share(&self, pool: &str, address: &str, of_pool: u64) -> Option<f64> {
        let ((_, first), (_, last)) = self.window()?;
        let picks = |figures: &Figures| figures.get(pool, address).map_or(0, |figures| figures.picks);
        #[allow(clippy::cast_precision_loss, reason = "picks of some seconds")]
        (of_pool > 0).then(|| picks(last).saturating_sub(picks(first)) as f64 / of_pool as f64)
    }

    /// Picks of a pool within the time that is looked at.
    pub(crate) fn recent_picks(&self, pool: &str) -> u64 {
        self.window().map_or(0, |((_, first), (_, last))| last.picks(pool).saturating_sub(first.picks(pool)))
    }

    fn window(&self) -> Option<(&Reading, &Reading)> {
        if self.0.len() < 2 { None } else { self.0.front().zip(self.0.back()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(picks: [u64; 3]) -> Figures {
        let [a, fallback, b] = picks;
        Figures::of_page(
            format!(
                "# TYPE inpick_picks_total counter\n\
                 inpick_picks_total{{reason=\"best_score\",endpoint=\"10.0.0.1:80\",pool=\"p\"}} {a}\n\
                 inpick_picks_total{{reason=\"fallback\",endpoint=\"10.0.0.1:80\",pool=\"p\"}} {fallback}\n\
                 inpick_picks_total{{reason=\"tie\",endpoint=\"other\",pool=\"p\"}} {b}\n\
                 inpick_picks_total{{reason=\"tie\",endpoint=\"10.0.0.1:80\",pool=\"q\"}} 1000\n\
                 inpick_in_flight_requests{{endpoint=\"10.0.0.1:80\",pool=\"p\"}} 3\n\
                 inpick_endpoint_failures_total{{reason=\"reset\",endpoint=\"10.0.0.1:80\",pool=\"p\"}} 2\n\
                 inpick_ejections_total{{endpoint=\"10.0.0.1:80\",pool=\"p\"}} 1\n\
                 inpick_learned_fixed_time_millionths{{endpoint=\"10.0.0.1:80\",pool=\"p\"}} 20000\n\
                 inpick_learned_slot_time_millionths{{endpoint=\"10.0.0.1:80\",pool=\"p\"}} 800000\n\
                 inpick_learned_slots{{endpoint=\"10.0.0.1:80\",pool=\"p\"}} 4\n\
                 inpick_picks_total{{pool=\"p\"}} 7\ninpick_picks_total{{pool=\"p\",endpoint=\"x\"}} NaN\nother 3\ninpick_picks_total{{\n"
            )
            .as_bytes(),
        )
        .unwrap()
    }

    #[test]
    fn shares_and_rates_are_of_the_last_seconds() {
        let mut readings = Readings::default();
        assert_eq!(readings.endpoint("p", "10.0.0.1:80"), None);
        readings.take(Duration::from_secs(100), page([90, 10, 0]));
        assert_eq!((readings.picks_per_second("p"), readings.recent_picks("p")), (None, 0));
        let figures = readings.endpoint("p", "10.0.0.1:80").unwrap();
        assert_eq!((figures.in_flight, figures.picks, figures.failures, figures.ejections), (3, 100, 2, 1));
        assert_eq!(readings.endpoint("p", "10.0.0.9:80"), Some(EndpointFigures::default()));
        for second in 101..=115 {
            let more = second - 100;
            readings.take(Duration::from_secs(second), page([90 + 3 * more, 10, more]));
        }
        assert_eq!(readings.recent_picks("p"), 40);
        assert_eq!(readings.picks_per_second("p"), Some(4.0));
        assert_eq!(readings.share("p", "10.0.0.1:80", 40), Some(0.75));
        assert_eq!((readings.recent_picks("q"), readings.share("q", "10.0.0.1:80", 0)), (0, None));
        readings.clear();
        assert_eq!(readings.newest_at(), None);
    }

    #[test]
    fn a_wait_is_what_any_answer_takes_and_the_slots_that_must_become_free() {
        let readings = page([0, 0, 0]);
        let figures = readings.get("p", "10.0.0.1:80").unwrap();
        assert_eq!(
            [0, 3, 4, 7].map(|requests| figures.predicted_wait_ms(requests)),
            [Some(20), Some(20), Some(220), Some(820)]
        );
        assert_eq!(EndpointFigures { slots: 0, ..*figures }.predicted_wait_ms(100), Some(20));
        assert_eq!(EndpointFigures { fixed_micros: 0, ..*figures }.predicted_wait_ms(0), None);
    }

    #[test]
    fn envoy_is_asked_for_these_families_alone() {
        for (source, page) in [(Source::Page, "/stats/prometheus"), (Source::Names, "/stats")] {
            let path = source.path();
            let rest = path.strip_prefix(page).unwrap();
            assert!(rest.starts_with("?filter=%28inpick_in_flight_requests%7Cinpick_picks_total%7C"), "{path}");
            assert!(rest.ends_with("inpick_learned_slots%29"), "{path}");
        }
    }

    #[test]
    fn a_page_that_has_lost_labels_is_told_apart_from_one_without_figures() {
        assert!(Figures::of_page(b"").unwrap().is_empty());
        assert!(Figures::of_page(b"# TYPE x gauge\nx 1\nenvoy_pool_inpick_picks_total 1\n").unwrap().is_empty());
        // Some labels were cut out by a bootstrap of an older version, and some were not.
        let tagged = "inpick_in_flight_requests{pool=\"p\",endpoint=\"e\"} 1\n";
        assert!(!Figures::of_page(tagged.as_bytes()).unwrap().is_empty());
        let garbled = format!("{tagged}endpoint_e_inpick_picks_total{{pool=\"p\"}} 1\n");
        assert!(Figures::of_page(garbled.as_bytes()).is_none());
    }

    #[test]
    fn names_of_stats_say_what_the_page_says() {
        let names = "wasmcustom.pool=p;endpoint=[::1]:80;reason=tie;inpick_picks_total: 3\n\
                     wasmcustom.pool=p;endpoint=[::1]:80;reason=retry;inpick_picks_total: 1\n\
                     wasmcustom.pool=p;endpoint=[::1]:80;inpick_learned_slots: 4\n\
                     wasmcustom.pool=p;inpick_picks_total: 9\nwasmcustom.pool=p;endpoint=e;inpick_picks_total: x\n\
                     wasmcustom.pool=p;state=fresh;inpick_endpoints: 2\ncluster.pool=p;endpoint=e;inpick_picks_total: 9\n";
        let figures = Figures::of_names(names.as_bytes());
        let expected = EndpointFigures { picks: 4, slots: 4, ..EndpointFigures::default() };
        assert_eq!((figures.get("p", "[::1]:80"), figures.0.len()), (Some(&expected), 1));
    }
}
