use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use catalogue::Label;
use prost::Message as _;
use snapshot::{EndpointIdentity, Loads, PoolMembers};

use super::*;
use crate::board::{BandPost, FlowPost, WaitingPost};
use crate::flusher::HostStats;
use crate::ledger::SinkKind;
use crate::shared_data::fake::FakeSharedData;

/// Envoy's gauges by name.
#[derive(Default)]
struct Host {
    names: Vec<String>,
    values: BTreeMap<String, u64>,
}

impl HostStats for Host {
    fn define_stat(&mut self, _: SinkKind, family: &str, suffix: &str, labels: &[(Label, &str)]) -> Option<u32> {
        self.names.push(catalogue::stat_name(family, suffix, labels));
        u32::try_from(self.names.len() - 1).ok()
    }

    fn add_to_stat(&mut self, _: u32, _: u64) {}

    fn set_stat(&mut self, id: u32, value: u64) {
        self.values.insert(self.names[id as usize].clone(), value);
    }

    fn now(&mut self) -> Timestamp {
        Timestamp::from_micros(0)
    }
}

const FLOW: &str = "inference_extension_flow_control_";

fn membership(pools: &[(&str, usize)]) -> Membership {
    let mut ports = 1..;
    let mut endpoint = || EndpointIdentity::unnamed(([10, 0, 0, 1], ports.next().unwrap()).into());
    let pools = pools.iter().map(|&(name, endpoints)| PoolMembers {
        name: name.into(),
        endpoints: core::iter::repeat_with(&mut endpoint).take(endpoints).collect(),
        ..PoolMembers::default()
    });
    Membership { epoch: 1, version: 1, pools: pools.collect() }
}

fn shared() -> FakeSharedData {
    let mut shared = FakeSharedData::default();
    let table = Table { fairness_ids: vec!["a".into(), "b".into()], models: vec!["m".into()], ..Table::default() };
    shared.set(key::ADMISSION, &table.encode_to_vec(), 0).unwrap();
    shared
}

/// What one worker has, of fairness ids by their numbers: requests of 100 bytes.
fn post(llm_d: bool, waiting: &[(u32, i64, u32)]) -> Post {
    let waiting = waiting.iter().map(|&(fairness_id, priority, requests)| WaitingPost {
        fairness_id,
        priority,
        model: 2,
        target: 1,
        requests,
        bytes: 100 * u64::from(requests),
    });
    let flow = FlowPost {
        saturation_permille: 1_250,
        waiting: waiting.collect(),
        bands: vec![BandPost { priority: 0, max_requests: 10, max_bytes: 1_000_000 }],
        max_requests: 0,
        max_bytes: 8_000,
    };
    Post { pool: "p".into(), llm_d, flow: Some(flow), ..Post::default() }
}

/// What Envoy shows once `holder`, or one that has just taken the lease, has counted these posts.
fn shown(gauges: &mut Gauges, shared: &mut FakeSharedData, host: &mut Host, posts: &[Post], second: u64) {
    shown_of(gauges, shared, host, (&membership(&[("p", 1)]), &Loads::default()), posts, second);
}

/// The same of any endpoints and their loads.
fn shown_of(
    gauges: &mut Gauges,
    shared: &mut FakeSharedData,
    host: &mut Host,
    (membership, loads): (&Membership, &Loads),
    posts: &[Post],
    second: u64,
) {
    let board = Board::default();
    let facts =
        Facts { membership: Some(membership), loads, board: &board, snapshot_age_ms: Some(0), loads_age_ms: Some(0) };
    let now = Timestamp::from_micros(second * 1_000_000);
    gauges.compute(shared, &facts, posts.iter(), now);
    // A tick defines 16 stats at most, and what was not defined is told with the next flush.
    for tick in 0..4 {
        gauges.flush(host, Timestamp::from_micros((second * 10 + tick) * 1_000_000));
    }
}

impl Host {
    fn flow(&self) -> Vec<(&str, u64)> {
        let of_flow = self.values.iter().filter(|(name, _)| name.contains("flow_control"));
        of_flow.map(|(name, value)| (name.as_str(), *value)).collect()
    }

    fn value(&self, name: &str) -> Option<u64> {
        self.values.get(name).copied()
    }
}

#[test]
fn what_waits_is_added_up_over_workers_and_a_flow_that_went_reads_0() {
    let (mut shared, mut host) = (shared(), Host::default());
    let mut gauges = Gauges::new(&mut shared, ["c", "b"]);
    let posts = [post(false, &[(2, 0, 3), (3, 5, 1)]), post(false, &[(2, 0, 4), (1, 0, 2)])];
    shown(&mut gauges, &mut shared, &mut host, &posts, 1);
    let size = |labels: &str| alloc::format!("{labels}{FLOW}queue_size");
    let bytes = |labels: &str| alloc::format!("{labels}{FLOW}queue_bytes");
    assert_eq!(host.value(&size("priority=0;fairness_id=a;")), Some(7));
    assert_eq!(host.value(&bytes("priority=0;fairness_id=a;")), Some(700));
    assert_eq!(host.value(&size("priority=5;fairness_id=b;")), Some(1));
    assert_eq!(host.value(&size("priority=0;fairness_id=other;")), Some(2));
    assert_eq!(host.value(&alloc::format!("inference_pool=p;{FLOW}pool_saturation_permille")), Some(1_250));
    assert_eq!(host.flow().len(), 7, "{:?}", host.flow());

    // One worker was replaced, and the other has nothing left of that flow.
    shown(&mut gauges, &mut shared, &mut host, &[post(false, &[(3, 5, 2)])], 2);
    assert_eq!(host.value(&size("priority=0;fairness_id=a;")), Some(0));
    assert_eq!(host.value(&bytes("priority=0;fairness_id=other;")), Some(0));
    assert_eq!(host.value(&size("priority=5;fairness_id=b;")), Some(2));

    // All of them were, and so was the holder of the lease.
    let mut heir = Gauges::new(&mut shared, ["c", "b"]);
    shown(&mut heir, &mut shared, &mut host, &[], 3);
    assert!(host.flow().iter().all(|(_, value)| *value == 0), "{:?}", host.flow());
}

#[test]
fn the_newest_spelling_names_models_and_pool_and_shows_how_full_bands_are() {
    let (mut shared, mut host) = (shared(), Host::default());
    let mut gauges = Gauges::new(&mut shared, ["c", "b"]);
    shown(&mut gauges, &mut shared, &mut host, &[post(true, &[(2, 0, 4)]), post(true, &[(2, 0, 1)])], 1);
    let newest = |labels: &str, name: &str| host.value(&alloc::format!("{labels}llm_d_epp_flow_control_{name}"));
    let all = "model_name=m;target_model_name=other;priority=0;fairness_id=a;inference_pool=p;";
    assert_eq!((newest(all, "queue_size"), newest(all, "queue_bytes")), (Some(5), Some(500)));
    for stage in ["decode", "effective"] {
        let labels = alloc::format!("inference_pool=p;stage={stage};");
        assert_eq!(newest(&labels, "pool_saturation_permille"), Some(1_250));
    }
    let band = "priority=0;inference_pool=p;";
    // 5 of 20, as each worker may hold 10.
    assert_eq!(newest(band, "capacity_utilization_requests_permille"), Some(250));
    assert_eq!(newest(band, "capacity_utilization_bytes_permille"), Some(0));
    assert_eq!(newest("inference_pool=p;", "global_capacity_utilization_bytes_permille"), Some(31));
    assert_eq!(newest("inference_pool=p;", "global_capacity_utilization_requests_permille"), None);
    // The loads are of no membership that is known: none of them counts.
    assert_eq!(newest("detector=utilization-detector;", "stale_endpoints"), Some(1));
}

#[test]
fn without_flow_control_none_of_its_gauges_is_defined() {
    let (mut shared, mut host) = (shared(), Host::default());
    let mut gauges = Gauges::new(&mut shared, ["c", "b"]);
    let off = Post { llm_d: true, flow: None, ..post(true, &[]) };
    shown(&mut gauges, &mut shared, &mut host, &[off], 1);
    assert_eq!(host.names.iter().find(|name| name.contains("flow_control")), None);
    assert!(host.names.iter().any(|name| name.contains("inpick_endpoints")));
}

#[test]
fn endpoints_that_are_left_out_for_failures_have_a_state_of_their_own_and_each_has_one() {
    let (mut shared, mut host) = (shared(), Host::default());
    let mut gauges = Gauges::new(&mut shared, ["c", "b"]);
    let membership = membership(&[("p", 5), ("q", 2)]);
    let states =
        [State::Fresh, State::Fresh, State::Stale, State::Unready, State::Frozen, State::Fresh, State::Unknown];
    let endpoints = states.map(|state| Load { state, ..Load::default() }).to_vec();
    let loads = Loads { epoch: 1, membership_version: 1, endpoints, ..Loads::default() };
    let order = Some(Order::of(&membership));
    let post = |order, first, ejected: &[u32]| Post { order, first, ejected: ejected.to_vec(), ..Post::default() };
    let mut count = |posts: &[Post], second| {
        shown_of(&mut gauges, &mut shared, &mut host, (&membership, &loads), posts, second);
        ["p", "q"].map(|pool| {
            ["fresh", "stale", "unknown", "unready", "frozen", "ejected"]
                .map(|state| host.value(&alloc::format!("pool={pool};state={state};inpick_endpoints")).unwrap())
        })
    };
    let nobody = [[2, 1, 0, 1, 1, 0], [1, 0, 1, 0, 0, 0]];
    assert_eq!(count(&[post(order, 0, &[])], 1), nobody);
    // Two workers of one pool, who know of the same endpoint, and one of the other. What the sidecar says of those that get nothing stands.
    let posts = [post(order, 0, &[1, 2]), post(order, 0, &[1, 3, 4]), post(order, 5, &[0, 1])];
    assert_eq!(count(&posts, 2), [[1, 0, 0, 1, 1, 2], [0, 0, 0, 0, 0, 2]]);
    // Places in another membership are somebody else's, and some are nobody's.
    let moved = Some(Order { epoch: 1, version: 2 });
    assert_eq!(count(&[post(moved, 0, &[0, 1]), post(None, 0, &[0]), post(order, u32::MAX, &[9])], 3), nobody);
}

#[test]
fn an_endpoint_that_is_left_out_for_failures_is_named_until_it_is_back() {
    let (mut shared, mut host) = (shared(), Host::default());
    let mut gauges = Gauges::new(&mut shared, ["c", "b"]);
    let (_, version) = shared.get(key::ADMISSION).unwrap();
    let table = Table { endpoints: vec!["10.0.0.1:1".into(), "10.0.0.1:2".into()], ..Table::default() };
    shared.set(key::ADMISSION, &table.encode_to_vec(), version).unwrap();
    let membership = membership(&[("p", 4)]);
    let endpoints =
        [State::Fresh, State::Fresh, State::Unready, State::Fresh].map(|state| Load { state, ..Load::default() });
    let loads = Loads { epoch: 1, membership_version: 1, endpoints: endpoints.to_vec(), ..Loads::default() };
    let post =
        |ejected: &[u32]| Post { order: Some(Order::of(&membership)), ejected: ejected.to_vec(), ..Post::default() };
    let mut ejected = |posts: &[Post], second| {
        shown_of(&mut gauges, &mut shared, &mut host, (&membership, &loads), posts, second);
        ["10.0.0.1:1", "10.0.0.1:2", "10.0.0.1:3", "other"]
            .map(|address| host.value(&alloc::format!("pool=p;endpoint={address};inpick_ejected")))
    };
    assert_eq!(ejected(&[post(&[])], 1), [None; 4], "none for those that never were");
    // One that is unready gets nothing anyway, and the last one has no label of its own.
    assert_eq!(ejected(&[post(&[0, 2]), post(&[0, 3])], 2), [Some(1), None, None, Some(1)]);
    assert_eq!(ejected(&[post(&[1])], 3), [Some(0), Some(1), None, Some(0)]);
}
