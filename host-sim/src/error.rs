//! What can go wrong when a module is loaded or driven.

use std::path::PathBuf;

/// Errors of the host itself. What a guest does wrong is not an error here: it shows as a status in the
/// trace, or as a failed VM.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The module's file could not be read.
    #[error("cannot read the module {path}: {source}")]
    ReadModule {
        /// The path as it was given.
        path: PathBuf,
        /// Why the read failed.
        source: std::io::Error,
    },
    /// No module was given to the builder.
    #[error("the host has no module: call module(), module_bytes() or compiled() on the builder")]
    NoModule,
    /// The bytes are no valid WebAssembly module.
    #[error("cannot compile the module: {0}")]
    Compile(String),
    /// The module exports none of the `proxy_abi_version_0_2_*` markers (Envoy: "Missing or unknown
    /// Proxy-Wasm ABI version", proxy-wasm-cpp-host `src/wasm.cc`).
    #[error(
        "the module exports no proxy_abi_version_0_2_0 or proxy_abi_version_0_2_1: it is no proxy-wasm module of ABI 0.2"
    )]
    UnknownAbi,
    /// The module imports functions that this host does not provide, or provides with another signature.
    #[error("the module imports what this host does not provide: {}", .imports.join(", "))]
    UnknownImports {
        /// `module.name` of each such import, with its type.
        imports: Vec<String>,
    },
    /// Instantiation or `_initialize` failed.
    #[error("cannot start {vm}: {message}")]
    Start {
        /// Which VM.
        vm: String,
        /// The trap or link error.
        message: String,
    },
    /// `proxy_on_vm_start` or `proxy_on_configure` returned false or trapped.
    #[error("{vm} refused its configuration in {callback}: {message}")]
    Refused {
        /// Which VM.
        vm: String,
        /// The callback that refused.
        callback: &'static str,
        /// The trap, or that it returned false; with the guest's last log line.
        message: String,
    },
    /// The worker index is out of range.
    #[error("there is no worker {worker}: the host has {workers}")]
    NoSuchWorker {
        /// The index asked for.
        worker: usize,
        /// How many workers there are.
        workers: usize,
    },
    /// The stream is over, so nothing more can be sent on it.
    #[error("stream {id} is over ({step} was asked for)")]
    StreamOver {
        /// The stream.
        id: u64,
        /// What was asked for.
        step: &'static str,
    },
    /// A step came out of order, such as a response body before its headers.
    #[error("stream {id}: {step} out of order: {reason}")]
    OutOfOrder {
        /// The stream.
        id: u64,
        /// What was asked for.
        step: &'static str,
        /// What is missing or was already sent.
        reason: &'static str,
    },
    /// A text is no HTTP/1.1 message.
    #[error("not an HTTP/1.1 message: {0}")]
    Message(String),
}
