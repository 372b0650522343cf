//! A pod: an engine that can die, and the place it has in the pool.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::calibration::Calibration;
use crate::engine::{Engine, Page};

/// One pod.
#[derive(Debug)]
pub(crate) struct Pod {
    address: SocketAddr,
    engine: Engine,
    is_alive: bool,
    /// Discovery lists it.
    is_member: bool,
    /// What engines before this one computed, and how often they preempted.
    before: (u64, u64),
}

impl Pod {
    pub(crate) fn new(index: usize, calibration: Calibration, now: u64) -> Self {
        let [.., high, low] = (index as u32).to_be_bytes();
        let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, high, low)), 8_000);
        Self { address, engine: Engine::new(calibration, now), is_alive: true, is_member: true, before: (0, 0) }
    }

    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) const fn engine(&self) -> &Engine {
        &self.engine
    }

    pub(crate) const fn engine_mut(&mut self) -> &mut Engine {
        &mut self.engine
    }

    pub(crate) const fn is_alive(&self) -> bool {
        self.is_alive
    }

    pub(crate) const fn is_member(&self) -> bool {
        self.is_member
    }

    pub(crate) const fn set_member(&mut self, is_member: bool) {
        self.is_member = is_member;
    }

    /// Its metrics page; `None`: it does not answer.
    pub(crate) fn page(&self) -> Option<Page> {
        self.is_alive.then(|| self.engine.page())
    }

    /// Tokens of prompts that it computed.
    pub(crate) const fn prefilled_tokens(&self) -> u64 {
        self.before.0 + self.engine.prefilled_tokens()
    }

    /// Sequences that it preempted.
    pub(crate) const fn preemptions(&self) -> u64 {
        self.before.1 + self.engine.preemptions()
    }

    /// Dies: what was under way.
    pub(crate) fn kill(&mut self) -> Vec<usize> {
        self.is_alive = false;
        self.engine.abort()
    }

    /// Starts again, with nothing in its cache.
    pub(crate) fn start(&mut self, now: u64) {
        let slowness = self.engine.slowness();
        self.before = (self.prefilled_tokens(), self.preemptions());
        self.engine = Engine::new(*self.engine.calibration(), now);
        self.engine.slow_down(slowness);
        self.is_alive = true;
    }
}
