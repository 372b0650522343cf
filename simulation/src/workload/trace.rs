//! Recorded traces: Mooncake's, which knows equal blocks of prompts, and an operator's own access log.
//!
//! A Mooncake line is `{"timestamp": ms, "input_length": tokens, "output_length": tokens, "hash_ids": [one a block of 512 tokens]}`. Equal
//! ids are turned into equal text.
//!
//! An access log is one that Envoy wrote with this format; fields it does not know are passed over:
//!
//! ```yaml
//! json_format:
//!   start_time: "%START_TIME(%s.%6f)%"          # when the request came, in seconds
//!   bytes_received: "%BYTES_RECEIVED%"          # size of the body: its prompt, at four bytes a token
//!   bytes_sent: "%BYTES_SENT%"                  # size of the answer: its tokens, at 260 bytes an event of a stream
//!   output_tokens: "%REQ(X-OUTPUT-TOKENS)%"     # instead of bytes_sent, where something logs it
//!   session: "%REQ(X-SESSION-ID)%"              # requests of one session begin with the prompt of the one before
//! ```
//!
//! A log says nothing of prompts: without `session` no two requests have anything in common.

use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use endpoint_picker::rng::Rng;
use hashbrown::HashMap;
use serde::Deserialize;
use serde_json::Value;

use super::{MODEL, Ticket, Workload};
use crate::prompt::{Chat, Message, Sender, Tokenizer};
use crate::text::{seed_of, unit, words};

/// Tokens that one id of a Mooncake trace stands for.
const BLOCK_TOKENS: f64 = 512.0;
/// Mooncake's times are whole multiples of this.
const MOONCAKE_STEP_MICROS: u64 = 3_000_000;
/// Bytes of one event of a stream that carries one token, as vLLM writes it.
const EVENT_BYTES: f64 = 260.0;
const LOG_BYTES_PER_TOKEN: f64 = 4.0;

/// A trace, as it was read.
#[derive(Clone, Debug)]
pub(crate) struct Trace {
    lines: Vec<Line>,
    /// Arrivals are spread over this long after their time, which was cut down to a multiple of it.
    step_micros: u64,
}

#[derive(Clone, Debug)]
struct Line {
    at: u64,
    input_tokens: f64,
    output_tokens: f64,
    content: Content,
}

/// What a prompt is made of.
#[derive(Clone, Debug)]
enum Content {
    /// Blocks with these ids.
    Blocks(Vec<u64>),
    /// The beginning of one long text, that of the session.
    Session(u64),
}

/// How a trace is played.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    /// Requests a second, times this.
    pub(crate) rate: f64,
    /// Lengths, times this.
    pub(crate) length: f64,
}

#[derive(Deserialize)]
struct MooncakeLine {
    timestamp: u64,
    input_length: u32,
    output_length: u32,
    hash_ids: Vec<u64>,
}

impl Trace {
    /// Reads either format.
    ///
    /// # Errors
    ///
    /// The first line that is neither, by number.
    pub(crate) fn read(text: &str) -> Result<Self> {
        let mut lines = Vec::new();
        let mut sessions = HashMap::new();
        let mut step_micros = 0;
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let value: Value = serde_json::from_str(line).with_context(|| format!("line {}: not JSON", number + 1))?;
            let read = if value.get("hash_ids").is_some() {
                step_micros = MOONCAKE_STEP_MICROS;
                serde_json::from_value(value).map(mooncake_line).map_err(anyhow::Error::from)
            } else {
                access_log_line(&value, &mut sessions)
            };
            lines.push(read.with_context(|| format!("line {}", number + 1))?);
        }
        ensure!(!lines.is_empty(), "the trace is empty");
        lines.sort_by_key(|line| line.at);
        let first = lines.first().map_or(0, |line| line.at);
        for line in &mut lines {
            line.at -= first;
        }
        Ok(Self { lines, step_micros })
    }

    /// Requests a second, on average.
    pub(crate) fn rate(&self) -> f64 {
        let last = self.lines.last().map_or(0, |line| line.at) + self.step_micros;
        self.lines.len() as f64 / (last.max(1) as f64 / 1e6)
    }

    /// Its first `count` requests.
    pub(crate) fn beginning(&self, count: usize) -> Self {
        Self { lines: self.lines.iter().take(count).cloned().collect(), step_micros: self.step_micros }
    }
}

fn mooncake_line(line: MooncakeLine) -> Line {
    Line {
        at: line.timestamp * 1_000,
        input_tokens: f64::from(line.input_length),
        output_tokens: f64::from(line.output_length),
        content: Content::Blocks(line.hash_ids),
    }
}

fn access_log_line(line: &Value, sessions: &mut HashMap<String, u64>) -> Result<Line> {
    // Envoy writes numbers as numbers or as text, and "-" or null for nothing.
    let number = |name: &str| match line.get(name) {
        Some(Value::Number(number)) => number.as_f64(),
        Some(Value::String(text)) => text.parse().ok(),
        _ => None,
    };
    let Some(start) = number("start_time") else { bail!("no start_time in seconds") };
    let Some(received) = number("bytes_received") else { bail!("no bytes_received") };
    let output_tokens = match (number("output_tokens"), number("bytes_sent")) {
        (Some(tokens), _) => tokens,
        (None, Some(bytes)) => bytes / EVENT_BYTES,
        (None, None) => bail!("neither output_tokens nor bytes_sent"),
    };
    let session = line.get("session").and_then(Value::as_str).filter(|session| !session.is_empty() && *session != "-");
    let next = sessions.len() as u64;
    let session = match session {
        Some(name) => *sessions.entry(name.to_owned()).or_insert(next),
        None => *sessions.entry(format!("\n{next}")).or_insert(next),
    };
    Ok(Line {
        at: (start * 1e6) as u64,
        input_tokens: (received / LOG_BYTES_PER_TOKEN).max(1.0),
        output_tokens: output_tokens.max(1.0),
        content: Content::Session(session),
    })
}

/// A trace as one seed plays it.
#[derive(Debug)]
pub(crate) struct Replay {
    trace: Arc<Trace>,
    scale: Scale,
    seed: u64,
    tokenizer: Tokenizer,
}

impl Replay {
    pub(crate) const fn new(trace: Arc<Trace>, scale: Scale, seed: u64, tokenizer: Tokenizer) -> Self {
        Self { trace, scale, seed, tokenizer }
    }

    fn text(&self, line: &Line) -> String {
        let bytes = self.tokenizer.bytes(line.input_tokens * self.scale.length);
        match &line.content {
            Content::Blocks(ids) => {
                let block = self.tokenizer.bytes(BLOCK_TOKENS * self.scale.length);
                let mut text = String::with_capacity(bytes + block);
                for &id in ids {
                    text.push_str(&words(seed_of(&[self.seed, 31, id]), block));
                }
                text.truncate(bytes.max(1));
                text
            }
            Content::Session(session) => words(seed_of(&[self.seed, 32, *session]), bytes.max(1)),
        }
    }
}

impl Workload for Replay {
    fn arrivals(&self) -> Vec<(u64, Ticket)> {
        let mut rng = Rng::new(seed_of(&[self.seed, 33]));
        let arrival = |(index, line): (usize, &Line)| {
            let spread = self.trace.step_micros as f64 * unit(&mut rng);
            let at = (line.at as f64 + spread) / self.scale.rate;
            (at as u64, Ticket { conversation: index as u32, turn: 0 })
        };
        let mut arrivals: Vec<(u64, Ticket)> = self.trace.lines.iter().enumerate().map(arrival).collect();
        arrivals.sort_unstable();
        arrivals
    }

    fn chat(&self, ticket: Ticket) -> Chat {
        let line = &self.trace.lines[ticket.conversation as usize];
        let output_tokens = self.output_tokens(ticket);
        let answer = words(
            seed_of(&[self.seed, 34, u64::from(ticket.conversation)]),
            self.tokenizer.bytes(f64::from(output_tokens)),
        );
        Chat {
            sender: Sender::default(),
            model: MODEL.into(),
            adapter: None,
            messages: vec![Message { role: "user", content: self.text(line).into() }],
            answer: answer.into(),
            output_tokens,
            max_tokens: None,
            is_streamed: true,
        }
    }

    fn output_tokens(&self, ticket: Ticket) -> u32 {
        let line = &self.trace.lines[ticket.conversation as usize];
        ((line.output_tokens * self.scale.length).round() as u32).max(1)
    }

    fn follow_up(&self, _: Ticket) -> Option<(u64, Ticket)> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompt::BLOCK_TOKENS;

    const TOKENIZER: Tokenizer = Tokenizer { bytes_per_token: 4.0 };

    fn replay(text: &str, rate: f64, length: f64) -> Replay {
        Replay::new(Arc::new(Trace::read(text).unwrap()), Scale { rate, length }, 1, TOKENIZER)
    }

    #[test]
    fn equal_ids_give_equal_text_and_lengths_are_those_of_the_trace() {
        let text = r#"{"timestamp": 3000, "input_length": 1000, "output_length": 30, "hash_ids": [0, 1]}
                      {"timestamp": 6000, "input_length": 1500, "output_length": 3, "hash_ids": [0, 7, 8]}"#;
        let replay = replay(text, 1.0, 1.0);
        let arrivals = replay.arrivals();
        assert!(arrivals[0].0 < 3_000_000 && (3_000_000..6_000_000).contains(&arrivals[1].0));
        let prompts = [0, 1].map(|turn| replay.chat(arrivals[turn].1).prompt(TOKENIZER));
        // A few tokens more for the roles.
        assert!((1_000..1_010).contains(&prompts[0].tokens) && (1_500..1_510).contains(&prompts[1].tokens));
        assert_eq!(prompts[0].output_tokens, 30);
        let [left, right] = prompts.map(|prompt| prompt.blocks);
        let shared = left.iter().zip(right.iter()).take_while(|(left, right)| left == right).count();
        assert_eq!(shared, 512 / BLOCK_TOKENS);
    }

    #[test]
    fn a_trace_is_scaled_in_rate_and_in_length() {
        let text = r#"{"timestamp": 0, "input_length": 1000, "output_length": 30, "hash_ids": [0, 1]}
                      {"timestamp": 60000, "input_length": 1000, "output_length": 30, "hash_ids": [0, 1]}"#;
        let replay = replay(text, 2.0, 0.5);
        assert!((30_000_000..32_000_000).contains(&replay.arrivals()[1].0));
        let prompt = replay.chat(replay.arrivals()[0].1).prompt(TOKENIZER);
        assert!((500..510).contains(&prompt.tokens) && prompt.output_tokens == 15);
    }

    #[test]
    fn an_access_log_is_read_as_envoy_writes_it() {
        let text = r#"{"start_time": "1700000001.500000", "bytes_received": 4000, "bytes_sent": 2600, "session": "a", "path": "/"}
{"start_time": 1700000000, "bytes_received": "8000", "bytes_sent": "-", "output_tokens": "7", "session": "a"}
{"start_time": 1700000002, "bytes_received": 4000, "bytes_sent": 260, "session": "-"}
{"start_time": 1700000002, "bytes_received": 4000, "bytes_sent": 260, "session": null}"#;
        let replay = replay(text, 1.0, 1.0);
        let arrivals = replay.arrivals();
        assert_eq!(arrivals.iter().map(|&(at, _)| at).collect::<Vec<u64>>(), [0, 1_500_000, 2_000_000, 2_000_000]);
        let chats: Vec<Chat> = arrivals.iter().map(|&(_, ticket)| replay.chat(ticket)).collect();
        assert_eq!(chats.iter().map(|chat| chat.output_tokens).collect::<Vec<u32>>(), [7, 10, 1, 1]);
        let content = |index: usize| chats[index].messages[0].content.to_string();
        assert!(content(0).starts_with(&content(1)));
        assert_ne!(content(2), content(3));
    }

    #[test]
    fn a_line_that_is_neither_is_named() {
        for (text, expected) in [
            ("{}", "line 1"),
            ("\n{\"start_time\": 1, \"bytes_received\": 2}", "line 2"),
            ("nonsense", "not JSON"),
            ("", "empty"),
        ] {
            let error = format!("{:#}", Trace::read(text).unwrap_err());
            assert!(error.contains(expected), "{error}");
        }
    }
}
