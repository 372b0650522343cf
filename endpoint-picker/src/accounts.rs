//! Requests in flight: which endpoint and which model each of them burdens.

use hashbrown::HashMap;

use crate::admission::Admitted;
use crate::learning::Forecast;
use crate::pool::{EndpointId, Pool, Prefill};
use crate::time::Timestamp;

/// One request in flight. It can only be moved to another endpoint or finished, so that nothing is counted twice or for ever.
#[derive(Debug)]
#[must_use = "a charge that is dropped stays on the accounts for ever"]
pub struct Charge {
    /// `None`: it went to an address outside the pool.
    endpoint: Option<EndpointId>,
    running: Option<RunningLabels>,
    sent_at: Timestamp,
    /// When the last of it was sent, as far as that is known.
    whole_at: Timestamp,
    is_trial: bool,
    /// What the pick expected of it there.
    forecast: Forecast,
    /// The prompt that the endpoint has yet to compute.
    prefill: Option<Prefill>,
}

impl Charge {
    /// The endpoint that holds it.
    #[must_use]
    pub const fn endpoint(&self) -> Option<EndpointId> {
        self.endpoint
    }

    /// When it was sent.
    #[must_use]
    pub const fn sent_at(&self) -> Timestamp {
        self.sent_at
    }

    /// When the last of it was sent, from which on the endpoint's time counts; [`Self::sent_at`] until then.
    #[must_use]
    pub const fn whole_at(&self) -> Timestamp {
        self.whole_at
    }

    /// What the pick expected of it.
    #[must_use]
    pub const fn forecast(&self) -> &Forecast {
        &self.forecast
    }

    /// The charge that [`Accounts::charge`] will make of the same arguments, but for a trial's mark: a trial that nobody ends is over
    /// after [`crate::pool::TRIAL_MICROS`].
    pub(crate) fn begun(endpoint: Option<EndpointId>, forecast: Forecast, burden: Burden, now: Timestamp) -> Self {
        let prefill = endpoint.zip(burden.streams).map(|(_, streams)| prefill(&forecast, streams, now));
        Self { endpoint, running: burden.running, sent_at: now, whole_at: now, is_trial: false, forecast, prefill }
    }

    /// The charge that [`Accounts::transfer`] will make of it, but for a trial's mark.
    pub(crate) fn moved(&self, to: Option<EndpointId>, forecast: Forecast) -> Self {
        if self.endpoint == to {
            return self.copy();
        }
        let prefill = self.prefill.zip(to);
        let prefill = prefill.map(|(prefill, _)| Prefill { tokens: forecast.uncached_tokens, ..prefill });
        Self { endpoint: to, is_trial: false, forecast, prefill, ..*self }
    }

    /// A copy for whoever is to take off that the prompt has yet to be computed; this one says no more that it has.
    pub(crate) const fn split_prefill(&mut self) -> Self {
        let copy = self.copy();
        self.prefill = None;
        copy
    }

    /// Makes of it what [`Accounts::became_whole`] will make of a copy.
    pub(crate) fn become_whole(&mut self, forecast: Forecast, streams: bool, now: Timestamp) {
        self.whole_at = now;
        self.forecast = forecast;
        if self.prefill.is_none() {
            self.prefill = self.endpoint.map(|_| prefill(&forecast, streams, now));
        }
    }

    /// A copy for a step that is taken later.
    pub(crate) const fn copy(&self) -> Self {
        Self { ..*self }
    }
}

/// The prompt that an endpoint has to compute for a request of which the last is sent now.
const fn prefill(forecast: &Forecast, streams: bool, now: Timestamp) -> Prefill {
    let expected_at = now.plus_micros(forecast.ttft_micros as u64);
    Prefill { tokens: forecast.uncached_tokens, expected_at, is_told: streams }
}

/// What tells running requests from one another.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct RunningLabels {
    /// The model that the client asked for.
    pub model: Admitted,
    /// The model that was asked for upstream.
    pub target: Admitted,
    /// The request's priority.
    pub priority: i64,
    /// Whom flow control was fair to, where it is on and a gauge shows it.
    pub fairness_id: Option<Admitted>,
}

/// What a request burdens its endpoint with, beside its prompt.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Burden {
    /// What runs, where the request is one for a model.
    pub running: Option<RunningLabels>,
    /// Whether its first token will tell when its prompt was computed. `None`: its prompt is still coming, see
    /// [`Accounts::became_whole`].
    pub streams: Option<bool>,
}

/// What one worker has in flight.
#[derive(Debug, Default)]
pub struct Accounts {
    /// With those of which none runs any more: labels are bounded.
    running: HashMap<RunningLabels, u32>,
    revision: u64,
}

impl Accounts {
    /// Charges a request that is sent now.
    pub fn charge(
        &mut self,
        pool: &mut Pool,
        endpoint: Option<EndpointId>,
        forecast: Forecast,
        burden: Burden,
        now: Timestamp,
    ) -> Charge {
        let is_trial = endpoint.is_some_and(|id| pool.request_sent(id, now));
        let prefill = endpoint.zip(burden.streams).map(|(id, streams)| {
            let prefill = prefill(&forecast, streams, now);
            pool.prefill_began(id, prefill, now);
            prefill
        });
        if let Some(running) = burden.running {
            let count = self.running.entry(running).or_default();
            *count = count.saturating_add(1);
        }
        self.revision = self.revision.wrapping_add(1);
        Charge { endpoint, running: burden.running, sent_at: now, whole_at: now, is_trial, forecast, prefill }
    }

    /// The last of a request was sent whose prompt was still coming when it was charged; now `forecast` is expected of it.
    pub fn became_whole(
        &mut self,
        pool: &mut Pool,
        charge: &mut Charge,
        forecast: Forecast,
        streams: bool,
        now: Timestamp,
    ) {
        let had_prefill = charge.prefill.is_some();
        charge.become_whole(forecast, streams, now);
        if let (Some(id), Some(prefill), false) = (charge.endpoint, charge.prefill, had_prefill) {
            pool.prefill_began(id, prefill, now);
            self.revision = self.revision.wrapping_add(1);
        }
    }

    /// The endpoint has computed the prompt.
    pub fn computed(&mut self, pool: &mut Pool, charge: &mut Charge, now: Timestamp) {
        if let (Some(endpoint), Some(prefill)) = (charge.endpoint, charge.prefill.take()) {
            pool.prefill_ended(endpoint, prefill, now);
            self.revision = self.revision.wrapping_add(1);
        }
    }

    /// Moves a request to the endpoint that turned out to serve it, of which `forecast` was expected; `None`: to an address outside the
    /// pool.
    pub fn transfer(
        &mut self,
        pool: &mut Pool,
        charge: Charge,
        to: Option<EndpointId>,
        forecast: Forecast,
        now: Timestamp,
    ) -> Charge {
        if charge.endpoint == to {
            return charge;
        }
        let Charge { endpoint, running, sent_at, whole_at, is_trial, prefill, .. } = charge;
        if let Some(from) = endpoint {
            if let Some(prefill) = prefill {
                pool.prefill_ended(from, prefill, now);
            }
            pool.request_finished(from, sent_at, is_trial, now);
        }
        let prefill = prefill.zip(to).map(|(prefill, to)| {
            let prefill = Prefill { tokens: forecast.uncached_tokens, ..prefill };
            pool.prefill_began(to, prefill, now);
            prefill
        });
        let is_trial = to.is_some_and(|id| pool.request_sent(id, sent_at));
        self.revision = self.revision.wrapping_add(1);
        Charge { endpoint: to, running, sent_at, whole_at, is_trial, forecast, prefill }
    }

    /// Takes a request off all accounts.
    pub fn finish(&mut self, pool: &mut Pool, mut charge: Charge, now: Timestamp) {
        self.computed(pool, &mut charge, now);
        if let Some(endpoint) = charge.endpoint {
            pool.request_finished(endpoint, charge.sent_at, charge.is_trial, now);
        }
        if let Some(running) = charge.running
            && let Some(count) = self.running.get_mut(&running)
        {
            *count = count.saturating_sub(1);
        }
        self.revision = self.revision.wrapping_add(1);
    }

    /// Changes whenever a count moves.
    #[must_use]
    pub const fn revision(&self) -> u64 {
        self.revision
    }

    /// Requests running, by what tells them apart; those of which none runs are left out.
    pub fn running(&self) -> impl Iterator<Item = (RunningLabels, u32)> {
        self.ran().filter(|(_, count)| *count > 0)
    }

    /// The same with 0 for those that ran and do not run any more.
    pub fn ran(&self) -> impl Iterator<Item = (RunningLabels, u32)> {
        self.running.iter().map(|(&running, &count)| (running, count))
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;
    use alloc::vec::Vec;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use snapshot::{EndpointIdentity, Membership, PoolMembers};

    use super::*;

    fn pool() -> Pool {
        let endpoints = ["10.0.0.1:80", "10.0.0.2:80"];
        let endpoints = endpoints.map(|address| EndpointIdentity::unnamed(address.parse().unwrap())).to_vec();
        let pools = vec![PoolMembers { name: "p".into(), endpoints, ..PoolMembers::default() }];
        let mut pool = Pool::default();
        pool.install_membership(&Membership { epoch: 1, version: 1, pools }, "p");
        pool
    }

    fn in_flight(pool: &Pool) -> Vec<u32> {
        pool.members().iter().map(|&id| pool.endpoint(id).unwrap().in_flight().own()).collect()
    }

    #[test]
    fn a_charge_is_in_one_place_until_it_is_finished() {
        let (mut pool, mut accounts) = (pool(), Accounts::default());
        let (first, second) = (pool.members()[0], pool.members()[1]);
        let running =
            RunningLabels { model: Admitted::at(0), target: Admitted::at(1), priority: -1, fairness_id: None };
        let now = Timestamp::from_micros(5);
        let forecast = Forecast { uncached_tokens: 9, ..Forecast::default() };
        let tokens = |pool: &Pool| -> Vec<u64> {
            pool.members().iter().map(|&id| pool.endpoint(id).unwrap().prefill().own_tokens(now)).collect()
        };
        let burden = Burden { running: Some(running), streams: Some(true) };
        let charge = accounts.charge(&mut pool, Some(first), forecast, burden, now);
        assert_eq!(tokens(&pool), [9, 0]);
        assert_eq!(in_flight(&pool), [1, 0]);
        let charge =
            accounts.transfer(&mut pool, charge, Some(second), Forecast { uncached_tokens: 4, ..forecast }, now);
        assert_eq!(tokens(&pool), [0, 4]);
        assert_eq!((in_flight(&pool), charge.endpoint(), charge.sent_at()), (vec![0, 1], Some(second), now));
        let charge = accounts.transfer(&mut pool, charge, None, forecast, now);
        assert_eq!(tokens(&pool), [0, 0]);
        assert_eq!(in_flight(&pool), [0, 0]);
        assert_eq!(accounts.running().collect::<Vec<_>>(), [(running, 1)]);
        let before = accounts.revision();
        accounts.finish(&mut pool, charge, now);
        assert_eq!(accounts.running().count(), 0);
        assert_eq!(accounts.ran().collect::<Vec<_>>(), [(running, 0)]);
        assert_ne!(accounts.revision(), before);
    }
}
