//! Nothing but a list of dependencies: `Cargo.toml` says what for.

#![no_std]
