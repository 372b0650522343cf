//! The live page: what is known of pools and endpoints, now and in the last minutes, for people who look at it in a browser or a terminal.
//!
//! ```text
//!  fleet ──▶ history ──┐
//!  Envoy's page ──▶ figures ──▶ document ──▶ stage ──▶ routes: / /api/state /api/events
//!  filters ──▶ audience (recent picks) ──┘
//! ```
//!
//! Nothing of it is done while nobody looks, but for the history: a few numbers an endpoint every two seconds.

pub(crate) mod document;
pub(crate) mod figures;
pub(crate) mod history;
pub(crate) mod routes;
pub(crate) mod stage;
