//! Keeps the LoRA adapters of one vLLM server as a file says: loads those that shall be there, unloads those that shall not, again and
//! again, and publishes `lora_syncer_adapter_status`.
//!
//! It takes the place of the Gateway API Inference Extension's `lora-syncer`, whose file, flags and metric it has
//! (<https://github.com/kubernetes-sigs/gateway-api-inference-extension>, `tools/dynamic-lora-sidecar`, up to v1.3.0). The file is read anew each
//! second, so that an update of a mounted ConfigMap is seen however it gets there.

pub mod config;
pub mod flags;
pub mod model_server;
pub mod plan;
pub mod status;
pub mod syncer;

pub use flags::SyncerFlags;
pub use syncer::{RunError, Syncer};
