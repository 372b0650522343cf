//! LoRA adapters in use, as vLLM lists them. Pure.

use crate::exposition::{LineError, Sample};

/// Most adapter names kept of one list. An engine holds `max_loras` at once, which is a handful; this bounds a hostile page.
pub const MAX_ADAPTERS: usize = 256;

/// Longest adapter name in bytes; longer ones are dropped, since a cut name would match a wrong adapter.
pub const MAX_ADAPTER_BYTES: usize = 256;

/// The newest `lora_requests_info`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Lora {
    /// Adapters that fit at once.
    pub max: Option<u32>,
    /// Adapters with running requests, in the engine's order.
    pub running: Vec<String>,
    /// Adapters with waiting requests, in the engine's order.
    pub waiting: Vec<String>,
}

impl Lora {
    pub(crate) fn read(sample: &Sample<'_>) -> Result<Self, LineError> {
        let mut lora = Self::default();
        for label in sample.labels() {
            let label = label?;
            match label.name {
                b"max_lora" => lora.max = label.value()?.trim().parse().ok(),
                b"running_lora_adapters" => lora.running = adapters(&label.value()?),
                b"waiting_lora_adapters" => lora.waiting = adapters(&label.value()?),
                _ => {}
            }
        }
        Ok(lora)
    }
}

fn adapters(list: &str) -> Vec<String> {
    list.split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty() && name.len() <= MAX_ADAPTER_BYTES)
        .take(MAX_ADAPTERS)
        .map(str::to_owned)
        .collect()
}
