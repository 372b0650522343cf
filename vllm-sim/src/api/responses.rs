//! POST /v1/responses.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::{Job, Length, is_true, named_event, request, target, text_prompt, words};
use crate::engine::stats::FinishReason;
use crate::pod::{Pod, lock};
use crate::prompt;
use crate::refusal::Refusal;
use crate::response::Response;
use crate::response_store::ResponseStore;
use crate::stream::ResponseWriter;
use crate::text::Words;
use crate::ticket::Outcome;

pub(crate) fn job(pod: &Pod, body: &Map<String, Value>) -> Result<Job, Refusal> {
    let previous = body.get("previous_response_id").and_then(Value::as_str);
    if let Some(id) = previous.filter(|id| lock(&pod.responses).get(id).is_none()) {
        return Err(Refusal::UnknownResponse { id: id.to_owned() });
    }
    let text = render(body)?;
    let target = target(pod, body)?;
    let length = Length::read(pod, body, &["max_output_tokens"])?;
    let stream = is_true(body.get("stream"));
    let request = request(pod, text_prompt(pod, body, &target, &text), length, &target, stream)?;
    let number = |name: &str, default: f64| body.get(name).and_then(Value::as_f64).unwrap_or(default);
    let writer = ResponsesWriter {
        id: format!("resp_{}", pod.new_id()),
        item: format!("msg_{}", pod.new_id()),
        created: pod.unix_time(),
        model: target.name,
        words: words(pod, &text, 0),
        input_tokens: request.prompt.tokens,
        room: pod.config.context() - request.prompt.tokens,
        max_output_tokens: length.max_tokens,
        cut_off: length.reason == FinishReason::Length,
        temperature: number("temperature", 1.0),
        top_p: number("top_p", 1.0),
        instructions: body.get("instructions").cloned().unwrap_or(Value::Null),
        details: pod.config.enable_prompt_tokens_details,
        sequence: 0,
        previous: previous.map(str::to_owned),
        store: body.get("store").and_then(Value::as_bool).unwrap_or(true).then(|| pod.responses.clone()),
    };
    Ok(Job { requests: vec![request], writer: Box::new(writer), stream })
}

/// GET /v1/responses/{id}.
pub(crate) fn show(pod: &Pod, id: &str) -> Response {
    match lock(&pod.responses).get(id) {
        Some(response) => Response::json(200, response.to_string()),
        None => Response::refused(&Refusal::UnknownResponse { id: id.to_owned() }),
    }
}

/// POST /v1/responses/{id}/cancel. Only a response made in the background could be cancelled, and here there is none.
pub(crate) fn cancel(pod: &Pod, id: &str) -> Response {
    let is_known = lock(&pod.responses).get(id).is_some();
    Response::refused(&if is_known { Refusal::CannotCancel } else { Refusal::UnknownResponse { id: id.to_owned() } })
}

fn render(body: &Map<String, Value>) -> Result<String, Refusal> {
    let instructions = body.get("instructions").filter(|value| !value.is_null());
    let tools = body.get("tools");
    match body.get("input") {
        None | Some(Value::Null) => Err(Refusal::Missing { field: "input", fields: body.len() }),
        Some(text @ Value::String(_)) => {
            let message = json!({"role": "user", "content": text});
            Ok(prompt::render_chat(instructions, &[message], tools))
        }
        Some(Value::Array(items)) => Ok(prompt::render_chat(instructions, items, tools)),
        Some(_) => Err(Refusal::WrongType { field: "input", expected: "string" }),
    }
}

struct ResponsesWriter {
    id: String,
    item: String,
    created: u64,
    model: String,
    words: Words,
    input_tokens: u32,
    /// What vLLM reports as the limit when none was set.
    room: u32,
    max_output_tokens: Option<u32>,
    cut_off: bool,
    temperature: f64,
    top_p: f64,
    instructions: Value,
    details: bool,
    sequence: u64,
    previous: Option<String>,
    /// Where the response is kept; `None`: it is not to be kept.
    store: Option<Arc<Mutex<ResponseStore>>>,
}

impl ResponsesWriter {
    /// The response object; without an outcome it is still in progress.
    fn object(&self, outcome: Option<Outcome>) -> Value {
        let done = outcome.is_some();
        let status = match (done, self.cut_off) {
            (false, _) => "in_progress",
            (true, true) => "incomplete",
            (true, false) => "completed",
        };
        let reason = (done && self.cut_off).then(|| json!({"reason": "max_output_tokens"}));
        let output =
            outcome.map_or_else(|| json!([]), |outcome| json!([self.message(&self.words.text(outcome.generated))]));
        json!({
            "id": self.id,
            "created_at": self.created,
            "incomplete_details": reason,
            "instructions": self.instructions,
            "metadata": null,
            "model": self.model,
            "object": "response",
            "output": output,
            "parallel_tool_calls": true,
            "temperature": self.temperature,
            "tool_choice": "none",
            "tools": [],
            "top_p": self.top_p,
            "background": false,
            "max_output_tokens": self.max_output_tokens.unwrap_or(self.room),
            "max_tool_calls": null,
            "previous_response_id": self.previous,
            "prompt": null,
            "reasoning": null,
            "service_tier": "auto",
            "status": status,
            "text": null,
            "top_logprobs": null,
            "truncation": "disabled",
            "usage": outcome.map(|outcome| self.usage(outcome)),
            "user": null,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "kv_transfer_params": null,
            "ec_transfer_params": null,
            "input_messages": null,
            "output_messages": null,
        })
    }

    /// The whole response, which is kept from now on.
    fn finished(&self, outcome: Outcome) -> Value {
        let response = self.object(Some(outcome));
        if let Some(store) = &self.store {
            lock(store).keep(&self.id, response.clone());
        }
        response
    }

    fn usage(&self, outcome: Outcome) -> Value {
        let cached = if self.details { outcome.cached_tokens } else { 0 };
        json!({
            "input_tokens": self.input_tokens,
            "input_tokens_details": {
                "cached_tokens": cached,
                "cache_write_tokens": 0,
                "input_tokens_per_turn": [],
                "cached_tokens_per_turn": [],
            },
            "output_tokens": outcome.generated,
            "output_tokens_details": {
                "reasoning_tokens": 0,
                "tool_output_tokens": 0,
                "output_tokens_per_turn": [],
                "tool_output_tokens_per_turn": [],
            },
            "total_tokens": self.input_tokens + outcome.generated,
        })
    }

    fn message(&self, text: &str) -> Value {
        json!({
            "id": self.item,
            "content": [part(text, Value::Null)],
            "role": "assistant",
            "status": "completed",
            "type": "message",
            "phase": null,
        })
    }

    /// Sends an event; vLLM sorts its fields, and `sequence_number` counts them.
    fn send(&mut self, name: &str, mut fields: Map<String, Value>, out: &mut VecDeque<Bytes>) {
        fields.insert("sequence_number".to_owned(), Value::from(self.sequence));
        fields.insert("type".to_owned(), Value::from(name));
        fields.sort_keys();
        self.sequence += 1;
        named_event(out, name, &Value::Object(fields).to_string());
    }

    fn delta(&mut self, index: u32, out: &mut VecDeque<Bytes>) {
        let fields = fields(json!({
            "content_index": 0,
            "delta": self.words.word(index),
            "item_id": self.item,
            "logprobs": [],
            "output_index": 0,
        }));
        self.send("response.output_text.delta", fields, out);
    }
}

fn part(text: &str, logprobs: Value) -> Value {
    json!({"annotations": [], "text": text, "type": "output_text", "logprobs": logprobs})
}

fn fields(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

impl ResponseWriter for ResponsesWriter {
    fn begin(&mut self, out: &mut VecDeque<Bytes>) {
        for name in ["response.created", "response.in_progress"] {
            let fields = fields(json!({"response": self.object(None)}));
            self.send(name, fields, out);
        }
        let item = fields(json!({
            "item": {
                "id": self.item,
                "content": [],
                "role": "assistant",
                "status": "in_progress",
                "type": "message",
                "phase": null,
            },
            "output_index": 0,
        }));
        self.send("response.output_item.added", item, out);
        let part = fields(json!({
            "content_index": 0,
            "item_id": self.item,
            "output_index": 0,
            "part": part("", json!([])),
        }));
        self.send("response.content_part.added", part, out);
    }

    fn token(&mut self, _choice: usize, index: u32, out: &mut VecDeque<Bytes>) {
        self.delta(index, out);
    }

    fn last(&mut self, _choice: usize, outcome: Outcome, out: &mut VecDeque<Bytes>) {
        self.delta(outcome.generated.saturating_sub(1), out);
    }

    fn end(&mut self, outcomes: &[Outcome], out: &mut VecDeque<Bytes>) {
        let outcome = outcomes.first().copied().unwrap_or_default();
        let text = self.words.text(outcome.generated);
        let done = fields(json!({
            "content_index": 0,
            "item_id": self.item,
            "logprobs": [],
            "output_index": 0,
            "text": text,
        }));
        self.send("response.output_text.done", done, out);
        let part = fields(json!({
            "content_index": 0,
            "item_id": self.item,
            "output_index": 0,
            "part": part(&text, Value::Null),
        }));
        self.send("response.content_part.done", part, out);
        let item = fields(json!({"item": self.message(&text), "output_index": 0}));
        self.send("response.output_item.done", item, out);
        let response = self.finished(outcome);
        self.send("response.completed", fields(json!({"response": response})), out);
    }

    fn whole(&self, outcomes: &[Outcome]) -> String {
        self.finished(outcomes.first().copied().unwrap_or_default()).to_string()
    }
}
