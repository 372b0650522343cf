//! Random requests of every kind, and what their responses must hold.

use rand::Rng;
use rand::seq::IndexedRandom as _;
use serde_json::{Value, json};

use crate::HttpResponse;

/// Served as the base model.
pub const BASE: &str = "meta-llama/Llama-3.1-8B-Instruct";
/// A second name of it.
pub const ALIAS: &str = "llama";
/// A LoRA adapter on it.
pub const ADAPTER: &str = "sql-adapter";

/// Conversations whose turns share a long beginning, as a prefix cache wants it.
const CONVERSATIONS: usize = 8;
/// Words in that beginning.
const SHARED_WORDS: usize = 300;
/// Words of a question, at most.
const QUESTION_WORDS: usize = 40;
/// Tokens of a response, at most.
const RESPONSE_TOKENS: u32 = 24;
const WORDS: &[&str] =
    &["pod", "queue", "token", "cache", "größe", "stream", "model", "prefix", "日本", "route", "\"quoted\"", "é"];

/// What is asked for.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Call {
    /// Chat completion.
    Chat,
    /// Completion of a prompt.
    Completion,
    /// Embeddings; never streamed.
    Embedding,
    /// The responses API.
    Response,
}

impl Call {
    /// Each of them.
    pub const ALL: [Self; 4] = [Self::Chat, Self::Completion, Self::Embedding, Self::Response];

    /// The path it is POSTed to.
    #[must_use]
    pub fn path(self) -> &'static str {
        match self {
            Self::Chat => "/v1/chat/completions",
            Self::Completion => "/v1/completions",
            Self::Embedding => "/v1/embeddings",
            Self::Response => "/v1/responses",
        }
    }
}

/// One request.
#[derive(Clone, Debug)]
pub struct Job {
    /// What is asked for.
    pub call: Call,
    /// The model that the body names.
    pub model: &'static str,
    /// The response is to be streamed.
    pub streamed: bool,
    /// JSON.
    pub body: String,
}

/// Tokens as a response reports them.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct TokenCounts {
    /// Of the prompt.
    pub prompt: u64,
    /// Generated; 0 where nothing is.
    pub completion: u64,
    /// Of the prompt, those from the prefix cache, if reported.
    pub cached: Option<u64>,
}

impl Job {
    /// A random one: mostly chat, half of it streamed.
    pub fn draw(random: &mut impl Rng) -> Self {
        let call = match random.random_range(0..10) {
            0..5 => Call::Chat,
            5..7 => Call::Completion,
            7..8 => Call::Embedding,
            _ => Call::Response,
        };
        let model = [BASE, BASE, ALIAS, ADAPTER].choose(random).copied().unwrap_or(BASE);
        let streamed = call != Call::Embedding && random.random_bool(0.5);
        let conversation = random.random_range(0..CONVERSATIONS);
        let shared: Vec<&str> =
            WORDS.iter().cycle().skip(conversation).step_by(conversation + 1).take(SHARED_WORDS).copied().collect();
        let length = random.random_range(1..=QUESTION_WORDS);
        let question: Vec<&str> = (0..length).filter_map(|_| WORDS.choose(random).copied()).collect();
        let (shared, question) = (shared.join(" "), question.join(" "));
        let tokens = random.random_range(2..=RESPONSE_TOKENS);
        let body = match call {
            Call::Chat => json!({
                "model": model, "max_tokens": tokens,
                "messages": [{"role": "system", "content": shared}, {"role": "user", "content": question}],
            }),
            Call::Completion => {
                json!({"model": model, "max_tokens": tokens, "prompt": format!("{shared}\n{question}")})
            }
            Call::Embedding => json!({"model": model, "input": [question, "a second input"]}),
            Call::Response => {
                json!({"model": model, "max_output_tokens": tokens, "instructions": shared, "input": question})
            }
        };
        let body = if streamed { with_stream(body, call) } else { body };
        Self { call, model, streamed, body: body.to_string() }
    }

    /// The usage in a response.
    ///
    /// # Errors
    /// What is wrong with the response.
    pub fn check(&self, response: &HttpResponse) -> Result<TokenCounts, String> {
        if response.status != 200 {
            return Err(format!(
                "status {}: {}",
                response.status,
                response.text().chars().take(200).collect::<String>()
            ));
        }
        let last = if self.streamed { last_report(response)? } else { json(&response.text())? };
        let usage = last.get("usage").or_else(|| last.pointer("/response/usage")).filter(|usage| usage.is_object());
        let usage = read_usage(usage.ok_or("no usage")?).ok_or("usage without prompt tokens")?;
        if self.call == Call::Embedding {
            let vectors = last.get("data").and_then(Value::as_array).map_or(0, Vec::len);
            return if vectors == 2 { Ok(usage) } else { Err(format!("{vectors} vectors for 2 inputs")) };
        }
        if usage.completion == 0 { Err("no token was generated".to_owned()) } else { Ok(usage) }
    }
}

fn with_stream(mut body: Value, call: Call) -> Value {
    if let Some(fields) = body.as_object_mut() {
        fields.insert("stream".to_owned(), json!(true));
        // The responses API reports usage in its last event anyway.
        if call != Call::Response {
            fields.insert("stream_options".to_owned(), json!({"include_usage": true}));
        }
    }
    body
}

/// The event of a stream that carries its usage; the stream must have ended as its kind does.
fn last_report(response: &HttpResponse) -> Result<Value, String> {
    let mut events = response.events();
    if events.last().is_some_and(|event| event == "[DONE]") {
        events.pop();
    } else if !response.text().contains("event: response.") {
        return Err("the stream has no end".to_owned());
    }
    let last = json(events.last().ok_or("a stream without events")?)?;
    let ended = last.get("type").and_then(Value::as_str);
    match ended {
        None | Some("response.completed" | "response.incomplete") => Ok(last),
        Some(other) => Err(format!("the stream ends with {other}")),
    }
}

fn read_usage(usage: &Value) -> Option<TokenCounts> {
    let number = |names: [&str; 2]| names.iter().find_map(|name| usage.get(name)?.as_u64());
    let details = ["prompt_tokens_details", "input_tokens_details"].iter().find_map(|name| usage.get(name));
    Some(TokenCounts {
        prompt: number(["prompt_tokens", "input_tokens"])?,
        completion: number(["completion_tokens", "output_tokens"]).unwrap_or(0),
        cached: details.and_then(|details| details.get("cached_tokens")?.as_u64()),
    })
}

fn json(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|error| format!("not JSON: {error}"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rand::SeedableRng as _;
    use rand::rngs::SmallRng;

    use super::*;

    fn response(status: u16, body: &str) -> HttpResponse {
        HttpResponse {
            status: http::StatusCode::from_u16(status).unwrap(),
            headers: http::HeaderMap::new(),
            body: body.to_owned().into(),
            first_byte: Duration::ZERO,
            duration: Duration::ZERO,
        }
    }

    fn job(call: Call, streamed: bool) -> Job {
        Job { call, model: BASE, streamed, body: String::new() }
    }

    #[test]
    fn draws_cover_every_call_streamed_and_not() {
        let mut random = SmallRng::seed_from_u64(1);
        let jobs: Vec<Job> = (0..200).map(|_| Job::draw(&mut random)).collect();
        for call in Call::ALL {
            assert!(jobs.iter().any(|job| job.call == call && !job.streamed), "{call:?}");
            assert!(jobs.iter().any(|job| job.call == call && job.streamed) != (call == Call::Embedding), "{call:?}");
        }
        for job in jobs {
            assert_eq!(json(&job.body).unwrap()["stream"] == true, job.streamed);
        }
    }

    #[test]
    fn usage_is_read_from_a_whole_answer_and_from_the_last_event() {
        let usage = r#"{"prompt_tokens": 7, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 5}}"#;
        let expected = TokenCounts { prompt: 7, completion: 2, cached: Some(5) };
        let whole = response(200, &format!("{{\"usage\": {usage}}}"));
        assert_eq!(job(Call::Chat, false).check(&whole), Ok(expected));
        let stream =
            response(200, &format!("data: {{\"choices\": [1]}}\n\ndata: {{\"usage\": {usage}}}\n\ndata: [DONE]\n\n"));
        assert_eq!(job(Call::Chat, true).check(&stream), Ok(expected));
        let responses = "event: response.completed\ndata: {\"type\": \"response.completed\", \"response\": {\"usage\": {\"input_tokens\": 7, \"output_tokens\": 2}}}\n\n";
        let expected = TokenCounts { cached: None, ..expected };
        assert_eq!(job(Call::Response, true).check(&response(200, responses)), Ok(expected));
    }

    #[test]
    fn broken_answers_are_told_apart() {
        let wrong = |call, streamed, status, body| job(call, streamed).check(&response(status, body)).unwrap_err();
        assert!(wrong(Call::Chat, false, 503, "busy").contains("503"));
        assert!(wrong(Call::Chat, false, 200, "{").contains("not JSON"));
        assert!(wrong(Call::Chat, false, 200, "{}").contains("no usage"));
        assert!(wrong(Call::Chat, true, 200, "data: {}\n\n").contains("no end"));
        assert!(
            wrong(Call::Embedding, false, 200, r#"{"usage": {"prompt_tokens": 1}, "data": [1]}"#).contains("1 vectors")
        );
        assert!(wrong(Call::Completion, false, 200, r#"{"usage": {"prompt_tokens": 1}}"#).contains("no token"));
    }
}
