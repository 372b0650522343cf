//! Envoy's stats, and the rules that hold between them once nothing is in flight.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use catalogue::{Label, stat_name};
use endpoint_picker::head::{RequestHead, ResponseHead};
use endpoint_picker::ledger::{SinkKind, StatSink};
use endpoint_picker::{Directive, EndpointPicker, Exchange, Timestamp};

use crate::host::Info;

/// Stats by name. With a budget, so many definitions and changes are made until it is renewed.
#[derive(Default)]
pub(crate) struct Stats {
    values: Vec<(String, u64)>,
    ids: BTreeMap<String, u32>,
    families: BTreeMap<String, u64>,
    pub(crate) budget: Option<u32>,
}

impl StatSink for Stats {
    fn define(&mut self, _: SinkKind, family: &str, suffix: &str, labels: &[(Label, &str)]) -> Option<u32> {
        let name = stat_name(family, suffix, labels);
        let id = u32::try_from(self.values.len()).unwrap();
        self.values.push((name.clone(), 0));
        assert_eq!(self.ids.insert(name.clone(), id), None, "{name} is defined twice");
        Some(id)
    }

    fn add(&mut self, id: u32, delta: u64) {
        let (name, value) = &mut self.values[id as usize];
        *value = value.checked_add(delta).unwrap_or_else(|| panic!("{name} overflows"));
        let family = name.rsplit(';').next().unwrap();
        match self.families.get_mut(family) {
            Some(sum) => *sum = sum.wrapping_add(delta),
            None => drop(self.families.insert(family.to_owned(), delta)),
        }
    }

    fn set(&mut self, id: u32, value: u64) {
        self.values[id as usize].1 = value;
    }

    fn has_time(&mut self) -> bool {
        let Some(budget) = &mut self.budget else { return true };
        *budget = budget.saturating_sub(1);
        *budget > 0
    }
}

impl Stats {
    /// Carries everything over.
    pub(crate) fn take(&mut self, picker: &mut EndpointPicker) {
        self.budget = None;
        let ledger = picker.telemetry_mut().derive();
        ledger.define(self);
        assert_eq!(ledger.undefined(), 0);
        ledger.begin_flush();
        assert!(ledger.flush(self));
    }

    /// Sum over the series of a counter, whatever their labels.
    pub(crate) fn sum(&self, family: &str) -> u64 {
        self.families.get(family).copied().unwrap_or(0)
    }

    /// The values that a label has in any series, but for the empty one and `other`.
    pub(crate) fn label_values(&self, labels: &[&str]) -> BTreeSet<&str> {
        let pairs = self.values.iter().flat_map(|(name, _)| name.split(';')).filter_map(|pair| pair.split_once('='));
        let values = pairs.filter(|(label, _)| labels.contains(label)).map(|(_, value)| value);
        values.filter(|value| !matches!(*value, "" | "other")).collect()
    }

    /// Checks for each pair of model names that no more requests failed than there were.
    pub(crate) fn check_errors(&self) {
        let mut sums: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
        for (name, value) in &self.values {
            if let Some((labels, _)) =
                name.split_once("priority=").filter(|_| name.ends_with("_objective_request_total"))
            {
                sums.entry(labels).or_default().0 += value;
            } else if let Some((labels, _)) =
                name.split_once("error_code=").filter(|_| name.ends_with("_objective_request_error_total"))
            {
                sums.entry(labels).or_default().1 += value;
            }
        }
        for (labels, (requests, errors)) in sums {
            assert!(errors <= requests, "{labels} {errors} of {requests} requests failed");
        }
    }

    /// Checks each histogram: buckets ascend up to the count, and without samples there is no sum.
    pub(crate) fn check_histograms(&self) {
        let mut last: BTreeMap<&str, u64> = BTreeMap::new();
        for (name, value) in &self.values {
            if let Some((series, _)) =
                name.split_once(';').filter(|_| name.starts_with("le=")).map(|(_, rest)| (rest, ()))
            {
                let before = last.insert(series, *value).unwrap_or(0);
                assert!(before <= *value, "{name}: {before} then {value}");
            }
        }
        for (series, total) in last {
            let stem = series.strip_suffix("_bucket").unwrap();
            let value = |suffix: &str| self.ids.get(&format!("{stem}{suffix}")).map(|&id| self.values[id as usize].1);
            assert_eq!(value("_count"), Some(total), "{stem}");
            let exact = value("_sum_microseconds").or(value("_sum_millionths"));
            assert!(total > 0 || (value("_sum"), exact.unwrap_or(0)) == (Some(0), 0), "{stem}");
            if let Some(exact) = exact {
                assert_eq!(value("_sum"), Some(exact / 1_000_000), "{stem}");
            }
        }
    }
}

/// Sends some ordinary requests through a picker one after the other and checks the accounts.
pub(crate) fn send_requests(picker: &mut EndpointPicker, stats: &mut Stats, number: usize, now: Timestamp) {
    picker.confirm(now);
    let has_endpoints = !picker.pool().members().is_empty();
    for _ in 0..number {
        let mut exchange = Exchange::default();
        let mut info = Info { micros: now.as_micros(), ..Info::default() };
        let head = RequestHead { method: b"POST", path: b"/v1/completions", ..RequestHead::default() };
        assert_eq!(exchange.on_request_headers(picker, &head, false, now), Directive::Wait);
        let body = [br#"{"model":"m","prompt":"p"}"#.as_slice()];
        assert_eq!(exchange.on_request_body(picker, body, true, &mut info), Directive::Pick);
        let destination = match exchange.pick(picker, now) {
            Directive::Send(outbound) => outbound.destination,
            Directive::Reply(reply) => {
                assert!(serde_json::from_slice::<serde_json::Value>(&reply.body).is_ok());
                None
            }
            other => panic!("{other:?}"),
        };
        assert!(has_endpoints || destination.is_none());
        let ranked: Vec<SocketAddr> =
            destination.iter().flat_map(|list| list.split(',')).map(|address| address.parse().unwrap()).collect();
        info.upstream = ranked.first().copied();
        let head = ResponseHead { status: 200, json: true, ..ResponseHead::default() };
        exchange.on_response_headers(picker, &head, &mut info, true);
        exchange.on_log(picker, &mut info);
        assert!(exchange.is_settled());
    }
    assert_eq!(picker.pool().endpoints().map(|(_, endpoint)| endpoint.in_flight().own()).sum::<u32>(), 0);
    assert_eq!(picker.accounts().running().count(), 0);
    picker.settle_pending();
    stats.take(picker);
    stats.check_errors();
    stats.check_histograms();
}
