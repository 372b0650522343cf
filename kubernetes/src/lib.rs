//! What a Kubernetes API server says of a pool: its endpoints, and with an `InferencePool` its failure mode, objectives and rewrites.
//!
//! [`follow`] watches and never ends; a receiver sees the newest state. Pure are [`selector`], [`pod`], [`pool`], [`policy`] and the knowledge
//! that the watches add up to; `watching` and [`connection`] do the talking.

pub mod connection;
pub mod pod;
pub mod policy;
pub mod pool;
pub mod selector;

mod contact;
mod followed;
mod following;
mod knowledge;
mod reading;
mod right;
mod watching;

pub use connection::{Connection, ConnectionError};
pub use contact::{Contact, Contacts};
pub use followed::Followed;
pub use following::{Known, follow};
pub use knowledge::PoolView;
pub use pod::{IpFamily, PodEndpoint};
pub use policy::{ModelRewrite, WeightedModel};
pub use pool::{FailureMode, PodSource};
pub use right::{ResourceKind, Right, Verb};
pub use selector::PodSelector;
