//! Names of functions, read from the program's file and those of its libraries.

use std::collections::HashMap;

use crate::profile_format::{Line, ProfileBuilder};

/// The names at addresses, while a profile is put together. What was read for them is let go of with it: of a program with line numbers it
/// is more than the sidecar has otherwise.
pub(crate) struct Symbols {
    is_hidden: fn(&str) -> bool,
    places: HashMap<u64, Place>,
}

/// What is told of an address.
#[derive(Clone, Copy)]
struct Place {
    /// Its number in the profile; `None`: everything there is hidden.
    location: Option<u64>,
    /// Whether anything is.
    is_hidden: bool,
}

impl Symbols {
    /// `is_hidden`: functions by whose names a stack is cut: what they called, and they themselves, are not told.
    pub(crate) fn new(is_hidden: fn(&str) -> bool) -> Self {
        Self { is_hidden, places: HashMap::new() }
    }

    /// The numbers in the profile of the places to which calls return, the innermost first.
    pub(crate) fn stack(
        &mut self,
        profile: &mut ProfileBuilder,
        return_addresses: impl Iterator<Item = u64>,
    ) -> Vec<u64> {
        let (mut stack, mut outermost) = (Vec::new(), None);
        for address in return_addresses {
            let place = self.place(profile, address);
            if place.is_hidden {
                stack.clear();
            }
            stack.extend(place.location);
            outermost = Some(address);
        }
        // One that is hidden as a whole is still more than none.
        if stack.is_empty()
            && let Some(address) = outermost
        {
            let lines = lines(profile, address, |_| false).0;
            stack.push(profile.location(address, lines));
        }
        stack
    }

    fn place(&mut self, profile: &mut ProfileBuilder, return_address: u64) -> Place {
        *self.places.entry(return_address).or_insert_with(|| {
            let (lines, is_hidden) = lines(profile, return_address, self.is_hidden);
            let is_told = !(is_hidden && lines.is_empty());
            Place { location: is_told.then(|| profile.location(return_address, lines)), is_hidden }
        })
    }
}

impl Drop for Symbols {
    fn drop(&mut self) {
        backtrace::clear_symbol_cache();
        #[cfg(feature = "heap-profile")]
        heap_profile::give_back();
    }
}

/// The functions there, the innermost of those that were put into one first, from the last that is hidden on; and whether one is.
fn lines(profile: &mut ProfileBuilder, return_address: u64, is_hidden: fn(&str) -> bool) -> (Vec<Line>, bool) {
    let (mut lines, mut hides) = (Vec::new(), false);
    let Ok(address) = usize::try_from(return_address) else { return (lines, hides) };
    // This looks for the call, which is before the address.
    backtrace::resolve(std::ptr::without_provenance_mut(address), |symbol| {
        let name = symbol.name();
        let readable = name.as_ref().map(|name| format!("{name:#}")).unwrap_or_default();
        if is_hidden(&readable) {
            lines.clear();
            hides = true;
            return;
        }
        let mangled = name.as_ref().and_then(|name| name.as_str()).unwrap_or_default();
        let file = symbol.filename().map(|file| file.display().to_string()).unwrap_or_default();
        lines.push(profile.line(&readable, mangled, &file, symbol.lineno().unwrap_or_default()));
    });
    (lines, hides)
}
