//! The thread that keeps the statistics of a process.
#![allow(dead_code, reason = "a part of several test programs, each of which uses some of it")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use endpoint_picker::shared_state::SharedState;
use endpoint_picker::{Config, EndpointPicker, Timestamp};
use snapshot::{EndpointIdentity, Load, Loads, Membership, PoolMembers, ServedModel, State};

use crate::stats::Stats;

fn address(last: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, last], 8000))
}

/// The keeper, and the table of labels that it would keep in shared data.
pub(crate) struct Keeper {
    pub(crate) picker: EndpointPicker,
    table: Option<Vec<u8>>,
}

impl Keeper {
    pub(crate) fn new(config: Config, state: Arc<dyn SharedState>) -> Self {
        Self { picker: EndpointPicker::keeping(config, 1, state), table: None }
    }

    pub(crate) fn install(&mut self, version: u64, hosts: &[u8]) {
        let endpoints = hosts.iter().map(|&host| EndpointIdentity::unnamed(address(host))).collect();
        let models = vec![ServedModel { name: "m".into(), ..ServedModel::default() }];
        let pool = PoolMembers { name: "default".into(), endpoints, models, ..PoolMembers::default() };
        self.picker.install_membership(&Membership { epoch: 1, version, pools: vec![pool] });
        self.report(version, hosts.len(), 0, 0, 0);
        self.admit();
    }

    /// A page of each of the members: so many run, so many wait.
    pub(crate) fn report(&mut self, version: u64, members: usize, running: u32, waiting: u32, millis: u64) {
        let load = Load {
            state: State::Fresh,
            age_ms: Some(0),
            waiting: Some(waiting),
            running: Some(running),
            ..Load::default()
        };
        let endpoints = vec![load; members];
        let loads = Loads {
            epoch: 1,
            membership_version: version,
            generation: millis,
            captured_at_ms: millis,
            endpoints,
            ..Loads::default()
        };
        self.picker.install_loads(&loads, Timestamp::from_micros(millis * 1_000)).unwrap();
        self.picker.catch_up();
    }

    /// The labels that there are, as all threads are told of them.
    pub(crate) fn labels(&self) -> Arc<[u8]> {
        self.table.as_deref().unwrap().into()
    }

    /// Counts what was told, as a tick does.
    pub(crate) fn hear(&mut self) {
        while self.picker.hear() {}
        self.admit();
    }

    fn admit(&mut self) {
        let admission = self.picker.telemetry_mut().admission_mut();
        if let Some(table) = admission.merge(self.table.as_deref()) {
            admission.learn(&table);
            self.table = Some(table);
        }
        self.picker.settle_pending();
    }

    pub(crate) fn stats(mut self) -> BTreeMap<String, u64> {
        self.picker.catch_up();
        self.hear();
        let stats = Stats::of(self.picker.telemetry_mut().derive());
        stats.0.into_iter().filter(|(_, value)| *value > 0).collect()
    }
}
