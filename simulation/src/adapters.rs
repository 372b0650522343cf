//! The LoRA adapters of one engine.

/// Adapters in memory, the least recently used of which makes room.
#[derive(Debug)]
pub(crate) struct Adapters {
    room: usize,
    load_micros: u64,
    /// The most recently used last.
    loaded: Vec<u16>,
}

impl Adapters {
    /// Room for so many at once.
    pub(crate) const fn new(room: usize, load_micros: u64) -> Self {
        Self { room, load_micros, loaded: Vec::new() }
    }

    /// Makes an adapter ready while those of `in_use` stay: how long that takes; `None`: there is no room.
    pub(crate) fn take(&mut self, adapter: u16, in_use: impl Fn(u16) -> bool) -> Option<u64> {
        if let Some(place) = self.loaded.iter().position(|&loaded| loaded == adapter) {
            self.loaded.remove(place);
            self.loaded.push(adapter);
            return Some(0);
        }
        if self.loaded.len() >= self.room {
            let idle = self.loaded.iter().position(|&loaded| !in_use(loaded))?;
            self.loaded.remove(idle);
        }
        self.loaded.push(adapter);
        Some(self.load_micros)
    }

    /// Whether it is in memory.
    pub(crate) fn has(&self, adapter: u16) -> bool {
        self.loaded.contains(&adapter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_makes_room_unless_it_is_in_use() {
        let mut adapters = Adapters::new(2, 7);
        assert_eq!(adapters.take(1, |_| false), Some(7));
        assert_eq!(adapters.take(2, |_| false), Some(7));
        assert_eq!(adapters.take(1, |_| false), Some(0));
        assert_eq!(adapters.take(3, |adapter| adapter == 2), Some(7));
        assert!(adapters.has(2) && adapters.has(3) && !adapters.has(1));
        assert_eq!(adapters.take(1, |_| true), None);
    }
}
