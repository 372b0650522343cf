//! What is encoded is decoded, and nothing else is.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test file: a failure here is the test's failure")]

use snapshot::{
    AdapterUse, DecodeError, EndpointIdentity, Load, Loads, LoadsDecoder, Membership, PoolMembers, PoolRewrite,
    ServedModel, Snapshot, State,
};

fn identity(address: &str) -> EndpointIdentity {
    EndpointIdentity {
        pod: "pod-0".into(),
        namespace: "ns".into(),
        labels: vec![("app".into(), "vllm".into())],
        ..EndpointIdentity::unnamed(address.parse().unwrap())
    }
}

fn served(name: &str, parent: &str) -> ServedModel {
    ServedModel { name: name.into(), parent: parent.into(), max_model_len: Some(8192) }
}

fn snapshot(addresses: &[&str]) -> Snapshot {
    let load = Load {
        state: State::Fresh,
        age_ms: Some(12),
        waiting: Some(3),
        kv_cache_usage: Some(0.25),
        started_at_ms: Some(1_700_000_000_000),
        ..Load::default()
    };
    let pool = PoolMembers {
        name: "p".into(),
        endpoints: addresses.iter().map(|address| identity(address)).collect(),
        adapters: vec!["a".into()],
        models: vec![served("m", ""), served("a", "m")],
        fail_closed: Some(true),
        objectives: [("batch".to_owned(), -1), ("urgent".to_owned(), 1 << 40)].into(),
        rewrites: vec![
            PoolRewrite { name: "r".into(), model: Some("m".into()), targets: vec![("a".into(), 3), ("b".into(), 0)] },
            PoolRewrite { name: "any".into(), model: None, targets: vec![("a".into(), 0)] },
        ],
    };
    let loads = Loads {
        epoch: 7,
        membership_version: 2,
        generation: 5,
        captured_at_ms: 99,
        endpoints: vec![load; addresses.len()],
        adapters: vec![AdapterUse { endpoint: 0, adapter: 0, waiting: true }],
    };
    Snapshot { membership: Some(Membership { epoch: 7, version: 2, pools: vec![pool] }), loads }
}

#[test]
fn what_is_encoded_is_decoded() {
    let sent = snapshot(&["10.0.0.1:8000", "[::1]:8000"]);
    assert_eq!(Snapshot::decode(&sent.encode()), Ok(sent.clone()));
    let membership = sent.membership.unwrap();
    assert_eq!(Membership::decode(&membership.encode()), Ok(membership));
    let mut decoder = LoadsDecoder::default();
    for _ in 0..2 {
        assert_eq!(decoder.decode(&sent.loads.encode()), Ok(&sent.loads));
    }
}

#[test]
fn absent_signals_stay_absent() {
    let received = Snapshot::decode(&snapshot(&["10.0.0.1:8000"]).encode()).unwrap();
    assert_eq!((received.loads.endpoints[0].running, received.loads.endpoints[0].max_lora), (None, None));
}

#[test]
fn a_usage_outside_the_ratio_is_refused() {
    for usage in [f64::NAN, f64::INFINITY, -0.1, 1.5] {
        let mut bad = snapshot(&["10.0.0.1:8000"]);
        bad.loads.endpoints[0].kv_cache_usage = Some(usage);
        assert_eq!(Snapshot::decode(&bad.encode()), Err(DecodeError::KvCacheUsage(0)));
    }
}

#[test]
fn contradictions_are_refused() {
    let twice = snapshot(&["10.0.0.1:8000", "10.0.0.1:8000"]).encode();
    assert!(matches!(Snapshot::decode(&twice), Err(DecodeError::DuplicateEndpoint(_))));

    let mut fewer = snapshot(&["10.0.0.1:8000", "10.0.0.2:8000"]);
    fewer.loads.endpoints.pop();
    assert_eq!(Snapshot::decode(&fewer.encode()), Err(DecodeError::Mismatch));

    let mut other = snapshot(&["10.0.0.1:8000"]);
    other.loads.membership_version = 3;
    assert_eq!(Snapshot::decode(&other.encode()), Err(DecodeError::Mismatch));

    let mut nowhere = snapshot(&["10.0.0.1:8000"]);
    nowhere.loads.adapters[0].endpoint = 1;
    assert_eq!(Snapshot::decode(&nowhere.encode()), Err(DecodeError::AdapterUse(1)));

    for name in ["", "q"] {
        let mut named = snapshot(&[]);
        named.loads.adapters.clear();
        let pools = &mut named.membership.as_mut().unwrap().pools;
        pools[0].name = name.into();
        pools.push(PoolMembers { name: "q".into(), ..PoolMembers::default() });
        assert_eq!(Snapshot::decode(&named.encode()), Err(DecodeError::PoolName(name.into())));
    }
}

#[test]
fn garbage_is_refused() {
    assert!(Snapshot::decode(b"\xff\xff\xff").is_err());
    assert_eq!(Snapshot::decode(b""), Err(DecodeError::NoLoads));
}

#[test]
fn a_pool_knows_where_its_loads_begin() {
    let pool = |name: &str, addresses: &[&str]| PoolMembers {
        name: name.into(),
        endpoints: addresses.iter().map(|address| identity(address)).collect(),
        ..PoolMembers::default()
    };
    let pools = vec![pool("a", &["10.0.0.1:1", "10.0.0.2:1"]), pool("b", &["10.0.0.3:1"])];
    let membership = Membership { epoch: 1, version: 1, pools };
    assert_eq!(membership.pool("b").map(|(pool, first)| (pool.endpoints.len(), first)), Some((1, 2)));
    assert_eq!(membership.pool("c"), None);
    assert_eq!(membership.endpoint_count(), 3);
}
