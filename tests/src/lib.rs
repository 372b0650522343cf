//! What the end-to-end tests share: a running gateway with ways to ask, to break and to wait, and the figures that pages must show.
//!
//! A test starts its own [`Gateway`] with as few simulated pods as it needs. Nothing here sleeps for a result: what arrives later
//! is polled for until a deadline, and what was reached must still hold some time after.

// This is test code: what fails, fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod bindings;
mod figures;
mod gateway;
mod listener_file;
mod scripted;
mod upload;
mod wire;

pub use figures::{Figure, Samples, figure};
pub use local_stack::Mode;

pub use gateway::{DEADLINE, Gateway, builder, chat_body, eventually};
pub use listener_file::ListenerFile;
pub use scripted::{Arrival, ScriptedPod};
pub use upload::{UploadResponse, Uploader};
pub use wire::Wire;

/// The first name of the model that simulated pods serve.
pub const MODEL: &str = "meta-llama/Llama-3.1-8B-Instruct";
