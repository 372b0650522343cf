//! The allocator's own part: how it samples, and how it is asked for what it sampled.
#![allow(
    unsafe_code,
    reason = "the allocator is C: its settings are a symbol that it looks for, and its controls are one function"
)]

use std::ffi::{CStr, CString};
use std::os::raw::{c_char, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

use tikv_jemalloc_sys::mallctl;

use crate::Heap;
use crate::dump::parse;

/// Read by the allocator before `main`: one allocation in 2^19 bytes is sampled, as Go's runtime and the allocator itself do by default.
/// What the environment says in `_RJEM_MALLOC_CONF` goes before it.
const SETTINGS: &[u8] = b"prof:true,prof_active:true,lg_prof_sample:19\0";

/// The pointer under the name by which the allocator looks for it.
#[repr(transparent)]
struct Settings(*const c_char);

// SAFETY: it points to a constant, which any thread may read.
unsafe impl Sync for Settings {}

// SAFETY: nothing else of the program has this name, which the allocator's build prefixes.
#[unsafe(export_name = "_rjem_malloc_conf")]
static ALLOCATOR_SETTINGS: Settings = Settings(SETTINGS.as_ptr().cast());

/// Why the heap cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum HeapError {
    /// Sampling is off.
    #[error("the allocator does not sample; _RJEM_MALLOC_CONF turned it off, or it is not the program's allocator")]
    Off,
    /// It could not write its samples down.
    #[error("the allocator cannot write down its samples: error {0}")]
    Refused(i32),
    /// The file of its samples.
    #[error("the allocator's samples cannot be passed on: {0}")]
    File(#[from] std::io::Error),
    /// What it wrote is not what it is known to write.
    #[error("the allocator's samples cannot be read: {0}")]
    Format(String),
}

/// What is on the heap now. It takes some milliseconds, and blocks.
///
/// # Errors
///
/// See [`HeapError`].
pub fn sample() -> Result<Heap, HeapError> {
    // An address in the program is the sign that the linker kept the settings.
    std::hint::black_box(&ALLOCATOR_SETTINGS.0);
    if !is_on() {
        return Err(HeapError::Off);
    }
    let file = tempfile::NamedTempFile::new()?;
    write_to(file.path())?;
    parse(&std::fs::read_to_string(file.path())?).map_err(HeapError::Format)
}

/// Gives the memory that is free back to the system, which the allocator otherwise does little by little as it is used. Nothing happens
/// where it is not the program's allocator.
pub fn give_back() {
    // The number that stands for all of them: MALLCTL_ARENAS_ALL.
    const ARENAS: &CStr = c"arena.4096.purge";
    // SAFETY: the name ends with a zero byte, and this control neither reads nor writes.
    let refused = unsafe { mallctl(ARENAS.as_ptr(), ptr::null_mut(), ptr::null_mut(), ptr::null_mut(), 0) };
    debug_assert_eq!(refused, 0, "the allocator knows this control");
}

/// Whether it samples.
fn is_on() -> bool {
    let (mut is_on, mut size) = (false, size_of::<bool>());
    // SAFETY: the name ends with a zero byte, and `opt.prof` is a bool, which is what there is room for.
    let refused =
        unsafe { mallctl(c"opt.prof".as_ptr(), ptr::from_mut(&mut is_on).cast(), &raw mut size, ptr::null_mut(), 0) };
    refused == 0 && is_on
}

/// Has it write its samples into a file.
fn write_to(path: &Path) -> Result<(), HeapError> {
    let path = CString::new(path.as_os_str().as_bytes()).map_err(std::io::Error::other)?;
    let mut name: *const c_char = path.as_ptr();
    // SAFETY: `prof.dump` reads a pointer to a name that ends with a zero byte and lives until the call returns.
    let refused = unsafe {
        let name: *mut c_void = ptr::from_mut(&mut name).cast();
        mallctl(c"prof.dump".as_ptr(), ptr::null_mut(), ptr::null_mut(), name, size_of::<*const c_char>())
    };
    if refused == 0 { Ok(()) } else { Err(HeapError::Refused(refused)) }
}
