//! The signal: its timer, and what its handler does.
#![allow(unsafe_code, reason = "a signal's handler, its timer, and the walk of a stack are the C library's")]

use std::ffi::{c_int, c_void};
use std::io;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::ptr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::Seen;
use crate::libraries::locking;
use crate::stacks::{MOST_FRAMES, Stacks};

/// What the handler fills; `None`: nobody samples. The handler only tries its lock, for the thread that it interrupts may hold it.
static SAMPLER: Mutex<Option<Sampler>> = Mutex::new(None);

#[derive(Debug)]
struct Sampler {
    stacks: Stacks,
    /// Code in which a stack is not walked.
    locking: Vec<Range<u64>>,
}

/// Why the CPU cannot be sampled.
#[derive(Debug, thiserror::Error)]
pub enum SamplingError {
    /// It is being sampled.
    #[error("the CPU is being sampled already")]
    Busy,
    /// The system refused the signal, its timer, or to say where libraries are.
    #[error("{0}")]
    Refused(#[from] io::Error),
}

/// A process whose CPU is sampled until this is dropped. There is one at a time.
#[derive(Debug)]
pub struct Sampling(());

impl Sampling {
    /// Samples `frequency` times in each second of CPU that the process uses, from now on.
    ///
    /// # Errors
    ///
    /// See [`SamplingError`].
    pub fn start(frequency: u32) -> Result<Self, SamplingError> {
        // What the first walk of a process sets up is not set up within a handler.
        walk(0, &mut [0; MOST_FRAMES]);
        let locking = locking(&std::fs::read_to_string("/proc/self/maps")?);
        {
            let mut sampler = sampler();
            if sampler.is_some() {
                return Err(SamplingError::Busy);
            }
            *sampler = Some(Sampler { stacks: Stacks::new(), locking });
        }
        // From here on its end stops what was begun.
        let sampling = Self(());
        handle_signal()?;
        set_timer(1_000_000 / frequency.max(1))?;
        Ok(sampling)
    }

    /// Stops, and tells what was seen.
    #[must_use]
    pub fn stop(self) -> Seen {
        end().map(|sampler| sampler.stacks.seen()).unwrap_or_default()
    }
}

impl Drop for Sampling {
    fn drop(&mut self) {
        drop(end());
    }
}

fn sampler() -> MutexGuard<'static, Option<Sampler>> {
    SAMPLER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The handler stays: a signal that is under way would otherwise end the process.
fn end() -> Option<Sampler> {
    // Nothing can be refused of it: the timer is there.
    let _ = set_timer(0);
    sampler().take()
}

/// Has SIGPROF handled. Calls of the system that it interrupts go on.
fn handle_signal() -> io::Result<()> {
    // SAFETY: zeros are a valid `sigaction`: no handler, an empty mask and no flags.
    let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    action.sa_sigaction = handle as extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
    // SAFETY: the handler has the type that SA_SIGINFO asks for, and lives as long as the program.
    let refused = unsafe { libc::sigaction(libc::SIGPROF, &raw const action, ptr::null_mut()) };
    if refused == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Has a signal come each time the process has used the CPU for so long; 0: never.
fn set_timer(microseconds: u32) -> io::Result<()> {
    let (seconds, rest) = (microseconds / 1_000_000, microseconds % 1_000_000);
    let interval = libc::timeval { tv_sec: seconds.into(), tv_usec: rest.into() };
    let timer = libc::itimerval { it_interval: interval, it_value: interval };
    // SAFETY: the timer is read during the call, and no old one is asked for.
    let refused = unsafe { libc::setitimer(libc::ITIMER_PROF, &raw const timer, ptr::null_mut()) };
    if refused == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Takes a sample on the thread that is signalled.
extern "C" fn handle(_: c_int, _: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: it is the thread's own, and lives as long as the thread.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above. What is interrupted must find it as it was.
    let before = unsafe { *errno };
    // SAFETY: the kernel gives a handler with SA_SIGINFO the registers of what it interrupted, or nothing.
    if let Some(at) = unsafe { context.cast::<libc::ucontext_t>().as_ref() }.map(program_counter) {
        take(at);
    }
    // SAFETY: as above.
    unsafe { *errno = before };
}

fn take(at: u64) {
    // A sample is left out while another thread takes one, or this one begins or ends sampling.
    let Ok(mut sampler) = SAMPLER.try_lock() else { return };
    let Some(Sampler { stacks, locking }) = sampler.as_mut() else { return };
    let mut addresses = [0; MOST_FRAMES];
    let length = if locking.iter().any(|code| code.contains(&at)) { 0 } else { walk(at, &mut addresses) };
    // SAFETY: the call takes nothing and cannot fail.
    let thread = u64::try_from(unsafe { libc::gettid() }).unwrap_or_default();
    // A walk that does not come by the place where it was interrupted tells nothing of it.
    stacks.count(thread, addresses.get(..length).filter(|walked| !walked.is_empty()).unwrap_or(&[at]));
}

/// Walks the stack of this thread from the frame at `at` out; gives how many frames there were.
fn walk(at: u64, addresses: &mut [u64; MOST_FRAMES]) -> usize {
    let (mut length, mut is_there) = (0, false);
    // SAFETY: this walk uses no state that another thread could use at the same time: it asks for no names.
    unsafe {
        backtrace::trace_unsynchronized(|frame| {
            let address = frame.ip().addr() as u64;
            is_there |= address == at;
            match addresses.get_mut(length) {
                Some(place) if is_there => {
                    *place = address;
                    length += 1;
                    true
                }
                // Before it are the handler's own frames.
                Some(_) => true,
                None => false,
            }
        });
    }
    length
}

#[cfg(target_arch = "x86_64")]
fn program_counter(context: &libc::ucontext_t) -> u64 {
    const INSTRUCTION_POINTER: usize = libc::REG_RIP as usize;
    context.uc_mcontext.gregs.get(INSTRUCTION_POINTER).map_or(0, |register| register.cast_unsigned())
}

#[cfg(target_arch = "aarch64")]
fn program_counter(context: &libc::ucontext_t) -> u64 {
    context.uc_mcontext.pc
}
