use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use catalogue::{Label, Stat, stat_name};
use snapshot::{EndpointIdentity, Load, Loads, PoolMembers, Snapshot, State, Tag};

use super::*;
use crate::accounts::Charge;
use crate::config::Plugin;
use crate::flusher::HostStats;
use crate::ledger::SinkKind;
use crate::openai::{Api, PromptDigest};
use crate::record::{ExchangeRecord, Pick};
use crate::scheduling::Reason;
use crate::shared_data::fake::FakeSharedData;
use crate::snapshot_service::{News as Line, SidecarRequest};

/// One Envoy: its stats, shared data and clock, and the sidecar behind it.
#[derive(Default)]
struct World {
    micros: Cell<u64>,
    shared: RefCell<FakeSharedData>,
    stats: RefCell<BTreeMap<String, u64>>,
    names: RefCell<Vec<String>>,
    sidecar: RefCell<Snapshot>,
}

/// The world as one instance sees it.
struct Eye {
    world: Rc<World>,
    period: u32,
    /// Requests to the sidecar that wait for their answer.
    asked: Vec<SidecarRequest>,
}

impl SharedData for Eye {
    fn get(&mut self, key: &str) -> Option<(Vec<u8>, u32)> {
        self.world.shared.borrow_mut().get(key)
    }

    fn set(&mut self, key: &str, value: &[u8], cas: u32) -> Result<(), SetError> {
        self.world.shared.borrow_mut().set(key, value, cas)
    }
}

impl HostStats for Eye {
    fn define_stat(&mut self, _: SinkKind, family: &str, suffix: &str, labels: &[(Label, &str)]) -> Option<u32> {
        let name = stat_name(family, suffix, labels);
        let mut names = self.world.names.borrow_mut();
        let id = names.iter().position(|known| *known == name).unwrap_or_else(|| {
            names.push(name.clone());
            names.len() - 1
        });
        self.world.stats.borrow_mut().entry(name).or_default();
        u32::try_from(id).ok()
    }

    fn add_to_stat(&mut self, id: u32, delta: u64) {
        let name = self.world.names.borrow()[id as usize].clone();
        *self.world.stats.borrow_mut().entry(name).or_default() += delta;
    }

    fn set_stat(&mut self, id: u32, value: u64) {
        let name = self.world.names.borrow()[id as usize].clone();
        self.world.stats.borrow_mut().insert(name, value);
    }

    fn now(&mut self) -> Timestamp {
        Timestamp::from_micros(self.world.micros.get())
    }
}

impl Binding for Eye {
    fn set_tick_period(&mut self, millis: u32) -> bool {
        self.period = millis;
        true
    }

    fn memory_bytes(&mut self) -> u64 {
        65_536
    }

    fn call(&mut self, request: &SidecarRequest) -> Result<(), String> {
        self.asked.push(request.clone());
        Ok(())
    }

    fn log(&mut self, _: &Line) {}
}

/// One instance of the filter, or the singleton.
struct Instance {
    eye: Eye,
    role: Role,
    next_tick: u64,
    charges: Vec<Charge>,
}

enum Role {
    Filter(Box<Worker>, Box<EndpointPicker>),
    Singleton(Box<Holder>),
}

struct Fleet {
    world: Rc<World>,
    instances: Vec<Option<Instance>>,
}

const BUILD: [&str; 2] = ["c", "r"];

impl Fleet {
    /// So many instances of the filter, after a singleton where there is one.
    fn new(singleton: bool, filters: usize) -> Self {
        let mut fleet = Self { world: Rc::new(World::default()), instances: Vec::new() };
        fleet.world.micros.set(1_000_000);
        fleet.publish(1, 1, &["10.0.0.1:80", "10.0.0.2:80"]);
        if singleton {
            let Ok(Plugin::Filter(config)) = Plugin::parse(b"{}") else { panic!() };
            fleet.add(Role::Singleton(Box::new(Holder::new(99, config.sidecar, BUILD))), 50);
        }
        for index in 0..filters {
            fleet.add_filter(index as u64 + 1);
        }
        fleet
    }

    fn add_filter(&mut self, id: u64) {
        let Ok(Plugin::Filter(config)) = Plugin::parse(br#"{"metrics": {"model": true}}"#) else { panic!() };
        let picker = EndpointPicker::new(config, id);
        let worker = Worker::new(id, &picker, BUILD);
        self.add(Role::Filter(Box::new(worker), Box::new(picker)), UNUSED_TICK_MILLIS);
    }

    fn add(&mut self, role: Role, period: u32) {
        let eye = Eye { world: Rc::clone(&self.world), period, asked: Vec::new() };
        let next_tick = self.world.micros.get() + u64::from(period) * 1_000;
        self.instances.push(Some(Instance { eye, role, next_tick, charges: Vec::new() }));
    }

    fn publish(&self, version: u64, generation: u64, addresses: &[&str]) {
        let endpoints: Vec<EndpointIdentity> =
            addresses.iter().map(|address| EndpointIdentity::unnamed(address.parse().unwrap())).collect();
        let load = Load { state: State::Fresh, age_ms: Some(0), waiting: Some(3), ..Load::default() };
        let loads = vec![load; endpoints.len()];
        let pools = vec![PoolMembers { name: "default".into(), endpoints, ..PoolMembers::default() }];
        let membership = Some(Membership { epoch: 1, version, pools });
        let loads = Loads { epoch: 1, membership_version: version, generation, endpoints: loads, ..Loads::default() };
        *self.world.sidecar.borrow_mut() = Snapshot { membership, loads };
    }

    /// Lets time pass for all instances.
    fn run(&mut self, millis: u64) {
        let end = self.world.micros.get() + millis * 1_000;
        while self.world.micros.get() < end {
            let now = self.world.micros.get() + 1_000;
            self.world.micros.set(now);
            for instance in self.instances.iter_mut().flatten() {
                instance.answer(&self.world.sidecar.borrow());
                if instance.next_tick <= now {
                    instance.tick();
                    instance.next_tick = now + u64::from(instance.eye.period) * 1_000;
                }
            }
        }
    }

    fn instance(&mut self, index: usize) -> &mut Instance {
        self.instances[index].as_mut().unwrap()
    }

    /// A request to that member of the pool.
    fn send(&mut self, index: usize, member: usize) {
        let now = Timestamp::from_micros(self.world.micros.get());
        let Instance { eye, role: Role::Filter(worker, picker), charges, .. } = self.instance(index) else { panic!() };
        worker.request_came(picker, eye);
        let endpoint = picker.pool().members().get(member).copied();
        let mut record = ExchangeRecord::begin(now);
        record.api = Some(Api::ChatCompletions);
        record.model = "m".into();
        record.pick = endpoint.map_or(Pick::NoEndpoint, |id| Pick::Ranked(id.into(), Reason::BestScore));
        charges.push(picker.charge_to(endpoint, &record, &PromptDigest::default(), true, now));
        let period = u64::from(eye.period) * 1_000;
        let instance = self.instance(index);
        instance.next_tick = instance.next_tick.min(now.as_micros() + period);
    }

    fn finish(&mut self, index: usize) {
        let Instance { role: Role::Filter(_, picker), charges, .. } = self.instance(index) else { panic!() };
        for charge in charges.drain(..) {
            picker.settle(Some(charge), Box::new(ExchangeRecord::begin(Timestamp::default())), Timestamp::default());
        }
    }

    /// What that instance takes for in flight, by member.
    fn totals(&mut self, index: usize) -> Vec<u32> {
        let Role::Filter(_, picker) = &self.instance(index).role else { panic!() };
        let pool = picker.pool();
        pool.members().iter().map(|&id| pool.endpoint(id).unwrap().in_flight().total()).collect()
    }

    fn holders(&self) -> Vec<usize> {
        let held = |instance: &Instance| match &instance.role {
            Role::Filter(worker, _) => worker.is_holder(),
            Role::Singleton(holder) => holder.is_held(),
        };
        (0..self.instances.len()).filter(|&index| self.instances[index].as_ref().is_some_and(held)).collect()
    }

    fn stat(&self, name: &str) -> Option<u64> {
        self.world.stats.borrow().get(name).copied()
    }

    #[track_caller]
    fn assert_stats(&self, expected: &[(&str, u64)]) {
        for &(name, value) in expected {
            assert_eq!(self.stat(name), Some(value), "{name} in {:?}", self.world.stats.borrow());
        }
    }
}

impl Instance {
    fn tick(&mut self) {
        match &mut self.role {
            Role::Filter(worker, picker) => worker.tick(picker, &mut self.eye),
            Role::Singleton(holder) => {
                let now = self.eye.now();
                holder.tick(&mut self.eye, Rank::Singleton, now);
            }
        }
    }

    /// The sidecar answers at once.
    fn answer(&mut self, snapshot: &Snapshot) {
        for request in core::mem::take(&mut self.eye.asked) {
            let tag: Option<Tag> = request.if_none_match.and_then(|tag| tag.parse().ok());
            let body = if tag == Some(snapshot.loads.tag()) { Vec::new() } else { snapshot.encode() };
            let status: &[u8] = if body.is_empty() { b"304" } else { b"200" };
            let response = Some(SidecarResponse { status, body: &body, is_watched: false });
            match &mut self.role {
                Role::Filter(worker, _) => worker.handle_response(&mut self.eye, response),
                Role::Singleton(holder) => {
                    let now = self.eye.now();
                    holder.handle_response(&mut self.eye, response, now);
                }
            }
        }
    }
}

const FIRST: &str = "pool=default;endpoint=10.0.0.1:80;inpick_in_flight_requests";
const SECOND: &str = "pool=default;endpoint=10.0.0.2:80;inpick_in_flight_requests";
const RUNNING: &str = "model_name=other;inference_objective_running_requests";
const RUNNING_OLD: &str = "model_name=other;inference_model_running_requests";

#[test]
fn each_worker_sees_what_the_others_have_in_flight_and_the_gauges_show_the_sum() {
    for singleton in [true, false] {
        let mut fleet = Fleet::new(singleton, 4);
        let first = usize::from(singleton);
        fleet.run(1_500);
        for _ in 0..3 {
            fleet.send(first, 0);
        }
        fleet.send(first + 1, 0);
        fleet.send(first + 2, 1);
        fleet.run(200);
        for index in first..first + 3 {
            assert_eq!(fleet.totals(index), [4, 1], "instance {index}");
        }
        fleet.run(3_000);
        fleet.assert_stats(&[(FIRST, 4), (SECOND, 1), (RUNNING, 5), (RUNNING_OLD, 5)]);
        fleet.assert_stats(&[("name=default;inference_pool_ready_pods", 2), ("inpick_vm_memory_bytes", 3 * 65_536)]);
        fleet.assert_stats(&[("pool=default;state=fresh;inpick_endpoints", 2), ("inpick_snapshot_generation", 1)]);
        fleet.finish(first);
        fleet.run(200);
        assert_eq!(fleet.totals(first + 1), [1, 1]);
        fleet.finish(first + 1);
        fleet.finish(first + 2);
        fleet.run(3_000);
        fleet.assert_stats(&[(FIRST, 0), (SECOND, 0), (RUNNING, 0), (RUNNING_OLD, 0)]);
    }
}

#[test]
fn a_holder_that_dies_is_replaced_within_three_seconds_and_its_gauges_live_on() {
    for singleton in [true, false] {
        for serving in [false, true] {
            let mut fleet = Fleet::new(singleton, 3);
            let first = usize::from(singleton);
            fleet.run(1_500);
            let [holder] = fleet.holders()[..] else { panic!("{:?}", fleet.holders()) };
            let survivor = if holder == first { first + 1 } else { first };
            fleet.send(survivor, 0);
            if serving {
                fleet.send(survivor + 1, 1);
            }
            fleet.run(3_000);
            fleet.assert_stats(&[(FIRST, 1)]);
            fleet.instances[holder] = None;
            fleet.finish(survivor);
            fleet.publish(1, 5, &["10.0.0.1:80", "10.0.0.2:80"]);
            fleet.run(3_000);
            assert_eq!(fleet.holders().len(), 1);
            fleet.run(1_200);
            // The successor shows news, and sets to 0 what the dead one had set.
            fleet.assert_stats(&[(FIRST, 0), ("inpick_snapshot_generation", 5), ("inpick_snapshot_age_seconds", 0)]);
        }
    }
}

#[test]
fn without_a_snapshot_what_runs_is_shown_all_the_same() {
    let mut fleet = Fleet::new(true, 2);
    *fleet.world.sidecar.borrow_mut() = Snapshot { membership: None, loads: Loads::default() };
    fleet.run(1_500);
    fleet.send(1, 0);
    fleet.send(2, 0);
    fleet.run(2_500);
    fleet.assert_stats(&[(RUNNING, 2), ("inpick_vm_memory_bytes", 2 * 65_536)]);
    assert_eq!(fleet.stat("inpick_snapshot_age_seconds"), None);
}

#[test]
fn the_singleton_is_preferred_then_an_unused_instance_then_a_worker() {
    let mut fleet = Fleet::new(true, 2);
    fleet.run(1_000);
    assert_eq!(fleet.holders(), [0]);
    fleet.instances[0] = None;
    fleet.send(1, 0);
    fleet.run(4_000);
    assert_eq!(fleet.holders(), [2]);
    // The holder begins to serve: there is nobody better, and it goes on.
    fleet.send(2, 0);
    fleet.run(1_000);
    assert_eq!(fleet.holders().len(), 1);
    fleet.add_filter(77);
    fleet.run(1_100);
    assert_eq!(fleet.holders(), [3]);
}

#[test]
fn a_dead_worker_leaves_the_sums_and_a_paused_process_finds_its_way_back() {
    let mut fleet = Fleet::new(true, 2);
    fleet.run(1_500);
    fleet.send(1, 0);
    fleet.send(2, 0);
    fleet.run(200);
    assert_eq!(fleet.totals(1), [2, 0]);
    // The whole process is paused: nobody ticks, and then all do.
    fleet.world.micros.set(fleet.world.micros.get() + 10_000_000);
    fleet.run(2_300);
    assert_eq!((fleet.totals(1), fleet.totals(2)), (vec![2, 0], vec![2, 0]));
    fleet.assert_stats(&[(FIRST, 2), (RUNNING, 2), ("inpick_vm_memory_bytes", 2 * 65_536)]);
    fleet.instances[2] = None;
    fleet.run(3_200);
    assert_eq!(fleet.totals(1), [1, 0]);
    fleet.run(1_200);
    fleet.assert_stats(&[(FIRST, 1), (RUNNING, 1), ("inpick_vm_memory_bytes", 65_536)]);
}

#[test]
fn a_board_that_nobody_renews_counts_no_more() {
    let mut fleet = Fleet::new(false, 2);
    fleet.run(1_500);
    fleet.send(0, 0);
    fleet.send(1, 0);
    fleet.run(300);
    assert_eq!(fleet.totals(0), [2, 0]);
    // Nobody can write any more, so nobody holds the lease.
    fleet.world.shared.borrow_mut().refuses = true;
    fleet.run(2_400);
    assert_eq!(fleet.totals(0), [2, 0]);
    fleet.run(800);
    assert_eq!((fleet.totals(0), fleet.totals(1)), (vec![1, 0], vec![1, 0]));
    fleet.world.shared.borrow_mut().refuses = false;
    fleet.run(500);
    assert_eq!(fleet.totals(0), [2, 0]);
}

#[test]
fn counts_follow_their_endpoints_when_the_membership_changes() {
    let mut fleet = Fleet::new(true, 2);
    fleet.run(1_500);
    fleet.send(1, 0);
    fleet.send(2, 0);
    fleet.send(2, 1);
    fleet.run(1_500);
    fleet.publish(2, 2, &["10.0.0.9:80", "10.0.0.2:80"]);
    fleet.run(300);
    assert_eq!((fleet.totals(1), fleet.totals(2)), (vec![0, 1], vec![0, 1]));
    fleet.run(1_500);
    // The one that left still has its requests.
    fleet.assert_stats(&[(FIRST, 2), (SECOND, 1)]);
    fleet.finish(1);
    fleet.finish(2);
    fleet.run(2_500);
    fleet.assert_stats(&[(FIRST, 0), (SECOND, 0)]);
}

#[test]
fn what_one_worker_met_the_others_know() {
    let mut fleet = Fleet::new(true, 2);
    fleet.run(1_500);
    fleet.send(1, 0);
    fleet.send(2, 0);
    fleet.run(500);
    let now = Timestamp::from_micros(fleet.world.micros.get());
    let Role::Filter(_, picker) = &mut fleet.instance(1).role else { panic!() };
    let endpoint = picker.pool().members()[0];
    for _ in 0..5 {
        let failed = crate::scheduling::Observation::Failed(crate::scheduling::Failure::ServerError);
        picker.observe(endpoint, &failed, now, now);
    }
    fleet.finish(1);
    fleet.run(200);
    let now = Timestamp::from_micros(fleet.world.micros.get());
    let standing = |fleet: &mut Fleet, member: usize| {
        let Role::Filter(_, picker) = &fleet.instance(2).role else { panic!() };
        let pool = picker.pool();
        pool.endpoint(pool.members()[member]).unwrap().health().standing(now)
    };
    assert_eq!(standing(&mut fleet, 0), Standing::Ejected);
    assert_eq!(standing(&mut fleet, 1), Standing::Good);
    let (fresh, ejected) = ("pool=default;state=fresh;inpick_endpoints", "pool=default;state=ejected;inpick_endpoints");
    fleet.run(1_500);
    fleet.assert_stats(&[(fresh, 1), (ejected, 1)]);
    // After the fourth ejection, of 16 s, it may be tried, and nobody sends it anything.
    fleet.run(16_000);
    fleet.assert_stats(&[(fresh, 2), (ejected, 0)]);
}

#[test]
fn a_worker_that_never_saw_a_queue_hears_of_slots_from_another() {
    let mut fleet = Fleet::new(true, 1);
    fleet.run(1_500);
    fleet.send(1, 0);
    fleet.run(500);
    let slots = |fleet: &mut Fleet| {
        let Role::Filter(_, picker) = &fleet.instance(1).role else { panic!() };
        let pool = picker.pool();
        pool.members().iter().map(|&id| pool.endpoint(id).unwrap().slots()).collect::<Vec<_>>()
    };
    assert_eq!(slots(&mut fleet), [None, None]);
    // Of an older configuration, whose machine still serves those who wait in it.
    let post = |place, slots, sequence, now| Post {
        worker: 70,
        sequence,
        written_at_micros: now,
        order: Some(Order { epoch: 1, version: 1 }),
        lessons: vec![Lesson { place, slots, ..Lesson::default() }],
        ..Post::default()
    };
    for (place, heard, sequence, expected) in
        [(1, 8, 1, [None, Some(8)]), (0, 4, 2, [Some(4), Some(8)]), (1, 2, 3, [Some(4), Some(8)])]
    {
        let now = fleet.world.micros.get();
        let eye = &mut fleet.instance(1).eye;
        eye.set(&key::post(70), &post(place, heard, sequence, now).encode_to_vec(), 0).unwrap();
        assert!(enroll(eye, 70));
        fleet.run(500);
        assert_eq!(slots(&mut fleet), expected, "what is known stands");
    }
}

#[test]
fn nothing_is_written_while_nothing_moves_but_renewals() {
    let mut fleet = Fleet::new(true, 4);
    fleet.run(1_500);
    for index in 1..5 {
        fleet.send(index, 0);
    }
    fleet.run(3_000);
    let written = |fleet: &Fleet, key: &str| fleet.world.shared.borrow().values.get(key).unwrap().1;
    let keys = [key::BOARD, key::MEMBERSHIP, key::LOADS, key::ADMISSION, key::ROSTER, key::SERIES];
    let before = keys.map(|key| written(&fleet, key));
    let posts = fleet.world.shared.borrow().writes;
    fleet.run(5_000);
    assert_eq!(keys.map(|key| written(&fleet, key)), before);
    // Each second: 2 renewals of 4 posts, 2 of the board, the holder's lease and the sidecar's confirmation 20 times each.
    let written = fleet.world.shared.borrow().writes - posts;
    assert!(written <= 5 * (8 + 2 + 20 + 20) + 10, "{written}");
}

#[test]
fn mishaps_of_shared_data_lose_nothing() {
    let mut fleet = Fleet::new(true, 3);
    for round in 0..40 {
        fleet.world.shared.borrow_mut().lost = round % 12;
        if round == 20 {
            let garbage = vec![0xff; 7];
            for key in [key::VERSION, key::ROSTER, key::BOARD, crate::lease::KEY] {
                fleet.world.shared.borrow_mut().set(key, &garbage, 0).unwrap();
            }
        }
        fleet.send(1 + round % 3, round % 2);
        fleet.run(100);
    }
    fleet.run(4_000);
    let sent: Vec<u32> = fleet.totals(1);
    // Requests that came before the pool was known went to nobody.
    assert!(sent.iter().sum::<u32>() > 20, "{sent:?}");
    assert_eq!((fleet.totals(2), fleet.totals(3)), (sent.clone(), sent.clone()));
    for index in 1..4 {
        fleet.finish(index);
    }
    fleet.run(3_000);
    assert_eq!(fleet.totals(1), [0, 0]);
    fleet.assert_stats(&[(FIRST, 0), (SECOND, 0), (RUNNING, 0)]);
}

#[test]
fn a_pace_for_each_state() {
    let mut fleet = Fleet::new(true, 1);
    fleet.run(1_000);
    assert_eq!(fleet.instance(1).eye.period, UNUSED_TICK_MILLIS);
    fleet.send(1, 0);
    fleet.run(1_000);
    assert_eq!(fleet.instance(1).eye.period, SERVING_TICK_MILLIS);
    let Role::Filter(_, picker) = &mut fleet.instance(1).role else { panic!() };
    for index in 0..60 {
        picker.telemetry_mut().ledger_mut().count(Stat::RequestBodiesTotal, &[&format!("{index}")]);
    }
    let mut paces = (0..10).map(|_| {
        fleet.run(10);
        fleet.instance(1).eye.period
    });
    assert!(paces.any(|pace| pace == DEFINING_TICK_MILLIS));
    fleet.run(1_000);
    assert_eq!(fleet.instance(1).eye.period, SERVING_TICK_MILLIS);
    fleet.instances[0] = None;
    fleet.add_filter(5);
    fleet.run(4_000);
    assert_eq!((fleet.holders(), fleet.instance(2).eye.period), (vec![2], 50));
}

fn waiting(rows: &[(i64, u32, u32)]) -> Vec<WaitingWorker> {
    let row = |(worker, &(priority, requests, in_flight)): (u64, &(i64, u32, u32))| WaitingWorker {
        worker,
        priority,
        requests,
        in_flight,
        first: 3,
    };
    (1..).zip(rows).map(row).collect()
}

#[test]
fn who_has_more_in_flight_than_others_that_wait_comes_after_them_and_the_more_urgent_come_first() {
    let of = |rows: &[(i64, u32, u32)], worker| {
        let Peers { before, equals, wanted, .. } = peers(&waiting(rows), worker, 3, 0);
        (before, equals, wanted)
    };
    // The only slot of a pool is one worker's.
    let one = [(0, 9, 1), (0, 4, 0)];
    assert_eq!([1, 2].map(|worker| of(&one, worker)), [(1, 1, 4), (0, 1, 0)]);
    let urgent = [(0, 9, 1), (5, 2, 40), (0, 1, 0)];
    assert_eq!([1, 2, 3].map(|worker| of(&urgent, worker)), [(2, 1, 3), (0, 1, 0), (1, 1, 2)]);
    // One more or less in a large pool is nothing.
    let even = [(0, 9, 10), (0, 9, 11), (0, 9, 10)];
    assert_eq!([1, 2, 3].map(|worker| of(&even, worker)), [(0, 3, 0); 3]);
    assert_eq!(of(&even, 7), (3, 1, 27), "who has nobody waiting yet comes last");
    assert_eq!(of(&[], 7), (0, 1, 0));
}

#[test]
fn workers_that_wait_for_another_pool_share_nothing() {
    let mut rows = waiting(&[(0, 9, 1), (0, 4, 0), (0, 7, 0)]);
    rows[1].first = 0;
    assert_eq!(peers(&rows, 1, 3, 0).workers, 2);
    assert_eq!(peers(&rows, 2, 0, 0).workers, 1);
}
