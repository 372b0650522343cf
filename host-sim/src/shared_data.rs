//! Shared data and shared queues: one of each per host, as Envoy has one of each per process.

use std::collections::{BTreeMap, VecDeque};

/// Key-value store of all VMs, one namespace per `vm_id` (proxy-wasm-cpp-host `src/shared_data.cc`).
#[derive(Debug, Default)]
pub(crate) struct SharedData {
    entries: BTreeMap<(String, Vec<u8>), (Vec<u8>, u32)>,
    last_cas: u32,
}

/// The compare-and-swap number is not the current one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CasMismatch;

impl SharedData {
    pub(crate) fn get(&self, vm_id: &str, key: &[u8]) -> Option<(&[u8], u32)> {
        self.entries.get(&(vm_id.to_owned(), key.to_vec())).map(|(value, cas)| (value.as_slice(), *cas))
    }

    /// `cas == 0` writes unconditionally; for an absent key the number is not looked at.
    pub(crate) fn set(&mut self, vm_id: &str, key: &[u8], value: &[u8], cas: u32) -> Result<(), CasMismatch> {
        let slot = (vm_id.to_owned(), key.to_vec());
        if let Some((_, current)) = self.entries.get(&slot)
            && cas != 0
            && cas != *current
        {
            return Err(CasMismatch);
        }
        self.last_cas = self.last_cas.wrapping_add(1).max(1);
        self.entries.insert(slot, (value.to_vec(), self.last_cas));
        Ok(())
    }
}

/// Where a queue's `proxy_on_queue_ready` goes: the VM and root context that registered last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Consumer {
    pub(crate) vm: usize,
    pub(crate) context: u32,
}

#[derive(Debug)]
struct Queue {
    vm_id: String,
    name: Vec<u8>,
    consumer: Consumer,
    items: VecDeque<Vec<u8>>,
}

/// FIFO queues of all VMs (proxy-wasm-cpp-host `src/shared_queue.cc`): tokens start at 1, registering again
/// keeps the token and the data and moves the consumer.
#[derive(Debug, Default)]
pub(crate) struct SharedQueues {
    queues: Vec<Queue>,
}

/// What a dequeue found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Dequeued {
    Item(Vec<u8>),
    Empty,
    NoSuchQueue,
}

impl SharedQueues {
    pub(crate) fn register(&mut self, vm_id: &str, name: &[u8], consumer: Consumer) -> u32 {
        let found = self.position(vm_id, name);
        let index = found.unwrap_or_else(|| {
            self.queues.push(Queue { vm_id: vm_id.to_owned(), name: name.to_vec(), consumer, items: VecDeque::new() });
            self.queues.len() - 1
        });
        if let Some(queue) = self.queues.get_mut(index) {
            queue.consumer = consumer;
        }
        token(index)
    }

    pub(crate) fn resolve(&self, vm_id: &str, name: &[u8]) -> Option<u32> {
        self.position(vm_id, name).map(token)
    }

    pub(crate) fn dequeue(&mut self, token: u32) -> Dequeued {
        match self.queue(token) {
            None => Dequeued::NoSuchQueue,
            Some(queue) => queue.items.pop_front().map_or(Dequeued::Empty, Dequeued::Item),
        }
    }

    /// Appends an item and returns whom to wake.
    pub(crate) fn enqueue(&mut self, token: u32, item: &[u8]) -> Option<Consumer> {
        let queue = self.queue(token)?;
        queue.items.push_back(item.to_vec());
        Some(queue.consumer)
    }

    fn position(&self, vm_id: &str, name: &[u8]) -> Option<usize> {
        self.queues.iter().position(|queue| queue.vm_id == vm_id && queue.name == name)
    }

    fn queue(&mut self, token: u32) -> Option<&mut Queue> {
        let index = usize::try_from(token).ok()?.checked_sub(1)?;
        self.queues.get_mut(index)
    }
}

fn token(index: usize) -> u32 {
    u32::try_from(index + 1).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_cas_number_is_refused_and_zero_is_not() {
        let mut data = SharedData::default();
        data.set("vm", b"k", b"1", 0).unwrap();
        let (_, first) = data.get("vm", b"k").unwrap();
        data.set("vm", b"k", b"2", first).unwrap();
        assert_eq!(data.set("vm", b"k", b"3", first), Err(CasMismatch));
        assert_eq!(data.set("vm", b"k", b"4", 0), Ok(()));
        assert_eq!(data.get("vm", b"k").map(|(value, _)| value), Some(&b"4"[..]));
    }

    #[test]
    fn keys_of_another_vm_id_are_not_seen() {
        let mut data = SharedData::default();
        data.set("a", b"k", b"1", 0).unwrap();
        assert_eq!(data.get("b", b"k"), None);
    }

    #[test]
    fn registering_again_keeps_the_items_and_moves_the_consumer() {
        let mut queues = SharedQueues::default();
        let first = Consumer { vm: 0, context: 1 };
        let second = Consumer { vm: 1, context: 1 };
        let token = queues.register("vm", b"q", first);
        assert_eq!(queues.enqueue(token, b"x"), Some(first));
        assert_eq!(queues.register("vm", b"q", second), token);
        assert_eq!(queues.enqueue(token, b"y"), Some(second));
        assert_eq!(queues.dequeue(token), Dequeued::Item(b"x".to_vec()));
        assert_eq!(queues.dequeue(token), Dequeued::Item(b"y".to_vec()));
        assert_eq!(queues.dequeue(token), Dequeued::Empty);
        assert_eq!(queues.dequeue(0), Dequeued::NoSuchQueue);
        assert_eq!(queues.resolve("other", b"q"), None);
    }
}
