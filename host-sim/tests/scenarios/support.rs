//! The guest that does what a script says, built once per test process.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use host_sim::{CompiledModule, Host, HostBuilder, LogLine, Request};

static GUEST: OnceLock<CompiledModule> = OnceLock::new();

/// The compiled guest.
pub(crate) fn guest() -> &'static CompiledModule {
    GUEST.get_or_init(|| CompiledModule::from_file(guest_path()).unwrap())
}

/// Builds the guest with cargo, which does nothing when it is up to date.
pub(crate) fn guest_path() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT
        .get_or_init(|| {
            let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guest/Cargo.toml");
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
        .clone()
}

/// A host of the script guest in which a pause in headers lets body callbacks come.
pub(crate) fn scripted() -> HostBuilder {
    Host::builder().compiled(guest()).allow_on_headers_stop_iteration(true)
}

/// A POST with this script.
pub(crate) fn script(script: &str) -> Request {
    Request::post("/v1/completions").header("x-script", script)
}

/// The texts of log lines that begin with this word, without the word.
pub(crate) fn said(logs: &[LogLine], word: &str) -> Vec<String> {
    logs.iter().filter_map(|line| line.text.strip_prefix(word)?.strip_prefix(' ')).map(ToOwned::to_owned).collect()
}

/// What this host's guests said with this word.
pub(crate) fn heard(host: &Host, word: &str) -> Vec<String> {
    said(&host.logs(), word)
}
