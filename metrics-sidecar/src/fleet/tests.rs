use snapshot::{EndpointIdentity, Load, ServedModel, State};

use super::*;
use crate::counters::Counters;
use crate::dialect::EngineKind;
use crate::models::MAX_MODELS;
use crate::pool::MAX_ADAPTER_NAMES;
use crate::signals::Lora;

const STALENESS: Duration = Duration::from_secs(2);
const TOOK: Duration = Duration::from_millis(3);

fn at(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], port))
}

fn fleet(ports: &[u16]) -> Fleet {
    let mut fleet = Fleet::new(9, STALENESS, ["p".to_owned()]);
    fleet.discovered(0, ports.iter().map(|port| DiscoveredPod::new(address(*port))).collect(), at(0));
    fleet
}

fn waiting(count: u32) -> Signals {
    Signals { waiting: Some(count), kv_cache_usage: Some(0.5), ..Signals::default() }
}

fn model(name: &str) -> ServedModel {
    ServedModel { name: name.to_owned(), ..ServedModel::default() }
}

fn list(names: &[&str]) -> ModelList {
    let mut models: Vec<_> = names.iter().map(|name| model(name)).collect();
    models.sort();
    ModelList { models, left_out: 0 }
}

fn named(models: Option<Vec<&str>>) -> Option<Vec<String>> {
    models.map(|models| models.into_iter().map(str::to_owned).collect())
}

/// The names of the models that each endpoint of the only pool is said to serve.
fn served<const ENDPOINTS: usize>(fleet: &Fleet) -> [Option<Vec<String>>; ENDPOINTS] {
    let pool = fleet.membership().pools.remove(0);
    let name = |at: u32| pool.models[at as usize].name.clone();
    let served = pool.endpoints.into_iter().map(|one| one.models.map(|models| models.into_iter().map(name).collect()));
    served.collect::<Vec<_>>().try_into().unwrap()
}

/// A page of a vLLM with requests that has done so many steps.
fn busy(steps: f64) -> Signals {
    let mut counters = Counters { count_steps: true, ..Counters::default() };
    counters.values[0] = Some(steps);
    Signals { engine: Some(EngineKind::Vllm), counters, ..waiting(3) }
}

#[test]
fn an_engine_that_stands_still_with_requests_is_frozen_until_it_moves() {
    let mut fleet = fleet(&[1]);
    let mut changes = Vec::new();
    let mut poll = |fleet: &mut Fleet, millis: u64, signals: Signals| {
        let generation = fleet.tag().generation;
        let change = fleet.scraped(0, address(1), at(millis), TOOK, signals);
        assert_eq!(change.is_some(), fleet.tag().generation > generation, "{millis}");
        changes.extend(change.map(|change| (millis, change.from, change.to, change.problem)));
    };
    for millis in (0..=6000).step_by(50) {
        poll(&mut fleet, millis, busy(7.0));
    }
    assert_eq!(fleet.loads(at(6000), 0).endpoints[0].state, State::Frozen);
    assert!(fleet.pools()[0].endpoints()[0].fresh_signals().is_none());
    fleet.scrape_failed(0, address(1), TOOK, Outcome::Timeout, "late".to_owned());
    assert!(fleet.advance(at(6020)).is_empty(), "a page that is missing unfreezes nothing");
    poll(&mut fleet, 6050, busy(8.0));
    let problem = "frozen: it has requests, and no counter moved for 5 s".to_owned();
    assert_eq!(
        changes,
        [
            (0, State::Unknown, State::Fresh, None),
            (5000, State::Fresh, State::Frozen, Some(problem)),
            (6050, State::Frozen, State::Fresh, None)
        ]
    );
}

#[test]
fn an_engine_that_began_anew_is_another_incarnation() {
    let mut fleet = fleet(&[1]);
    let mut see = |signals: Signals| {
        let generation = fleet.tag().generation;
        fleet.scraped(0, address(1), at(10), TOOK, signals);
        let incarnation = fleet.loads(at(10), 0).endpoints[0].incarnation;
        assert_eq!(fleet.incarnation(0, address(1)), Some(incarnation));
        (incarnation, fleet.tag().generation - generation)
    };
    assert_eq!(see(busy(9.0)).0, 0);
    assert_eq!(see(busy(10.0)), (0, 0));
    assert_eq!(see(busy(2.0)), (1, 1), "nothing else on the page has changed");
    assert_eq!(see(Signals { started_at_ms: Some(1), ..busy(3.0) }), (1, 1));
    assert_eq!(see(Signals { started_at_ms: Some(2), ..busy(4.0) }), (2, 1));
}

#[test]
fn a_pod_that_drops_to_no_adapter_loses_them() {
    let mut fleet = fleet(&[1]);
    let lora = |running: &[&str]| Lora {
        max: Some(2),
        running: running.iter().map(|&name| name.into()).collect(),
        waiting: vec![],
    };
    let mut uses = |lora: Option<Lora>| {
        let generation = fleet.tag().generation;
        fleet.scraped(0, address(1), at(10), TOOK, Signals { lora, ..waiting(1) });
        assert!(fleet.tag().generation > generation);
        let loads = fleet.loads(at(10), 0);
        (loads.adapters.len(), loads.endpoints[0].max_lora)
    };
    assert_eq!(uses(Some(lora(&["a", "b"]))), (2, Some(2)));
    assert_eq!(uses(Some(lora(&[]))), (0, Some(2)));
    assert_eq!(uses(Some(lora(&["b"]))), (1, Some(2)));
    assert_eq!(uses(None), (0, None));
}

#[test]
fn an_endpoint_goes_from_unknown_to_fresh_to_stale_and_back() {
    let mut fleet = fleet(&[1]);
    assert_eq!(fleet.membership().pools[0].endpoints[0], EndpointIdentity::unnamed(address(1)));
    assert_eq!(fleet.loads(at(0), 0).endpoints, [Load::default()]);
    let change = fleet.scraped(0, address(1), at(10), TOOK, waiting(1)).unwrap();
    assert_eq!((change.from, change.to), (State::Unknown, State::Fresh));
    assert!(fleet.advance(at(2010)).is_empty());
    let changes = fleet.advance(at(2011));
    assert_eq!((changes[0].from, changes[0].to), (State::Fresh, State::Stale));
    let change = fleet.scraped(0, address(1), at(3000), TOOK, waiting(1)).unwrap();
    assert_eq!((change.from, change.to), (State::Stale, State::Fresh));
}

#[test]
fn the_generation_grows_with_content_and_not_with_time() {
    let mut fleet = fleet(&[1]);
    fleet.scraped(0, address(1), at(10), TOOK, waiting(1));
    let generation = fleet.tag().generation;
    fleet.scraped(0, address(1), at(60), TOOK, waiting(1));
    fleet.scraped(0, address(1), at(60), TOOK, Signals { kv_cache_usage: Some(0.500_04), ..waiting(1) });
    fleet.advance(at(100));
    fleet.scrape_failed(0, address(1), TOOK, Outcome::Timeout, "late".to_owned());
    assert_eq!(fleet.tag().generation, generation);
    fleet.scraped(0, address(1), at(110), TOOK, waiting(2));
    assert_eq!(fleet.tag().generation, generation + 1);
    fleet.scraped(0, address(1), at(120), TOOK, Signals { kv_cache_usage: Some(0.501), ..waiting(2) });
    assert_eq!(fleet.tag().generation, generation + 2);
    fleet.advance(at(5000));
    assert_eq!(fleet.tag().generation, generation + 3, "staleness is content");
}

#[test]
fn what_is_published_is_in_whole_steps_and_aged_at_the_capture() {
    let mut fleet = fleet(&[1]);
    fleet.scraped(0, address(1), at(10), TOOK, Signals { kv_cache_usage: Some(0.123_45), ..waiting(7) });
    let snapshot = fleet.snapshot(at(40), 1234, None);
    let load = &snapshot.loads.endpoints[0];
    assert_eq!((load.age_ms, load.waiting, load.kv_cache_usage), (Some(30), Some(7), Some(0.123)));
    assert_eq!((snapshot.loads.epoch, snapshot.loads.captured_at_ms), (9, 1234));
    assert_eq!(Snapshot::decode(&snapshot.encode()), Ok(snapshot));
}

#[test]
fn endpoints_that_stay_listed_keep_what_is_known_and_their_order() {
    let mut fleet = fleet(&[2, 4]);
    fleet.scraped(0, address(4), at(10), TOOK, waiting(5));
    fleet.discovered(0, [3, 4, 1].map(|port| DiscoveredPod::new(address(port))).to_vec(), at(20));
    let seen = |fleet: &Fleet| -> Vec<_> {
        let endpoints = fleet.membership().pools.remove(0).endpoints;
        endpoints
            .iter()
            .zip(fleet.loads(at(20), 0).endpoints)
            .map(|(one, load)| (one.address.port(), load.waiting))
            .collect()
    };
    assert_eq!(seen(&fleet), [(4, Some(5)), (1, None), (3, None)]);
    let tag = fleet.tag();
    fleet.discovered(0, [1, 3, 4].map(|port| DiscoveredPod::new(address(port))).to_vec(), at(30));
    assert_eq!(fleet.tag(), tag, "the order of a listing is not content");
    assert_eq!(seen(&fleet)[0], (4, Some(5)));
    fleet.discovered(0, Vec::new(), at(40));
    assert_eq!(seen(&fleet), [], "a pool that was scaled to zero is empty");
}

#[test]
fn the_membership_changes_with_identities_and_names_and_not_with_load() {
    let mut fleet = fleet(&[1, 2]);
    let mut last = fleet.tag().membership_version;
    let mut grows = |fleet: &Fleet, by: u64, why: &str| {
        last += by;
        assert_eq!(fleet.tag().membership_version, last, "{why}");
    };
    fleet.scraped(0, address(1), at(10), TOOK, waiting(1));
    fleet.discovered(
        0,
        vec![DiscoveredPod { unready: true, ..DiscoveredPod::new(address(1)) }, DiscoveredPod::new(address(2))],
        at(20),
    );
    fleet.advance(at(9000));
    grows(&fleet, 0, "load, health and age");
    fleet.discovered(
        0,
        vec![DiscoveredPod { pod: "a".into(), ..DiscoveredPod::new(address(1)) }, DiscoveredPod::new(address(2))],
        at(20),
    );
    grows(&fleet, 1, "a pod's name");
    let lora =
        |names: &[&str]| Some(Lora { running: names.iter().map(|&name| name.into()).collect(), ..Lora::default() });
    fleet.scraped(0, address(1), at(30), TOOK, Signals { lora: lora(&["x", "y"]), ..waiting(1) });
    grows(&fleet, 1, "adapters of a name not known yet");
    fleet.scraped(0, address(1), at(40), TOOK, Signals { lora: lora(&["y"]), ..waiting(1) });
    fleet.scraped(0, address(2), at(40), TOOK, Signals { lora: lora(&["x"]), ..waiting(1) });
    grows(&fleet, 0, "another use of known adapters");
    let uses: Vec<_> = fleet.loads(at(40), 0).adapters.iter().map(|one| (one.endpoint, one.adapter)).collect();
    assert_eq!(uses, [(0, 1), (1, 0)]);
    fleet.models_listed(0, address(2), list(&["m", "a"]));
    grows(&fleet, 1, "models");
    fleet.models_listed(0, address(2), list(&["m", "a"]));
    fleet.models_failed(0);
    grows(&fleet, 0, "the same models, or none that can be read");
    fleet.models_listed(0, address(1), list(&["m"]));
    grows(&fleet, 1, "another endpoint's models");
    assert_eq!(served(&fleet), [Some(vec!["m"]), Some(vec!["a", "m"])].map(named));
    fleet.discovered(0, vec![DiscoveredPod { pod: "a".into(), ..DiscoveredPod::new(address(1)) }], at(50));
    grows(&fleet, 1, "an endpoint that has left");
    assert_eq!(served(&fleet), [named(Some(vec!["m"]))]);
    assert_eq!(fleet.membership().pools[0].models.len(), 1);
    let snapshot = fleet.snapshot(at(50), 0, Some(fleet.tag()));
    assert_eq!(snapshot.membership, None);
    assert!(snapshot.loads.belong_to(&fleet.membership()));
}

#[test]
fn an_endpoint_of_whose_models_some_are_left_out_is_not_said_to_lack_any() {
    let mut fleet = fleet(&[1, 2, 3, 4]);
    let many = |range: std::ops::Range<usize>| {
        let models = range.map(|index| model(&format!("{index:05}"))).collect();
        ModelList { models, left_out: 0 }
    };
    fleet.models_listed(0, address(1), many(0..3));
    fleet.models_listed(0, address(2), many(0..MAX_MODELS));
    assert_eq!(served(&fleet).map(|models| models.map(|models| models.len())), [Some(3), Some(MAX_MODELS), None, None]);
    assert_eq!(fleet.pools()[0].models_left_out, 0);
    // Together they list more than there is room for.
    fleet.models_listed(0, address(3), many(MAX_MODELS - 3..MAX_MODELS + 7));
    assert_eq!(served(&fleet).map(|models| models.map(|models| models.len())), [Some(3), Some(MAX_MODELS), None, None]);
    assert_eq!((fleet.membership().pools[0].models.len(), fleet.pools()[0].models_left_out), (MAX_MODELS, 7));
    // One that was cut when it was read lists what the others list, and perhaps more.
    fleet.models_listed(0, address(3), ModelList { left_out: 2, ..many(0..3) });
    assert_eq!(served(&fleet).map(|models| models.map(|models| models.len())), [Some(3), Some(MAX_MODELS), None, None]);
    assert_eq!(fleet.pools()[0].models_left_out, 2);
    let snapshot = fleet.snapshot(at(0), 0, None);
    assert_eq!(Snapshot::decode(&snapshot.encode()), Ok(snapshot));
}

#[test]
fn endpoints_that_differ_in_a_model_have_an_entry_each() {
    let mut fleet = fleet(&[1, 2, 3]);
    let sized = |max_model_len| ServedModel { max_model_len, ..model("m") };
    let adapter = |parent: &str| ServedModel { parent: parent.to_owned(), ..model("m") };
    for (port, served) in [(1, sized(Some(4096))), (2, sized(Some(8192))), (3, adapter("base"))] {
        fleet.models_listed(0, address(port), ModelList { models: vec![served], left_out: 0 });
    }
    let pool = fleet.membership().pools.remove(0);
    assert_eq!(pool.models, [sized(Some(4096)), sized(Some(8192)), adapter("base")]);
    assert_eq!(
        pool.endpoints.into_iter().map(|one| one.models).collect::<Vec<_>>(),
        [[0], [1], [2]].map(|at| Some(at.to_vec()))
    );
}

#[test]
fn names_of_adapters_are_bounded() {
    let mut fleet = fleet(&[1]);
    let names = |range: std::ops::Range<usize>| range.map(|index| format!("{index:05}")).collect::<Vec<_>>();
    for start in 0..30 {
        let running = names(start * 100..start * 100 + 100);
        let signals = Signals { lora: Some(Lora { running, ..Lora::default() }), ..waiting(1) };
        fleet.scraped(0, address(1), at(10), TOOK, signals);
        let adapters = &fleet.membership().pools[0].adapters;
        assert!(adapters.len() <= MAX_ADAPTER_NAMES);
        let uses = fleet.loads(at(10), 0).adapters;
        assert_eq!(uses.len(), 100, "those in use are always named");
        assert!(uses.iter().all(|one| adapters[one.adapter as usize] >= format!("{:05}", start * 100)));
    }
}

#[test]
fn a_slow_page_is_stale_throughout_and_yields_its_load() {
    let mut fleet = fleet(&[1]);
    for seconds in [5, 15, 25] {
        fleet.scraped(0, address(1), at(seconds * 1000), Duration::from_secs(5), waiting(3));
        let load = fleet.loads(at(seconds * 1000 + 700), 0).endpoints[0];
        assert_eq!((load.state, load.waiting, load.age_ms), (State::Stale, Some(3), Some(700)));
    }
    fleet.scraped(0, address(1), at(30_000), TOOK, waiting(3));
    assert_eq!(fleet.loads(at(30_000), 0).endpoints[0].state, State::Fresh);
}

#[test]
fn endpoints_of_all_pools_together_are_bounded() {
    let mut fleet = Fleet::new(1, STALENESS, ["a".to_owned(), "b".to_owned()]);
    let many =
        |ip: u8| (0..7000).map(|port| DiscoveredPod::new(SocketAddr::from(([10, 0, 0, ip], 1 + port)))).collect();
    fleet.discovered(0, many(1), at(0));
    fleet.discovered(1, many(2), at(0));
    assert_eq!(fleet.membership().endpoint_count(), snapshot::MAX_ENDPOINTS);
}

#[test]
fn an_unready_or_sleeping_endpoint_is_not_fresh() {
    let mut fleet = fleet(&[1]);
    fleet.scraped(0, address(1), at(10), TOOK, Signals { sleeping: Some(true), ..waiting(0) });
    assert_eq!(fleet.pools()[0].endpoints()[0].state, State::Sleeping);
    fleet.discovered(0, vec![DiscoveredPod { unready: true, ..DiscoveredPod::new(address(1)) }], at(20));
    assert_eq!(fleet.pools()[0].endpoints()[0].state, State::Unready);
    fleet.discovered(0, vec![DiscoveredPod::new(address(1))], at(30));
    assert_eq!(fleet.pools()[0].endpoints()[0].state, State::Sleeping);
}

#[test]
fn a_failed_discovery_keeps_the_list_and_is_news_once() {
    let mut fleet = fleet(&[1]);
    assert!(fleet.discovery_failed(0, "refused"));
    assert!(!fleet.discovery_failed(0, "refused"));
    assert_eq!(fleet.pools()[0].endpoints().len(), 1);
    assert_eq!(fleet.pools()[0].discovery_failures, 2);
}

#[test]
fn readiness_waits_for_discovery_and_for_one_try_of_each_endpoint() {
    let mut fleet = Fleet::new(1, STALENESS, ["p".to_owned()]);
    fleet.discovery_failed(0, "connection refused");
    assert_eq!(fleet.unready_reasons(at(0)), ["pool p: connection refused"]);
    fleet.discovered(0, vec![DiscoveredPod::new(address(1))], at(0));
    assert_eq!(fleet.unready_reasons(at(0)), ["pool p: 10.0.0.1:1 was not scraped yet"]);
    fleet.scrape_failed(0, address(1), TOOK, Outcome::Connect, "refused".to_owned());
    assert!(fleet.unready_reasons(at(0)).is_empty(), "a dead pod must not keep the sidecar unready");
}

#[test]
fn the_answer_for_an_endpoint_that_has_left_is_dropped() {
    let mut fleet = fleet(&[1]);
    let generation = fleet.tag().generation;
    assert_eq!(fleet.scraped(0, address(9), at(1), TOOK, waiting(1)), None);
    assert_eq!(fleet.tag().generation, generation);
}
