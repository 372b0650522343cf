//! A request that goes on while its body is still coming.

use crate::config::scan_options;
use crate::openai::{Model, PromptDigest, RequestError, RequestFacts, RequestScanner};
use crate::record::{BodyOutcome, ExchangeRecord};

/// What is left of a request that goes on before its body is whole.
#[derive(Debug)]
pub(super) struct Upload {
    rest: Rest,
    /// The prompt as the pick saw it.
    started: PromptDigest,
    /// Bytes of prompt among the bytes of the body that the pick saw.
    seen: (u64, u64),
    /// The pick saw no model, and nothing has named it since.
    is_model_open: bool,
    /// What came behind the pick may have asked for usage, or did.
    may_ask_usage: bool,
}

#[derive(Debug)]
enum Rest {
    /// It is read as it passes.
    Read(RequestScanner),
    /// It passes unread; `bytes` of the whole body came so far.
    Pass { bytes: u64, outcome: BodyOutcome },
    /// It came.
    Over,
}

/// What a body turned out to be.
struct Whole {
    bytes: u64,
    outcome: BodyOutcome,
    /// What it says, where it was read to its end.
    facts: Option<RequestFacts>,
}

impl Upload {
    /// The rest of a body that was read so far; `reads`: it is read on where something needs it.
    pub(super) fn begin(scanner: RequestScanner, facts: &RequestFacts, reads: bool) -> Self {
        let is_model_open = matches!(facts.model, Model::Missing);
        let rest = if reads && (is_model_open || facts.usage_edit.is_some() || scanner.hashes_more()) {
            Rest::Read(scanner)
        } else {
            Rest::Pass { bytes: facts.body_bytes, outcome: BodyOutcome::Unread }
        };
        Self {
            rest,
            started: PromptDigest::default(),
            seen: (facts.prompt_bytes, facts.body_bytes),
            is_model_open,
            may_ask_usage: true,
        }
    }

    /// The request is sent, after a pick that saw `prompt`.
    pub(super) fn send(&mut self, prompt: PromptDigest) {
        self.started = prompt;
    }

    /// The prompt as the pick saw it, to be compared with what it turned out to be.
    pub(super) fn take_started(&mut self) -> PromptDigest {
        core::mem::take(&mut self.started)
    }

    /// Whether the rest is read.
    pub(super) const fn is_read(&self) -> bool {
        matches!(self.rest, Rest::Read(_))
    }

    /// Whether it is still coming.
    pub(super) const fn is_coming(&self) -> bool {
        !matches!(self.rest, Rest::Over)
    }

    /// Whether only the answer can tell the model.
    pub(super) const fn is_model_open(&self) -> bool {
        self.is_model_open
    }

    /// Whether the client may have asked for usage itself in what the pick did not see.
    pub(super) const fn may_ask_usage(&self) -> bool {
        self.may_ask_usage
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    ///
    /// When the body cannot become valid any more. What follows then passes unread.
    pub(super) fn feed(&mut self, piece: &[u8]) -> Result<(), RequestError> {
        match &mut self.rest {
            Rest::Read(scanner) => {
                let Err(error) = scanner.feed(piece) else { return Ok(()) };
                let bytes = scanner.offset().saturating_add(piece.len() as u64);
                self.rest = Rest::Pass { bytes, outcome: outcome(&error) };
                Err(error)
            }
            Rest::Pass { .. } | Rest::Over => {
                self.pass(piece.len() as u64);
                Ok(())
            }
        }
    }

    /// So many bytes more came that nobody was shown.
    pub(super) fn pass(&mut self, size: u64) {
        match &mut self.rest {
            Rest::Pass { bytes, .. } => *bytes = bytes.saturating_add(size),
            // A body with a hole cannot be read on.
            Rest::Read(scanner) if size > 0 => {
                let bytes = scanner.offset().saturating_add(size);
                self.rest = Rest::Pass { bytes, outcome: BodyOutcome::Unread };
            }
            Rest::Read(_) | Rest::Over => {}
        }
    }

    /// The host does not hand the rest out.
    pub(super) fn lose(&mut self) {
        if let Rest::Read(scanner) = &self.rest {
            self.rest = Rest::Pass { bytes: scanner.offset(), outcome: BodyOutcome::Unreadable };
        }
    }

    /// Bytes of prompt in a body of so many bytes, of which as large a part is prompt as of what the pick saw.
    pub(super) fn prompt_bytes(&self, body_bytes: u64) -> u64 {
        let (prompt, seen) = self.seen;
        let rest = u128::from(body_bytes.saturating_sub(seen)) * u128::from(prompt) / u128::from(seen.max(1));
        prompt.saturating_add(u64::try_from(rest).unwrap_or(u64::MAX))
    }

    fn end(&mut self) -> Option<Whole> {
        match core::mem::replace(&mut self.rest, Rest::Over) {
            Rest::Over => None,
            Rest::Pass { bytes, outcome } => Some(Whole { bytes, outcome, facts: None }),
            Rest::Read(scanner) => {
                let bytes = scanner.offset();
                Some(match scanner.finish() {
                    Ok(facts) => Whole { bytes, outcome: BodyOutcome::Parsed, facts: Some(facts) },
                    Err(error) => Whole { bytes, outcome: outcome(&error), facts: None },
                })
            }
        }
    }

    /// The body is whole, if it was not before: notes in the record what it was, and gives its prompt, which began as `started`.
    pub(super) fn note_end(&mut self, record: &mut ExchangeRecord, started: &PromptDigest) -> Option<PromptDigest> {
        let Whole { bytes, outcome, facts } = self.end()?;
        record.request.bytes = bytes;
        record.request.outcome = Some(outcome);
        let Some(facts) = facts else {
            record.request.prompt_bytes = self.prompt_bytes(bytes);
            let is_served = matches!(outcome, BodyOutcome::Unread | BodyOutcome::Unreadable);
            return Some(if is_served { unread(started, record.request.prompt_bytes) } else { started.clone() });
        };
        record.request.prompt_bytes = facts.prompt_bytes;
        record.request.max_tokens = facts.max_tokens;
        record.request.stream = facts.stream;
        record.request.continues = facts.previous_response.is_some();
        self.may_ask_usage = facts.include_usage;
        let was_open = core::mem::take(&mut self.is_model_open);
        let name = match facts.model {
            Model::Named { name, .. } => Some(name),
            Model::Missing => None,
        };
        if was_open {
            record.model = name.unwrap_or_default();
            record.target_model.clone_from(&record.model);
        } else if name.as_ref() != Some(&record.model) {
            // Another model than the one that it went by: the server judges it.
            record.request.outcome = Some(BodyOutcome::Invalid);
        }
        Some(facts.prompt)
    }
}

/// A prompt of so many bytes of which only the beginning is known.
pub(super) fn unread(started: &PromptDigest, prompt_bytes: u64) -> PromptDigest {
    let (options, mut prompt) = (scan_options(true), started.clone());
    prompt.extend_unread(prompt_bytes, options.prefix_block_bytes, options.max_prefix_blocks);
    prompt
}

/// How a body that is refused is counted.
pub(super) const fn outcome(error: &RequestError) -> BodyOutcome {
    match error {
        RequestError::Empty => BodyOutcome::Empty,
        RequestError::Malformed { .. }
        | RequestError::NotUtf8 { .. }
        | RequestError::TooDeep { .. }
        | RequestError::MalformedForm { .. } => BodyOutcome::Malformed,
        RequestError::NotAForm
        | RequestError::NoBoundary
        | RequestError::NotAnObject
        | RequestError::ModelNotAString
        | RequestError::ModelEmpty
        | RequestError::ModelTooLong
        | RequestError::ModelRepeated => BodyOutcome::Invalid,
    }
}
