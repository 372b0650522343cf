//! What an Envoy gives its workers: shared data, stats and a clock.

use catalogue::Label;
use endpoint_picker::Timestamp;
use endpoint_picker::flusher::HostStats;
use endpoint_picker::holder::Binding;
use endpoint_picker::ledger::SinkKind;
use endpoint_picker::shared_data::{SetError, SharedData};
use endpoint_picker::snapshot_service::{News, SidecarRequest};
use hashbrown::HashMap;

/// The shared data of one Envoy.
#[derive(Debug, Default)]
pub(crate) struct SharedStore {
    values: HashMap<String, (Vec<u8>, u32)>,
    last: u32,
    stats: u32,
}

/// One worker's host for the length of a callback.
#[derive(Debug)]
pub(crate) struct Host<'a> {
    pub(crate) store: &'a mut SharedStore,
    pub(crate) now: u64,
    pub(crate) period_millis: &'a mut u32,
    pub(crate) asked: &'a mut Vec<SidecarRequest>,
}

impl SharedData for Host<'_> {
    fn get(&mut self, key: &str) -> Option<(Vec<u8>, u32)> {
        self.store.values.get(key).cloned()
    }

    fn set(&mut self, key: &str, value: &[u8], cas: u32) -> Result<(), SetError> {
        let current = self.store.values.get(key).map(|&(_, cas)| cas);
        if cas != 0 && current.is_some_and(|current| current != cas) {
            return Err(SetError::Changed);
        }
        self.store.last += 1;
        self.store.values.insert(key.to_owned(), (value.to_vec(), self.store.last));
        Ok(())
    }
}

impl HostStats for Host<'_> {
    fn define_stat(&mut self, _: SinkKind, _: &str, _: &str, _: &[(Label, &str)]) -> Option<u32> {
        self.store.stats += 1;
        Some(self.store.stats)
    }

    fn add_to_stat(&mut self, _: u32, _: u64) {}

    fn set_stat(&mut self, _: u32, _: u64) {}

    fn now(&mut self) -> Timestamp {
        Timestamp::from_micros(self.now)
    }
}

impl Binding for Host<'_> {
    fn set_tick_period(&mut self, millis: u32) -> bool {
        *self.period_millis = millis;
        true
    }

    fn memory_bytes(&mut self) -> u64 {
        65_536
    }

    fn call(&mut self, request: &SidecarRequest) -> Result<(), String> {
        self.asked.push(request.clone());
        Ok(())
    }

    fn log(&mut self, _: &News) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_replaced_by_who_read_it_last() {
        let (mut store, mut period, mut asked) = (SharedStore::default(), 0, Vec::new());
        let mut host = Host { store: &mut store, now: 5, period_millis: &mut period, asked: &mut asked };
        assert_eq!(host.get("key"), None);
        assert_eq!(host.set("key", b"a", 7), Ok(()));
        let (_, cas) = host.get("key").unwrap();
        assert_eq!(host.set("key", b"b", cas), Ok(()));
        assert_eq!(host.set("key", b"c", cas), Err(SetError::Changed));
        assert_eq!(host.set("key", b"d", 0), Ok(()));
        assert_eq!(host.get("key").map(|(value, _)| value), Some(b"d".to_vec()));
        assert!(host.set_tick_period(50));
        assert_eq!(host.now(), Timestamp::from_micros(5));
        assert_eq!(period, 50);
    }
}
