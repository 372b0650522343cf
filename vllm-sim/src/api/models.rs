//! GET /v1/models and the loading of adapters.

use std::sync::Arc;

use serde_json::{Map, Value, json};
use xxhash_rust::xxh3::xxh3_64;

use crate::pod::{Adapter, Pod, lock};
use crate::prompt;
use crate::refusal::Refusal;
use crate::response::Response;

/// A path with this in it does not exist. The simulator has no files, and somebody has to fail.
const MISSING_PATH: &str = "nonexistent";
/// Size of Llama 3's vocabulary.
const VOCABULARY: u64 = 128_256;

pub(crate) fn list(pod: &Pod) -> Response {
    let started = pod.started_unix.as_secs();
    let base = pod.base_names.first().map_or("", String::as_str);
    let mut models: Vec<Value> = pod
        .base_names
        .iter()
        .map(|name| model(pod, name, started, &pod.config.model, Value::Null, Value::from(pod.config.context())))
        .collect();
    for adapter in lock(&pod.adapters).iter() {
        models.push(model(pod, &adapter.name, adapter.created, &adapter.path, Value::from(base), Value::Null));
    }
    Response::value(200, &json!({"object": "list", "data": models}))
}

fn model(pod: &Pod, id: &str, created: u64, root: &str, parent: Value, length: Value) -> Value {
    json!({
        "id": id,
        "object": "model",
        "created": created,
        "owned_by": "vllm",
        "root": root,
        "parent": parent,
        "max_model_len": length,
        "permission": [{
            "id": format!("modelperm-{}", pod.new_id()),
            "object": "model_permission",
            "created": created,
            "allow_create_engine": false,
            "allow_sampling": true,
            "allow_logprobs": true,
            "allow_search_indices": false,
            "allow_view": true,
            "allow_fine_tuning": false,
            "organization": "*",
            "group": null,
            "is_blocking": false,
        }],
    })
}

/// POST /v1/load_lora_adapter.
pub(crate) fn load(pod: &Pod, body: &Map<String, Value>) -> Result<Response, Refusal> {
    let name = text(body, "lora_name")?;
    let path = text(body, "lora_path")?;
    if path.contains(MISSING_PATH) {
        let message = format!("Loading lora {name} failed: No adapter found for {path}");
        return Ok(Response::error(404, "NotFoundError", None, &message));
    }
    let in_place = super::is_true(body.get("load_inplace"));
    let mut adapters = lock(&pod.adapters);
    let known = adapters.iter().any(|adapter| &*adapter.name == name);
    if known && !in_place {
        let message = format!(
            "The lora adapter '{name}' has already been loaded. If you want to load the adapter in \
             place, set 'load_inplace' to True."
        );
        return Ok(Response::error(400, "InvalidUserInput", None, &message));
    }
    adapters.retain(|adapter| &*adapter.name != name);
    adapters.push(Adapter { name: Arc::from(name), path: path.to_owned(), created: pod.unix_time() });
    Ok(Response::new(200, None, format!("Success: LoRA adapter '{name}' added successfully.")))
}

/// POST /v1/unload_lora_adapter.
pub(crate) fn unload(pod: &Pod, body: &Map<String, Value>) -> Result<Response, Refusal> {
    let name = text(body, "lora_name")?;
    let mut adapters = lock(&pod.adapters);
    let before = adapters.len();
    adapters.retain(|adapter| &*adapter.name != name);
    if adapters.len() == before {
        let message = format!("The lora adapter '{name}' cannot be found.");
        return Ok(Response::error(404, "NotFoundError", None, &message));
    }
    Ok(Response::new(200, None, format!("Success: LoRA adapter '{name}' removed successfully.")))
}

fn text<'a>(body: &'a Map<String, Value>, field: &'static str) -> Result<&'a str, Refusal> {
    match body.get(field) {
        Some(Value::String(text)) => Ok(text),
        Some(Value::Null) | None => Err(Refusal::Missing { field, fields: body.len() }),
        Some(_) => Err(Refusal::WrongType { field, expected: "string" }),
    }
}

/// POST /tokenize: ids made from the four-byte pieces that stand for tokens here.
pub(crate) fn tokenize(pod: &Pod, body: &Map<String, Value>) -> Result<Response, Refusal> {
    super::target(pod, body)?;
    let text = match body.get("messages") {
        Some(Value::Array(messages)) => prompt::render_chat(None, messages, body.get("tools")),
        _ => text(body, "prompt")?.to_owned(),
    };
    let tokens: Vec<u64> =
        text.as_bytes().chunks(prompt::BYTES_PER_TOKEN).map(|piece| xxh3_64(piece) % VOCABULARY).collect();
    Ok(Response::value(
        200,
        &json!({
            "count": tokens.len(),
            "max_model_len": pod.config.context(),
            "tokens": tokens,
            "token_strs": null,
        }),
    ))
}
