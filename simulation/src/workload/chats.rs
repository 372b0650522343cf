//! Generated chats: conversations of some turns below shared system prompts, whose popularity falls as Zipf's law says.

use std::rc::Rc;

use endpoint_picker::rng::Rng;

use super::{MODEL, Ticket, Workload};
use crate::prompt::{Chat, Message, Tokenizer};
use crate::text::{exponential, seed_of, unit, words};

/// How many chats, of what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ChatSettings {
    /// Conversations that begin each second, on average.
    pub(crate) rate: f64,
    /// Conversations begin for that long.
    pub(crate) seconds: f64,
    pub(crate) turns: u32,
    /// Different system prompts, and their length in tokens.
    pub(crate) prompts: usize,
    pub(crate) prompt_tokens: f64,
    /// The length of answers is drawn evenly from these.
    pub(crate) output_tokens: (u32, u32),
    /// Mean seconds between an answer and the next turn.
    pub(crate) think_seconds: f64,
}

/// The chats of one seed.
#[derive(Debug)]
pub(crate) struct Chats {
    settings: ChatSettings,
    seed: u64,
    tokenizer: Tokenizer,
    systems: Vec<Rc<str>>,
    conversations: Vec<Conversation>,
    model: Rc<str>,
}

#[derive(Clone, Copy, Debug)]
struct Conversation {
    begins_at: u64,
    system: usize,
}

/// Exponent of Zipf's law.
const SKEW: f64 = 1.0;
/// The least and the most tokens of a user's message.
const USER_TOKENS: (u32, u32) = (20, 100);

impl Chats {
    pub(crate) fn new(settings: ChatSettings, seed: u64, tokenizer: Tokenizer) -> Self {
        let mut rng = Rng::new(seed_of(&[seed, 1]));
        let bytes = tokenizer.bytes(settings.prompt_tokens);
        let systems: Vec<Rc<str>> = (0..settings.prompts)
            .map(|system| {
                let varied = (bytes as f64 * (0.9 + 0.2 * unit(&mut rng))) as usize;
                words(seed_of(&[seed, 2, system as u64]), varied).into()
            })
            .collect();
        let mut weights: Vec<f64> = Vec::new();
        for rank in 1..=settings.prompts {
            weights.push(weights.last().copied().unwrap_or(0.0) + 1.0 / (rank as f64).powf(SKEW));
        }
        let total = weights.last().copied().unwrap_or(0.0);
        let mut conversations = Vec::new();
        let mut seconds = 0.0;
        loop {
            seconds += exponential(&mut rng, 1.0 / settings.rate);
            if seconds >= settings.seconds {
                break;
            }
            let drawn = unit(&mut rng) * total;
            let system = weights.partition_point(|&weight| weight <= drawn).min(settings.prompts - 1);
            conversations.push(Conversation { begins_at: (seconds * 1e6) as u64, system });
        }
        Self { settings, seed, tokenizer, systems, conversations, model: MODEL.into() }
    }

    fn rng(&self, ticket: Ticket, what: u64) -> Rng {
        Rng::new(seed_of(&[self.seed, what, u64::from(ticket.conversation), u64::from(ticket.turn)]))
    }

    fn output_tokens(&self, ticket: Ticket) -> u32 {
        let (least, most) = self.settings.output_tokens;
        least + self.rng(ticket, 3).below(u64::from(most - least) + 1) as u32
    }

    fn answer(&self, ticket: Ticket) -> Rc<str> {
        let bytes = self.tokenizer.bytes(f64::from(self.output_tokens(ticket)));
        words(self.rng(ticket, 4).next_u64(), bytes).into()
    }

    fn question(&self, ticket: Ticket) -> Rc<str> {
        let mut rng = self.rng(ticket, 5);
        let (least, most) = USER_TOKENS;
        let tokens = least + rng.below(u64::from(most - least) + 1) as u32;
        words(rng.next_u64(), self.tokenizer.bytes(f64::from(tokens))).into()
    }
}

impl Workload for Chats {
    fn arrivals(&self) -> Vec<(u64, Ticket)> {
        let begin = |(index, conversation): (usize, &Conversation)| {
            (conversation.begins_at, Ticket { conversation: index as u32, turn: 0 })
        };
        self.conversations.iter().enumerate().map(begin).collect()
    }

    fn chat(&self, ticket: Ticket) -> Chat {
        let system = &self.systems[self.conversations[ticket.conversation as usize].system];
        let mut messages = vec![Message { role: "system", content: Rc::clone(system) }];
        for turn in 0..=ticket.turn {
            let past = Ticket { turn, ..ticket };
            messages.push(Message { role: "user", content: self.question(past) });
            if turn < ticket.turn {
                messages.push(Message { role: "assistant", content: self.answer(past) });
            }
        }
        Chat {
            model: Rc::clone(&self.model),
            adapter: None,
            messages,
            answer: self.answer(ticket),
            output_tokens: self.output_tokens(ticket),
            max_tokens: Some(self.settings.output_tokens.1),
            is_streamed: true,
        }
    }

    fn follow_up(&self, ticket: Ticket) -> Option<(u64, Ticket)> {
        let next = Ticket { turn: ticket.turn + 1, ..ticket };
        let think = exponential(&mut self.rng(ticket, 6), self.settings.think_seconds);
        (next.turn < self.settings.turns).then_some(((think * 1e6) as u64, next))
    }
}
