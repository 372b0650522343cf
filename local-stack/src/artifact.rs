//! Where the programs and the module that a stack needs are found.

use std::path::{Path, PathBuf};

/// Names the folder with our own binaries.
const BIN_DIR: &str = "INPICK_BIN_DIR";
/// Names the wasm module that Envoy loads.
const WASM: &str = "INPICK_WASM";
/// Names the native module that Envoy loads.
const NATIVE: &str = "INPICK_NATIVE";
/// Names the Envoy binary.
const ENVOY: &str = "ENVOY";
/// Where `make setup` puts Envoy.
const ENVOY_OF_SETUP: &str = ".tools/envoy-1.40.0/envoy";
/// Where cargo puts the module, under the target directory.
const WASM_OF_CARGO: &str = "wasm32-wasip1/wasm/filter.wasm";
/// The same of the native one.
const NATIVE_OF_CARGO: &str = "native/libinpick.so";

/// Something that a stack needs and does not make.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Artifact {
    /// The Envoy binary.
    Envoy,
    /// The wasm module that Envoy loads.
    Wasm,
    /// The native module that Envoy loads.
    Native,
    /// A binary of this workspace, by name.
    Binary(String),
}

/// An artifact is nowhere it could be.
#[derive(Debug, thiserror::Error)]
#[error("{what} not found ({hint}); looked at {}", looked_at.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", "))]
pub struct ArtifactError {
    what: String,
    hint: &'static str,
    looked_at: Vec<PathBuf>,
}

impl Artifact {
    /// Its absolute path: the environment variable that names it (`ENVOY`, `INPICK_WASM`, `INPICK_NATIVE`,
    /// `INPICK_BIN_DIR`), else where the build
    /// and the setup put it.
    ///
    /// # Errors
    /// Nothing is there.
    pub fn find(&self) -> Result<PathBuf, ArtifactError> {
        let (what, hint, looked_at) = match self {
            Self::Envoy => ("Envoy".to_owned(), "`make setup` fetches it, ENVOY=/path names another", self.envoy()),
            Self::Wasm => (
                "filter.wasm".to_owned(),
                "`make wasm` builds it, INPICK_WASM=/path names another",
                module(WASM, WASM_OF_CARGO),
            ),
            Self::Native => {
                let hint = "`make native` builds it, INPICK_NATIVE=/path names another";
                ("libinpick.so".to_owned(), hint, module(NATIVE, NATIVE_OF_CARGO))
            }
            Self::Binary(name) => {
                (name.clone(), "`make build` builds it, INPICK_BIN_DIR=/path names its folder", binary(name))
            }
        };
        looked_at.iter().find(|path| path.is_file()).and_then(|path| path.canonicalize().ok()).ok_or(ArtifactError {
            what,
            hint,
            looked_at,
        })
    }

    fn envoy(&self) -> Vec<PathBuf> {
        if let Some(named) = std::env::var_os(ENVOY).filter(|named| !named.is_empty()) {
            return vec![named.into()];
        }
        let on_path = std::env::var_os("PATH").unwrap_or_default();
        std::iter::once(repository().join(ENVOY_OF_SETUP))
            .chain(std::env::split_paths(&on_path).map(|folder| folder.join("envoy")))
            .collect()
    }
}

/// The root of the repository that this was built from.
#[must_use]
pub fn repository() -> &'static Path {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package)
}

fn module(variable: &str, of_cargo_target: &str) -> Vec<PathBuf> {
    if let Some(named) = std::env::var_os(variable) {
        return vec![named.into()];
    }
    let of_cargo = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let of_this = profile_folder().and_then(|folder| folder.parent().map(Path::to_path_buf));
    [of_cargo, of_this, Some(repository().join("target"))]
        .into_iter()
        .flatten()
        .map(|target| target.join(of_cargo_target))
        .collect()
}

fn binary(name: &str) -> Vec<PathBuf> {
    let named = std::env::var_os(BIN_DIR).map(PathBuf::from);
    named.or_else(profile_folder).map(|folder| folder.join(name)).into_iter().collect()
}

/// Folder of cargo's binaries of the profile that this program was built with. Tests and benches run from `deps` inside it.
fn profile_folder() -> Option<PathBuf> {
    let program = std::env::current_exe().ok()?;
    let folder = program.parent()?;
    let folder = if folder.ends_with("deps") { folder.parent()? } else { folder };
    Some(folder.to_path_buf())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_binary_is_named_with_the_place_and_the_remedy() {
        let error = Artifact::Binary("no-such-binary".to_owned()).find().unwrap_err().to_string();
        assert!(error.contains("no-such-binary not found"), "{error}");
        assert!(error.contains("make build"), "{error}");
        let folder = profile_folder().unwrap();
        assert!(error.contains(folder.to_str().unwrap()), "{error}");
    }

    #[test]
    fn repository_is_where_the_workspace_is() {
        assert!(repository().join("Cargo.lock").is_file());
    }
}
