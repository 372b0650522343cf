//! An Envoy with workers, the module's bootstrap extension, and a sidecar that knows two endpoints.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use dm_host::{Callout, CalloutAnswer, Headers, Hooks, HttpMessage, ModuleHost, ModuleHostBuilder, NativeStream};
use snapshot::{EndpointIdentity, Load, Loads, Membership, PoolMembers, Snapshot, State, Tag};

pub(crate) type Host = ModuleHost;
pub(crate) type Stream = NativeStream;

pub(crate) const CHAT: &str = r#"{"model":"m","messages":[{"role":"user","content":"hi"}]}"#;
pub(crate) const ANSWER: &str =
    r#"{"choices":[{"message":{"content":"ab"}}],"usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}}"#;
pub(crate) const MODEL: &str = "model_name=m;target_model_name=m;";
/// Statistics reach the host soon; a gauge of requests in flight takes up to a second.
pub(crate) const CONFIG: &str = r#"{"metrics": {"flush_interval_ms": 20}}"#;

const DESTINATION: &str = "x-gateway-destination-endpoint";
/// A machine that is busy with other tests may take this long.
const PATIENCE: Duration = Duration::from_secs(30);
/// Boards, posts and gauges are renewed each second, statistics more often.
const SETTLE: Duration = Duration::from_millis(2_500);

/// Runs a scenario in a process of its own: this program, called for this test alone.
pub(crate) fn alone(name: &str, scenario: fn()) {
    const MARK: &str = "INPICK_TEST_ALONE";
    if cfg!(miri) || std::env::var_os(MARK).is_some() {
        return scenario();
    }
    let (_, name) = name.split_once("::").expect("a path within this program");
    let program = std::env::current_exe().expect("this program");
    let ended =
        Command::new(program).args([name, "--exact", "--nocapture"]).env(MARK, "1").output().expect("it starts");
    let output = String::from_utf8_lossy(&ended.stdout).into_owned() + &String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success() && output.contains("1 passed"), "{}:\n{output}", ended.status);
}

/// Two endpoints that are equally loaded.
pub(crate) fn snapshot() -> Snapshot {
    let endpoints = [1, 2].map(|last| EndpointIdentity::unnamed(([10, 0, 0, last], 8000).into())).to_vec();
    let load = Load {
        state: State::Fresh,
        age_ms: Some(0),
        waiting: Some(0),
        running: Some(0),
        kv_cache_usage: Some(0.0),
        ..Load::default()
    };
    let pools = vec![PoolMembers { name: "default".into(), endpoints, ..PoolMembers::default() }];
    Snapshot {
        membership: Some(Membership { epoch: 1, version: 1, pools }),
        loads: Loads { epoch: 1, membership_version: 1, generation: 1, endpoints: vec![load; 2], ..Loads::default() },
    }
}

/// The sidecar: the snapshot once to each that asks, then "unchanged".
fn sidecar(callout: &Callout) -> CalloutAnswer {
    let snapshot = snapshot();
    let tag = snapshot.loads.tag();
    let known: Option<Tag> = callout.headers.text("if-none-match").and_then(|text| text.parse().ok());
    let (status, body) = if known == Some(tag) { (304, Vec::new()) } else { (200, snapshot.encode()) };
    let headers: Headers = [("etag", tag.to_string())].into_iter().collect();
    CalloutAnswer::Response { status, headers, body, slice: 64 }
}

/// What Envoy makes of a cluster that cannot be reached.
fn unreachable(_: &Callout) -> CalloutAnswer {
    CalloutAnswer::Response { status: 503, headers: Headers::default(), body: b"no".to_vec(), slice: 64 }
}

pub(crate) fn builder() -> ModuleHostBuilder {
    ModuleHost::builder(Hooks::linked())
        .bootstrap(r#"{"snapshot_service": {"cluster": "inpick-sidecar"}}"#)
        .filter(CONFIG)
        .cluster("inpick-sidecar", sidecar)
}

/// Whether the module knows the endpoints.
fn knows_endpoints(host: &Host) -> bool {
    host.metrics().value("inference_pool_ready_pods", &[("name", "default")]) == Some(2)
}

/// Lets a host run until its module knows the endpoints.
pub(crate) fn informed(host: Host) -> Host {
    assert!(host.run_until(PATIENCE, knows_endpoints), "no snapshot: {:#?} {:?}", host.log(), shown(&host));
    host
}

/// A host whose module knows the endpoints.
pub(crate) fn host() -> Host {
    informed(builder().build().expect("the module accepts its configuration"))
}

/// A host whose sidecar cannot be reached.
pub(crate) fn without_sidecar() -> Host {
    let host = builder().cluster("inpick-sidecar", unreachable).build().expect("the module accepts its configuration");
    let failed = |host: &Host| host.metrics().sum("inpick_snapshot_fetches_total", &[("outcome", "error_status")]) > 1;
    assert!(host.run_until(PATIENCE, failed), "{:?}", shown(&host));
    host
}

pub(crate) fn post(path: &str) -> HttpMessage {
    HttpMessage::post(path)
}

pub(crate) fn chat() -> HttpMessage {
    post("/v1/chat/completions").header("content-type", "application/json").body(CHAT)
}

pub(crate) fn answer(kind: &str) -> HttpMessage {
    HttpMessage::response(200).header("content-type", kind)
}

pub(crate) fn request(host: &Host, request: HttpMessage) -> Stream {
    host.request(request)
}

pub(crate) fn respond(stream: &Stream, response: HttpMessage) {
    stream.respond(response);
}

/// The first endpoint of the ranked list of a request that was sent on.
pub(crate) fn picked(stream: &Stream) -> String {
    let list =
        stream.metadata("envoy.lb", DESTINATION).unwrap_or_else(|| panic!("no destination: {:?}", stream.reply()));
    list.split(',').next().unwrap().to_owned()
}

/// Where the request is to go, as metadata or headers say.
pub(crate) fn destination(stream: &Stream) -> Option<String> {
    stream.metadata("envoy.lb", DESTINATION).or_else(|| stream.request_headers().text(DESTINATION))
}

/// Envoy sends the request there.
pub(crate) fn serve(stream: &Stream, endpoint: &str) {
    stream.attempt(endpoint);
}

/// Envoy sends it to another one, since the first has failed.
pub(crate) fn retry(stream: &Stream, endpoint: &str) {
    stream.attempt(endpoint);
}

pub(crate) fn client_reset(stream: &Stream) {
    stream.client_reset();
}

pub(crate) fn upstream_reset(stream: &Stream) {
    stream.upstream_reset();
}

pub(crate) fn upstream_timeout(stream: &Stream) {
    stream.upstream_timeout();
}

pub(crate) fn no_healthy_upstream(stream: &Stream) {
    stream.no_healthy_upstream();
}

/// The status of a reply that is not the upstream's.
pub(crate) fn reply_status(stream: &Stream) -> Option<u16> {
    stream.reply().map(|reply| reply.status)
}

/// Sends a chat and answers it whole.
pub(crate) fn complete(host: &Host) -> Stream {
    let stream = request(host, chat());
    serve(&stream, &picked(&stream));
    respond(&stream, answer("application/json").body(ANSWER));
    assert_eq!(stream.downstream().status(), Some(200));
    stream
}

/// The metrics under the names that they have as unlabelled stats: labels in front.
fn shown(host: &Host) -> BTreeMap<String, u64> {
    let named = |labels: &[(String, String)], name: &str| {
        let mut parts: Vec<String> = labels.iter().map(|(label, value)| format!("{label}={value}")).collect();
        parts.push(name.to_owned());
        parts.join(";")
    };
    host.metrics().iter().map(|(series, value)| (named(&series.labels, &series.name), value)).collect()
}

pub(crate) fn gauge(host: &Host, name: &str) -> Option<u64> {
    shown(host).get(name).copied()
}

/// Counters and gauges that are not 0, once everything has reached the host.
pub(crate) fn settled(host: &Host) -> BTreeMap<String, u64> {
    host.run_for(SETTLE);
    shown(host).into_iter().filter(|(_, value)| *value > 0).collect()
}

/// Nothing is in flight: neither by endpoint nor by model.
#[track_caller]
pub(crate) fn assert_nothing_in_flight(host: &Host) -> BTreeMap<String, u64> {
    let stats = settled(host);
    let left: Vec<&String> = stats
        .keys()
        .filter(|name| name.ends_with("inpick_in_flight_requests") || name.ends_with("_running_requests"))
        .collect();
    assert_eq!(left, [""; 0], "{stats:#?}");
    stats
}

/// The sum over all series of a name that end with this.
pub(crate) fn total(stats: &BTreeMap<String, u64>, ending: &str) -> u64 {
    stats.iter().filter(|(name, _)| name.ends_with(ending)).map(|(_, value)| value).sum()
}
