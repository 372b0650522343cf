//! Statuses injected into host calls, to see what a guest does when the host returns something else.

use crate::codes::{Callback, Status};

/// Which of the matching calls get the injected status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    /// The matching call with this number, counted from zero.
    Nth(u64),
    /// Every matching call from now on.
    All,
}

/// What a matching call does instead of what it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// It returns this.
    Returns(Status),
    /// It ends the VM.
    Traps,
}

/// A host call that is to return a status without doing anything. By default it fires once, on the next
/// call of that name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    call: String,
    effect: Effect,
    which: Which,
    during: Option<Callback>,
    seen: u64,
}

impl Fault {
    /// The next call of `call` (such as `proxy_get_buffer_bytes`) returns `status`.
    #[must_use]
    pub fn new(call: impl Into<String>, status: Status) -> Self {
        Self { call: call.into(), effect: Effect::Returns(status), which: Which::Nth(0), during: None, seen: 0 }
    }

    /// The next call of `call` ends the VM, as a crash of the guest would.
    #[must_use]
    pub fn trap(call: impl Into<String>) -> Self {
        Self { effect: Effect::Traps, ..Self::new(call, Status::InternalFailure) }
    }

    /// Every call from now on, instead of the next one.
    #[must_use]
    pub const fn always(mut self) -> Self {
        self.which = Which::All;
        self
    }

    /// The n-th matching call from now on (0 is the next), instead of the next one.
    #[must_use]
    pub const fn nth(mut self, n: u64) -> Self {
        self.which = Which::Nth(n);
        self
    }

    /// Only calls made during this callback match (and count).
    #[must_use]
    pub const fn during(mut self, callback: Callback) -> Self {
        self.during = Some(callback);
        self
    }
}

#[derive(Debug, Default)]
pub(crate) struct Faults {
    faults: Vec<Fault>,
}

impl Faults {
    pub(crate) fn add(&mut self, fault: Fault) {
        self.faults.push(fault);
    }

    pub(crate) fn clear(&mut self) {
        self.faults.clear();
    }

    /// What happens to this call, if something was injected. Every fault counts the calls that match it.
    pub(crate) fn strike(&mut self, call: &str, during: Option<Callback>) -> Option<Effect> {
        let mut effect = None;
        self.faults.retain_mut(|fault| {
            let matches = fault.call == call && fault.during.is_none_or(|phase| Some(phase) == during);
            if !matches {
                return true;
            }
            let number = fault.seen;
            fault.seen += 1;
            match fault.which {
                Which::All => {
                    effect = effect.or(Some(fault.effect));
                    true
                }
                Which::Nth(n) if n == number => {
                    effect = effect.or(Some(fault.effect));
                    false
                }
                Which::Nth(_) => true,
            }
        });
        effect
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_fires_once_on_the_next_call_of_its_name() {
        let mut faults = Faults::default();
        faults.add(Fault::new("a", Status::InternalFailure));
        assert_eq!(faults.strike("b", None), None);
        assert_eq!(faults.strike("a", None), Some(Effect::Returns(Status::InternalFailure)));
        assert_eq!(faults.strike("a", None), None);
    }

    #[test]
    fn the_nth_call_in_a_phase_is_counted_in_that_phase_only() {
        let mut faults = Faults::default();
        faults.add(Fault::new("a", Status::NotFound).nth(1).during(Callback::Tick));
        assert_eq!(faults.strike("a", Some(Callback::Log)), None);
        assert_eq!(faults.strike("a", Some(Callback::Tick)), None);
        assert_eq!(faults.strike("a", Some(Callback::Log)), None);
        assert_eq!(faults.strike("a", Some(Callback::Tick)), Some(Effect::Returns(Status::NotFound)));
    }

    #[test]
    fn an_always_fault_stays_until_cleared() {
        let mut faults = Faults::default();
        faults.add(Fault::new("a", Status::Empty).always());
        assert_eq!(faults.strike("a", None), Some(Effect::Returns(Status::Empty)));
        assert_eq!(faults.strike("a", None), Some(Effect::Returns(Status::Empty)));
        faults.clear();
        assert_eq!(faults.strike("a", None), None);
    }
}
