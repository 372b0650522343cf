//! POST /v1/embeddings, /pooling, /v1/rerank and /v1/score.

use std::collections::VecDeque;

use bytes::Bytes;
use serde_json::{Map, Value, json};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::{Job, list, request, target, text_prompt};
use crate::api::Length;
use crate::engine::Prompt;
use crate::engine::stats::FinishReason;
use crate::pod::Pod;
use crate::prompt;
use crate::refusal::Refusal;
use crate::stream::ResponseWriter;
use crate::ticket::Outcome;

/// Nothing is generated.
const NO_OUTPUT: Length = Length { max_tokens: None, tokens: 0, reason: FinishReason::Stop };

/// Which of the two vector APIs is answered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Vectors {
    /// /v1/embeddings.
    Embeddings,
    /// /pooling.
    Pooling,
}

/// Which of the two scoring APIs is answered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Scores {
    /// /v1/score.
    Score,
    /// /v1/rerank.
    Rerank,
}

pub(crate) fn vectors(pod: &Pod, body: &Map<String, Value>, kind: Vectors) -> Result<Job, Refusal> {
    let target = target(pod, body)?;
    let inputs = inputs(body)?;
    let mut requests = Vec::new();
    let mut data = Vec::new();
    let base64 = body.get("encoding_format").and_then(Value::as_str) == Some("base64");
    for (index, input) in inputs.iter().enumerate() {
        let (prompt, hash) = read_input(pod, body, &target, input)?;
        requests.push(request(pod, prompt, NO_OUTPUT, &target, false)?);
        let vector = vector(hash ^ pod.config.seed, pod.config.embedding_size);
        let vector = if base64 {
            let bytes: Vec<u8> = vector.iter().flat_map(|x| (*x as f32).to_le_bytes()).collect();
            Value::from(base64_text(&bytes))
        } else {
            Value::from(vector)
        };
        data.push(match kind {
            Vectors::Embeddings => {
                json!({"index": index, "object": "embedding", "embedding": vector})
            }
            Vectors::Pooling => json!({"index": index, "object": "pooling", "data": vector}),
        });
    }
    let prefix = match kind {
        Vectors::Embeddings => "embd",
        Vectors::Pooling => "pooling",
    };
    let tokens: u32 = requests.iter().map(|one| one.prompt.tokens).sum();
    let body = json!({
        "id": format!("{prefix}-{}", pod.new_id()),
        "object": "list",
        "created": pod.unix_time(),
        "model": target.name,
        "data": data,
        "usage": usage(tokens),
    });
    Ok(job(requests, &body))
}

pub(crate) fn scores(pod: &Pod, body: &Map<String, Value>, kind: Scores) -> Result<Job, Refusal> {
    let target = target(pod, body)?;
    let (query, documents) = match kind {
        Scores::Rerank => (vec![field(body, "query")?], list(body, "documents")?.to_vec()),
        Scores::Score => (many(field(body, "text_1")?), many(field(body, "text_2")?)),
    };
    let mut requests = Vec::new();
    let mut scored = Vec::new();
    for text in query.iter().chain(&documents) {
        let (prompt, _) = read_input(pod, body, &target, text)?;
        requests.push(request(pod, prompt, NO_OUTPUT, &target, false)?);
    }
    for (index, document) in documents.iter().enumerate() {
        let other = query.get(index).or_else(|| query.first());
        let other = other.map(text_of).unwrap_or_default();
        let text = text_of(document);
        let hash = xxh3_64_with_seed(text.as_bytes(), xxh3_64(other.as_bytes()) ^ pod.config.seed);
        scored.push((index, text, unit(hash)));
    }
    let tokens: u32 = requests.iter().map(|one| one.prompt.tokens).sum();
    let id = format!("score-{}", pod.new_id());
    let body = match kind {
        Scores::Score => json!({
            "id": id,
            "object": "list",
            "created": pod.unix_time(),
            "model": target.name,
            "data": scored
                .iter()
                .map(|(index, _, score)| json!({"index": index, "object": "score", "score": score}))
                .collect::<Vec<_>>(),
            "usage": usage(tokens),
        }),
        Scores::Rerank => {
            scored.sort_by(|one, two| two.2.total_cmp(&one.2));
            let most = body.get("top_n").and_then(Value::as_u64).filter(|n| *n > 0);
            scored.truncate(most.map_or(usize::MAX, |n| n as usize));
            json!({
                "id": id,
                "model": target.name,
                "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
                "results": scored
                    .iter()
                    .map(|(index, text, score)| json!({
                        "index": index,
                        "document": {"text": text, "multi_modal": null},
                        "relevance_score": score,
                    }))
                    .collect::<Vec<_>>(),
            })
        }
    };
    Ok(job(requests, &body))
}

fn job(requests: Vec<crate::engine::GenerationRequest>, body: &Value) -> Job {
    Job { requests, writer: Box::new(Pooled(body.to_string())), stream: false }
}

/// An body that is complete before the engine has run.
struct Pooled(String);

impl ResponseWriter for Pooled {
    fn token(&mut self, _choice: usize, _index: u32, _out: &mut VecDeque<Bytes>) {}
    fn last(&mut self, _choice: usize, _outcome: Outcome, _out: &mut VecDeque<Bytes>) {}
    fn end(&mut self, _outcomes: &[Outcome], _out: &mut VecDeque<Bytes>) {}
    fn whole(&self, _outcomes: &[Outcome]) -> String {
        self.0.clone()
    }
}

fn usage(tokens: u32) -> Value {
    json!({
        "prompt_tokens": tokens,
        "total_tokens": tokens,
        "completion_tokens": 0,
        "prompt_tokens_details": null,
        "completion_tokens_details": null,
    })
}

/// `input` is a text, token ids, or a list of either; chat-style requests have `messages` instead.
fn inputs(body: &Map<String, Value>) -> Result<Vec<Value>, Refusal> {
    if let Some(Value::Array(messages)) = body.get("messages") {
        let text = prompt::render_chat(None, messages, None);
        return Ok(vec![Value::from(text)]);
    }
    match field(body, "input")? {
        Value::Array(list) if !list.iter().all(Value::is_number) => Ok(list),
        one => Ok(vec![one]),
    }
}

fn field(body: &Map<String, Value>, field: &'static str) -> Result<Value, Refusal> {
    body.get(field).filter(|value| !value.is_null()).cloned().ok_or(Refusal::Missing { field, fields: body.len() })
}

fn many(value: Value) -> Vec<Value> {
    match value {
        Value::Array(list) => list,
        one => vec![one],
    }
}

fn read_input(
    pod: &Pod,
    body: &Map<String, Value>,
    target: &super::Target,
    input: &Value,
) -> Result<(Prompt, u64), Refusal> {
    if let Value::Array(list) = input {
        let ids: Option<Vec<u32>> = list.iter().map(|id| id.as_u64().and_then(|id| u32::try_from(id).ok())).collect();
        let ids = ids.ok_or(Refusal::WrongType { field: "input", expected: "string" })?;
        let hash = xxh3_64(format!("{ids:?}").as_bytes());
        return Ok((prompt::from_ids(&ids, pod.config.block_size, 0), hash));
    }
    let text = text_of(input);
    Ok((text_prompt(pod, body, target, &text), xxh3_64(text.as_bytes())))
}

fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => {
            let mut text = String::new();
            prompt::render_content(&mut text, other.get("content").unwrap_or(other));
            text
        }
    }
}

/// A unit vector that depends on the hash alone.
fn vector(hash: u64, size: usize) -> Vec<f64> {
    let raw: Vec<f64> =
        (0..size as u64).map(|index| unit(xxh3_64_with_seed(&index.to_le_bytes(), hash)) * 2.0 - 1.0).collect();
    let norm = raw.iter().map(|x| x * x).sum::<f64>().sqrt().max(f64::MIN_POSITIVE);
    raw.into_iter().map(|x| x / norm).collect()
}

/// A number from 0 to 1 out of a hash.
fn unit(hash: u64) -> f64 {
    (hash >> 11) as f64 / (1_u64 << 53) as f64
}

fn base64_text(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let at = |place: usize| u32::from(group.get(place).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for digit in 0..4 {
            if digit > group.len() {
                text.push('=');
                continue;
            }
            let value = (bits >> (18 - 6 * digit)) & 63;
            let letter = ALPHABET.get(value as usize).copied().unwrap_or(b'=');
            text.push(char::from(letter));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_pads_like_the_standard() {
        assert_eq!(base64_text(b"Man"), "TWFu");
        assert_eq!(base64_text(b"Ma"), "TWE=");
        assert_eq!(base64_text(b"M"), "TQ==");
    }

    #[test]
    fn vectors_have_length_one() {
        let norm: f64 = vector(7, 64).iter().map(|x| x * x).sum();
        assert!((norm - 1.0).abs() < 1e-9);
    }
}
