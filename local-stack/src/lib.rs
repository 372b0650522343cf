//! The whole gateway on one machine: simulated or real vLLM pods, the metrics sidecar and Envoy with inpick, as child processes.
//!
//! `make run` and `make demo` are built on it, and so are the end-to-end tests and the benches. [`Stack::builder`] is the way in.
//! A stack stops its processes when it is dropped, on a panic too; should this process be killed outright, a small watcher
//! ends them.

mod artifact;
mod bootstrap;
mod builder;
mod client;
mod interrupt;
mod mode;
mod page;
mod port;
mod ports;
mod process;
mod stack;
mod status_line;
pub mod traffic;

pub use artifact::{Artifact, ArtifactError, repository};
pub use bootstrap::{Bootstrap, BootstrapError};
pub use builder::{Builder, Pods};
pub use client::{ClientError, HttpClient, HttpResponse};
pub use interrupt::interrupted;
pub use mode::Mode;
pub use page::{Page, PageSample, SampleError};
pub use port::{free_port, is_free};
pub use ports::Ports;
pub use process::{Process, ProcessError};
pub use stack::{Pod, Stack, StackError};
pub use status_line::StatusLine;
