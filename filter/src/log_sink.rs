//! The `log` crate's records go to Envoy's log, and a panic says where it happened, and answers who waits, before it ends the
//! machine.

use log::{LevelFilter, Log, Metadata, Record};

use crate::host;
use crate::waiting;

struct EnvoyLog;

/// The ABI's log levels.
const INFO: u32 = 2;
const WARN: u32 = 3;
const ERROR: u32 = 4;
const CRITICAL: u32 = 5;

impl Log for EnvoyLog {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let level = match record.level() {
            log::Level::Error => ERROR,
            log::Level::Warn => WARN,
            log::Level::Info | log::Level::Debug | log::Level::Trace => INFO,
        };
        host::log(level, &format!("inpick: {}", record.args()));
    }

    fn flush(&self) {}
}

/// Sets both up; called once when the module starts.
pub(crate) fn install() {
    if log::set_logger(&EnvoyLog).is_ok() {
        log::set_max_level(LevelFilter::Info);
    }
    std::panic::set_hook(Box::new(|panic| {
        host::log(CRITICAL, &format!("inpick: {panic}"));
        waiting::crash();
    }));
}
