//! The `log` crate's records go to Envoy's log, and a panic says where it happened.

use log::{LevelFilter, Log, Metadata, Record};

use crate::envoy::log::{Level, write};

struct EnvoyLog;

impl Log for EnvoyLog {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let level = match record.level() {
            log::Level::Error => Level::Error,
            log::Level::Warn => Level::Warn,
            log::Level::Info | log::Level::Debug | log::Level::Trace => Level::Info,
        };
        let (file, line) = (record.file().unwrap_or_default(), record.line().unwrap_or_default());
        write(level, &format!("inpick: {}", record.args()), file, line);
    }

    fn flush(&self) {}
}

/// Sets both up; called when the module is loaded, again where it is loaded again.
pub(crate) fn install() {
    if log::set_logger(&EnvoyLog).is_ok() {
        log::set_max_level(LevelFilter::Info);
        std::panic::set_hook(Box::new(|panic| {
            let (file, line) = panic.location().map_or(("", 0), |place| (place.file(), place.line()));
            write(Level::Critical, &format!("inpick: {panic}"), file, line);
        }));
    }
}
