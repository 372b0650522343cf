//! POST /v1/completions.

use std::collections::VecDeque;
use std::fmt::Write as _;

use bytes::Bytes;
use serde_json::{Map, Value};

use super::chat::final_usage;
use super::{
    FINGERPRINT, Job, Length, StreamOptions, Target, cached_details, data, finish_name, is_true, quoted, request,
    target, text_prompt, words,
};
use crate::engine::Prompt;
use crate::pod::Pod;
use crate::prompt;
use crate::refusal::Refusal;
use crate::stream::{DONE, ResponseWriter};
use crate::text::Words;
use crate::ticket::Outcome;

pub(crate) fn job(pod: &Pod, body: &Map<String, Value>) -> Result<Job, Refusal> {
    let target = target(pod, body)?;
    let length = Length::read(pod, body, &["max_tokens"])?;
    let stream = is_true(body.get("stream"));
    let mut requests = Vec::new();
    let mut choices = Vec::new();
    for (prompt, words) in prompts(pod, body, &target)? {
        choices.push(words);
        requests.push(request(pod, prompt, length, &target, stream)?);
    }
    let writer = CompletionWriter {
        id: format!("cmpl-{}", pod.new_id()),
        created: pod.unix_time(),
        model: quoted(&target.name),
        choices,
        prompt_tokens: requests.iter().map(|one| one.prompt.tokens).sum(),
        generated: 0,
        finish: finish_name(length.reason),
        options: StreamOptions::read(body),
        details: pod.config.enable_prompt_tokens_details,
    };
    Ok(Job { requests, writer: Box::new(writer), stream })
}

/// A prompt is a string, a list of strings, a list of token ids, or a list of such lists.
fn prompts(pod: &Pod, body: &Map<String, Value>, target: &Target) -> Result<Vec<(Prompt, Words)>, Refusal> {
    let wrong = Refusal::WrongType { field: "prompt", expected: "string" };
    let salt = prompt::salt(target.adapter.as_deref(), body.get("cache_salt").and_then(Value::as_str));
    let text = |text: &str| -> (Prompt, Words) { (text_prompt(pod, body, target, text), words(pod, text, 0)) };
    let ids = |list: &[Value]| -> Option<(Prompt, Words)> {
        let ids: Vec<u32> =
            list.iter().map(|id| id.as_u64().and_then(|id| u32::try_from(id).ok())).collect::<Option<_>>()?;
        let prompt = prompt::from_ids(&ids, pod.config.block_size, salt);
        Some((prompt, words(pod, &format!("{ids:?}"), 0)))
    };
    match body.get("prompt") {
        None | Some(Value::Null) => Err(Refusal::Missing { field: "prompt", fields: body.len() }),
        Some(Value::String(prompt)) => Ok(vec![text(prompt)]),
        Some(Value::Array(list)) if list.is_empty() => Err(wrong),
        Some(Value::Array(list)) => {
            if list.iter().all(Value::is_number) {
                return Ok(vec![ids(list).ok_or(wrong)?]);
            }
            list.iter()
                .map(|one| match one {
                    Value::String(prompt) => Ok(text(prompt)),
                    Value::Array(list) => ids(list).ok_or_else(|| wrong.clone()),
                    _ => Err(wrong.clone()),
                })
                .collect()
        }
        Some(_) => Err(wrong),
    }
}

struct CompletionWriter {
    id: String,
    created: u64,
    /// As a JSON string.
    model: String,
    choices: Vec<Words>,
    prompt_tokens: u32,
    generated: u32,
    finish: &'static str,
    options: StreamOptions,
    details: bool,
}

impl CompletionWriter {
    fn head(&self) -> String {
        format!(
            "{{\"id\":\"{}\",\"object\":\"text_completion\",\"created\":{},\"model\":{},",
            self.id, self.created, self.model
        )
    }

    fn chunk(&mut self, choice: usize, index: u32, finish: Option<&str>, out: &mut VecDeque<Bytes>) {
        self.generated += 1;
        let word = self.choices.get(choice).map_or("", |words| words.word(index));
        let finish_json = finish.map_or_else(|| "null".to_owned(), quoted);
        let mut json = format!(
            "{}\"choices\":[{{\"index\":{choice},\"text\":\"{word}\",\"logprobs\":null,\
             \"finish_reason\":{finish_json},\"stop_reason\":null,\"prompt_token_ids\":null,\
             \"token_ids\":null}}]",
            self.head()
        );
        if self.options.continuous {
            let _ = write!(
                json,
                ",\"usage\":{{\"prompt_tokens\":{},\"total_tokens\":{},\"completion_tokens\":{},\
                 \"completion_tokens_details\":null}}",
                self.prompt_tokens,
                self.prompt_tokens + self.generated,
                self.generated
            );
        }
        if finish.is_some() && !self.options.usage {
            let _ = write!(json, ",\"system_fingerprint\":\"{FINGERPRINT}\"");
        }
        json.push('}');
        data(out, &json);
    }
}

fn sum(outcomes: &[Outcome]) -> Outcome {
    Outcome {
        generated: outcomes.iter().map(|one| one.generated).sum(),
        cached_tokens: outcomes.iter().map(|one| one.cached_tokens).sum(),
    }
}

impl ResponseWriter for CompletionWriter {
    fn token(&mut self, choice: usize, index: u32, out: &mut VecDeque<Bytes>) {
        self.chunk(choice, index, None, out);
    }

    fn last(&mut self, choice: usize, outcome: Outcome, out: &mut VecDeque<Bytes>) {
        let finish = self.finish;
        self.chunk(choice, outcome.generated.saturating_sub(1), Some(finish), out);
    }

    fn end(&mut self, outcomes: &[Outcome], out: &mut VecDeque<Bytes>) {
        if self.options.usage {
            data(out, &final_usage(&self.head(), self.prompt_tokens, sum(outcomes), self.details));
        }
        out.push_back(Bytes::from_static(DONE));
    }

    fn whole(&self, outcomes: &[Outcome]) -> String {
        let total = sum(outcomes);
        let choices: Vec<String> = self
            .choices
            .iter()
            .zip(outcomes)
            .enumerate()
            .map(|(index, (words, outcome))| {
                format!(
                    "{{\"index\":{index},\"text\":\"{}\",\"logprobs\":null,\"finish_reason\":\"{}\",\
                     \"stop_reason\":null,\"token_ids\":null,\"prompt_logprobs\":null,\
                     \"prompt_token_ids\":null,\"routed_experts\":null}}",
                    words.text(outcome.generated),
                    self.finish
                )
            })
            .collect();
        format!(
            "{}\"choices\":[{}],\"service_tier\":null,\"system_fingerprint\":\"{FINGERPRINT}\",\
             \"usage\":{{\"prompt_tokens\":{},\"total_tokens\":{},\"completion_tokens\":{},\
             \"prompt_tokens_details\":{},\"completion_tokens_details\":null}},\
             \"kv_transfer_params\":null,\"ec_transfer_params\":null,\"metrics\":null}}",
            self.head(),
            choices.join(","),
            self.prompt_tokens,
            self.prompt_tokens + total.generated,
            total.generated,
            cached_details(self.details, total.cached_tokens),
        )
    }
}
