//! What comes to the filter over the wire and through shared data: snapshots, and whatever may lie under the keys that instances share.
//!
//! Input: a byte that chooses the message, then its bytes.

use std::collections::HashMap;

use catalogue::Label;
use endpoint_picker::board::{Board, Post, Roster, Version, key};
use endpoint_picker::flusher::HostStats;
use endpoint_picker::head::RequestHead;
use endpoint_picker::holder::Binding;
use endpoint_picker::ledger::SinkKind;
use endpoint_picker::shared_data::{SetError, SharedData};
use endpoint_picker::snapshot_service::{News, SidecarRequest, SidecarResponse};
use endpoint_picker::worker::Worker;
use endpoint_picker::{Directive, EndpointPicker, Exchange, Plugin, Timestamp, admission, lease};
use prost::Message;
use snapshot::{Loads, LoadsDecoder, MAX_ENDPOINTS, Membership, Snapshot};

use crate::host::Info;
use crate::stats::{Stats, send_requests};

/// Ticks after which a lease and every post of an instance that is gone have expired.
const TICKS: u64 = 12;
const TICK_MICROS: u64 = 500_000;
const WORKER: u64 = 7;

/// Decodes a message and does with it what the filter does.
pub fn check(data: &[u8]) {
    let [kind, bytes @ ..] = data else { return };
    match kind % 4 {
        0 | 1 => check_snapshot(bytes),
        2 => check_shared_data(bytes),
        _ => {
            check_message::<Post>(bytes);
            check_message::<Roster>(bytes);
            check_message::<Version>(bytes);
            check_message::<Board>(bytes);
            check_message::<admission::Table>(bytes);
        }
    }
}

fn check_snapshot(bytes: &[u8]) {
    if let Ok(membership) = Membership::decode(bytes) {
        assert_eq!(Membership::decode(&membership.encode()), Ok(membership));
    }
    if let Ok(loads) = LoadsDecoder::default().decode(bytes) {
        assert_eq!(LoadsDecoder::default().decode(&loads.encode()), Ok(loads));
    }
    let Ok(snapshot) = Snapshot::decode(bytes) else { return };
    assert_eq!(Snapshot::decode(&snapshot.encode()).as_ref(), Ok(&snapshot));
    let loads = &snapshot.loads;
    assert!(loads.endpoints.len() <= MAX_ENDPOINTS);
    let usages = loads.endpoints.iter().filter_map(|load| load.kv_cache_usage);
    assert!(usages.into_iter().all(|usage| (0.0..=1.0).contains(&usage)));
    let Some(membership) = &snapshot.membership else { return };
    for pool in &membership.pools {
        assert!(!pool.name.is_empty());
        check_pool(membership, &pool.name, pool.endpoints.len(), loads);
    }
}

fn check_pool(membership: &Membership, name: &str, endpoints: usize, loads: &Loads) {
    let config = serde_json::json!({"pool": name, "metrics": {"model": true}}).to_string();
    let Ok(Plugin::Filter(config)) = Plugin::parse(config.as_bytes()) else { panic!("{config}") };
    let mut picker = EndpointPicker::new(config, loads.epoch);
    let now = Timestamp::from_micros(loads.generation);
    for _ in 0..2 {
        picker.install_membership(membership);
        assert_eq!(picker.install_loads(loads, now), Ok(()));
        assert_eq!(picker.pool().endpoints().count(), endpoints, "installing again changes nothing");
        send_requests(&mut picker, &mut Stats::default(), 3, now);
    }
    picker.install_membership(&Membership::default());
    assert_eq!(picker.pool().endpoints().count(), 0, "nothing is in flight");
}

/// The bytes lie under one of the keys, or under all of them, while a worker ticks and the sidecar answers with them too.
fn check_shared_data(bytes: &[u8]) {
    let [chosen, bytes @ ..] = bytes else { return };
    let post = key::post(WORKER);
    let keys = [
        key::VERSION,
        key::MEMBERSHIP,
        key::LOADS,
        key::BOARD,
        key::ROSTER,
        key::ADMISSION,
        key::SERIES,
        lease::KEY,
        &post,
    ];
    let mut host = Host::default();
    for (index, key) in keys.iter().enumerate() {
        let chosen = usize::from(*chosen) % (keys.len() + 1);
        if chosen == index || chosen == keys.len() {
            host.values.insert((*key).to_owned(), (bytes.to_vec(), 1));
        }
    }
    let Ok(Plugin::Filter(config)) = Plugin::parse(b"") else { panic!("the defaults") };
    let mut picker = EndpointPicker::new(config, WORKER);
    let mut worker = Worker::new(WORKER, &picker, ["", ""]);
    worker.request_came(&mut picker, &mut host);
    for tick in 1..=TICKS {
        host.micros = tick * TICK_MICROS;
        worker.tick(&mut picker, &mut host);
        let response = SidecarResponse { status: b"200", body: bytes, is_watched: false };
        worker.handle_response(&mut host, Some(response).filter(|_| tick % 2 == 0));
        pick(&mut picker, Timestamp::from_micros(host.micros));
    }
    worker.finish(&mut picker, &mut host);
    assert!(picker.pool().endpoints().all(|(_, endpoint)| endpoint.in_flight().own() == 0));
}

/// A request that is picked for, and whose client leaves.
fn pick(picker: &mut EndpointPicker, now: Timestamp) {
    let mut exchange = Exchange::default();
    let head = RequestHead { method: b"GET", path: b"/v1/models", ..RequestHead::default() };
    assert_eq!(exchange.on_request_headers(picker, &head, true, now), Directive::Pick);
    assert!(matches!(exchange.pick(picker, now), Directive::Send(_)));
    exchange.on_log(picker, &mut Info { micros: now.as_micros(), ..Info::default() });
}

/// A host that grants everything.
#[derive(Default)]
struct Host {
    values: HashMap<String, (Vec<u8>, u32)>,
    micros: u64,
    stats: u32,
}

impl SharedData for Host {
    fn get(&mut self, key: &str) -> Option<(Vec<u8>, u32)> {
        self.values.get(key).cloned()
    }

    fn set(&mut self, key: &str, value: &[u8], cas: u32) -> Result<(), SetError> {
        let number = self.values.get(key).map_or(0, |&(_, number)| number);
        if cas != 0 && number != 0 && cas != number {
            return Err(SetError::Changed);
        }
        self.values.insert(key.to_owned(), (value.to_vec(), number + 1));
        Ok(())
    }
}

impl HostStats for Host {
    fn define_stat(&mut self, _: SinkKind, _: &str, _: &str, _: &[(Label, &str)]) -> Option<u32> {
        self.stats += 1;
        Some(self.stats)
    }

    fn add_to_stat(&mut self, id: u32, _: u64) {
        assert!(id <= self.stats);
    }

    fn set_stat(&mut self, id: u32, _: u64) {
        assert!(id <= self.stats);
    }

    fn now(&mut self) -> Timestamp {
        Timestamp::from_micros(self.micros)
    }
}

impl Binding for Host {
    fn set_tick_period(&mut self, millis: u32) -> bool {
        assert!(millis > 0, "a period of 0 means no ticks");
        true
    }

    fn memory_bytes(&mut self) -> u64 {
        65_536
    }

    fn call(&mut self, _: &SidecarRequest) -> Result<(), String> {
        Ok(())
    }

    fn log(&mut self, _: &News) {}
}

fn check_message<M: Message + Default + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
    if let Ok(message) = M::decode(bytes) {
        assert_eq!(M::decode(message.encode_to_vec().as_slice()).as_ref(), Ok(&message));
    }
}
