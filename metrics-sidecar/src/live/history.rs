//! The last minutes of every endpoint and pool, in a few numbers. Pure.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use crate::endpoint::EndpointState;
use crate::fleet::Fleet;
use crate::pool::PoolState;

/// Time between samples.
pub(crate) const STEP: Duration = Duration::from_secs(2);
/// Samples that are kept: four minutes. With 10 000 endpoints they take 5 MB.
pub(crate) const SAMPLES: usize = 120;

/// Requests and KV cache use of one sample.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Moment {
    /// Requests waiting and running; `None`: not known.
    pub(crate) requests: Option<u16>,
    /// KV cache use in thousandths, in the mean of a pool.
    pub(crate) kv_permille: Option<u16>,
}

/// Samples, the oldest first.
pub(crate) type Moments = VecDeque<Moment>;

/// What is kept.
#[derive(Debug, Default)]
pub(crate) struct History {
    taken_at: Option<Duration>,
    pools: Vec<Moments>,
    endpoints: HashMap<(usize, SocketAddr), Moments>,
}

impl History {
    /// Takes a sample if one is due. Endpoints that have left are forgotten.
    pub(crate) fn sample(&mut self, fleet: &Fleet, now: Duration) {
        if self.taken_at.is_some_and(|at| now.saturating_sub(at) < STEP) {
            return;
        }
        self.taken_at = Some(now);
        let pools = fleet.pools();
        self.pools.resize_with(pools.len(), Moments::new);
        let mut before = std::mem::take(&mut self.endpoints);
        for (index, (pool, moments)) in pools.iter().zip(&mut self.pools).enumerate() {
            push(moments, of_pool(pool));
            for endpoint in pool.endpoints() {
                let key = (index, endpoint.target.address);
                let mut moments = before.remove(&key).unwrap_or_default();
                push(&mut moments, of_endpoint(endpoint));
                self.endpoints.insert(key, moments);
            }
        }
    }

    /// The samples of a pool.
    pub(crate) fn pool(&self, index: usize) -> Option<&Moments> {
        self.pools.get(index)
    }

    /// The samples of an endpoint.
    pub(crate) fn endpoint(&self, pool: usize, address: SocketAddr) -> Option<&Moments> {
        self.endpoints.get(&(pool, address))
    }
}

fn push(moments: &mut Moments, moment: Moment) {
    if moments.len() >= SAMPLES {
        moments.pop_front();
    }
    moments.push_back(moment);
}

fn of_endpoint(endpoint: &EndpointState) -> Moment {
    let Some(signals) = endpoint.fresh_signals() else { return Moment::default() };
    let requests = (signals.waiting.is_some() || signals.running.is_some())
        .then(|| signals.waiting.unwrap_or(0).saturating_add(signals.running.unwrap_or(0)));
    Moment { requests: requests.map(narrow), kv_permille: signals.kv_cache_usage.map(permille) }
}

fn of_pool(pool: &PoolState) -> Moment {
    let moments = || pool.endpoints().iter().map(of_endpoint);
    let known = moments().filter_map(|moment| moment.requests).map(u32::from);
    let requests = known.fold(None, |sum: Option<u32>, requests| Some(sum.unwrap_or(0).saturating_add(requests)));
    let (count, sum) = moments()
        .filter_map(|moment| moment.kv_permille)
        .fold((0_u32, 0_u32), |(count, sum), usage| (count + 1, sum + u32::from(usage)));
    Moment { requests: requests.map(narrow), kv_permille: sum.checked_div(count).map(narrow) }
}

fn narrow(count: u32) -> u16 {
    u16::try_from(count).unwrap_or(u16::MAX)
}

/// A ratio in thousandths.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a cast from a float saturates")]
pub(crate) fn permille(ratio: f64) -> u16 {
    (ratio * 1_000.0).round() as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::DiscoveredPod;
    use crate::signals::Signals;

    fn address(index: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], index))
    }

    fn list(fleet: &mut Fleet, ports: &[u16]) {
        let targets = ports.iter().map(|port| DiscoveredPod::new(address(*port))).collect();
        fleet.discovered(0, targets, Duration::ZERO);
    }

    #[test]
    fn samples_are_taken_every_two_seconds_and_the_oldest_go() {
        let mut fleet = Fleet::new(1, Duration::from_secs(3_600), ["p".to_owned()]);
        let mut history = History::default();
        list(&mut fleet, &[1, 2, 3]);
        let signals = |waiting, usage| Signals {
            waiting: Some(waiting),
            running: Some(1),
            kv_cache_usage: Some(usage),
            ..Signals::default()
        };
        fleet.scraped(0, address(1), Duration::ZERO, Duration::ZERO, signals(4, 0.5));
        fleet.scraped(0, address(2), Duration::ZERO, Duration::ZERO, signals(100_000, 0.25));
        for second in 0..400 {
            history.sample(&fleet, Duration::from_secs(second));
        }
        let last = |moments: Option<&Moments>| {
            moments.and_then(|moments| moments.back().copied().map(|last| (moments.len(), last)))
        };
        let moment = |requests, kv_permille| Some((SAMPLES, Moment { requests, kv_permille }));
        assert_eq!(last(history.endpoint(0, address(1))), moment(Some(5), Some(500)));
        assert_eq!(last(history.endpoint(0, address(2))), moment(Some(u16::MAX), Some(250)));
        assert_eq!(last(history.endpoint(0, address(3))), moment(None, None));
        assert_eq!(last(history.pool(0)), moment(Some(u16::MAX), Some(375)));
        list(&mut fleet, &[2]);
        history.sample(&fleet, Duration::from_secs(402));
        assert_eq!((last(history.endpoint(0, address(1))), history.endpoints.len()), (None, 1));
        assert_eq!(history.pool(1), None);
    }
}
