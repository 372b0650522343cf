//! What of inpick runs where: as a wasm module or a native one, with the sidecar beside Envoy or in it.

use std::path::Path;
use std::str::FromStr;

use serde_json::{Map, Value};

use crate::Artifact;

/// A way to run inpick.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum Mode {
    /// The wasm module, and the sidecar as a process beside Envoy.
    #[default]
    Wasm,
    /// The native module, and the sidecar as a process beside Envoy.
    NativeSidecar,
    /// The native module with the sidecar in it: nothing beside Envoy.
    Native,
}

impl Mode {
    /// Each of them.
    pub const ALL: [Self; 3] = [Self::Wasm, Self::NativeSidecar, Self::Native];

    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Wasm => "wasm",
            Self::NativeSidecar => "native-sidecar",
            Self::Native => "native",
        }
    }

    /// Whether the sidecar is a process of its own.
    #[must_use]
    pub const fn has_sidecar_process(self) -> bool {
        !matches!(self, Self::Native)
    }

    /// The bootstrap of this binding, relative to the repository.
    #[must_use]
    pub fn bootstrap(self) -> &'static Path {
        Path::new(match self {
            Self::Wasm => "envoy/standalone.yaml",
            Self::NativeSidecar | Self::Native => "envoy/native.yaml",
        })
    }

    /// The module that Envoy loads.
    #[must_use]
    pub const fn module(self) -> Artifact {
        match self {
            Self::Wasm => Artifact::Wasm,
            Self::NativeSidecar | Self::Native => Artifact::Native,
        }
    }
}

impl std::fmt::Display for Mode {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.pad(self.as_str())
    }
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|mode| mode.as_str() == word);
        found.ok_or_else(|| format!("want one of {}", Self::ALL.map(Self::as_str).join(", ")))
    }
}

/// The sidecar's arguments as members of the configuration of one that runs in Envoy: `--flag value` or `--flag=value`. What is given
/// several times is a list, as the sidecar wants it; of the other flags the last one counts.
pub(crate) fn embedded(arguments: &[String]) -> Map<String, Value> {
    const REPEATED: [&str; 2] = ["pool", "pool-option"];
    let mut members = Map::new();
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        let flag = argument.trim_start_matches("--");
        let (flag, value) = match flag.split_once('=') {
            Some((flag, value)) => (flag, value.to_owned()),
            None => (flag, arguments.next().cloned().unwrap_or_default()),
        };
        if REPEATED.contains(&flag) {
            let list = members.entry(flag).or_insert_with(|| Value::Array(Vec::new()));
            if let Value::Array(list) = list {
                list.push(value.into());
            }
        } else {
            members.insert(flag.to_owned(), value.into());
        }
    }
    members
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn modes_are_told_by_their_words() {
        for mode in Mode::ALL {
            assert_eq!(mode.as_str().parse(), Ok(mode));
        }
        let refused = "embedded".parse::<Mode>().unwrap_err();
        assert_eq!(refused, "want one of wasm, native-sidecar, native");
    }

    #[test]
    fn arguments_become_members() {
        let arguments = ["--pool", "a=envoy:b", "--staleness=5s", "--pool=c=dns:d:1", "--staleness", "60s"];
        let members = embedded(&arguments.map(str::to_owned));
        assert_eq!(Value::Object(members), json!({"pool": ["a=envoy:b", "c=dns:d:1"], "staleness": "60s"}));
    }
}
