//! What is shown, as JSON: one document for scripts, and events for the page, in which figures stand in a fixed order to be short. Pure.

use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};
use snapshot::State;

use super::figures::Readings;
use super::history::{History, Moment, Moments, STEP, permille};
use crate::endpoint::EndpointState;
use crate::fleet::Fleet;
use crate::gauges::state_name;
use crate::pool::PoolState;

/// Models of a pool that are named; the page has no room for more.
const MAX_MODELS: usize = 20;

/// The state of an endpoint that is left out because its requests failed, and would not be for what its page says; `inpick_endpoints` has it, too.
const EJECTED: &str = "ejected";

/// An endpoint as scripts see it.
#[derive(Debug, Serialize)]
pub(crate) struct EndpointDocument<'a> {
    pool: &'a str,
    address: String,
    pod: &'a str,
    namespace: &'a str,
    engine: Option<&'static str>,
    state: &'static str,
    problem: Option<String>,
    waiting: Option<u32>,
    running: Option<u32>,
    kv_cache_usage: Option<f64>,
    /// Since its page was read.
    age_ms: Option<u64>,
    in_flight: Option<u64>,
    picks: Option<u64>,
    share: Option<f64>,
    failures: Option<u64>,
    ejections: Option<u64>,
    predicted_wait_ms: Option<u64>,
    /// Whether what its page says is of now, be it ejected or not.
    #[serde(skip)]
    has_fresh_page: bool,
}

/// A pool as scripts see it.
#[derive(Debug, Serialize)]
pub(crate) struct PoolDocument<'a> {
    name: &'a str,
    problem: Option<&'a str>,
    models: Vec<String>,
    endpoints: usize,
    fresh: usize,
    /// Sums over the endpoints whose pages are fresh, also of those that are ejected.
    waiting: u32,
    running: u32,
    /// Mean over the same.
    kv_cache_usage: Option<f64>,
    in_flight: Option<u64>,
    picks_per_second: Option<f64>,
}

/// Everything that is known now.
#[derive(Debug, Serialize)]
pub(crate) struct Document<'a> {
    version: &'static str,
    /// Milliseconds since the Unix epoch.
    at_ms: u64,
    /// Why there is nothing of Envoy's page, if that is so.
    envoy_problem: Option<&'a str>,
    pools: Vec<PoolDocument<'a>>,
    endpoints: Vec<EndpointDocument<'a>>,
}

impl<'a> Document<'a> {
    /// Of this moment; `wall_ms` is the wall clock in milliseconds since the Unix epoch.
    pub(crate) fn new(
        fleet: &'a Fleet,
        readings: &Readings,
        envoy_problem: Option<&'a str>,
        now: Duration,
        wall_ms: u64,
    ) -> Self {
        let mut document = Self {
            version: env!("CARGO_PKG_VERSION"),
            at_ms: wall_ms,
            envoy_problem,
            pools: Vec::with_capacity(fleet.pools().len()),
            endpoints: Vec::new(),
        };
        for pool in fleet.pools() {
            let recent = readings.recent_picks(&pool.name);
            let first = document.endpoints.len();
            let endpoints = pool.endpoints().iter();
            document
                .endpoints
                .extend(endpoints.map(|endpoint| endpoint_document(pool, endpoint, readings, recent, now)));
            let shown = document.endpoints.get(first..).unwrap_or_default();
            document.pools.push(pool_document(pool, shown, readings));
        }
        document
    }

    /// Who there is: what the page draws its rows from. It changes seldom.
    pub(crate) fn roster(&self) -> Value {
        let place = |name: &str| self.pools.iter().position(|pool| pool.name == name);
        let pools =
            self.pools.iter().map(|pool| json!({ "name": pool.name, "models": pool.models, "problem": pool.problem }));
        let endpoints = self.endpoints.iter().map(|endpoint| {
            json!([place(endpoint.pool), endpoint.address, endpoint.pod, endpoint.namespace, endpoint.engine])
        });
        json!({
            "version": self.version,
            "step_ms": u64::try_from(STEP.as_millis()).unwrap_or(u64::MAX),
            "pools": pools.collect::<Value>(),
            "endpoints": endpoints.collect::<Value>(),
        })
    }

    /// How they are, in the order of the roster: of a pool `[fresh, waiting, running, kv‰, in flight, picks/s]`, of an endpoint `[state,
    /// waiting, running, kv‰, in flight, share‰, picks, failures, ejections, age ms, predicted wait ms]`, and problems by place.
    pub(crate) fn loads(&self) -> Value {
        let pools = self.pools.iter().map(|pool| {
            let kv = pool.kv_cache_usage.map(permille);
            json!([pool.fresh, pool.waiting, pool.running, kv, pool.in_flight, pool.picks_per_second])
        });
        let endpoints = self.endpoints.iter().map(|it| {
            let (kv, share) = (it.kv_cache_usage.map(permille), it.share.map(permille));
            json!([
                it.state,
                it.waiting,
                it.running,
                kv,
                it.in_flight,
                share,
                it.picks,
                it.failures,
                it.ejections,
                it.age_ms,
                it.predicted_wait_ms
            ])
        });
        let problems = self.endpoints.iter().enumerate();
        let problems = problems.filter_map(|(place, it)| Some((place.to_string(), Value::from(it.problem.clone()?))));
        json!({
            "at_ms": self.at_ms,
            "envoy_problem": self.envoy_problem,
            "pools": pools.collect::<Value>(),
            "endpoints": endpoints.collect::<Value>(),
            "problems": problems.collect::<serde_json::Map<_, _>>(),
        })
    }
}

fn endpoint_document<'a>(
    pool: &'a PoolState,
    endpoint: &'a EndpointState,
    readings: &Readings,
    recent: u64,
    now: Duration,
) -> EndpointDocument<'a> {
    let address = endpoint.target.address.to_string();
    let load = endpoint.load(now);
    let figures = readings.endpoint(&pool.name, &address);
    let requests = load.waiting.unwrap_or(0).saturating_add(load.running.unwrap_or(0));
    let is_fresh = endpoint.state == State::Fresh;
    EndpointDocument {
        pool: &pool.name,
        pod: &endpoint.target.pod,
        namespace: &endpoint.target.namespace,
        engine: endpoint.page.as_ref().and_then(|page| page.signals.engine).map(|engine| engine.as_str()),
        state: match endpoint.state {
            State::Fresh | State::Stale | State::Unknown if figures.is_some_and(|it| it.is_ejected()) => EJECTED,
            state => state_name(state),
        },
        problem: endpoint.trouble(),
        waiting: load.waiting,
        running: load.running,
        kv_cache_usage: load.kv_cache_usage,
        age_ms: load.age_ms,
        in_flight: figures.map(|figures| figures.in_flight),
        picks: figures.map(|figures| figures.picks),
        share: readings.share(&pool.name, &address, recent),
        failures: figures.map(|figures| figures.failures),
        ejections: figures.map(|figures| figures.ejections),
        predicted_wait_ms: figures.filter(|_| is_fresh).and_then(|figures| figures.predicted_wait_ms(requests.into())),
        has_fresh_page: is_fresh,
        address,
    }
}

fn pool_document<'a>(pool: &'a PoolState, shown: &[EndpointDocument<'_>], readings: &Readings) -> PoolDocument<'a> {
    let known = || shown.iter().filter(|endpoint| endpoint.has_fresh_page);
    let sum = |count: fn(&EndpointDocument<'_>) -> Option<u32>| known().filter_map(count).fold(0, u32::saturating_add);
    let usages: Vec<f64> = known().filter_map(|endpoint| endpoint.kv_cache_usage).collect();
    let mut models: Vec<String> = pool.members().models.into_iter().map(|model| model.name).collect();
    models.dedup();
    models.truncate(MAX_MODELS);
    #[allow(clippy::cast_precision_loss, reason = "pools have far fewer than 2^52 endpoints")]
    let kv_cache_usage = (!usages.is_empty()).then(|| usages.iter().sum::<f64>() / usages.len() as f64);
    PoolDocument {
        name: &pool.name,
        problem: pool.problem.as_deref(),
        models,
        endpoints: shown.len(),
        fresh: shown.iter().filter(|endpoint| endpoint.state == state_name(State::Fresh)).count(),
        waiting: sum(|endpoint| endpoint.waiting),
        running: sum(|endpoint| endpoint.running),
        kv_cache_usage,
        in_flight: shown.iter().map(|endpoint| endpoint.in_flight).sum(),
        picks_per_second: readings.picks_per_second(&pool.name),
    }
}

/// The last minutes, in the order of the roster: requests and KV cache use of pools, requests of endpoints.
pub(crate) fn past(fleet: &Fleet, history: &History) -> Value {
    let numbers = |moments: Option<&Moments>, number: fn(&Moment) -> Option<u16>| -> Value {
        moments.into_iter().flatten().map(number).collect()
    };
    let pools = fleet.pools().iter().enumerate();
    let endpoints = pools.clone().flat_map(|(index, pool)| {
        pool.endpoints().iter().map(move |endpoint| history.endpoint(index, endpoint.target.address))
    });
    let pools = pools.map(|(index, _)| {
        let moments = history.pool(index);
        json!([numbers(moments, |moment| moment.requests), numbers(moments, |moment| moment.kv_permille)])
    });
    json!({
        "pools": pools.collect::<Value>(),
        "endpoints": endpoints.map(|moments| numbers(moments, |moment| moment.requests)).collect::<Value>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::DiscoveredPod;
    use crate::live::figures::Figures;
    use crate::outcome::Outcome;
    use crate::signals::Signals;

    fn fleet() -> Fleet {
        let mut fleet = Fleet::new(1, Duration::from_secs(2), ["p".to_owned(), "q".to_owned()]);
        let address = |index: u8| std::net::SocketAddr::from(([10, 0, 0, index], 80));
        let pod = |index| DiscoveredPod { pod: format!("pod-{index}"), ..DiscoveredPod::new(address(index)) };
        fleet.discovered(0, vec![pod(1), pod(2)], Duration::ZERO);
        let signals = Signals { waiting: Some(2), running: Some(3), kv_cache_usage: Some(0.25), ..Signals::default() };
        fleet.scraped(0, address(1), Duration::from_secs(1), Duration::ZERO, signals);
        fleet.scrape_failed(0, address(2), Duration::ZERO, Outcome::Connect, "cannot connect".to_owned());
        fleet.discovery_failed(1, "no such cluster");
        fleet
    }

    fn readings() -> Readings {
        let mut readings = Readings::default();
        for (second, picks) in [(0, 0), (1, 30)] {
            let page = format!(
                "inpick_picks_total{{endpoint=\"10.0.0.1:80\",pool=\"p\"}} {picks}\ninpick_picks_total{{endpoint=\"10.0.0.2:80\",pool=\"p\"}} {}\n\
                 inpick_in_flight_requests{{endpoint=\"10.0.0.1:80\",pool=\"p\"}} 4\n",
                picks / 3
            );
            readings.take(Duration::from_secs(second), Figures::of_page(page.as_bytes()).unwrap());
        }
        readings
    }

    #[test]
    fn scripts_read_what_each_figure_is() {
        let (fleet, readings) = (fleet(), readings());
        let document =
            serde_json::to_value(Document::new(&fleet, &readings, None, Duration::from_secs(2), 77)).unwrap();
        assert_eq!(
            document["pools"],
            json!([
                { "name": "p", "problem": null, "models": [], "endpoints": 2, "fresh": 1, "waiting": 2, "running": 3, "kv_cache_usage": 0.25,
                  "in_flight": 4, "picks_per_second": 40.0 },
                { "name": "q", "problem": "no such cluster", "models": [], "endpoints": 0, "fresh": 0, "waiting": 0, "running": 0,
                  "kv_cache_usage": null, "in_flight": 0, "picks_per_second": 0.0 },
            ])
        );
        assert_eq!(
            document["endpoints"][0],
            json!({ "pool": "p", "address": "10.0.0.1:80", "pod": "pod-1", "namespace": "", "engine": null, "state": "fresh", "problem": null,
                "waiting": 2, "running": 3, "kv_cache_usage": 0.25, "age_ms": 1000, "in_flight": 4, "picks": 30, "share": 0.75, "failures": 0,
                "ejections": 0, "predicted_wait_ms": null })
        );
        assert_eq!(document["endpoints"][1]["state"], "unknown");
        assert_eq!(document["endpoints"][1]["problem"], "cannot connect");
        assert_eq!((&document["at_ms"], &document["envoy_problem"]), (&json!(77), &Value::Null));
    }

    #[test]
    fn an_ejected_endpoint_is_no_longer_counted_as_fresh_and_its_requests_still_are() {
        let (mut fleet, mut readings) = (fleet(), readings());
        let address = |index: u8| std::net::SocketAddr::from(([10, 0, 0, index], 80));
        let ejected = |readings: &mut Readings, of: &str, value: u8| {
            let page = format!("inpick_ejected{{endpoint=\"{of}\",pool=\"p\"}} {value}\n");
            readings.take(Duration::from_secs(2), Figures::of_page(page.as_bytes()).unwrap());
        };
        let shown = |fleet: &Fleet, readings: &Readings| {
            let document = Document::new(fleet, readings, None, Duration::from_secs(2), 77);
            let states: Vec<_> = document.endpoints.iter().map(|endpoint| endpoint.state).collect();
            let pool = &document.pools[0];
            (states, pool.fresh, pool.waiting, pool.running)
        };
        ejected(&mut readings, "10.0.0.1:80", 1);
        assert_eq!(shown(&fleet, &readings), (vec!["ejected", "unknown"], 0, 2, 3));
        ejected(&mut readings, "10.0.0.1:80", 0);
        assert_eq!(shown(&fleet, &readings), (vec!["fresh", "unknown"], 1, 2, 3));
        ejected(&mut readings, "10.0.0.2:80", 1);
        assert_eq!(shown(&fleet, &readings).0, ["fresh", "ejected"]);
        // What the sidecar says of one that gets nothing anyway stands.
        let unready = DiscoveredPod { unready: true, ..DiscoveredPod::new(address(2)) };
        fleet.discovered(0, vec![DiscoveredPod::new(address(1)), unready], Duration::ZERO);
        assert_eq!(shown(&fleet, &readings).0, ["fresh", "unready"]);
    }

    #[test]
    fn the_page_reads_the_same_in_a_fixed_order() {
        let (fleet, readings) = (fleet(), Readings::default());
        let document = Document::new(&fleet, &readings, Some("away"), Duration::from_secs(2), 77);
        assert_eq!(
            document.roster()["endpoints"],
            json!([[0, "10.0.0.1:80", "pod-1", "", null], [0, "10.0.0.2:80", "pod-2", "", null]])
        );
        let loads = document.loads();
        assert_eq!(loads["pools"][0], json!([1, 2, 3, 250, null, null]));
        assert_eq!(loads["endpoints"][0], json!(["fresh", 2, 3, 250, null, null, null, null, null, 1000, null]));
        assert_eq!((&loads["problems"], &loads["envoy_problem"]), (&json!({ "1": "cannot connect" }), &json!("away")));
        let mut history = History::default();
        history.sample(&fleet, Duration::ZERO);
        assert_eq!(
            past(&fleet, &history),
            json!({ "pools": [[[5], [250]], [[null], [null]]], "endpoints": [[5], [null]] })
        );
    }
}
