//! Compares ways to pick an endpoint, in virtual time: the real core of inpick, and models of others, in front of simulated engines.
//!
//! Nothing here reads a clock or draws chance from outside: a seed gives the same figures on every machine.

#![allow(clippy::indexing_slicing, reason = "a simulation that is wrong about its own indices shall stop")]

mod adapters;
mod aims;
mod calibration;
mod contender;
mod distribution;
mod engine;
mod envoy;
mod experiment;
mod flags;
mod gateway;
mod kv_cache;
mod measured;
mod overload;
mod parallel;
mod picture;
mod pod;
mod policy;
mod prompt;
mod report;
mod scenario;
mod score;
mod shared_store;
mod sidecar;
mod text;
mod workload;
mod world;

pub use flags::{SimulationFlags, run};
pub use measured::{Conversation, MeasuredLoad, Simulated, Turn};
