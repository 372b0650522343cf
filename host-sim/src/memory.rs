//! Guest memory: the only arithmetic on guest addresses.

use wasmtime::{Caller, Extern, Memory, Val};

use crate::codes::{ALLOCATE, CallError};
use crate::state::State;
use crate::trace::Direction;

/// A host call ends with a refusal, or with a trap of the guest that it called back.
#[derive(Debug)]
pub(crate) enum Failure {
    Refused(CallError),
    Trapped(wasmtime::Error),
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        Self::Refused(error)
    }
}

fn memory(caller: &mut Caller<'_, State>) -> Result<Memory, CallError> {
    match caller.get_export("memory") {
        Some(Extern::Memory(memory)) => Ok(memory),
        _ => Err(CallError::OutOfBounds),
    }
}

fn range(address: u32, size: u32) -> Option<std::ops::Range<usize>> {
    let start = usize::try_from(address).ok()?;
    let end = start.checked_add(usize::try_from(size).ok()?)?;
    Some(start..end)
}

/// Copies bytes out of the guest.
pub(crate) fn read(caller: &mut Caller<'_, State>, address: u32, size: u32) -> Result<Vec<u8>, CallError> {
    let memory = memory(caller)?;
    range(address, size)
        .and_then(|range| memory.data(&*caller).get(range))
        .map(<[u8]>::to_vec)
        .ok_or(CallError::OutOfBounds)
}

/// Copies bytes into the guest.
pub(crate) fn write(caller: &mut Caller<'_, State>, address: u32, bytes: &[u8]) -> Result<(), CallError> {
    let memory = memory(caller)?;
    let size = u32::try_from(bytes.len()).map_err(|_| CallError::OutOfBounds)?;
    range(address, size)
        .and_then(|range| memory.data_mut(&mut *caller).get_mut(range))
        .ok_or(CallError::OutOfBounds)?
        .copy_from_slice(bytes);
    Ok(())
}

pub(crate) fn read_u32(caller: &mut Caller<'_, State>, address: u32) -> Result<u32, CallError> {
    let bytes = read(caller, address, 4)?;
    bytes.first_chunk::<4>().map(|word| u32::from_le_bytes(*word)).ok_or(CallError::OutOfBounds)
}

pub(crate) fn write_u32(caller: &mut Caller<'_, State>, address: u32, value: u32) -> Result<(), CallError> {
    write(caller, address, &value.to_le_bytes())
}

pub(crate) fn write_u64(caller: &mut Caller<'_, State>, address: u32, value: u64) -> Result<(), CallError> {
    write(caller, address, &value.to_le_bytes())
}

/// Hands bytes to the guest: allocates there, copies, and stores address and size. Nothing is allocated for
/// no bytes: address and size are 0 (proxy-wasm-cpp-host `copyToPointerSize`).
pub(crate) fn give(caller: &mut Caller<'_, State>, bytes: &[u8], address_at: u32, size_at: u32) -> Result<(), Failure> {
    let address = if bytes.is_empty() { 0 } else { allocate(caller, bytes.len())? };
    if !bytes.is_empty() {
        write(caller, address, bytes)?;
    }
    write_u32(caller, address_at, address)?;
    let size = u32::try_from(bytes.len()).map_err(|_| CallError::OutOfBounds)?;
    write_u32(caller, size_at, size)?;
    Ok(())
}

fn allocate(caller: &mut Caller<'_, State>, size: usize) -> Result<u32, Failure> {
    let export = caller
        .get_export(ALLOCATE)
        .or_else(|| caller.get_export("malloc"))
        .and_then(Extern::into_func)
        .ok_or(CallError::NoAllocation)?;
    let wanted = i32::try_from(size).map_err(|_| CallError::NoAllocation)?;
    let state = caller.data_mut();
    state.crossed(Direction::HostToGuest, ALLOCATE, || format!("{size}"), None, false);
    state.set_allocating(true);
    let mut returned = [Val::I32(0)];
    let called = export.call(&mut *caller, &[Val::I32(wanted)], &mut returned);
    caller.data_mut().set_allocating(false);
    called.map_err(Failure::Trapped)?;
    match returned {
        [Val::I32(address)] if address != 0 => Ok(address.cast_unsigned()),
        _ => Err(CallError::NoAllocation.into()),
    }
}
