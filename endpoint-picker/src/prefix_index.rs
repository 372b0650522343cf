//! What each endpoint should have in its prefix cache: the marks of the prompts that were sent there, in the order in which the engine
//! would let go of them.
//!
//! A mark is an entry, found by its hash, which says who holds it. Each endpoint has a list of what it holds, the longest unused at its
//! end. The marks before a mark are always used after it, so whoever holds a mark holds all before it, as an engine's blocks: the holders
//! of a prompt's marks only get fewer towards its end, and where they do is found by bisection.

use alloc::vec::Vec;

use hashbrown::HashTable;

use crate::openai::PrefixMark;

/// Holdings of the whole index: room for 16 000 prompts of 16 KB. With an entry for each, which is the worst case, and a thousand endpoints
/// it takes 74 MiB.
pub const MAX_HOLDINGS: usize = 1 << 20;

/// No entry, no holding.
const NONE: u32 = u32::MAX;
/// Holders of an entry that need no memory of their own. Prompts of a conversation are on one or two endpoints.
const FEW: usize = 4;

/// Which endpoints, by slot, hold which marks.
#[derive(Clone, Debug)]
pub struct PrefixIndex {
    entries: Vec<Entry>,
    free_entry: u32,
    by_hash: HashTable<u32>,
    holdings: Vec<Holding>,
    free_holding: u32,
    held: usize,
    /// Holdings of entries with many holders.
    by_place: HashTable<u32>,
    shelves: Vec<Shelf>,
    max_holdings: usize,
    /// Where the search for somebody who holds more than a fair part goes on.
    hand: usize,
    /// Working memory: what the prompt that is inserted consists of.
    stretches: Vec<Stretch>,
    /// Working memory: the entries of a prompt, the last one first.
    path: Vec<u32>,
}

/// Marks of a prompt that follow one another, as an endpoint has them on its shelf.
#[derive(Clone, Copy, Debug)]
enum Stretch {
    /// The entry of one mark that it does not hold.
    New(u32),
    /// Holdings that lie there one after the other, as the prompt used last has left them.
    Held { newest: u32, oldest: u32 },
}

#[derive(Clone, Debug)]
struct Entry {
    hash: u64,
    /// The mark before; of a free entry, the next free one.
    parent: u32,
    end: u32,
    holders: Holders,
}

#[derive(Clone, Debug)]
enum Holders {
    /// With their holdings.
    Few { count: u8, slots: [u16; FEW], places: [u32; FEW] },
    /// Their holdings are in a table.
    Many { count: u32, bits: Vec<u64> },
}

/// Where the holding of an entry's new holder is found again.
#[derive(Clone, Copy, Debug)]
enum Kept {
    Inside,
    Apart,
    /// And so are these now, which were in the entry.
    ApartWith([u32; FEW]),
}

/// An endpoint holds an entry.
#[derive(Clone, Copy, Debug)]
struct Holding {
    entry: u32,
    slot: u16,
    /// Towards what was used last.
    newer: u32,
    /// Towards what was used first; of a free holding, the next free one.
    older: u32,
}

/// What one endpoint holds.
#[derive(Clone, Copy, Debug)]
struct Shelf {
    newest: u32,
    oldest: u32,
    count: u32,
    bytes: u64,
    capacity: u64,
}

impl Default for Shelf {
    fn default() -> Self {
        Self { newest: NONE, oldest: NONE, count: 0, bytes: 0, capacity: u64::MAX }
    }
}

impl Default for PrefixIndex {
    fn default() -> Self {
        Self::with_holdings(MAX_HOLDINGS)
    }
}

impl PrefixIndex {
    /// An empty index of at most so many holdings; 0 keeps nothing.
    #[must_use]
    pub fn with_holdings(max_holdings: usize) -> Self {
        Self {
            entries: Vec::new(),
            free_entry: NONE,
            by_hash: HashTable::new(),
            holdings: Vec::new(),
            free_holding: NONE,
            held: 0,
            by_place: HashTable::new(),
            shelves: Vec::new(),
            max_holdings,
            hand: 0,
            stretches: Vec::new(),
            path: Vec::new(),
        }
    }

    /// Holdings of all endpoints.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.held
    }

    /// True when nobody holds anything.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.held == 0
    }

    /// Bytes of memory that it has taken, without the bits of entries with many holders.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.entries.capacity() * size_of::<Entry>()
            + self.holdings.capacity() * size_of::<Holding>()
            + (self.by_hash.capacity() + self.by_place.capacity()) * (size_of::<u32>() + 1) * 8 / 7
            + self.shelves.capacity() * size_of::<Shelf>()
    }

    /// Bytes of prompt that an endpoint's cache holds; what is beyond is let go of.
    pub fn set_capacity(&mut self, slot: u32, bytes: u64) {
        let Some(slot) = self.shelf_of(slot) else { return };
        if let Some(shelf) = self.shelves.get_mut(usize::from(slot)) {
            shelf.capacity = bytes;
        }
        self.shrink(slot);
    }

    /// Tells, for each endpoint that holds some mark of the prompt, how many bytes of it, as (slot, bytes). An endpoint may be told
    /// several times: the first time counts.
    pub fn find(&self, marks: &[PrefixMark], mut tell: impl FnMut(u32, u32)) {
        let count = |place: usize| marks.get(place).map_or(0, |mark| self.entry(mark.hash).map_or(0, Entry::holders));
        // Marks before `end` with more than `least` holders, by bisection.
        let reach = |mut end: usize, least: u32| {
            let mut begin = 0;
            while begin < end {
                let middle = begin + (end - begin) / 2;
                if count(middle) > least { begin = middle + 1 } else { end = middle }
            }
            begin
        };
        let mut reached = reach(marks.len(), 0);
        while let Some(mark) = reached.checked_sub(1).and_then(|last| marks.get(last)) {
            let Some(entry) = self.entry(mark.hash) else { return };
            entry.holders.for_each(|slot| tell(u32::from(slot), mark.end));
            reached = reach(reached - 1, entry.holders());
        }
    }

    /// How many endpoints hold the mark of that hash.
    #[must_use]
    pub fn holders(&self, hash: u64) -> u32 {
        self.entry(hash).map_or(0, Entry::holders)
    }

    /// Bytes that an endpoint holds of the prompt that it used last of those that contain the mark of that hash; 0: it does not hold
    /// the mark.
    #[must_use]
    pub fn extent(&self, slot: u32, hash: u64) -> u32 {
        let place =
            u16::try_from(slot).ok().zip(self.position(hash)).and_then(|(slot, entry)| self.holding(slot, entry));
        let mut end = 0;
        let mut before = None;
        // Marks are used from the last one of a prompt to its first, so they lie in order, the first one newest.
        let mut next = place.and_then(|place| self.holdings.get(place as usize));
        while let Some(holding) = next
            && let Some(entry) = self.entries.get(holding.entry as usize)
            && before.is_none_or(|before| entry.parent == before)
        {
            end = entry.end;
            before = Some(holding.entry);
            next = self.holdings.get(holding.older as usize);
        }
        end
    }

    /// A prompt was sent to an endpoint, which holds it from now on. Gives how many of the marks it held before.
    ///
    /// `end` grows from mark to mark. What follows a mark whose hash is that of a mark elsewhere cannot be told apart, and is not kept.
    pub fn insert(&mut self, slot: u32, marks: &[PrefixMark]) -> usize {
        if self.max_holdings == 0 {
            return 0;
        }
        let Some(slot) = self.shelf_of(slot) else { return 0 };
        self.stretches.clear();
        let mut known = 0;
        let mut parent = NONE;
        let mut end = 0;
        for mark in marks {
            if mark.end <= end {
                break;
            }
            end = mark.end;
            // Most prompts begin like the one used last, whose marks lie in order: no table has to be asked for them.
            let next = self.behind().filter(|&(_, entry)| self.is_entry_of(entry, *mark));
            if let Some((place, entry)) = next {
                self.extend_stretch(place);
                known += 1;
                parent = entry;
                continue;
            }
            parent = self.find_or_add(*mark, parent);
            if !self.is_entry_of(parent, *mark) {
                break;
            }
            known += usize::from(self.begin_stretch(slot, parent));
        }
        self.use_stretches(slot);
        known
    }

    /// An endpoint holds the prompt that ends with the mark of that hash from now on: another that was sent to somebody else, or
    /// one that it holds and uses again. False: nobody holds it.
    pub fn insert_tail(&mut self, slot: u32, tail: u64) -> bool {
        let Some(slot) = self.shelf_of(slot) else { return false };
        let Some(mut entry) = self.position(tail) else { return false };
        self.path.clear();
        let mut end = u32::MAX;
        // Ends fall from mark to mark, so this ends whatever the entries say.
        while let Some(known) = self.entries.get(entry as usize).filter(|known| known.end < end) {
            self.path.push(entry);
            end = known.end;
            entry = known.parent;
        }
        self.stretches.clear();
        while let Some(entry) = self.path.pop() {
            match self.behind().filter(|&(_, next)| next == entry) {
                Some((place, _)) => self.extend_stretch(place),
                None => {
                    self.begin_stretch(slot, entry);
                }
            }
        }
        self.use_stretches(slot);
        true
    }

    /// What another worker sent to an endpoint: `marks` behind the mark of hash `tail`, 0 for a prompt's start. Where the endpoint is not
    /// known to hold `tail`, nothing is kept.
    pub fn insert_behind(&mut self, slot: u32, tail: u64, marks: &[PrefixMark]) {
        if self.max_holdings == 0 {
            return;
        }
        let Some(place) = self.shelf_of(slot) else { return };
        let mut parent = NONE;
        if tail != 0 {
            let Some(known) = self.position(tail).filter(|&entry| self.holding(place, entry).is_some()) else { return };
            parent = known;
        }
        let last = marks.last().map_or(tail, |mark| mark.hash);
        for mark in marks {
            parent = self.find_or_add(*mark, parent);
        }
        self.insert_tail(slot, last);
    }

    /// An endpoint's cache is empty: its engine began anew, or another endpoint has the slot.
    pub fn forget(&mut self, slot: u32) {
        let Ok(slot) = u16::try_from(slot) else { return };
        while self.release_oldest(slot) {}
    }

    fn shelf_of(&mut self, slot: u32) -> Option<u16> {
        let slot = u16::try_from(slot).ok()?;
        if self.shelves.len() <= usize::from(slot) {
            self.shelves.resize(usize::from(slot) + 1, Shelf::default());
        }
        Some(slot)
    }

    fn position(&self, hash: u64) -> Option<u32> {
        let is_it = |&entry: &u32| self.entries.get(entry as usize).is_some_and(|entry| entry.hash == hash);
        self.by_hash.find(hash, is_it).copied()
    }

    fn entry(&self, hash: u64) -> Option<&Entry> {
        self.entries.get(self.position(hash)? as usize)
    }

    fn find_or_add(&mut self, mark: PrefixMark, parent: u32) -> u32 {
        if let Some(known) = self.position(mark.hash) {
            return known;
        }
        let entry = Entry { hash: mark.hash, parent, end: mark.end, holders: Holders::default() };
        let place = match self.entries.get_mut(self.free_entry as usize) {
            Some(free) => {
                let place = self.free_entry;
                self.free_entry = free.parent;
                *free = entry;
                place
            }
            None => {
                self.entries.push(entry);
                u32::try_from(self.entries.len() - 1).unwrap_or(NONE)
            }
        };
        let entries = &self.entries;
        let hash_of = |&entry: &u32| entries.get(entry as usize).map_or(0, |entry| entry.hash);
        self.by_hash.insert_unique(mark.hash, place, hash_of);
        place
    }

    fn holding(&self, slot: u16, entry: u32) -> Option<u32> {
        if let Holders::Few { count, slots, places } = &self.entries.get(entry as usize)?.holders {
            let mut few = slots.iter().zip(places).take(usize::from(*count));
            return few.find(|(known, _)| **known == slot).map(|(_, place)| *place);
        }
        let is_it = |&place: &u32| {
            self.holdings.get(place as usize).is_some_and(|holding| (holding.slot, holding.entry) == (slot, entry))
        };
        self.by_place.find(place_hash(slot, entry), is_it).copied()
    }

    /// The holding behind the last stretch and its entry.
    fn behind(&self) -> Option<(u32, u32)> {
        let Some(Stretch::Held { oldest, .. }) = self.stretches.last() else { return None };
        let place = self.holdings.get(*oldest as usize)?.older;
        self.holdings.get(place as usize).map(|holding| (place, holding.entry))
    }

    fn is_entry_of(&self, entry: u32, mark: PrefixMark) -> bool {
        self.entries.get(entry as usize).is_some_and(|entry| (entry.hash, entry.end) == (mark.hash, mark.end))
    }

    /// The last stretch goes on with the holding behind it.
    fn extend_stretch(&mut self, place: u32) {
        if let Some(Stretch::Held { oldest, .. }) = self.stretches.last_mut() {
            *oldest = place;
        }
    }

    /// A stretch begins with an entry. True: the endpoint holds it.
    fn begin_stretch(&mut self, slot: u16, entry: u32) -> bool {
        let held = self.holding(slot, entry);
        self.stretches.push(held.map_or(Stretch::New(entry), |place| Stretch::Held { newest: place, oldest: place }));
        held.is_some()
    }

    /// The endpoint holds all stretches as what it used last: from the end, so that what all prompts share is used last.
    fn use_stretches(&mut self, slot: u16) {
        while let Some(stretch) = self.stretches.pop() {
            match stretch {
                Stretch::New(entry) => self.hold(slot, entry),
                Stretch::Held { newest, oldest } => self.renew(slot, newest, oldest),
            }
        }
        self.shrink(slot);
    }

    /// The endpoint holds the entry, which it did not, as what it used last.
    fn hold(&mut self, slot: u16, entry: u32) {
        let bytes = self.span(entry);
        let holding = Holding { entry, slot, newer: NONE, older: NONE };
        let place = match self.holdings.get_mut(self.free_holding as usize) {
            Some(free) => {
                let place = self.free_holding;
                self.free_holding = free.older;
                *free = holding;
                place
            }
            None => {
                self.holdings.push(holding);
                u32::try_from(self.holdings.len() - 1).unwrap_or(NONE)
            }
        };
        self.held += 1;
        let kept = self.entries.get_mut(entry as usize).map(|entry| entry.holders.add(slot, place));
        match kept {
            Some(Kept::Apart) => self.put_in_table(place),
            Some(Kept::ApartWith(others)) => {
                others.into_iter().chain([place]).for_each(|place| self.put_in_table(place))
            }
            Some(Kept::Inside) | None => {}
        }
        if let Some(shelf) = self.shelves.get_mut(usize::from(slot)) {
            shelf.count += 1;
            shelf.bytes += bytes;
        }
        self.link(slot, place, place);
    }

    fn put_in_table(&mut self, place: u32) {
        let holdings = &self.holdings;
        let hash_of =
            |&place: &u32| holdings.get(place as usize).map_or(0, |holding| place_hash(holding.slot, holding.entry));
        self.by_place.insert_unique(hash_of(&place), place, hash_of);
    }

    /// Bytes between an entry and the one before.
    fn span(&self, entry: u32) -> u64 {
        let Some(entry) = self.entries.get(entry as usize) else { return 0 };
        let before = self.entries.get(entry.parent as usize).map_or(0, |parent| parent.end);
        u64::from(entry.end.saturating_sub(before))
    }

    /// Puts holdings that lie one after the other in front of all others.
    fn link(&mut self, slot: u16, newest: u32, oldest: u32) {
        let Some(shelf) = self.shelves.get_mut(usize::from(slot)) else { return };
        let before = shelf.newest;
        shelf.newest = newest;
        if shelf.oldest == NONE {
            shelf.oldest = oldest;
        }
        if let Some(holding) = self.holdings.get_mut(newest as usize) {
            holding.newer = NONE;
        }
        if let Some(holding) = self.holdings.get_mut(oldest as usize) {
            holding.older = before;
        }
        if let Some(holding) = self.holdings.get_mut(before as usize) {
            holding.newer = oldest;
        }
    }

    /// Moves holdings that lie one after the other to the front.
    fn renew(&mut self, slot: u16, newest: u32, oldest: u32) {
        if self.shelves.get(usize::from(slot)).is_some_and(|shelf| shelf.newest != newest) {
            self.unlink(slot, newest, oldest);
            self.link(slot, newest, oldest);
        }
    }

    /// Joins what lies on both sides of holdings that lie one after the other.
    fn unlink(&mut self, slot: u16, newest: u32, oldest: u32) {
        let Some(shelf) = self.shelves.get_mut(usize::from(slot)) else { return };
        let newer = self.holdings.get(newest as usize).map_or(NONE, |holding| holding.newer);
        let older = self.holdings.get(oldest as usize).map_or(NONE, |holding| holding.older);
        match self.holdings.get_mut(newer as usize) {
            Some(holding) => holding.older = older,
            None => shelf.newest = older,
        }
        match self.holdings.get_mut(older as usize) {
            Some(holding) => holding.newer = newer,
            None => shelf.oldest = newer,
        }
    }

    /// Lets go of what does not fit: into the endpoint's cache, and into the index.
    fn shrink(&mut self, slot: u16) {
        let is_over = |shelf: &Shelf| shelf.bytes > shelf.capacity;
        while self.shelves.get(usize::from(slot)).is_some_and(is_over) && self.release_oldest(slot) {}
        while self.held > self.max_holdings {
            let fair = u32::try_from(self.max_holdings / self.shelves.len().max(1)).unwrap_or(u32::MAX);
            let next = (self.hand..self.shelves.len()).chain(0..self.hand);
            let mut rich = next.filter(|&slot| self.shelves.get(slot).is_some_and(|shelf| shelf.count > fair));
            let Some(slot) = rich.next() else { return };
            self.hand = slot;
            let Ok(slot) = u16::try_from(slot) else { return };
            if !self.release_oldest(slot) {
                return;
            }
        }
    }

    fn release_oldest(&mut self, slot: u16) -> bool {
        let place = self.shelves.get(usize::from(slot)).map_or(NONE, |shelf| shelf.oldest);
        let Some(&Holding { entry, .. }) = self.holdings.get(place as usize) else { return false };
        let bytes = self.span(entry);
        self.unlink(slot, place, place);
        if let Some(shelf) = self.shelves.get_mut(usize::from(slot)) {
            shelf.count = shelf.count.saturating_sub(1);
            shelf.bytes = shelf.bytes.saturating_sub(bytes);
        }
        let is_in_table =
            self.entries.get(entry as usize).is_some_and(|entry| matches!(entry.holders, Holders::Many { .. }));
        if is_in_table && let Ok(found) = self.by_place.find_entry(place_hash(slot, entry), |&other| other == place) {
            found.remove();
        }
        if let Some(holding) = self.holdings.get_mut(place as usize) {
            holding.older = self.free_holding;
            holding.entry = NONE;
            self.free_holding = place;
        }
        self.held = self.held.saturating_sub(1);
        let Some(held) = self.entries.get_mut(entry as usize) else { return true };
        held.holders.remove(slot);
        if held.holders() == 0 {
            let hash = held.hash;
            held.parent = self.free_entry;
            held.holders = Holders::default();
            self.free_entry = entry;
            if let Ok(found) = self.by_hash.find_entry(hash, |&other| other == entry) {
                found.remove();
            }
        }
        true
    }
}

impl Entry {
    const fn holders(&self) -> u32 {
        match &self.holders {
            Holders::Few { count, .. } => *count as u32,
            Holders::Many { count, .. } => *count,
        }
    }
}

impl Default for Holders {
    fn default() -> Self {
        Self::Few { count: 0, slots: [0; FEW], places: [NONE; FEW] }
    }
}

impl Holders {
    fn add(&mut self, slot: u16, place: u32) -> Kept {
        match self {
            Self::Few { count, slots, places } => {
                let at = usize::from(*count);
                if let (Some(known), Some(kept)) = (slots.get_mut(at), places.get_mut(at)) {
                    (*known, *kept) = (slot, place);
                    *count += 1;
                    return Kept::Inside;
                }
                let (slots, others) = (*slots, *places);
                *self = Self::Many { count: 0, bits: Vec::new() };
                for slot in slots.into_iter().chain([slot]) {
                    self.mark(slot);
                }
                Kept::ApartWith(others)
            }
            Self::Many { .. } => {
                self.mark(slot);
                Kept::Apart
            }
        }
    }

    /// Adds one to many.
    fn mark(&mut self, slot: u16) {
        let Self::Many { count, bits } = self else { return };
        let (word, bit) = (usize::from(slot) / 64, slot % 64);
        if bits.len() <= word {
            bits.resize(word + 1, 0);
        }
        if let Some(word) = bits.get_mut(word) {
            *count += u32::from(*word >> bit & 1 == 0);
            *word |= 1 << bit;
        }
    }

    fn remove(&mut self, slot: u16) {
        match self {
            Self::Few { count, slots, places } => {
                let held = slots.get(..usize::from(*count)).unwrap_or_default();
                let Some(at) = held.iter().position(|&known| known == slot) else { return };
                let last = usize::from(*count) - 1;
                slots.swap(at, last);
                places.swap(at, last);
                *count -= 1;
            }
            Self::Many { count, bits } => {
                let (word, bit) = (usize::from(slot) / 64, slot % 64);
                if let Some(word) = bits.get_mut(word) {
                    *count -= u32::from(*word >> bit & 1 == 1);
                    *word &= !(1 << bit);
                }
            }
        }
    }

    fn for_each(&self, mut tell: impl FnMut(u16)) {
        match self {
            Self::Few { count, slots, .. } => slots.iter().take(usize::from(*count)).for_each(|&slot| tell(slot)),
            Self::Many { bits, .. } => {
                for (index, &word) in (0_u16..).zip(bits) {
                    let mut rest = word;
                    while rest != 0 {
                        #[allow(clippy::cast_possible_truncation, reason = "below 64")]
                        let bit = rest.trailing_zeros() as u16;
                        tell(index * 64 + bit);
                        rest &= rest - 1;
                    }
                }
            }
        }
    }
}

/// Spreads places over the table: a multiplication by 2^64 divided by the golden ratio.
const fn place_hash(slot: u16, entry: u32) -> u64 {
    let place = (entry as u64) << 16 | slot as u64;
    let spread = place.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    spread ^ spread >> 32
}

#[cfg(test)]
mod tests;
