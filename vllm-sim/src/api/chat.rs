//! POST /v1/chat/completions.

use std::collections::VecDeque;

use bytes::Bytes;
use serde_json::{Map, Value};

use super::{
    FINGERPRINT, Job, Length, StreamOptions, cached_details, data, finish_name, is_true, list, quoted, request, target,
    text_prompt, words,
};
use crate::pod::Pod;
use crate::prompt;
use crate::refusal::Refusal;
use crate::stream::{DONE, ResponseWriter};
use crate::text::Words;
use crate::ticket::Outcome;

pub(crate) fn job(pod: &Pod, body: &Map<String, Value>) -> Result<Job, Refusal> {
    let messages = list(body, "messages")?;
    let target = target(pod, body)?;
    let length = Length::read(pod, body, &["max_completion_tokens", "max_tokens"])?;
    let stream = is_true(body.get("stream"));
    let text = prompt::render_chat(None, messages, body.get("tools"));
    let request = request(pod, text_prompt(pod, body, &target, &text), length, &target, stream)?;
    let writer = ChatWriter {
        id: format!("chatcmpl-{}", pod.new_id()),
        created: pod.unix_time(),
        model: quoted(&target.name),
        words: words(pod, &text, 0),
        prompt_tokens: request.prompt.tokens,
        finish: finish_name(length.reason),
        options: StreamOptions::read(body),
        details: pod.config.enable_prompt_tokens_details,
        begun: false,
    };
    Ok(Job { requests: vec![request], writer: Box::new(writer), stream })
}

struct ChatWriter {
    id: String,
    created: u64,
    /// As a JSON string.
    model: String,
    words: Words,
    prompt_tokens: u32,
    finish: &'static str,
    options: StreamOptions,
    details: bool,
    begun: bool,
}

impl ChatWriter {
    fn head(&self) -> String {
        format!(
            "{{\"id\":\"{}\",\"object\":\"chat.completion.chunk\",\"created\":{},\"model\":{},",
            self.id, self.created, self.model
        )
    }

    fn running_usage(&self, generated: u32) -> String {
        if !self.options.continuous {
            return String::new();
        }
        format!(
            ",\"usage\":{{\"prompt_tokens\":{},\"total_tokens\":{},\"completion_tokens\":{generated},\
             \"completion_tokens_details\":null}}",
            self.prompt_tokens,
            self.prompt_tokens + generated
        )
    }

    fn role(&mut self, out: &mut VecDeque<Bytes>) {
        if self.begun {
            return;
        }
        self.begun = true;
        data(
            out,
            &format!(
                "{}\"choices\":[{{\"index\":0,\"delta\":{{\"role\":\"assistant\",\"content\":\"\"}},\
                 \"logprobs\":null,\"finish_reason\":null}}]{},\"prompt_token_ids\":null,\
                 \"prompt_text\":null}}",
                self.head(),
                self.running_usage(0)
            ),
        );
    }
}

impl ResponseWriter for ChatWriter {
    fn token(&mut self, _choice: usize, index: u32, out: &mut VecDeque<Bytes>) {
        self.role(out);
        data(
            out,
            &format!(
                "{}\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{}\"}},\"logprobs\":null,\
                 \"finish_reason\":null,\"token_ids\":null}}]{}}}",
                self.head(),
                self.words.word(index),
                self.running_usage(index + 1)
            ),
        );
    }

    fn last(&mut self, _choice: usize, outcome: Outcome, out: &mut VecDeque<Bytes>) {
        self.role(out);
        let fingerprint =
            if self.options.usage { String::new() } else { format!(",\"system_fingerprint\":\"{FINGERPRINT}\"") };
        data(
            out,
            &format!(
                "{}\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{}\"}},\"logprobs\":null,\
                 \"finish_reason\":\"{}\",\"stop_reason\":null,\"token_ids\":null}}]{}{fingerprint}}}",
                self.head(),
                self.words.word(outcome.generated.saturating_sub(1)),
                self.finish,
                self.running_usage(outcome.generated)
            ),
        );
    }

    fn end(&mut self, outcomes: &[Outcome], out: &mut VecDeque<Bytes>) {
        if self.options.usage {
            let outcome = outcomes.first().copied().unwrap_or_default();
            data(out, &final_usage(&self.head(), self.prompt_tokens, outcome, self.details));
        }
        out.push_back(Bytes::from_static(DONE));
    }

    fn whole(&self, outcomes: &[Outcome]) -> String {
        let outcome = outcomes.first().copied().unwrap_or_default();
        format!(
            "{{\"id\":\"{}\",\"object\":\"chat.completion\",\"created\":{},\"model\":{},\"choices\":[{{\
             \"index\":0,\"message\":{{\"role\":\"assistant\",\"content\":\"{}\",\"refusal\":null,\
             \"annotations\":null,\"audio\":null,\"function_call\":null,\"reasoning\":null}},\
             \"logprobs\":null,\"finish_reason\":\"{}\",\"stop_reason\":null,\"token_ids\":null,\
             \"routed_experts\":null}}],\"service_tier\":null,\"system_fingerprint\":\"{FINGERPRINT}\",\
             \"usage\":{{\"prompt_tokens\":{},\"total_tokens\":{},\"completion_tokens\":{},\
             \"prompt_tokens_details\":{},\"completion_tokens_details\":null}},\
             \"prompt_logprobs\":null,\"prompt_token_ids\":null,\"prompt_text\":null,\
             \"kv_transfer_params\":null,\"ec_transfer_params\":null,\"metrics\":null}}",
            self.id,
            self.created,
            self.model,
            self.words.text(outcome.generated),
            self.finish,
            self.prompt_tokens,
            self.prompt_tokens + outcome.generated,
            outcome.generated,
            cached_details(self.details, outcome.cached_tokens),
        )
    }
}

/// The usage chunk before `[DONE]`, with empty `choices`.
pub(super) fn final_usage(head: &str, prompt: u32, outcome: Outcome, details: bool) -> String {
    let details = if details {
        format!(",\"prompt_tokens_details\":{}", cached_details(true, outcome.cached_tokens))
    } else {
        String::new()
    };
    format!(
        "{head}\"choices\":[],\"usage\":{{\"prompt_tokens\":{prompt},\"total_tokens\":{},\
         \"completion_tokens\":{}{details}}},\"system_fingerprint\":\"{FINGERPRINT}\"}}",
        prompt + outcome.generated,
        outcome.generated
    )
}
