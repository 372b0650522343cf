//! Why a request went where it went: in the access log, and for a client that knows the secret.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;
use tests::{Gateway, MODEL, Mode, Wire, builder, chat_body, eventually};

tests::on_bindings! {
    both: [the_log_says_why_each_request_went_where_it_went, the_log_shows_retries_refusals_and_clients_that_left, every_answer_names_its_request, a_client_with_the_secret_is_told_and_no_other, a_gateway_without_a_secret_tells_nobody],
}

const CHAT: &str = "/v1/chat/completions";
const MANAGER: &str = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config";
const SECRET: &str = "a-secret-of-the-operator";
const ASK: &str = "x-inpick-explain";
const TOLD: &str = "x-inpick-explanation";

/// Where the shipped access log goes instead of to standard output.
struct Log {
    folder: TempDir,
}

impl Log {
    fn new() -> Self {
        Self { folder: TempDir::new().unwrap() }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("access.log")
    }

    /// The line of a request, once it is there, and what inpick says in it.
    async fn line(&self, request_id: &str) -> (Value, Value) {
        self.find(|line| line["request_id"] == request_id).await
    }

    async fn find(&self, is_it: impl Fn(&Value) -> bool) -> (Value, Value) {
        eventually("the log has the line", async || {
            let text = std::fs::read_to_string(self.file()).unwrap_or_default();
            let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect(line));
            let line = lines.filter(&is_it).last().ok_or(text.clone())?;
            // In filter state a message is wrapped with its type.
            let inpick = &line["inpick"];
            let said = inpick.get("value").unwrap_or(inpick).clone();
            Ok::<_, String>((line, said))
        })
        .await
    }
}

/// Sends the shipped log to a file, its format as shipped.
fn log_to(file: &Path) -> impl Fn(&mut Value) + Send + Sync + 'static {
    let file = file.to_owned();
    move |tree| {
        let log = tree.pointer_mut(&format!("{MANAGER}/access_log/0")).expect("an access log is shipped");
        log["name"] = json!("envoy.access_loggers.file");
        log["typed_config"]["@type"] =
            json!("type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog");
        log["typed_config"]["path"] = json!(file);
    }
}

fn id_of(answer: &local_stack::HttpResponse) -> String {
    answer.header("x-request-id").expect("an id").to_owned()
}

async fn the_log_says_why_each_request_went_where_it_went(mode: Mode) {
    for config in super::shipped(mode) {
        let log = Log::new();
        let stack = builder(mode, 2, json!({})).config(config).patch(log_to(&log.file()));
        let gateway = Gateway::start(stack).await;
        let answer = gateway.post(CHAT, chat_body(MODEL, true)).await;
        let pod = &gateway.pods[gateway.pod_of(&answer)];
        let (line, said) = log.line(&id_of(&answer)).await;
        assert_eq!((&line["status"], &line["method"], &line["path"]), (&json!(200), &json!("POST"), &json!(CHAT)));
        assert_eq!((&line["endpoint"], &line["attempts"]), (&json!(pod.addr), &json!(1)), "{line}");
        assert_eq!(
            (&said["model"], &said["operation"], &said["pool"]),
            (&json!(MODEL), &json!("chat"), &json!("default"))
        );
        assert_eq!((&said["picked"], &said["served"]), (&json!(pod.addr), &json!(pod.addr)), "{said}");
        assert!(["best_score", "tie"].contains(&said["reason"].as_str().unwrap()), "{said}");
        let ranked = said["ranked"].as_array().unwrap();
        assert_eq!((ranked.len(), &ranked[0]["endpoint"]), (2, &json!(pod.addr)), "{said}");
        assert!(
            ranked.iter().all(|entry| entry["score"].is_number() && entry["predicted_ttft_ms"].is_number()),
            "{said}"
        );
        assert!(
            said["input_tokens"].as_f64().unwrap() > 0.0 && said["output_tokens"].as_f64().unwrap() == 5.0,
            "{said}"
        );
        let (ttft, duration) = (said["ttft_ms"].as_f64().unwrap(), said["duration_ms"].as_f64().unwrap());
        assert!(ttft > 0.0 && ttft <= duration, "{said}");
        assert_eq!((&said["status"], said.get("error")), (&json!(200), None), "{said}");
        // What is none of the picker's business has a line of its own.
        let answer = gateway.get("/nothing").await;
        let (line, said) = log.line(&id_of(&answer)).await;
        assert_eq!((&line["status"], &said), (&json!(404), &Value::Null));
    }
}

async fn the_log_shows_retries_refusals_and_clients_that_left(mode: Mode) {
    let log = Log::new();
    let gateway = Gateway::start(builder(mode, 2, json!({})).patch(log_to(&log.file()))).await;
    // The pod that is picked first says that it is full.
    gateway.pin(0, json!({"waiting": 0})).await;
    gateway.pin(1, json!({"waiting": 9})).await;
    gateway.fault(0, json!({"kind": "status", "status": 503})).await;
    let answer = gateway.chat().await;
    assert_eq!(answer.status, 200);
    let (line, said) = log.line(&id_of(&answer)).await;
    assert_eq!(
        (&said["picked"], &said["served"]),
        (&json!(gateway.pods[0].addr), &json!(gateway.pods[1].addr)),
        "{said}"
    );
    assert_eq!((&line["attempts"], &said["attempts"], &said["served_reason"]), (&json!(2), &json!(2), &json!("retry")));
    assert_eq!(said["failed"], json!([{"endpoint": gateway.pods[0].addr, "reason": "no_answer"}]), "{said}");
    // One that is refused here.
    let answer = gateway.post(CHAT, r#"{"model":"nobody's","messages":[]}"#).await;
    let (line, said) = log.line(&id_of(&answer)).await;
    assert_eq!(
        (&line["status"], &said["error"], &said["model"]),
        (&json!(404), &json!("BadRequest"), &json!("nobody's"))
    );
    // And one whose client leaves while it waits.
    gateway.fault(1, json!({"kind": "hang"})).await;
    gateway.fault(0, json!({"kind": "hang"})).await;
    let client = Wire::post(gateway.gateway, CHAT, &chat_body(MODEL, true)).await;
    eventually("a pod has it", async || {
        let mut hung = 0;
        for pod in 0..2 {
            hung += gateway.pod_state(pod).await["faults_met"].as_u64().unwrap_or(0);
        }
        let page = gateway.envoy_page().await.unwrap().sum("inference_objective_running_requests", &[]);
        if page >= 1.0 { Ok(()) } else { Err(format!("{hung} {page}")) }
    })
    .await;
    drop(client);
    let (line, said) = log.find(|line| line["flags"] == "DC").await;
    assert_eq!((&said["error"], &said["model"]), (&json!("Cancelled"), &json!(MODEL)), "{line}");
    assert!(said["picked"].is_string() && said.get("status").is_none(), "{line}");
}

async fn every_answer_names_its_request(mode: Mode) {
    for config in super::shipped(mode) {
        let mut gateway = Gateway::start(builder(mode, 1, json!({})).config(config)).await;
        let answer = gateway.chat().await;
        let id = id_of(&answer);
        assert_eq!(answer.status, 200);
        assert!(gateway.last_headers(0).await.unwrap().contains(&id), "the pod is told the same");
        let mut ids = vec![id];
        for (path, body, status) in [
            (CHAT, "no JSON", 400),
            (CHAT, r#"{"model":"nobody's","messages":[]}"#, 404),
            ("/v1/messages", "", 400),
            ("/sleep", "{}", 404),
        ] {
            let answer = gateway.post(path, body).await;
            assert_eq!(answer.status.as_u16(), status, "{path}");
            ids.push(id_of(&answer));
        }
        gateway.stack.pod(0).unwrap().kill().await;
        let answer = gateway.chat().await;
        assert_eq!(answer.status, 503);
        ids.push(id_of(&answer));
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), 6, "{ids:?}");
    }
}

async fn a_client_with_the_secret_is_told_and_no_other(mode: Mode) {
    let gateway = Gateway::start(builder(mode, 1, json!({"explain": {"secret": SECRET}}))).await;
    let body = chat_body(MODEL, false);
    let answer = gateway.send("POST", CHAT, &[(ASK, SECRET)], body.clone()).await;
    assert_eq!(answer.status, 200);
    let told: Value = serde_json::from_str(answer.header(TOLD).expect("it is told")).unwrap();
    assert_eq!((&told["request_id"], &told["model"]), (&json!(id_of(&answer)), &json!(MODEL)));
    assert_eq!(
        (&told["served"], &told["picked"]),
        (&json!(gateway.pods[0].addr), &json!(gateway.pods[0].addr)),
        "{told}"
    );
    assert!(told["ranked"][0]["score"].is_number(), "{told}");
    let sent = gateway.last_headers(0).await.unwrap();
    assert!(!sent.contains(ASK) && !sent.contains(SECRET), "{sent}");
    // Refusals of the filter and answers of Envoy tell it too.
    let refused = gateway.send("POST", CHAT, &[(ASK, SECRET)], r#"{"model":"nobody's","messages":[]}"#).await;
    let told: Value = serde_json::from_str(refused.header(TOLD).expect("it is told")).unwrap();
    assert_eq!((refused.status.as_u16(), &told["error"]), (404, &json!("BadRequest")), "{told}");
    gateway.fault(0, json!({"kind": "reset", "after_events": 0})).await;
    let failed = gateway.send("POST", CHAT, &[(ASK, SECRET)], body.clone()).await;
    let told: Value = serde_json::from_str(failed.header(TOLD).expect("it is told")).unwrap();
    assert_eq!((failed.status.as_u16(), &told["error"]), (503, &json!("UpstreamReset")), "{told}");
    gateway.heal(0).await;
    // Whoever does not know it gets the same answer as without, and the pod hears nothing of it.
    for secret in ["a-secret-of-the-operatoR", "a-secret", "x", ""] {
        for (body, status) in [(body.as_str(), 200), ("no JSON", 400)] {
            let answer = gateway.send("POST", CHAT, &[(ASK, secret)], body.to_owned()).await;
            assert_eq!((answer.status.as_u16(), answer.header(TOLD)), (status, None), "{secret:?}");
        }
        let sent = gateway.last_headers(0).await.unwrap();
        assert!(!sent.contains(ASK), "{sent}");
    }
    let answer = gateway.send("POST", CHAT, &[], body.clone()).await;
    assert_eq!((answer.status.as_u16(), answer.header(TOLD)), (200, None));
}

async fn a_gateway_without_a_secret_tells_nobody(mode: Mode) {
    let gateway = Gateway::start(builder(mode, 1, json!({}))).await;
    for secret in [SECRET, "", "null"] {
        let answer = gateway.send("POST", CHAT, &[(ASK, secret)], chat_body(MODEL, false)).await;
        assert_eq!((answer.status.as_u16(), answer.header(TOLD)), (200, None));
    }
}
