//! How sidecar and collector stand, so that a change is told once. Pure.

/// What the last batch came to, from good to bad.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Standing {
    /// None is over.
    #[default]
    Unknown,
    /// The collector took all of it.
    Taken,
    /// It took it, but for some points, or with a warning.
    TakenInPart,
    /// It refused it, or a part of it.
    Refused,
    /// It is away, or asks for another try.
    Away,
}

/// What a batch has come to so far: the worst of its requests.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Verdict {
    pub(crate) standing: Standing,
    /// What the collector said.
    pub(crate) problem: String,
}

impl Verdict {
    /// Takes in a request.
    pub(crate) fn add(&mut self, standing: Standing, problem: String) {
        if standing > self.standing {
            *self = Self { standing, problem };
        }
    }
}

impl Standing {
    /// Takes the next; true if it is another one.
    pub(crate) fn change(&mut self, next: Self) -> bool {
        std::mem::replace(self, next) != next
    }
}
