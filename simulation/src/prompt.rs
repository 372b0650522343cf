//! A request as a client sends it and as an engine sees it.

use std::fmt::Write as _;
use std::rc::Rc;

use endpoint_picker::rng::Rng;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::text::{seed_of, unit};

/// Tokens in one KV block of every pod simulated.
pub(crate) const BLOCK_TOKENS: usize = 16;

/// How an engine cuts text into tokens: so many bytes each, on average.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tokenizer {
    /// Bytes a token.
    pub(crate) bytes_per_token: f64,
}

impl Tokenizer {
    /// Between 3.6 and 4.4 bytes a token: nobody in front of the engine knows.
    pub(crate) fn of_seed(seed: u64) -> Self {
        Self { bytes_per_token: 3.6 + 0.8 * unit(&mut Rng::new(seed_of(&[seed, 21]))) }
    }

    /// Tokens of `bytes` bytes, at least 1.
    pub(crate) fn tokens(self, bytes: usize) -> u32 {
        ((bytes as f64 / self.bytes_per_token).ceil() as u32).max(1)
    }

    /// Bytes of `tokens` tokens.
    pub(crate) fn bytes(self, tokens: f64) -> usize {
        (tokens * self.bytes_per_token) as usize
    }

    /// Chained hashes of the full blocks of a text, as an engine's prefix cache keeps them.
    fn blocks(self, text: &[u8], salt: u64) -> Vec<u64> {
        let mut hash = salt;
        let full = (text.len() as f64 / self.bytes_per_token) as usize / BLOCK_TOKENS;
        let end = |block: usize| self.bytes((block * BLOCK_TOKENS) as f64);
        let hashes = (0..full).map(|block| {
            hash = xxh3_64_with_seed(&text[end(block)..end(block + 1)], hash);
            hash
        });
        hashes.collect()
    }
}

/// One message of a chat.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) role: &'static str,
    pub(crate) content: Rc<str>,
}

/// Who sends a request, as its headers say.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sender {
    pub(crate) objective: Option<Rc<str>>,
    pub(crate) fairness_id: Option<Rc<str>>,
}

/// What a workload says of one request.
#[derive(Clone, Debug)]
pub(crate) struct Chat {
    pub(crate) sender: Sender,
    /// The model, or the adapter, that is asked for.
    pub(crate) model: Rc<str>,
    /// The adapter's number, where the model is one.
    pub(crate) adapter: Option<u16>,
    pub(crate) messages: Vec<Message>,
    /// What the model will answer.
    pub(crate) answer: Rc<str>,
    pub(crate) output_tokens: u32,
    /// What the client allows, where it sets a limit.
    pub(crate) max_tokens: Option<u32>,
    pub(crate) is_streamed: bool,
}

/// A request as an engine sees it.
#[derive(Clone, Debug)]
pub(crate) struct Prompt {
    pub(crate) tokens: u32,
    pub(crate) output_tokens: u32,
    /// Hashes of the full blocks of the prompt and its answer.
    pub(crate) blocks: Rc<[u64]>,
    pub(crate) adapter: Option<u16>,
}

impl Prompt {
    /// Full blocks of the prompt alone.
    pub(crate) fn full_blocks(&self) -> &[u64] {
        &self.blocks[..self.blocks.len().min(self.tokens as usize / BLOCK_TOKENS)]
    }
}

impl Chat {
    /// The body that the client sends.
    pub(crate) fn body(&self) -> String {
        let length: usize = self.messages.iter().map(|message| message.content.len() + 40).sum();
        let mut body = String::with_capacity(length + 160);
        let _ = write!(body, r#"{{"model":"{}","#, self.model);
        if self.is_streamed {
            body.push_str(r#""stream":true,"stream_options":{"include_usage":true},"#);
        }
        if let Some(max_tokens) = self.max_tokens {
            let _ = write!(body, r#""max_tokens":{max_tokens},"#);
        }
        body.push_str(r#""messages":["#);
        for (index, message) in self.messages.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            let _ = write!(body, r#"{comma}{{"role":"{}","content":"{}"}}"#, message.role, message.content);
        }
        body.push_str("]}");
        body
    }

    /// What the engine makes of it: each message after its role, the answer last.
    pub(crate) fn prompt(&self, tokenizer: Tokenizer) -> Prompt {
        let mut text = String::new();
        for message in &self.messages {
            let _ = write!(text, "<|{}|>{}", message.role, message.content);
        }
        text.push_str("<|assistant|>");
        let tokens = tokenizer.tokens(text.len());
        text.push_str(&self.answer);
        let salt = self.adapter.map_or(0, |adapter| u64::from(adapter) + 1);
        Prompt {
            tokens,
            output_tokens: self.output_tokens,
            blocks: tokenizer.blocks(text.as_bytes(), salt).into(),
            adapter: self.adapter,
        }
    }
}
