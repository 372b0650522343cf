//! Generated chats: conversations of some turns below shared system prompts, whose popularity falls as Zipf's law says.

use std::rc::Rc;

use endpoint_picker::rng::Rng;
use snapshot::ServedModel;

use super::{MODEL, Ticket, Workload};
use crate::prompt::{Chat, Message, Sender, Tokenizer};
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
    /// Adapters that conversations ask for, by Zipf's law; 0: all ask for the base model.
    pub(crate) adapters: usize,
    /// Part of the conversations that begin with a long document.
    pub(crate) long_part: f64,
    /// Part of the requests that ask for no stream.
    pub(crate) unary_part: f64,
    /// Times with more conversations.
    pub(crate) bursts: Option<Bursts>,
}

/// Every `every_seconds` the rate is `factor` times as high, for `seconds`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bursts {
    pub(crate) every_seconds: f64,
    pub(crate) seconds: f64,
    pub(crate) factor: f64,
}

impl ChatSettings {
    /// The chats that were run on real pods: four turns below prompts of some 800 tokens, for 20 s.
    pub(crate) const fn measured(rate: f64, prompts: usize, most_output_tokens: u32) -> Self {
        Self {
            rate,
            seconds: 20.0,
            turns: 4,
            prompts,
            prompt_tokens: 800.0,
            output_tokens: (1, most_output_tokens),
            think_seconds: 1.0,
            adapters: 0,
            long_part: 0.0,
            unary_part: 0.0,
            bursts: None,
        }
    }

    fn rate_at(&self, seconds: f64) -> f64 {
        match self.bursts {
            Some(bursts) if seconds % bursts.every_seconds < bursts.seconds => self.rate * bursts.factor,
            _ => self.rate,
        }
    }
}

/// The chats of one seed.
#[derive(Debug)]
pub(crate) struct Chats {
    settings: ChatSettings,
    seed: u64,
    tokenizer: Tokenizer,
    systems: Vec<Rc<str>>,
    conversations: Vec<Conversation>,
}

#[derive(Clone, Copy, Debug)]
struct Conversation {
    begins_at: u64,
    system: usize,
    adapter: Option<u16>,
    is_long: bool,
}

/// Exponent of Zipf's law.
const SKEW: f64 = 1.0;
/// The least and the most tokens of a user's message.
const USER_TOKENS: (u32, u32) = (20, 100);
/// Tokens of a long document: 0.8 s of prefill where a token takes 200 us.
const LONG_TOKENS: f64 = 4_000.0;

/// Numbers from 0 on, drawn as Zipf's law says.
struct Popularity(Vec<f64>);

impl Popularity {
    fn new(count: usize) -> Self {
        let mut sum = 0.0;
        let weights = (1..=count).map(|rank| {
            sum += 1.0 / (rank as f64).powf(SKEW);
            sum
        });
        Self(weights.collect())
    }

    fn draw(&self, rng: &mut Rng) -> usize {
        let drawn = unit(rng) * self.0.last().copied().unwrap_or(0.0);
        self.0.partition_point(|&weight| weight <= drawn).min(self.0.len().saturating_sub(1))
    }
}

fn adapter_name(adapter: u16) -> String {
    format!("adapter-{adapter}")
}

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
        let (popular_systems, popular_adapters) =
            (Popularity::new(settings.prompts), Popularity::new(settings.adapters));
        let mut conversations = Vec::new();
        let mut seconds = 0.0;
        loop {
            seconds += exponential(&mut rng, 1.0 / settings.rate_at(seconds));
            if seconds >= settings.seconds {
                break;
            }
            let system = popular_systems.draw(&mut rng);
            let adapter = (settings.adapters > 0).then(|| popular_adapters.draw(&mut rng) as u16);
            let is_long = settings.long_part > 0.0 && unit(&mut rng) < settings.long_part;
            conversations.push(Conversation { begins_at: (seconds * 1e6) as u64, system, adapter, is_long });
        }
        Self { settings, seed, tokenizer, systems, conversations }
    }

    fn rng(&self, ticket: Ticket, what: u64) -> Rng {
        Rng::new(seed_of(&[self.seed, what, u64::from(ticket.conversation), u64::from(ticket.turn)]))
    }

    fn answer(&self, ticket: Ticket) -> Rc<str> {
        let bytes = self.tokenizer.bytes(f64::from(self.output_tokens(ticket)));
        words(self.rng(ticket, 4).next_u64(), bytes).into()
    }

    fn question(&self, ticket: Ticket) -> Rc<str> {
        let mut rng = self.rng(ticket, 5);
        let (least, most) = USER_TOKENS;
        let tokens = least + rng.below(u64::from(most - least) + 1) as u32;
        let is_long = ticket.turn == 0 && self.conversations[ticket.conversation as usize].is_long;
        let tokens = f64::from(tokens) + if is_long { LONG_TOKENS } else { 0.0 };
        words(rng.next_u64(), self.tokenizer.bytes(tokens)).into()
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
        let conversation = self.conversations[ticket.conversation as usize];
        let system = &self.systems[conversation.system];
        let mut messages = vec![Message { role: "system", content: Rc::clone(system) }];
        for turn in 0..=ticket.turn {
            let past = Ticket { turn, ..ticket };
            messages.push(Message { role: "user", content: self.question(past) });
            if turn < ticket.turn {
                messages.push(Message { role: "assistant", content: self.answer(past) });
            }
        }
        Chat {
            sender: Sender::default(),
            model: conversation.adapter.map_or_else(|| MODEL.into(), |adapter| adapter_name(adapter).into()),
            adapter: conversation.adapter,
            messages,
            answer: self.answer(ticket),
            output_tokens: self.output_tokens(ticket),
            max_tokens: Some(self.settings.output_tokens.1),
            is_streamed: unit(&mut self.rng(ticket, 7)) >= self.settings.unary_part,
        }
    }

    fn output_tokens(&self, ticket: Ticket) -> u32 {
        let (least, most) = self.settings.output_tokens;
        least + self.rng(ticket, 3).below(u64::from(most - least) + 1) as u32
    }

    fn models(&self) -> Vec<ServedModel> {
        let base = ServedModel { name: MODEL.into(), ..ServedModel::default() };
        let adapter =
            |adapter| ServedModel { name: adapter_name(adapter), parent: MODEL.into(), ..ServedModel::default() };
        [base].into_iter().chain((0..self.settings.adapters as u16).map(adapter)).collect()
    }

    fn follow_up(&self, ticket: Ticket) -> Option<(u64, Ticket)> {
        let next = Ticket { turn: ticket.turn + 1, ..ticket };
        let think = exponential(&mut self.rng(ticket, 6), self.settings.think_seconds);
        (next.turn < self.settings.turns).then_some(((think * 1e6) as u64, next))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKENIZER: Tokenizer = Tokenizer { bytes_per_token: 4.0 };

    #[test]
    fn a_seed_gives_the_same_chats_and_another_gives_others() {
        let texts = |seed| {
            let chats = Chats::new(ChatSettings::measured(3.0, 8, 30), seed, TOKENIZER);
            let arrivals = chats.arrivals();
            (arrivals.len(), chats.chat(arrivals[3].1).body())
        };
        assert_eq!(texts(1), texts(1));
        assert_ne!(texts(1), texts(2));
    }

    #[test]
    fn a_turn_extends_the_one_before_by_its_answer() {
        let chats = Chats::new(ChatSettings::measured(3.0, 8, 30), 1, TOKENIZER);
        let mut ticket = chats.arrivals()[0].1;
        let mut turns = 1;
        while let Some((think, next)) = chats.follow_up(ticket) {
            assert!(think > 0);
            let (before, after) = (chats.chat(ticket).prompt(TOKENIZER), chats.chat(next).prompt(TOKENIZER));
            assert!(after.tokens > before.tokens + before.output_tokens);
            assert!(after.blocks.starts_with(&before.blocks[..before.blocks.len() - 1]));
            (ticket, turns) = (next, turns + 1);
        }
        assert_eq!(turns, 4);
        assert!((750..1_500).contains(&chats.chat(ticket).prompt(TOKENIZER).tokens));
    }

    #[test]
    fn popular_prompts_adapters_bursts_and_long_documents() {
        let bursts = Some(Bursts { every_seconds: 10.0, seconds: 1.0, factor: 10.0 });
        let settings =
            ChatSettings { adapters: 12, long_part: 0.2, seconds: 100.0, bursts, ..ChatSettings::measured(3.0, 8, 30) };
        let chats = Chats::new(settings, 1, TOKENIZER);
        let first = chats.conversations.iter().filter(|conversation| conversation.system == 0).count();
        let part = first as f64 / chats.conversations.len() as f64;
        // 1 / (1 + 1/2 + … + 1/8).
        assert!((0.3..0.44).contains(&part), "{part}");
        let in_burst =
            chats.conversations.iter().filter(|conversation| conversation.begins_at % 10_000_000 < 1_000_000);
        assert!(in_burst.count() * 10 > chats.conversations.len() * 4);
        assert_eq!(chats.models().len(), 13);
        let long = chats.arrivals().into_iter().filter(|&(_, ticket)| chats.chat(ticket).body().len() > 16_000).count();
        let part = long as f64 / chats.conversations.len() as f64;
        assert!((0.12..0.28).contains(&part), "{part}");
    }
}
