//! A list of endpoints that a request is confined to.

use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};

use crate::pool::Pool;

/// The only endpoints that a request may go to.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Subset {
    entries: Vec<(IpAddr, Option<u16>)>,
    is_order: bool,
}

impl Subset {
    /// Reads a list of `ip` and `ip:port`, separated by commas. What is no address matches nobody, so that a list of nonsense confines a
    /// request to nobody.
    ///
    /// An entry with a port means that endpoint where `pool` has it, else all endpoints of its IP: those who write such lists may
    /// know another port of a pod than the one that serves.
    #[must_use]
    pub fn parse(list: &[u8], pool: &Pool) -> Self {
        let entries = list.split(|&byte| byte == b',').filter_map(|text| entry(core::str::from_utf8(text).ok()?, pool));
        Self { entries: entries.collect(), is_order: false }
    }

    /// The same list, whose order ranks the endpoints too.
    #[must_use]
    pub fn as_order(self) -> Self {
        Self { is_order: true, ..self }
    }

    /// Whether its order ranks the endpoints.
    pub(super) const fn is_order(&self) -> bool {
        self.is_order
    }

    /// Whether a request may go to that address.
    #[must_use]
    pub fn admits(&self, address: SocketAddr) -> bool {
        self.position(address).is_some()
    }

    /// Place of the first entry that means that address.
    pub(super) fn position(&self, address: SocketAddr) -> Option<usize> {
        self.entries.iter().position(|&(ip, port)| ip == address.ip() && port.is_none_or(|port| port == address.port()))
    }
}

fn entry(text: &str, pool: &Pool) -> Option<(IpAddr, Option<u16>)> {
    let text = text.trim();
    if let Ok(ip) = text.trim_start_matches('[').trim_end_matches(']').parse() {
        return Some((ip, None));
    }
    let address: SocketAddr = text.parse().ok()?;
    let is_known = pool.find(address).is_some();
    Some((address.ip(), is_known.then_some(address.port())))
}
