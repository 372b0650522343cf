//! POST /v1/messages and /v1/messages/count_tokens, the Anthropic API.

use std::collections::VecDeque;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::{Job, Length, is_true, list, named_event, quoted, request, target, text_prompt, words};
use crate::engine::stats::FinishReason;
use crate::pod::Pod;
use crate::prompt;
use crate::refusal::Refusal;
use crate::response::Response;
use crate::stream::ResponseWriter;
use crate::text::Words;
use crate::ticket::Outcome;

pub(crate) fn job(pod: &Pod, body: &Map<String, Value>) -> Result<Job, Refusal> {
    let text = render(body)?;
    if !body.contains_key("max_tokens") {
        return Err(Refusal::Missing { field: "max_tokens", fields: body.len() });
    }
    let target = target(pod, body)?;
    let length = Length::read(pod, body, &["max_tokens"])?;
    let stream = is_true(body.get("stream"));
    let request = request(pod, text_prompt(pod, body, &target, &text), length, &target, stream)?;
    let writer = MessageWriter {
        id: format!("chatcmpl-{}", pod.new_id()),
        model: quoted(&target.name),
        words: words(pod, &text, 0),
        input_tokens: request.prompt.tokens,
        stop_reason: match length.reason {
            FinishReason::Length => "max_tokens",
            FinishReason::Stop | FinishReason::Abort => "end_turn",
        },
        begun: false,
    };
    Ok(Job { requests: vec![request], writer: Box::new(writer), stream })
}

pub(crate) fn count_tokens(pod: &Pod, body: &Map<String, Value>) -> Result<Response, Refusal> {
    let text = render(body)?;
    target(pod, body)?;
    let tokens = prompt::token_count(text.len());
    Ok(Response::value(
        200,
        &json!({
            "input_tokens": tokens,
            "context_management": {"original_input_tokens": tokens},
        }),
    ))
}

fn render(body: &Map<String, Value>) -> Result<String, Refusal> {
    let messages = list(body, "messages")?;
    Ok(prompt::render_chat(body.get("system"), messages, body.get("tools")))
}

struct MessageWriter {
    id: String,
    /// As a JSON string.
    model: String,
    words: Words,
    input_tokens: u32,
    stop_reason: &'static str,
    begun: bool,
}

impl MessageWriter {
    fn start(&mut self, out: &mut VecDeque<Bytes>) {
        if self.begun {
            return;
        }
        self.begun = true;
        named_event(
            out,
            "message_start",
            &format!(
                "{{\"type\":\"message_start\",\"message\":{{\"id\":\"{}\",\"type\":\"message\",\
                 \"role\":\"assistant\",\"content\":[],\"model\":{},\"stop_reason\":null,\
                 \"stop_sequence\":null,\"usage\":{{\"input_tokens\":{},\"output_tokens\":0}}}}}}",
                self.id, self.model, self.input_tokens
            ),
        );
        named_event(
            out,
            "content_block_start",
            r#"{"type":"content_block_start","content_block":{"type":"text","text":""},"index":0}"#,
        );
    }

    fn delta(&mut self, index: u32, out: &mut VecDeque<Bytes>) {
        self.start(out);
        named_event(
            out,
            "content_block_delta",
            &format!(
                "{{\"type\":\"content_block_delta\",\"delta\":{{\"type\":\"text_delta\",\
                 \"text\":\"{}\"}},\"index\":0}}",
                self.words.word(index)
            ),
        );
    }
}

impl ResponseWriter for MessageWriter {
    fn token(&mut self, _choice: usize, index: u32, out: &mut VecDeque<Bytes>) {
        self.delta(index, out);
    }

    fn last(&mut self, _choice: usize, outcome: Outcome, out: &mut VecDeque<Bytes>) {
        self.delta(outcome.generated.saturating_sub(1), out);
    }

    fn end(&mut self, outcomes: &[Outcome], out: &mut VecDeque<Bytes>) {
        let generated = outcomes.first().copied().unwrap_or_default().generated;
        named_event(out, "content_block_stop", r#"{"type":"content_block_stop","index":0}"#);
        named_event(
            out,
            "message_delta",
            &format!(
                "{{\"type\":\"message_delta\",\"delta\":{{\"stop_reason\":\"{}\",\
                 \"stop_sequence\":null}},\"usage\":{{\"input_tokens\":{},\"output_tokens\":{generated}}}}}",
                self.stop_reason, self.input_tokens
            ),
        );
        named_event(out, "message_stop", r#"{"type":"message_stop"}"#);
    }

    fn whole(&self, outcomes: &[Outcome]) -> String {
        let generated = outcomes.first().copied().unwrap_or_default().generated;
        format!(
            "{{\"id\":\"{}\",\"type\":\"message\",\"role\":\"assistant\",\"content\":[{{\
             \"type\":\"text\",\"text\":\"{}\"}}],\"model\":{},\"stop_reason\":\"{}\",\
             \"usage\":{{\"input_tokens\":{},\"output_tokens\":{generated}}}}}",
            self.id,
            self.words.text(generated),
            self.model,
            self.stop_reason,
            self.input_tokens
        )
    }
}
