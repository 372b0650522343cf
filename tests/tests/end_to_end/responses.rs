//! Stored responses: only the pod that made one has it.

use serde_json::{Value, json};
use tests::{Gateway, MODEL, Mode, builder};

tests::on_bindings! {
    both: [a_response_is_found_by_the_very_next_request_through_any_worker],
}

/// Connections of their own, handed to workers in turn, so that other workers than the one that saw the response are asked for it.
async fn a_response_is_found_by_the_very_next_request_through_any_worker(mode: Mode) {
    let stack = builder(mode, 5, json!({})).workers(3).patch(|tree| {
        tree["static_resources"]["listeners"][0]["connection_balance_config"] = json!({"exact_balance": {}});
    });
    let gateway = Gateway::start(stack).await;
    for number in 0..15 {
        let stream = number % 2 == 1;
        let mut body =
            json!({"model": MODEL, "input": "Say something short.", "max_output_tokens": 5, "stream": stream});
        let created = fresh(&gateway, "POST", "/v1/responses", &body).await;
        assert_eq!(created.status.as_u16(), 200, "{}", created.text());
        let (pod, id) = (gateway.pod_of(&created), id(&created.text()));
        for (method, path, status) in [
            ("GET", format!("/v1/responses/{id}"), 200),
            ("POST", format!("/v1/responses/{id}/cancel"), 400),
            // vLLM has neither, but whoever asks for them asks the pod that might.
            ("DELETE", format!("/v1/responses/{id}"), 405),
            ("GET", format!("/v1/responses/{id}/input_items?limit=3"), 404),
        ] {
            let reply = fresh(&gateway, method, &path, &Value::Null).await;
            assert_eq!(
                (reply.status.as_u16(), gateway.pod_of(&reply)),
                (status, pod),
                "{method} {path}: {}",
                reply.text()
            );
        }
        body["previous_response_id"] = json!(id);
        let next = fresh(&gateway, "POST", "/v1/responses", &body).await;
        assert_eq!((next.status.as_u16(), gateway.pod_of(&next)), (200, pod), "{}", next.text());
    }
    let missing = gateway.get("/v1/responses/resp_unheard_of").await;
    assert_eq!(missing.status.as_u16(), 404);
}

/// The id that a response, whole or streamed, came with.
fn id(text: &str) -> String {
    let (_, rest) = text.split_once("\"id\":\"resp_").unwrap();
    format!("resp_{}", rest.split_once('"').unwrap().0)
}

/// One request over a connection of its own.
async fn fresh(gateway: &Gateway, method: &str, path: &str, body: &Value) -> local_stack::HttpResponse {
    let mut request = http::Request::builder().method(method).uri(gateway.url(path)).header("connection", "close");
    let mut bytes = String::new();
    if !body.is_null() {
        request = request.header("content-type", "application/json");
        bytes = body.to_string();
    }
    let client = local_stack::HttpClient::new();
    client.send(request.body(http_body_util::Full::new(bytes.into())).unwrap()).await.unwrap()
}
