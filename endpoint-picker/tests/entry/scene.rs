//! Requests as a binding carries them through, and pools to send them to.

use std::net::SocketAddr;

use crate::host::Info;
use crate::shared::Shared;
use crate::stats::Stats;
use endpoint_picker::exchange::{Inbound, Outbound};
use endpoint_picker::head::{RequestHead, ResponseHead};
use endpoint_picker::reply::LocalReply;
use endpoint_picker::{Directive, EndpointPicker, Exchange, Plugin, Timestamp};
use snapshot::{EndpointIdentity, Load, Loads, Membership, PoolMembers, ServedModel, State};

/// Long enough after the start that no health or age is at its beginning.
pub(crate) const START_MICROS: u64 = 1_000_000_000;

pub(crate) const IDLE: Load = Load {
    state: State::Fresh,
    age_ms: Some(0),
    waiting: Some(0),
    running: Some(0),
    kv_cache_usage: Some(0.0),
    block_size: None,
    num_gpu_blocks: None,
    max_lora: None,
    started_at_ms: None,
    incarnation: 0,
};

pub(crate) fn address(last: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, last], 8000))
}

/// A pool of these loads at the hosts 1, 2, … that serve these models; `None`: their lists were never read.
pub(crate) fn membership(lists: &[Option<&[&str]>]) -> Membership {
    let mut models: Vec<ServedModel> = Vec::new();
    let mut endpoints = Vec::new();
    for (list, last) in lists.iter().zip(1..) {
        let list = list.map(|names| {
            let place = |name: &&str| {
                models.push(ServedModel { name: (*name).to_owned(), ..ServedModel::default() });
                u32::try_from(models.len() - 1).unwrap()
            };
            names.iter().map(place).collect()
        });
        endpoints.push(EndpointIdentity { models: list, ..EndpointIdentity::unnamed(address(last)) });
    }
    let pool = PoolMembers { name: "default".into(), endpoints, models, ..PoolMembers::default() };
    Membership { epoch: 1, version: 1, pools: vec![pool] }
}

pub(crate) fn picker(config: &str, lists: &[Option<&[&str]>], loads: &[Load]) -> EndpointPicker {
    let Ok(Plugin::Filter(config)) = Plugin::parse(config.as_bytes()) else { panic!("{config} is no filter") };
    let mut picker = EndpointPicker::new(config, 1);
    picker.install_membership(&membership(lists));
    let loads = Loads { epoch: 1, membership_version: 1, endpoints: loads.to_vec(), ..Loads::default() };
    picker.install_loads(&loads, Timestamp::from_micros(START_MICROS)).unwrap();
    let admission = picker.telemetry_mut().admission_mut();
    if let Some(table) = admission.merge(None) {
        admission.learn(&table);
    }
    picker
}

/// One request, as the binding carries it through.
pub(crate) fn request(
    picker: &mut EndpointPicker,
    shared: &mut Shared,
    pairs: &[(&str, &str)],
    body: Option<&str>,
    after_micros: u64,
) -> (Exchange, Directive) {
    let now = Timestamp::from_micros(START_MICROS + after_micros);
    let pairs = pairs.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
    let head = RequestHead::read(pairs);
    let mut exchange = Exchange::default();
    let mut directive = exchange.on_request_headers(picker, &head, body.is_none(), now);
    if let (Directive::Wait, Some(body)) = (&directive, body) {
        let mut info = Info { micros: now.as_micros(), ..Info::default() };
        directive = exchange.on_request_body(picker, [body.as_bytes()], true, &mut info);
    }
    if directive == Directive::Pick {
        exchange.find_maker(picker, shared);
        exchange.ask_for_usage(picker, shared);
        directive = exchange.pick(picker, now);
    }
    (exchange, directive)
}

pub(crate) fn send(picker: &mut EndpointPicker, path: &str, extra: &[(&str, &str)], body: &str) -> Directive {
    let mut pairs = vec![(":method", "POST"), (":path", path), ("content-type", "application/json")];
    pairs.extend_from_slice(extra);
    request(picker, &mut Shared::default(), &pairs, Some(body), 1_000).1
}

pub(crate) fn chat(model: &str) -> String {
    format!(r#"{{"model":"{model}","messages":[{{"role":"user","content":"hi"}}]}}"#)
}

pub(crate) fn ask(picker: &mut EndpointPicker, model: &str, extra: &[(&str, &str)]) -> Directive {
    send(picker, "/v1/chat/completions", extra, &chat(model))
}

/// Last bytes of the hosts in the ranked list, each once: where no others can serve, the list begins anew.
pub(crate) fn hosts(directive: &Directive) -> Vec<u8> {
    let mut hosts = Vec::new();
    for host in listed_hosts(directive) {
        if !hosts.contains(&host) {
            hosts.push(host);
        }
    }
    hosts
}

/// All of them.
pub(crate) fn listed_hosts(directive: &Directive) -> Vec<u8> {
    match directive {
        Directive::Send(Outbound { destination: Some(list), .. }) => list
            .split(',')
            .map(|entry| match entry.parse().unwrap() {
                SocketAddr::V4(address) => address.ip().octets()[3],
                SocketAddr::V6(_) => 0,
            })
            .collect(),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
pub(crate) fn reply(directive: Directive) -> (LocalReply, serde_json::Value) {
    let Directive::Reply(reply) = directive else { panic!("{directive:?}") };
    let body = serde_json::from_slice(&reply.body).unwrap();
    (reply, body)
}

/// Every stat that is not 0.
pub(crate) fn stats(picker: &mut EndpointPicker) -> Vec<(String, u64)> {
    picker.settle_pending();
    Stats::of(picker.telemetry_mut().derive()).0.into_iter().filter(|(_, value)| *value > 0).collect()
}

#[track_caller]
pub(crate) fn assert_stat(stats: &[(String, u64)], name: &str, value: u64) {
    let found = stats.iter().find(|(other, _)| other == name).map_or(0, |(_, value)| *value);
    assert_eq!(found, value, "{name} in {stats:#?}");
}

pub(crate) fn answered(
    exchange: &mut Exchange,
    picker: &mut EndpointPicker,
    by: u8,
    headers: &[(&str, &str)],
) -> Inbound {
    let mut info = Info {
        micros: START_MICROS + 5_000,
        upstream: Some(address(by)),
        attempts: Some(1),
        details: Some("via_upstream"),
        ..Info::default()
    };
    let pairs = [(":status", "200"), ("content-type", "application/json")];
    let pairs = pairs.iter().chain(headers).map(|(name, value)| (name.as_bytes(), value.as_bytes()));
    exchange.on_response_headers(picker, &ResponseHead::read(pairs), &mut info, false)
}
