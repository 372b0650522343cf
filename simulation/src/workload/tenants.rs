//! Several tenants at one gateway: each with chats of its own, a priority and a share of what is sent.
//!
//! Turns come when they come, whether or not the one before is answered: what is offered is the same for every contender.

use std::rc::Rc;

use endpoint_picker::rng::Rng;

use super::chats::{ChatSettings, Chats};
use super::{Ticket, Workload};
use crate::prompt::{Chat, Sender, Tokenizer};
use crate::text::{exponential, seed_of};

/// One tenant.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tenant {
    /// What it says in `x-gateway-inference-fairness-id`.
    pub(crate) name: &'static str,
    /// What it says in `x-gateway-inference-objective`.
    pub(crate) objective: Option<&'static str>,
    /// Part of all requests that are its own.
    pub(crate) share: f64,
    /// Different system prompts.
    pub(crate) prompts: usize,
}

/// What all tenants send together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TenantSettings {
    pub(crate) tenants: &'static [Tenant],
    /// Requests each second.
    pub(crate) rate: f64,
    /// Conversations begin for that long.
    pub(crate) seconds: f64,
}

/// The chats of all tenants, of one seed.
#[derive(Debug)]
pub(crate) struct Tenants {
    settings: TenantSettings,
    chats: Vec<Chats>,
    seed: u64,
}

/// Conversations of the tenants are numbered from multiples of this on.
const STRIDE: u32 = 1 << 24;
const TURNS: u32 = 4;
const MOST_OUTPUT_TOKENS: u32 = 60;
/// Between two turns of a conversation: a constant and an exponential part.
const TURN_SECONDS: (f64, f64) = (1.0, 1.0);

impl Tenants {
    pub(crate) fn new(settings: TenantSettings, seed: u64, tokenizer: Tokenizer) -> Self {
        let chats = (0_u64..).zip(settings.tenants).map(|(place, tenant)| {
            let rate = settings.rate * tenant.share / f64::from(TURNS);
            let of_tenant = ChatSettings {
                seconds: settings.seconds,
                turns: TURNS,
                ..ChatSettings::measured(rate, tenant.prompts, MOST_OUTPUT_TOKENS)
            };
            Chats::new(of_tenant, seed_of(&[seed, 31, place]), tokenizer)
        });
        Self { chats: chats.collect(), settings, seed }
    }

    /// Which of the tenants sends that.
    pub(crate) const fn tenant_of(ticket: Ticket) -> usize {
        (ticket.conversation / STRIDE) as usize
    }

    fn of(&self, ticket: Ticket) -> (&Tenant, &Chats, Ticket) {
        let place = Self::tenant_of(ticket);
        let own = Ticket { conversation: ticket.conversation % STRIDE, ..ticket };
        (&self.settings.tenants[place], &self.chats[place], own)
    }
}

impl Workload for Tenants {
    fn arrivals(&self) -> Vec<(u64, Ticket)> {
        let mut arrivals = Vec::new();
        for (place, chats) in (0_u32..).zip(&self.chats) {
            for (begins_at, first) in chats.arrivals() {
                let mut at = begins_at;
                let conversation = place * STRIDE + first.conversation;
                let mut rng = Rng::new(seed_of(&[self.seed, 32, u64::from(conversation)]));
                for turn in 0..TURNS {
                    arrivals.push((at, Ticket { conversation, turn }));
                    let (least, mean) = TURN_SECONDS;
                    at += ((least + exponential(&mut rng, mean)) * 1e6) as u64;
                }
            }
        }
        arrivals.sort_unstable();
        arrivals
    }

    fn chat(&self, ticket: Ticket) -> Chat {
        let (tenant, chats, own) = self.of(ticket);
        let sender = Sender { objective: tenant.objective.map(Rc::from), fairness_id: Some(tenant.name.into()) };
        Chat { sender, ..chats.chat(own) }
    }

    fn output_tokens(&self, ticket: Ticket) -> u32 {
        let (_, chats, own) = self.of(ticket);
        chats.output_tokens(own)
    }

    fn follow_up(&self, _: Ticket) -> Option<(u64, Ticket)> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TENANTS: &[Tenant] = &[
        Tenant { name: "a", objective: Some("high"), share: 0.75, prompts: 4 },
        Tenant { name: "b", objective: None, share: 0.25, prompts: 2 },
    ];

    #[test]
    fn each_tenant_sends_its_share_in_its_name_whatever_is_answered() {
        let settings = TenantSettings { tenants: TENANTS, rate: 40.0, seconds: 100.0 };
        let tokenizer = Tokenizer { bytes_per_token: 4.0 };
        let tenants = Tenants::new(settings, 1, tokenizer);
        let arrivals = tenants.arrivals();
        assert!((3_500..4_500).contains(&arrivals.len()), "{}", arrivals.len());
        assert!(arrivals.is_sorted_by_key(|(at, _)| *at));
        let of_first = arrivals.iter().filter(|(_, ticket)| Tenants::tenant_of(*ticket) == 0).count();
        let share = of_first as f64 / arrivals.len() as f64;
        assert!((0.7..0.8).contains(&share), "{share}");
        for &(_, ticket) in &arrivals[..50] {
            let chat = tenants.chat(ticket);
            let is_first = Tenants::tenant_of(ticket) == 0;
            assert_eq!(chat.sender.fairness_id.as_deref(), Some(if is_first { "a" } else { "b" }));
            assert_eq!(chat.sender.objective.as_deref(), is_first.then_some("high"));
            assert_eq!(tenants.follow_up(ticket), None);
        }
        let (_, last) = arrivals[arrivals.len() - 1];
        let earlier = Ticket { turn: 0, ..last };
        let (before, after) = (tenants.chat(earlier).prompt(tokenizer), tenants.chat(last).prompt(tokenizer));
        assert!(last.turn > 0 && after.blocks.starts_with(&before.full_blocks()[..before.full_blocks().len() - 1]));
    }
}
