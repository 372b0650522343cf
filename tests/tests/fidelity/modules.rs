//! The two modules under test, as files for Envoy and compiled for host-sim.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use host_sim::CompiledModule;

use crate::scenario::Module;

/// The module's file.
pub(crate) fn file(module: Module) -> PathBuf {
    match module {
        Module::Filter(_) => local_stack::Artifact::Wasm.find().expect("`make wasm` builds the module"),
        Module::Guest => guest().to_owned(),
    }
}

/// The module for host-sim.
pub(crate) fn compiled(module: Module) -> &'static CompiledModule {
    static FILTER: OnceLock<CompiledModule> = OnceLock::new();
    static GUEST: OnceLock<CompiledModule> = OnceLock::new();
    let slot = match module {
        Module::Filter(_) => &FILTER,
        Module::Guest => &GUEST,
    };
    slot.get_or_init(|| CompiledModule::from_file(file(module)).unwrap())
}

/// Builds host-sim's scripted guest, which does nothing when it is up to date.
fn guest() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let manifest = local_stack::repository().join("host-sim/tests/guest/Cargo.toml");
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("guest");
        let built = Command::new(env!("CARGO"))
            .args(["build", "--release", "--target", "wasm32-wasip1", "--manifest-path"])
            .arg(&manifest)
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
