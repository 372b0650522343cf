//! Spans of Envoy's OpenTelemetry tracer, as a collector receives them.

use std::collections::BTreeMap;
use std::path::Path;

use local_stack::{Bootstrap, repository};
use prost::Message;
use serde_json::{Value, json};
use tests::{Gateway, MODEL, Mode, ScriptedPod, builder, chat_body, eventually};

tests::on_bindings! {
    both: [spans_have_the_attributes_of_the_genai_conventions],
}

const MANAGER: &str = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config";
const SPAN_KIND_SERVER: i32 = 2;

/// `ExportTraceServiceRequest` of OTLP 1, as far as it matters here; see opentelemetry-proto, `collector/trace/v1/trace_service.proto`.
#[derive(Message)]
struct Export {
    #[prost(message, repeated, tag = "1")]
    resource_spans: Vec<ResourceSpans>,
}

#[derive(Message)]
struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scope_spans: Vec<ScopeSpans>,
}

#[derive(Message)]
struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}

#[derive(Message)]
struct ScopeSpans {
    #[prost(message, repeated, tag = "2")]
    spans: Vec<Span>,
}

#[derive(Message)]
struct Span {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(int32, tag = "6")]
    kind: i32,
    #[prost(fixed64, tag = "7")]
    start_nanos: u64,
    #[prost(fixed64, tag = "8")]
    end_nanos: u64,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<KeyValue>,
}

#[derive(Message)]
struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

#[derive(Message)]
struct AnyValue {
    #[prost(string, optional, tag = "1")]
    text: Option<String>,
}

/// Attributes by name, each there once and with a text.
fn attributes(pairs: &[KeyValue]) -> BTreeMap<&str, &str> {
    let texts = pairs.iter().map(|pair| {
        let text = pair.value.as_ref().and_then(|value| value.text.as_deref());
        (pair.key.as_str(), text.unwrap_or_else(|| panic!("{} has no text", pair.key)))
    });
    let attributes: BTreeMap<_, _> = texts.collect();
    assert_eq!(attributes.len(), pairs.len(), "an attribute is there twice: {pairs:?}");
    attributes
}

/// The spans that a collector got, after checks of all that OTLP demands of them.
fn spans(collector: &ScriptedPod) -> Vec<Span> {
    let mut spans = Vec::new();
    for arrival in collector.arrivals().into_iter().filter(|arrival| arrival.whole.is_some()) {
        assert!(arrival.head.starts_with("post /v1/traces http/1.1\r\n"), "{}", arrival.head);
        assert!(arrival.head.contains("content-type: application/x-protobuf"), "{}", arrival.head);
        for of_resource in Export::decode(arrival.body.as_slice()).expect("OTLP").resource_spans {
            let resource = attributes(&of_resource.resource.as_ref().expect("a resource").attributes)["service.name"];
            assert_eq!(resource, "inference-gateway");
            spans.extend(of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans));
        }
    }
    for span in &spans {
        assert_eq!((span.trace_id.len(), span.span_id.len(), span.kind), (16, 8, SPAN_KIND_SERVER), "{span:?}");
        assert!(!span.name.is_empty() && span.start_nanos > 0 && span.start_nanos <= span.end_nanos, "{span:?}");
    }
    spans
}

/// The piece that `envoy/README.md` says to paste.
fn documented(mode: Mode) -> Value {
    let text = std::fs::read_to_string(repository().join(Path::new("envoy/README.md"))).unwrap();
    let blocks: Vec<&str> = text
        .split("```yaml\n")
        .skip(1)
        .filter_map(|block| block.split("```").next())
        .filter(|block| block.starts_with("tracing:"))
        .collect();
    let [wasm, native] = blocks[..] else { panic!("{} pieces for tracing", blocks.len()) };
    let block = if mode == Mode::Wasm { wasm } else { native };
    Bootstrap::parse(block).unwrap().tree_mut()["tracing"].clone()
}

async fn spans_have_the_attributes_of_the_genai_conventions(mode: Mode) {
    let collector = ScriptedPod::start("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", usize::MAX).await;
    let (tracing, at) = (documented(mode), collector.addr);
    let stack = builder(mode, 1, json!({})).patch(move |tree| {
        tree.pointer_mut(MANAGER).unwrap()["tracing"] = tracing.clone();
        let endpoint = json!({"address": {"socket_address": {"address": at.ip().to_string(), "port_value": at.port()}}});
        let cluster = json!({
            "name": "otel-collector", "type": "STATIC", "connect_timeout": "1s",
            "load_assignment": {"cluster_name": "otel-collector", "endpoints": [{"lb_endpoints": [{"endpoint": endpoint}]}]},
        });
        tree.pointer_mut("/static_resources/clusters").unwrap().as_array_mut().unwrap().push(cluster);
    });
    let gateway = Gateway::start(stack).await;
    let served = gateway.post("/v1/chat/completions", chat_body(MODEL, true)).await;
    let refused = gateway.post("/v1/completions", r#"{"model":"nobody's","prompt":"a"}"#).await;
    let [served, refused] = [served, refused].map(|answer| answer.header("x-request-id").unwrap().to_owned());
    let found = eventually("the spans arrive", async || {
        let spans = spans(&collector);
        let of = |id: &str| {
            let of_request = |span: &Span| attributes(&span.attributes).get("guid:x-request-id") == Some(&id);
            spans.iter().position(of_request).ok_or(spans.len())
        };
        let places = [of(&served)?, of(&refused)?];
        Ok::<_, usize>((spans, places))
    })
    .await;
    let (spans, [served, refused]) = found;
    let span = attributes(&spans[served].attributes);
    for (name, value) in [
        ("gen_ai.provider.name", "vllm"),
        ("gen_ai.operation.name", "chat"),
        ("gen_ai.request.model", MODEL),
        ("gen_ai.usage.output_tokens", "5"),
        ("inpick.endpoint", gateway.pods[0].addr.as_str()),
        ("inpick.attempts", "1"),
    ] {
        assert_eq!(span.get(name), Some(&value), "{name}: {span:?}");
    }
    assert!(span["gen_ai.usage.input_tokens"].parse::<u64>().unwrap() > 0, "{span:?}");
    assert!(span["inpick.ttft_ms"].parse::<f64>().unwrap() > 0.0, "{span:?}");
    assert!(span.contains_key("inpick.reason") && !span.contains_key("error.type"), "{span:?}");
    let span = attributes(&spans[refused].attributes);
    assert_eq!((span["error.type"], span["gen_ai.operation.name"]), ("BadRequest", "text_completion"), "{span:?}");
    assert_eq!(span.get("gen_ai.usage.input_tokens"), None, "{span:?}");
}
