//! Endpoints as lines of text: chosen, sorted, and in columns. Pure.

use std::cmp::Ordering;

use clap::ValueEnum;

use crate::state::{Endpoint, State};

/// What to sort by, as the columns stand.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub(crate) enum Column {
    /// Its name
    #[default]
    Endpoint,
    /// Its state
    State,
    /// Requests in the engine's queue
    Waiting,
    /// Requests in the engine's batch
    Running,
    /// Used part of the KV cache
    Kv,
    /// Requests sent by this Envoy and not finished
    Flight,
    /// Part of the pool's picks
    Share,
    /// Predicted wait
    Wait,
    /// Age of its figures
    Age,
    /// Requests that failed through its fault
    Failed,
}

impl Column {
    const ALL: [Self; 10] = [
        Self::Endpoint,
        Self::State,
        Self::Waiting,
        Self::Running,
        Self::Kv,
        Self::Flight,
        Self::Share,
        Self::Wait,
        Self::Age,
        Self::Failed,
    ];

    const fn title(self) -> &'static str {
        match self {
            Self::Endpoint => "ENDPOINT",
            Self::State => "STATE",
            Self::Waiting => "WAITING",
            Self::Running => "RUNNING",
            Self::Kv => "KV",
            Self::Flight => "FLIGHT",
            Self::Share => "SHARE",
            Self::Wait => "WAIT",
            Self::Age => "AGE",
            Self::Failed => "FAILED",
        }
    }

    /// The column to the right of it; of the last one the first.
    pub(crate) fn next(self) -> Self {
        let place = Self::ALL.iter().position(|column| *column == self).unwrap_or(0);
        Self::ALL.get(place + 1).copied().unwrap_or_default()
    }

    fn number(self, endpoint: &Endpoint) -> Option<f64> {
        #[allow(clippy::cast_precision_loss, reason = "counts and milliseconds")]
        let count = |value: Option<u64>| value.map(|value| value as f64);
        match self {
            Self::Endpoint | Self::State => None,
            Self::Waiting => count(endpoint.waiting),
            Self::Running => count(endpoint.running),
            Self::Kv => endpoint.kv_cache_usage,
            Self::Flight => count(endpoint.in_flight),
            Self::Share => endpoint.share,
            Self::Wait => count(endpoint.predicted_wait_ms),
            Self::Age => count(endpoint.age_ms),
            Self::Failed => count(endpoint.failures),
        }
    }

    fn text(self, endpoint: &Endpoint) -> String {
        let count = |value: Option<u64>| value.map_or_else(unknown, |value| value.to_string());
        let percent = |value: Option<f64>| value.map_or_else(unknown, |ratio| format!("{:.1}%", ratio * 100.0));
        match self {
            Self::Endpoint => endpoint.name().to_owned(),
            Self::State => endpoint.state.clone(),
            Self::Waiting => count(endpoint.waiting),
            Self::Running => count(endpoint.running),
            Self::Kv => percent(endpoint.kv_cache_usage),
            Self::Flight => count(endpoint.in_flight),
            Self::Share => percent(endpoint.share),
            Self::Wait => endpoint.predicted_wait_ms.map_or_else(unknown, time),
            Self::Age => endpoint.age_ms.map_or_else(unknown, time),
            Self::Failed => count(endpoint.failures),
        }
    }
}

fn unknown() -> String {
    "-".to_owned()
}

fn time(millis: u64) -> String {
    match millis {
        0..1_000 => format!("{millis}ms"),
        1_000..60_000 => format!("{}.{}s", millis / 1_000, millis % 1_000 / 100),
        _ => format!("{}min", millis / 60_000),
    }
}

/// Which endpoints are shown, and in which order.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    /// The only pool; empty: all.
    pub(crate) pool: String,
    /// Words that each must be in the name, the address, the pool or the state.
    pub(crate) filter: String,
    pub(crate) sort: Column,
    /// The other way round: names from the end, numbers from the smallest.
    pub(crate) is_reversed: bool,
}

impl View {
    fn choose<'a>(&self, state: &'a State) -> Vec<&'a Endpoint> {
        let words: Vec<String> = self.filter.split_whitespace().map(str::to_lowercase).collect();
        let is_shown = |endpoint: &&Endpoint| {
            let texts = [endpoint.name(), &endpoint.address, &endpoint.pool, &endpoint.state].map(str::to_lowercase);
            (self.pool.is_empty() || endpoint.pool == self.pool)
                && words.iter().all(|word| texts.iter().any(|text| text.contains(word)))
        };
        let mut chosen: Vec<&Endpoint> = state.endpoints.iter().filter(is_shown).collect();
        chosen.sort_by(|left, right| self.order(left, right));
        chosen
    }

    /// The largest number first, and what is not known last.
    fn order(&self, left: &Endpoint, right: &Endpoint) -> Ordering {
        let way = |order: Ordering| if self.is_reversed { order.reverse() } else { order };
        let by_name = left.name().cmp(right.name());
        match (self.sort, self.sort.number(left), self.sort.number(right)) {
            (Column::Endpoint, ..) => way(by_name),
            (Column::State, ..) => way(left.state.cmp(&right.state)).then(by_name),
            (_, Some(left), Some(right)) => way(right.total_cmp(&left)).then(by_name),
            (_, left, right) => left.is_none().cmp(&right.is_none()).then(by_name),
        }
    }
}

/// A line, and whether its endpoint takes requests as usual.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Line {
    pub(crate) text: String,
    pub(crate) is_good: bool,
}

/// The lines of the pools, one each, and problems below them.
pub(crate) fn pools(state: &State, view: &View) -> Vec<Line> {
    let mut lines = Vec::new();
    for pool in state.pools.iter().filter(|pool| view.pool.is_empty() || pool.name == view.pool) {
        let kv = pool.kv_cache_usage.map_or_else(unknown, |ratio| format!("{:.1}%", ratio * 100.0));
        let in_flight = pool.in_flight.map_or_else(unknown, |count| count.to_string());
        let rate = pool.picks_per_second.map_or_else(unknown, |rate| format!("{rate:.1}"));
        let text = format!(
            "pool {}: {} of {} fresh, {in_flight} in flight, {} waiting, {} running, KV {kv}, {rate} picks/s",
            pool.name, pool.fresh, pool.endpoints, pool.waiting, pool.running
        );
        lines.push(Line { text, is_good: pool.fresh == pool.endpoints });
        lines.extend(pool.problem.iter().map(|problem| Line { text: format!("  {problem}"), is_good: false }));
    }
    lines.extend(state.envoy_problem.iter().map(|problem| Line { text: problem.clone(), is_good: false }));
    lines
}

/// The heading and a line an endpoint.
pub(crate) fn endpoints(state: &State, view: &View) -> (String, Vec<Line>) {
    let chosen = view.choose(state);
    let heading = Column::ALL.map(|column| {
        let mark = if column != view.sort {
            ""
        } else if view.is_reversed {
            "↑"
        } else {
            "↓"
        };
        format!("{}{mark}", column.title())
    });
    let rows: Vec<[String; 10]> =
        chosen.iter().map(|endpoint| Column::ALL.map(|column| column.text(endpoint))).collect();
    let width = |place: usize| {
        let texts = rows.iter().filter_map(|row| row.get(place)).chain(heading.get(place));
        texts.map(|text| text.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..heading.len()).map(width).collect();
    let line = |row: &[String; 10]| {
        let cells = row.iter().zip(&widths).enumerate().map(|(place, (text, width))| {
            // Texts to the left, numbers to the right.
            if place < 2 { format!("{text:<width$}") } else { format!("{text:>width$}") }
        });
        cells.collect::<Vec<_>>().join("  ")
    };
    let lines = rows.iter().zip(&chosen).map(|(row, endpoint)| {
        let problem = endpoint.problem.iter().map(|problem| format!("  {problem}")).collect::<String>();
        Line { text: format!("{}{problem}", line(row)), is_good: endpoint.state == "fresh" }
    });
    (line(&heading), lines.collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test should stop at what it did not expect")]
mod tests {
    use super::*;

    fn state() -> State {
        let endpoint = |pool: &str, address: &str, state: &str, waiting: &str, kv: &str| {
            format!(
                r#"{{"pool":"{pool}","address":"{address}","pod":"","namespace":"","engine":"vllm","state":"{state}","problem":null,"waiting":{waiting},
                "running":3,"kv_cache_usage":{kv},"age_ms":1234,"in_flight":4,"picks":30,"share":0.75,"failures":0,"ejections":0,"predicted_wait_ms":20}}"#
            )
        };
        let endpoints = [
            endpoint("a", "10.0.0.1:80", "fresh", "2", "0.25"),
            endpoint("a", "10.0.0.2:80", "stale", "null", "0.5"),
            endpoint("b", "10.0.0.3:80", "fresh", "11", "0.125"),
        ];
        let pool = r#"{"name":"a","problem":"no such cluster","models":[],"endpoints":2,"fresh":1,"waiting":2,"running":3,"kv_cache_usage":0.25,
            "in_flight":8,"picks_per_second":4.0}"#;
        let text = format!(
            r#"{{"version":"0","at_ms":1,"envoy_problem":null,"pools":[{pool}],"endpoints":[{}],"picks":[]}}"#,
            endpoints.join(",")
        );
        serde_json::from_str(&text).unwrap()
    }

    fn shown(view: &View) -> Vec<String> {
        let first = |line: &Line| line.text.split_whitespace().next().unwrap().to_owned();
        endpoints(&state(), view).1.iter().map(first).collect()
    }

    #[test]
    fn columns_stand_below_their_headings() {
        let (heading, lines) = endpoints(&state(), &View::default());
        assert_eq!(heading, "ENDPOINT↓    STATE  WAITING  RUNNING     KV  FLIGHT  SHARE  WAIT   AGE  FAILED");
        let [first, second, _] = &lines[..] else { unreachable!("three") };
        assert_eq!(first.text, "10.0.0.1:80  fresh        2        3  25.0%       4  75.0%  20ms  1.2s       0");
        assert_eq!((first.is_good, second.is_good), (true, false));
    }

    #[test]
    fn the_busiest_comes_first_and_what_is_not_known_last() {
        let view = |sort, is_reversed| View { sort, is_reversed, ..View::default() };
        let [one, two, three] = ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"];
        assert_eq!(shown(&view(Column::Endpoint, false)), [one, two, three]);
        assert_eq!(shown(&view(Column::Endpoint, true)), [three, two, one]);
        assert_eq!(shown(&view(Column::Waiting, false)), [three, one, two]);
        assert_eq!(shown(&view(Column::Waiting, true)), [one, three, two]);
        assert_eq!(shown(&view(Column::Kv, false)), [two, one, three]);
        assert_eq!(shown(&view(Column::State, true)), [two, one, three]);
        let mut column = Column::Endpoint;
        for _ in Column::ALL {
            column = column.next();
        }
        assert_eq!(column, Column::Endpoint);
    }

    #[test]
    fn words_and_a_pool_choose() {
        let view =
            |pool: &str, filter: &str| View { pool: pool.to_owned(), filter: filter.to_owned(), ..View::default() };
        assert_eq!(shown(&view("a", "")).len(), 2);
        assert_eq!(shown(&view("", "STALE 10.0")), ["10.0.0.2:80"]);
        assert!(shown(&view("b", "stale")).is_empty());
        let lines: Vec<String> = pools(&state(), &view("", "")).into_iter().map(|line| line.text).collect();
        assert_eq!(
            lines,
            ["pool a: 1 of 2 fresh, 8 in flight, 2 waiting, 3 running, KV 25.0%, 4.0 picks/s", "  no such cluster"]
        );
    }
}
