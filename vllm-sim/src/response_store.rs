//! Responses that can be asked for again: in the memory of this pod alone, as in vLLM's with its store switched on.

use std::collections::{HashMap, VecDeque};

use serde_json::Value;

/// Responses kept: many more than any test makes; the oldest goes first.
const MOST: usize = 10_000;

/// The responses of one pod.
#[derive(Debug, Default)]
pub(crate) struct ResponseStore {
    responses: HashMap<String, Value>,
    order: VecDeque<String>,
}

impl ResponseStore {
    pub(crate) fn keep(&mut self, id: &str, response: Value) {
        if self.responses.insert(id.to_owned(), response).is_none() {
            self.order.push_back(id.to_owned());
        }
        if self.order.len() > MOST
            && let Some(oldest) = self.order.pop_front()
        {
            self.responses.remove(&oldest);
        }
    }

    pub(crate) fn get(&self, id: &str) -> Option<&Value> {
        self.responses.get(id)
    }
}
