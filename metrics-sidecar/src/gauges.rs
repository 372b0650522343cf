//! The sidecar's own families: pool gauges from the pods' pages, and its own health. Pure.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;

use catalogue::{Family, Stat};
use snapshot::State;

use crate::dialect::EngineKind;
use crate::endpoint::EndpointState;
use crate::exposition::escape_into;
use crate::fleet::Fleet;
use crate::outcome::DURATION_LE;
use crate::page::OwnFamily;
use crate::pool::PoolState;
use crate::signals::Signals;

const STATES: [(State, &str); 6] = [
    (State::Unknown, "unknown"),
    (State::Fresh, "fresh"),
    (State::Stale, "stale"),
    (State::Sleeping, "sleeping"),
    (State::Unready, "unready"),
    (State::Frozen, "frozen"),
];

/// A state's value of the label `state`.
#[must_use]
pub fn state_name(state: State) -> &'static str {
    STATES.iter().find(|(known, _)| *known == state).map_or("unknown", |(_, name)| name)
}

/// What the page says besides the fleet.
#[derive(Clone, Copy, Debug)]
pub struct About<'a> {
    /// Label `commit`.
    pub commit: &'a str,
    /// Label `build_ref`.
    pub build_ref: &'a str,
    /// The pool's gauges are published as `llm_d_epp_*` too.
    pub llm_d: bool,
    /// Whether Envoy's last page was read.
    pub envoy_up: bool,
    /// Pages of Envoy that could not be read.
    pub envoy_page_failures: u64,
    /// Answers to `/snapshot` with a body.
    pub snapshots_sent: u64,
    /// Answers to `/snapshot` that nothing has changed.
    pub snapshots_unchanged: u64,
    /// Pool, resource and seconds for which its watch of the API server of Kubernetes has not been current.
    pub away: &'a [(String, &'static str, f64)],
    /// Rights that pools need of that API server.
    pub rights: &'a [NeededRight],
}

/// A right that a pool needs of the API server of Kubernetes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NeededRight {
    /// Name of the pool.
    pub pool: String,
    /// Group of the resource; empty for pods.
    pub group: &'static str,
    /// Its plural.
    pub resource: &'static str,
    /// What must be allowed.
    pub verb: &'static str,
    /// Whether it was refused when it was needed last.
    pub is_refused: bool,
}

/// Every family that the sidecar itself publishes, those of the catalogue first.
#[must_use]
pub fn families(fleet: &Fleet, about: About<'_>) -> Vec<OwnFamily> {
    let pools = fleet.pools();
    let build = [("build_ref", about.build_ref), ("commit", about.commit)];
    let mut families = Vec::new();
    for (means, newest_means, deviations, signal) in SPREADS {
        families.push(spread(means, pools, signal, mean));
        if about.llm_d {
            families.push(spread(newest_means, pools, signal, mean));
            families.push(spread(deviations, pools, signal, deviation));
        }
    }
    let mut ready = Lines::of(Stat::PoolReadyPods.family());
    let mut queues = Lines::of(Stat::PoolPerPodQueueSize.family());
    let mut info = Lines::of(Stat::ExtensionInfo.family());
    info.add("", &build, 1);
    let mut scrapes =
        Lines::new("inpick_sidecar_scrapes_total", "counter", "Reads of a pod's metrics page by how they ended.");
    let mut durations = Lines::new(
        "inpick_sidecar_scrape_duration_seconds",
        "histogram",
        "Seconds from asking for a pod's metrics page to having read it, failures included.",
    );
    let mut states =
        Lines::new("inpick_sidecar_endpoints", "gauge", "Endpoints of the pool by what the sidecar makes of them.");
    let mut engines = Lines::new(
        "inpick_sidecar_engines",
        "gauge",
        "Endpoints of the pool by the engine that their last page is of; `unknown` without signals of any.",
    );
    let mut missing = Lines::new(
        "inpick_sidecar_missing_signals",
        "gauge",
        "1 for each signal that the last page of an endpoint did not carry.",
    );
    let mut lacking = Lines::of(Stat::MissingSignals.family());
    let mut discovery = Lines::new(
        "inpick_sidecar_discovery_failures_total",
        "counter",
        "Times that the endpoints of the pool could not be listed; the last list stood.",
    );
    let mut away = Lines::new(
        "inpick_sidecar_kubernetes_away_seconds",
        "gauge",
        "Seconds since the pool's watch of the resource has not been current; the last list stands. 0 while it is.",
    );
    for (pool, resource, seconds) in about.away {
        away.add("", &[("pool", pool), ("resource", resource)], seconds);
    }
    let mut forbidden = Lines::new(
        "inpick_sidecar_kubernetes_forbidden",
        "gauge",
        "1 while the API server forbids the verb on the pool's resource, so that nothing of it is known or no change; else 0.",
    );
    for right in about.rights {
        let labels =
            [("group", right.group), ("pool", &right.pool), ("resource", right.resource), ("verb", right.verb)];
        forbidden.add("", &labels, u8::from(right.is_refused));
    }
    let mut eds = Lines::new(
        "inpick_sidecar_eds_writes_total",
        "counter",
        "Times that the pool was written for Envoy's endpoint discovery, by how that ended.",
    );
    let mut models_failures = Lines::new(
        "inpick_sidecar_models_failures_total",
        "counter",
        "Times that an endpoint of the pool could not list its models; its last list stood.",
    );
    let mut models_left_out = Lines::new(
        "inpick_sidecar_models_left_out",
        "gauge",
        "Models of the pool that the snapshot leaves out: lists, or names in them, that are too long.",
    );
    let mut newest =
        [Stat::LlmDReadyEndpoints, Stat::LlmDPerEndpointQueueSize, Stat::LlmDInfo].map(|stat| Lines::of(stat.family()));
    let [newest_ready, newest_queues, newest_info] = &mut newest;
    newest_info.add("", &build, 1);
    for pool in pools {
        let name = pool.name.as_str();
        if pool.eds_writes + pool.eds_failures > 0 {
            for (outcome, count) in [("failure", pool.eds_failures), ("success", pool.eds_writes)] {
                eds.add("", &[("outcome", outcome), ("pool", name)], count);
            }
        }
        models_failures.add("", &[("pool", name)], pool.models_failures);
        models_left_out.add("", &[("pool", name)], pool.models_left_out);
        let fresh = pool.endpoints().iter().filter(|endpoint| endpoint.state == State::Fresh).count();
        ready.add("", &[("name", name)], fresh);
        newest_ready.add("", &[("name", name)], fresh);
        discovery.add("", &[("pool", name)], pool.discovery_failures);
        for (state, state_name) in STATES {
            let count = pool.endpoints().iter().filter(|endpoint| endpoint.state == state).count();
            states.add("", &[("pool", name), ("state", state_name)], count);
        }
        let pages = || pool.endpoints().iter().filter_map(|endpoint| endpoint.page.as_ref());
        for engine in EngineKind::ALL.into_iter().map(Some).chain([None]) {
            let count = pages().filter(|page| page.signals.engine == engine).count();
            if count > 0 {
                engines.add("", &[("engine", engine.map_or("unknown", EngineKind::as_str)), ("pool", name)], count);
            }
        }
        for ((engine, signal), count) in lacking_signals(pool) {
            lacking.add("", &[("engine", engine), ("pool", name), ("signal", signal)], count);
        }
        for (endpoint, pod) in pool.endpoints().iter().zip(pod_labels(pool.endpoints())) {
            let address = endpoint.target.address.to_string();
            if let Some(signals) = endpoint.page.as_ref().map(|page| &page.signals) {
                if let Some(waiting) = signals.waiting {
                    queues.add("", &[("model_server_pod", &pod), ("name", name)], waiting);
                    newest_queues.add("", &[("model_server_endpoint", &pod), ("name", name)], waiting);
                }
                for signal in signals.missing() {
                    missing.add("", &[("endpoint", &address), ("pool", name), ("signal", signal)], 1);
                }
            }
            for (outcome, count) in endpoint.outcomes().filter(|(_, count)| *count > 0) {
                scrapes.add("", &[("endpoint", &address), ("outcome", outcome.as_str()), ("pool", name)], count);
            }
        }
        let mut total = 0;
        for (le, count) in DURATION_LE.into_iter().chain(["+Inf"]).zip(pool.durations.buckets) {
            total += count;
            durations.add("_bucket", &[("pool", name), ("le", le)], total);
        }
        #[allow(clippy::cast_precision_loss, reason = "a sum of durations needs no more than 53 bits")]
        durations.add("_sum", &[("pool", name)], pool.durations.sum_microseconds as f64 / 1e6);
        durations.add("_count", &[("pool", name)], total);
    }
    let mut snapshots =
        Lines::new("inpick_sidecar_snapshot_requests_total", "counter", "Requests for the snapshot by outcome.");
    snapshots.add("", &[("outcome", "sent")], about.snapshots_sent);
    snapshots.add("", &[("outcome", "unchanged")], about.snapshots_unchanged);
    let mut generation = Lines::new(
        "inpick_sidecar_snapshot_generation",
        "gauge",
        "Generation of the content that the sidecar would publish now.",
    );
    generation.add("", &[], fleet.tag().generation);
    let mut envoy = Lines::new("inpick_sidecar_envoy_up", "gauge", "1 when Envoy's last page was read, else 0.");
    let mut envoy_failures = Lines::new(
        "inpick_sidecar_envoy_page_failures_total",
        "counter",
        "Times that Envoy's page could not be read, so that there was no merged page.",
    );
    envoy_failures.add("", &[], about.envoy_page_failures);
    envoy.add("", &[], u8::from(about.envoy_up));
    let mut build_info =
        Lines::new("inpick_sidecar_build_info", "gauge", "1, labelled with the sidecar's version and build.");
    build_info.add("", &[build[0], build[1], ("version", env!("CARGO_PKG_VERSION"))], 1);
    let rest = [
        ready,
        queues,
        info,
        scrapes,
        durations,
        states,
        engines,
        missing,
        lacking,
        discovery,
        away,
        forbidden,
        eds,
        models_failures,
        models_left_out,
        snapshots,
        generation,
        envoy,
        envoy_failures,
        build_info,
    ];
    families.extend(rest.into_iter().chain(newest.into_iter().filter(|_| about.llm_d)).map(|lines| lines.0));
    families
}

struct Lines(OwnFamily);

impl Lines {
    const fn new(name: &'static str, kind: &'static str, help: &'static str) -> Self {
        Self(OwnFamily { name, help, kind, lines: String::new() })
    }

    const fn of(family: &'static Family) -> Self {
        Self::new(family.name, family.kind.as_str(), family.help)
    }

    /// Labels stand as they are given: alphabetical, `le` last.
    fn add(&mut self, suffix: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        let out = &mut self.0.lines;
        out.push_str(self.0.name);
        out.push_str(suffix);
        for (index, (name, text)) in labels.iter().enumerate() {
            out.push(if index == 0 { '{' } else { ',' });
            out.push_str(name);
            out.push_str("=\"");
            escape_into(out, text);
            out.push('"');
        }
        if !labels.is_empty() {
            out.push('}');
        }
        // Writing to a string cannot fail.
        let _ = writeln!(out, " {value}");
    }
}

type Signal = fn(&Signals) -> Option<f64>;

/// Signals whose mean, and with the newest spelling whose standard deviation, a pool shows.
const SPREADS: [(Stat, Stat, Stat, Signal); 3] = [
    (
        Stat::PoolAverageKvCacheUtilization,
        Stat::LlmDAverageKvCacheUtilization,
        Stat::LlmDStdDevKvCacheUtilization,
        |signals| signals.kv_cache_usage,
    ),
    (Stat::PoolAverageQueueSize, Stat::LlmDAverageQueueSize, Stat::LlmDStdDevQueueSize, |signals| {
        signals.waiting.map(f64::from)
    }),
    (Stat::PoolAverageRunningRequests, Stat::LlmDAverageRunningRequests, Stat::LlmDStdDevRunningRequests, |signals| {
        signals.running.map(f64::from)
    }),
];

/// What a pool's fresh endpoints that carry the signal make together. A pool without any has no series: a remembered mean would hide
/// that nobody knows, while an absent one can be alerted on.
fn spread(stat: Stat, pools: &[PoolState], signal: Signal, of: fn(&[f64]) -> f64) -> OwnFamily {
    let mut lines = Lines::of(stat.family());
    for pool in pools {
        let values: Vec<f64> =
            pool.endpoints().iter().filter_map(EndpointState::fresh_signals).filter_map(signal).collect();
        if !values.is_empty() {
            lines.add("", &[("name", &pool.name)], of(&values));
        }
    }
    lines.0
}

/// The mean of values that are not none.
#[allow(clippy::cast_precision_loss, reason = "pools have far fewer than 2^52 endpoints")]
fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The standard deviation of a sample, as the picker whose spelling it is estimates it; 0 of one value.
#[allow(clippy::cast_precision_loss, reason = "pools have far fewer than 2^52 endpoints")]
fn deviation(values: &[f64]) -> f64 {
    let mean = mean(values);
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (squares / values.len().saturating_sub(1).max(1) as f64).sqrt()
}

/// How many endpoints of each engine have pages that lack a signal.
fn lacking_signals(pool: &PoolState) -> BTreeMap<(&'static str, &'static str), u64> {
    let mut counts = BTreeMap::new();
    for page in pool.endpoints().iter().filter_map(|endpoint| endpoint.page.as_ref()) {
        let engine = page.signals.engine.map_or("unknown", EngineKind::as_str);
        for signal in page.signals.missing() {
            *counts.entry((engine, signal)).or_default() += 1;
        }
    }
    counts
}

/// What names each endpoint in `model_server_pod`: its pod, or its address where no pod is known. Several ports of one pod are
/// told apart by their rank, in the spelling of the reference endpoint picker.
fn pod_labels(endpoints: &[EndpointState]) -> Vec<String> {
    let mut counts: HashMap<&str, (usize, usize)> = HashMap::new();
    for endpoint in endpoints {
        counts.entry(&endpoint.target.pod).or_default().0 += 1;
    }
    endpoints
        .iter()
        .map(|endpoint| {
            let pod = endpoint.target.pod.as_str();
            match counts.get_mut(pod) {
                _ if pod.is_empty() => endpoint.target.address.to_string(),
                _ if endpoint.target.rank.is_some() => {
                    format!("{pod}-rank-{}", endpoint.target.rank.unwrap_or_default())
                }
                Some((count, rank)) if *count > 1 => {
                    *rank += 1;
                    format!("{pod}-rank-{}", *rank - 1)
                }
                _ => pod.to_owned(),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::endpoint::DiscoveredPod;
    use crate::outcome::Outcome;

    const ABOUT: About<'_> = About {
        commit: "c",
        build_ref: "b",
        llm_d: true,
        envoy_up: false,
        envoy_page_failures: 0,
        snapshots_sent: 1,
        snapshots_unchanged: 2,
        away: &[],
        rights: &[],
    };

    fn fleet(pods: &[(&str, Option<u32>)]) -> Fleet {
        let mut fleet = Fleet::new(1, Duration::from_secs(2), ["p\"1".to_owned()]);
        let address = |index: usize| std::net::SocketAddr::from(([10, 0, 0, 1], 8000 + u16::try_from(index).unwrap()));
        let targets = pods
            .iter()
            .enumerate()
            .map(|(index, (pod, _))| DiscoveredPod { pod: (*pod).to_owned(), ..DiscoveredPod::new(address(index)) });
        fleet.discovered(0, targets.collect(), Duration::ZERO);
        for (index, (_, waiting)) in pods.iter().enumerate() {
            if waiting.is_some() {
                let signals = Signals { waiting: *waiting, kv_cache_usage: Some(0.25), ..Signals::default() };
                fleet.scraped(0, address(index), Duration::ZERO, Duration::from_millis(3), signals);
            }
        }
        fleet
    }

    fn text(fleet: &Fleet) -> String {
        families(fleet, ABOUT).into_iter().map(|family| family.lines).collect()
    }

    #[test]
    fn means_are_true_means_over_fresh_endpoints() {
        let text = text(&fleet(&[("a", Some(3)), ("b", Some(4)), ("c", None)]));
        for line in [
            "inference_pool_average_queue_size{name=\"p\\\"1\"} 3.5",
            "llm_d_epp_average_queue_size{name=\"p\\\"1\"} 3.5",
            "llm_d_epp_std_dev_queue_size{name=\"p\\\"1\"} 0.7071067811865476",
            "llm_d_epp_std_dev_kv_cache_utilization{name=\"p\\\"1\"} 0",
            "llm_d_epp_ready_endpoints{name=\"p\\\"1\"} 2",
            "llm_d_epp_per_endpoint_queue_size{model_server_endpoint=\"b\",name=\"p\\\"1\"} 4",
            "llm_d_epp_info{build_ref=\"b\",commit=\"c\"} 1",
            "inpick_missing_signals{engine=\"unknown\",pool=\"p\\\"1\",signal=\"running\"} 2",
            "inference_pool_average_kv_cache_utilization{name=\"p\\\"1\"} 0.25",
            "inference_pool_ready_pods{name=\"p\\\"1\"} 2",
            "inference_pool_per_pod_queue_size{model_server_pod=\"b\",name=\"p\\\"1\"} 4",
            "inpick_sidecar_endpoints{pool=\"p\\\"1\",state=\"unknown\"} 1",
            "inpick_sidecar_missing_signals{endpoint=\"10.0.0.1:8000\",pool=\"p\\\"1\",signal=\"running\"} 1",
            "inpick_sidecar_scrapes_total{endpoint=\"10.0.0.1:8000\",outcome=\"success\",pool=\"p\\\"1\"} 1",
            "inpick_sidecar_scrape_duration_seconds_bucket{pool=\"p\\\"1\",le=\"0.005\"} 2",
            "inpick_sidecar_scrape_duration_seconds_sum{pool=\"p\\\"1\"} 0.006",
            "inpick_sidecar_envoy_up 0",
            "inference_extension_info{build_ref=\"b\",commit=\"c\"} 1",
        ] {
            assert!(text.lines().any(|known| known == line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("inference_pool_average_running_requests"), "a signal that nobody carries has no mean");
    }

    #[test]
    fn a_pool_without_fresh_endpoints_has_no_mean_but_keeps_queues() {
        let mut fleet = fleet(&[("a", Some(3))]);
        fleet.advance(Duration::from_secs(10));
        let text = text(&fleet);
        assert!(!text.contains("inference_pool_average"));
        assert!(text.contains("inference_pool_ready_pods{name=\"p\\\"1\"} 0\n"));
        assert!(text.contains("inference_pool_per_pod_queue_size{model_server_pod=\"a\",name=\"p\\\"1\"} 3\n"));
    }

    #[test]
    fn endpoints_of_one_pod_and_of_none_have_labels_of_their_own() {
        let fleet = fleet(&[("a", None), ("a", None), ("", None), ("b", None)]);
        assert_eq!(pod_labels(fleet.pools()[0].endpoints()), ["a-rank-0", "a-rank-1", "10.0.0.1:8002", "b"]);
    }

    #[test]
    fn endpoints_are_counted_by_their_engine() {
        let mut fleet = fleet(&[("a", Some(1)), ("b", None), ("c", None), ("d", None)]);
        let addresses: Vec<_> = fleet.pools()[0].endpoints().iter().map(|one| one.target.address).collect();
        for address in &addresses[1..3] {
            let signals = Signals::read(b"tgi_queue_size 3\n").unwrap();
            fleet.scraped(0, *address, Duration::ZERO, Duration::ZERO, signals);
        }
        let text = text(&fleet);
        let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("inpick_sidecar_engines")).collect();
        assert_eq!(
            lines,
            [
                "inpick_sidecar_engines{engine=\"tgi\",pool=\"p\\\"1\"} 2",
                "inpick_sidecar_engines{engine=\"unknown\",pool=\"p\\\"1\"} 1"
            ]
        );
        let missing = format!(
            "inpick_sidecar_missing_signals{{endpoint=\"{}\",pool=\"p\\\"1\",signal=\"progress\"}} 1\n",
            addresses[1]
        );
        assert!(text.contains(&missing), "{text}");
    }

    #[test]
    fn failures_are_counted_by_outcome() {
        let mut fleet = fleet(&[("a", None)]);
        let address = fleet.pools()[0].endpoints()[0].target.address;
        fleet.scrape_failed(0, address, Duration::from_secs(60), Outcome::Timeout, String::new());
        let text = text(&fleet);
        assert!(text.contains("outcome=\"timeout\",pool=\"p\\\"1\"} 1\n"));
        assert!(
            text.contains("_bucket{pool=\"p\\\"1\",le=\"2.5\"} 0\n")
                && text.contains("_bucket{pool=\"p\\\"1\",le=\"+Inf\"} 1\n")
        );
    }
}
