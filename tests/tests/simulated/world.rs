//! A host with workers, a snapshot service and a sidecar that knows two endpoints.

use std::sync::OnceLock;
use std::time::Duration;

pub(crate) use host_sim::Host;
use host_sim::{CompiledModule, FailurePolicy, HostBuilder, HttpOutcome, HttpStream, Request, Response};
use snapshot::{EndpointIdentity, Load, Loads, Membership, PoolMembers, Snapshot, State, Tag};

pub(crate) const CHAT: &str = r#"{"model":"m","messages":[{"role":"user","content":"hi"}]}"#;
pub(crate) const ANSWER: &str =
    r#"{"choices":[{"message":{"content":"ab"}}],"usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}}"#;
pub(crate) const SERVED_HEADER: &str = "x-inpick-served-endpoint";
pub(crate) const SECRET: &str = "a-secret-of-the-operator";
pub(crate) const MODEL: &str = "model_name=m;target_model_name=m;";
/// Ticks, the snapshot's way through the service, definitions of new stats and a flush are all over after this.
pub(crate) const SETTLE: Duration = Duration::from_secs(20);

fn module() -> &'static CompiledModule {
    static MODULE: OnceLock<CompiledModule> = OnceLock::new();
    MODULE.get_or_init(|| {
        let file = local_stack::Artifact::Wasm.find().expect("`make wasm` builds the module");
        CompiledModule::from_file(file).expect("the module is valid")
    })
}

/// Two endpoints that are equally loaded.
pub(crate) fn snapshot() -> Snapshot {
    loaded([0, 0])
}

/// Two endpoints with so many requests in their queues.
pub(crate) fn loaded(waiting: [u32; 2]) -> Snapshot {
    let endpoints = [1, 2].map(|last| EndpointIdentity::unnamed(([10, 0, 0, last], 8000).into())).to_vec();
    let loads = waiting.map(|waiting| Load {
        state: State::Fresh,
        age_ms: Some(0),
        waiting: Some(waiting),
        running: Some(0),
        kv_cache_usage: Some(0.0),
        ..Load::default()
    });
    let pools = vec![PoolMembers { name: "default".into(), endpoints, ..PoolMembers::default() }];
    Snapshot {
        membership: Some(Membership { epoch: 1, version: 1, pools }),
        loads: Loads { epoch: 1, membership_version: 1, generation: 1, endpoints: loads.to_vec(), ..Loads::default() },
    }
}

/// The sidecar: the snapshot once to each that asks, then "unchanged".
pub(crate) fn sidecar(snapshot: &Snapshot) -> impl FnMut(&host_sim::HttpCall) -> HttpOutcome + Send + 'static {
    let (bytes, tag) = (snapshot.encode(), snapshot.loads.tag());
    move |call| {
        let known: Option<Tag> = call
            .headers
            .get("if-none-match")
            .and_then(|value| std::str::from_utf8(value).ok())
            .and_then(|text| text.parse().ok());
        let outcome =
            if known == Some(tag) { HttpOutcome::response(304, "") } else { HttpOutcome::response(200, bytes.clone()) };
        outcome.header("etag", tag.to_string()).after(Duration::from_millis(1))
    }
}

pub(crate) fn builder() -> HostBuilder {
    without_service().service(r#"{"snapshot_service": {"cluster": "inpick-sidecar"}}"#)
}

/// The filter alone: a bootstrap without the extension.
pub(crate) fn without_service() -> HostBuilder {
    Host::builder()
        .compiled(module())
        .plugin_configuration("{}")
        .allow_on_headers_stop_iteration(true)
        .failure_policy(FailurePolicy::FailReload)
        .cluster_script("inpick-sidecar", sidecar(&snapshot()))
}

/// A host whose workers know the endpoints.
pub(crate) fn host() -> Host {
    let host = builder().build().expect("the module accepts its configuration");
    host.advance(Duration::from_secs(2));
    host
}

pub(crate) fn chat() -> Request {
    Request::post("/v1/chat/completions").header("content-type", "application/json").body(CHAT)
}

/// The first endpoint of the ranked list of an exchange that was sent on.
pub(crate) fn picked(exchange: &HttpStream) -> String {
    let list = exchange.request_headers().get("x-gateway-destination-endpoint").expect("a destination").to_vec();
    String::from_utf8(list).unwrap().split(',').next().unwrap().to_owned()
}

pub(crate) fn answer(kind: &str) -> Response {
    Response::new(200).header("content-type", kind)
}

/// A host that reads in a header who served, as the shipped bootstraps have it, and whose workers know the endpoints.
pub(crate) fn told_host() -> Host {
    let host = builder().plugin_configuration(r#"{"served_endpoint": "header"}"#).build().expect("it is configured");
    host.advance(Duration::from_secs(2));
    host
}

/// The same as [`complete`] on a [`told_host`].
pub(crate) fn complete_told(host: &Host) -> HttpStream {
    let exchange = host.request(chat()).expect("a request");
    let answer = answer("application/json").header(SERVED_HEADER, picked(&exchange)).body(ANSWER);
    exchange.respond(answer).expect("a response");
    exchange
}

/// Sends a chat and answers it whole.
pub(crate) fn complete(host: &Host) -> HttpStream {
    let exchange = host.request(chat()).expect("a request");
    let endpoint = picked(&exchange);
    exchange.set_property("upstream.address", endpoint.as_str());
    exchange.respond(answer("application/json").body(ANSWER)).expect("a response");
    exchange
}

/// Counters and gauges of the exchange's own kind that are not 0, once everything is flushed.
pub(crate) fn settled(host: &Host) -> std::collections::BTreeMap<String, u64> {
    host.advance(SETTLE);
    let stats = host.stats();
    stats
        .counters()
        .chain(stats.gauges())
        .filter(|(_, value)| *value > 0)
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

// ---- what the scenarios of both bindings ask of their host ----

pub(crate) type Stream = HttpStream;

pub(crate) fn post(path: &str) -> Request {
    Request::post(path)
}

pub(crate) fn request(host: &Host, request: Request) -> Stream {
    host.request(request).expect("a request")
}

/// The upstream responds as far as the stream is there to hear of it.
pub(crate) fn respond(stream: &Stream, response: Response) {
    stream.respond(response).ok();
}

/// Envoy sends the request there.
pub(crate) fn serve(stream: &Stream, endpoint: &str) {
    stream.set_property("upstream.address", endpoint);
}

/// Envoy sends it to another one, since the first has failed.
pub(crate) fn retry(stream: &Stream, endpoint: &str) {
    serve(stream, endpoint);
    stream.set_property("upstream.request_attempt_count", 2_u64);
}

pub(crate) fn client_reset(stream: &Stream) {
    stream.client_reset().expect("the stream is there");
}

pub(crate) fn upstream_reset(stream: &Stream) {
    stream.upstream_reset().expect("the stream is there");
}

pub(crate) fn upstream_timeout(stream: &Stream) {
    stream.upstream_timeout().expect("the stream is there");
}

pub(crate) fn no_healthy_upstream(stream: &Stream) {
    stream.no_healthy_upstream().expect("the stream is there");
}

/// The status of a reply that is not the upstream's.
pub(crate) fn reply_status(stream: &Stream) -> Option<u16> {
    stream.local_reply().map(|reply| reply.status)
}

/// Where the request is to go, as its headers say.
pub(crate) fn destination(stream: &Stream) -> Option<String> {
    stream.request_headers().text("x-gateway-destination-endpoint")
}

/// A host whose sidecar cannot be reached.
pub(crate) fn without_sidecar() -> Host {
    let host = builder().cluster_script("inpick-sidecar", |_| HttpOutcome::unreachable()).build();
    let host = host.expect("the module accepts its configuration");
    host.advance(Duration::from_secs(2));
    host
}

pub(crate) fn gauge(host: &Host, name: &str) -> Option<u64> {
    host.stats().gauge(name)
}
