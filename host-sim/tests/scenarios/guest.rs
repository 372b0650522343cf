//! The guest that does what a script says, built once per test process. `tests/tests/fidelity` includes this file too.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Both packages that include this file lie beside host-sim, or are it.
const MANIFEST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../host-sim/tests/guest/Cargo.toml");

/// The module's file, built with cargo, which does nothing when it is up to date.
pub(crate) fn path() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("guest");
        let built = Command::new(env!("CARGO"))
            .args(["build", "--release", "--target", "wasm32-wasip1", "--manifest-path", MANIFEST])
            .arg("--target-dir")
            .arg(&target)
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
            .env_remove("RUSTFLAGS")
            .output()
            .unwrap();
        assert!(
            built.status.success(),
            "building the guest failed (is the target there? `rustup target add wasm32-wasip1`):\n{}",
            String::from_utf8_lossy(&built.stderr)
        );
        target.join("wasm32-wasip1/release/script_guest.wasm")
    })
}
