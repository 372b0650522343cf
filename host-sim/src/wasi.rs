//! The few functions of `wasi_snapshot_preview1` that proxy-wasm hosts provide: virtual time, seeded
//! randomness, log lines for standard output and error, and no files
//! (proxy-wasm-cpp-host `src/exports.cc`, whose error numbers these are).

use wasmtime::{Caller, Linker};

use crate::memory;
use crate::state::State;
use crate::trace::Direction;

const MODULE: &str = "wasi_snapshot_preview1";

const SUCCESS: u32 = 0;
const BADF: u32 = 8;
const FAULT: u32 = 21;
const INVAL: u32 = 28;
const NOENT: u32 = 44;
const NOSYS: u32 = 52;
const NOTSUP: u32 = 58;

const STDOUT: u32 = 1;
const STDERR: u32 = 2;
const LEVEL_INFO: u32 = 2;
const LEVEL_ERROR: u32 = 4;

const REALTIME: u32 = 0;
const MONOTONIC: u32 = 1;

/// `random_get` refuses more than this (proxy-wasm-cpp-host `include/proxy-wasm/limits.h`).
const MAX_RANDOM_BYTES: u32 = 64 * 1024;

/// The right to write, the only one a standard stream has (`fd_fdstat_get`).
const RIGHT_FD_WRITE: u64 = 64;

pub(crate) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.func_wrap(MODULE, "environ_sizes_get", |mut c: Caller<'_, State>, count: u32, size: u32| {
        note(&mut c, "environ_sizes_get");
        let environment = c.data().environment();
        errno(environ_sizes(&mut c, &environment, count, size))
    })?;
    linker.func_wrap(MODULE, "environ_get", |mut c: Caller<'_, State>, pointers: u32, text: u32| {
        note(&mut c, "environ_get");
        let environment = c.data().environment();
        errno(environ(&mut c, &environment, pointers, text))
    })?;
    linker.func_wrap(MODULE, "args_sizes_get", |mut c: Caller<'_, State>, count: u32, size: u32| {
        note(&mut c, "args_sizes_get");
        errno(environ_sizes(&mut c, &[], count, size))
    })?;
    linker.func_wrap(MODULE, "args_get", |mut c: Caller<'_, State>, _: u32, _: u32| {
        note(&mut c, "args_get");
        SUCCESS
    })?;
    linker.func_wrap(MODULE, "clock_time_get", |mut c: Caller<'_, State>, id: u32, _: u64, at: u32| {
        note(&mut c, "clock_time_get");
        let clock = c.data().clock();
        let time = match id {
            REALTIME => clock.wall(),
            MONOTONIC => clock.monotonic(),
            _ => return NOTSUP,
        };
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        errno(memory::write_u64(&mut c, at, nanos).ok())
    })?;
    linker.func_wrap(MODULE, "clock_res_get", |mut c: Caller<'_, State>, id: u32, at: u32| {
        note(&mut c, "clock_res_get");
        match id {
            REALTIME | MONOTONIC => errno(memory::write_u64(&mut c, at, 1).ok()),
            _ => NOTSUP,
        }
    })?;
    linker.func_wrap(MODULE, "random_get", |mut c: Caller<'_, State>, at: u32, size: u32| {
        note(&mut c, "random_get");
        if size > MAX_RANDOM_BYTES {
            return INVAL;
        }
        let bytes = c.data_mut().random(size);
        errno(memory::write(&mut c, at, &bytes).ok())
    })?;
    linker.func_wrap(
        MODULE,
        "fd_write",
        |mut c: Caller<'_, State>, fd: u32, vectors: u32, count: u32, written: u32| {
            note(&mut c, "fd_write");
            let level = match fd {
                STDOUT => LEVEL_INFO,
                STDERR => LEVEL_ERROR,
                _ => return BADF,
            };
            errno(fd_write(&mut c, level, vectors, count, written))
        },
    )?;
    linker.func_wrap(MODULE, "fd_fdstat_get", |mut c: Caller<'_, State>, fd: u32, at: u32| {
        note(&mut c, "fd_fdstat_get");
        if fd != STDOUT && fd != STDERR {
            return BADF;
        }
        let mut stat = [0_u8; 24];
        for (byte, right) in stat.iter_mut().skip(8).zip(RIGHT_FD_WRITE.to_le_bytes()) {
            *byte = right;
        }
        errno(memory::write(&mut c, at, &stat).ok())
    })?;
    linker.func_wrap(MODULE, "proc_exit", |mut c: Caller<'_, State>, code: u32| -> wasmtime::Result<()> {
        note(&mut c, "proc_exit");
        Err(wasmtime::format_err!("the guest called proc_exit({code})"))
    })?;
    link_absent(linker)
}

/// What proxy-wasm-cpp-host returns without doing anything: there are no files and nothing to wait for.
fn link_absent(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.func_wrap(MODULE, "fd_close", |mut c: Caller<'_, State>, _: u32| {
        note(&mut c, "fd_close");
        SUCCESS
    })?;
    linker.func_wrap(MODULE, "fd_seek", |mut c: Caller<'_, State>, _: u32, _: u64, _: u32, _: u32| {
        note(&mut c, "fd_seek");
        SUCCESS
    })?;
    linker.func_wrap(MODULE, "fd_read", |mut c: Caller<'_, State>, _: u32, _: u32, _: u32, _: u32| {
        note(&mut c, "fd_read");
        NOSYS
    })?;
    linker.func_wrap(MODULE, "fd_prestat_get", |mut c: Caller<'_, State>, _: u32, _: u32| {
        note(&mut c, "fd_prestat_get");
        BADF
    })?;
    linker.func_wrap(MODULE, "fd_prestat_dir_name", |mut c: Caller<'_, State>, _: u32, _: u32, _: u32| {
        note(&mut c, "fd_prestat_dir_name");
        NOSYS
    })?;
    linker.func_wrap(MODULE, "fd_filestat_get", |mut c: Caller<'_, State>, _: u32, _: u32| {
        note(&mut c, "fd_filestat_get");
        BADF
    })?;
    linker.func_wrap(
        MODULE,
        "path_open",
        |mut c: Caller<'_, State>, _: u32, _: u32, _: u32, _: u32, _: u32, _: u64, _: u64, _: u32, _: u32| {
            note(&mut c, "path_open");
            NOENT
        },
    )?;
    linker.func_wrap(MODULE, "sched_yield", |mut c: Caller<'_, State>| {
        note(&mut c, "sched_yield");
        SUCCESS
    })?;
    linker.func_wrap(MODULE, "poll_oneoff", |mut c: Caller<'_, State>, _: u32, _: u32, _: u32, events: u32| {
        note(&mut c, "poll_oneoff");
        errno(memory::write_u32(&mut c, events, 0).ok())
    })?;
    Ok(())
}

fn note(caller: &mut Caller<'_, State>, name: &'static str) {
    caller.data_mut().crossed(Direction::GuestToHost, name, String::new, None, false);
}

const fn errno(done: Option<()>) -> u32 {
    match done {
        Some(()) => SUCCESS,
        None => FAULT,
    }
}

fn environ_sizes(caller: &mut Caller<'_, State>, entries: &[Vec<u8>], count: u32, size: u32) -> Option<()> {
    let bytes: usize = entries.iter().map(Vec::len).sum();
    memory::write_u32(caller, count, u32::try_from(entries.len()).ok()?).ok()?;
    memory::write_u32(caller, size, u32::try_from(bytes).ok()?).ok()
}

fn environ(caller: &mut Caller<'_, State>, entries: &[Vec<u8>], pointers: u32, text: u32) -> Option<()> {
    let (mut pointer, mut place) = (pointers, text);
    for entry in entries {
        memory::write_u32(caller, pointer, place).ok()?;
        memory::write(caller, place, entry).ok()?;
        pointer = pointer.checked_add(4)?;
        place = place.checked_add(u32::try_from(entry.len()).ok()?)?;
    }
    Some(())
}

fn fd_write(caller: &mut Caller<'_, State>, level: u32, vectors: u32, count: u32, written: u32) -> Option<()> {
    let mut text = Vec::new();
    for index in 0..count {
        let vector = vectors.checked_add(index.checked_mul(8)?)?;
        let address = memory::read_u32(caller, vector).ok()?;
        let size = memory::read_u32(caller, vector.checked_add(4)?).ok()?;
        text.extend(memory::read(caller, address, size).ok()?);
    }
    memory::write_u32(caller, written, u32::try_from(text.len()).ok()?).ok()?;
    if !text.is_empty() {
        let line = text.strip_suffix(b"\n").unwrap_or(&text);
        caller.data_mut().log(level, line);
    }
    Some(())
}
