//! The rights that watches need. Pure.

use crate::policy::POLICY_GROUPS;
use crate::pool::POOL_GROUP;

/// Group of pods, as in roles.
pub(crate) const POD_GROUP: &str = "";

/// A resource that is watched.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum ResourceKind {
    /// Pods.
    Pods,
    /// The pool itself.
    Pool,
    /// Its objectives.
    Objectives,
    /// Its rewrites.
    Rewrites,
}

impl ResourceKind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Pods, Self::Pool, Self::Objectives, Self::Rewrites];

    /// Its plural, as in paths and in roles.
    #[must_use]
    pub const fn plural(self) -> &'static str {
        match self {
            Self::Pods => "pods",
            Self::Pool => "inferencepools",
            Self::Objectives => "inferenceobjectives",
            Self::Rewrites => "inferencemodelrewrites",
        }
    }

    /// The groups in which it is looked for, as in roles.
    #[must_use]
    pub const fn groups(self) -> &'static [&'static str] {
        match self {
            Self::Pods => &[POD_GROUP],
            Self::Pool => &[POOL_GROUP],
            Self::Objectives | Self::Rewrites => &POLICY_GROUPS,
        }
    }
}

/// What a watch does with a resource.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Verb {
    /// It asks for all objects.
    List,
    /// It asks for their changes.
    Watch,
}

impl Verb {
    /// Both.
    pub const ALL: [Self; 2] = [Self::List, Self::Watch];

    /// As in roles.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Watch => "watch",
        }
    }
}

/// A right of the role that the sidecar needs.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Right {
    /// Group of the resource; empty for pods.
    pub group: &'static str,
    /// The resource.
    pub kind: ResourceKind,
    /// What may be done with it.
    pub verb: Verb,
}

impl Right {
    /// Those that a request of a client needs; `None`: it neither lists nor watches that resource.
    pub(crate) fn used_by(uri: &http::Uri, group: &'static str, kind: ResourceKind) -> Option<Self> {
        if uri.path().rsplit('/').next() != Some(kind.plural()) {
            return None;
        }
        let is_watch = uri.query().is_some_and(|query| query.split('&').any(|pair| pair == "watch=true"));
        Some(Self { group, kind, verb: if is_watch { Verb::Watch } else { Verb::List } })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_tells_which_right_it_needs() {
        let used = |uri: &str| {
            let right = Right::used_by(&uri.parse().unwrap(), "llm-d.ai", ResourceKind::Objectives)?;
            assert_eq!((right.group, right.kind), ("llm-d.ai", ResourceKind::Objectives));
            Some(right.verb)
        };
        let path = "https://10.0.0.1/apis/llm-d.ai/v1alpha2/namespaces/ns/inferenceobjectives";
        assert_eq!(used(&format!("{path}?&limit=500")), Some(Verb::List));
        assert_eq!(used(path), Some(Verb::List));
        assert_eq!(used(&format!("{path}?&watch=true&timeoutSeconds=30")), Some(Verb::Watch));
        assert_eq!(used("https://10.0.0.1/apis/llm-d.ai/v1alpha2"), None);
    }
}
