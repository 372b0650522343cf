//! Memory that is lent to the module for the length of one hook, and bytes that the module gives.
//!
//! Each loan is an allocation of its own, exactly as long as its bytes. When the hook returns, or when the thing that was lent is
//! edited, it is overwritten; a module that kept it reads [`POISON`]. Built with `--cfg sanitized` (for AddressSanitizer),
//! and under Miri, it is freed at once too.
#![expect(unsafe_code, reason = "memory is lent across the C ABI")]

use std::ffi::CStr;
use std::ffi::c_char;

use crate::abi::{AbiBuffer, AbiHeader};

/// What a loan holds once it is over.
pub const POISON: u8 = 0xDE;

const FREES: bool = cfg!(any(miri, sanitized));

/// What was lent: an edit of it ends the loan.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Lending {
    /// A value of one of the header maps.
    Headers(i32),
    /// Slices of one of the bodies.
    Body(i32),
    /// What only the hook's end takes back.
    Hook,
}

struct Loan {
    bytes: *mut [u8],
    what: Lending,
    depth: usize,
}

/// The loans of one stream or of one call. Dropping it takes everything back.
#[derive(Default)]
pub(crate) struct Loans {
    live: Vec<Loan>,
    over: Vec<*mut [u8]>,
}

impl Loans {
    /// Lends a copy until [`Self::take_back`] of this depth or less, or [`Self::edited`].
    pub(crate) fn lend(&mut self, bytes: &[u8], what: Lending, depth: usize) -> AbiBuffer {
        let memory = Box::into_raw(Box::<[u8]>::from(bytes));
        self.live.push(Loan { bytes: memory, what, depth });
        AbiBuffer { ptr: memory.cast::<u8>().cast_const(), length: bytes.len() }
    }

    /// Lends headers; what is returned points into itself no further than to the loans.
    pub(crate) fn lend_headers<'a>(
        &mut self,
        headers: impl Iterator<Item = (&'a [u8], &'a [u8])>,
        depth: usize,
    ) -> Vec<AbiHeader> {
        headers
            .map(|(name, value)| {
                let name = self.lend(name, Lending::Hook, depth);
                let value = self.lend(value, Lending::Hook, depth);
                AbiHeader {
                    key_ptr: name.ptr,
                    key_length: name.length,
                    value_ptr: value.ptr,
                    value_length: value.length,
                }
            })
            .collect()
    }

    /// A hook of this depth has returned.
    pub(crate) fn take_back(&mut self, depth: usize) {
        self.end(|loan| loan.depth >= depth);
    }

    /// What was lent is no longer what it was.
    pub(crate) fn edited(&mut self, what: Lending) {
        self.end(|loan| loan.what == what);
    }

    fn end(&mut self, is_over: impl Fn(&Loan) -> bool) {
        for loan in self.live.extract_if(.., |loan| is_over(loan)) {
            // SAFETY: `lend` allocated it, and nobody else frees it.
            unsafe {
                (*loan.bytes).fill(POISON);
                if FREES {
                    drop(Box::from_raw(loan.bytes));
                } else {
                    self.over.push(loan.bytes);
                }
            }
        }
    }
}

impl Drop for Loans {
    fn drop(&mut self) {
        self.end(|_| true);
        for bytes in self.over.drain(..) {
            // SAFETY: `lend` allocated it, and `end` has left it to this.
            drop(unsafe { Box::from_raw(bytes) });
        }
    }
}

/// A copy of what the module gave; `None`: it gave bytes without saying where they are.
pub(crate) fn given(buffer: AbiBuffer) -> Option<Vec<u8>> {
    if buffer.length == 0 {
        return Some(Vec::new());
    }
    if buffer.ptr.is_null() {
        return None;
    }
    // SAFETY: the ABI's promise to Envoy: that many bytes are readable until the callback returns.
    Some(unsafe { std::slice::from_raw_parts(buffer.ptr, buffer.length) }.to_vec())
}

/// A copy of `count` things that the module gave.
pub(crate) fn given_array<T: Copy>(first: *const T, count: usize) -> Option<Vec<T>> {
    if count == 0 {
        return Some(Vec::new());
    }
    if first.is_null() || !first.is_aligned() {
        return None;
    }
    // SAFETY: as in `given`.
    Some(unsafe { std::slice::from_raw_parts(first, count) }.to_vec())
}

/// Writes where the module wants its answer; a module that gives null wants none.
pub(crate) fn answer<T>(out: *mut T, value: T) {
    if !out.is_null() {
        // SAFETY: the ABI's promise to Envoy: it is a place for one such value.
        unsafe { out.write(value) };
    }
}

/// Writes an array where the module has made room for one.
pub(crate) fn answer_array<T: Copy>(out: *mut T, values: &[T]) {
    if !out.is_null() {
        // SAFETY: the ABI's promise to Envoy: there is room for as many as the size callback said.
        unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), out, values.len()) };
    }
}

/// Text that ends with a zero byte and lives for ever, as a version does.
pub(crate) fn static_text(text: *const c_char) -> Option<String> {
    if text.is_null() {
        return None;
    }
    // SAFETY: the ABI's promise to Envoy.
    Some(unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    // Reads what was lent, as a module does; with `sanitized` that would be a use after free, which is the point there.
    #[cfg(not(any(miri, sanitized)))]
    fn read(buffer: AbiBuffer) -> Vec<u8> {
        given(buffer).unwrap()
    }

    #[test]
    #[cfg(not(any(miri, sanitized)))]
    fn a_loan_is_poisoned_when_its_hook_returns_or_its_source_is_edited() {
        let mut loans = Loans::default();
        let outer = loans.lend(b"outer", Lending::Hook, 1);
        let body = loans.lend(b"body", Lending::Body(0), 1);
        let inner = loans.lend(b"inner", Lending::Hook, 2);
        loans.take_back(2);
        assert_eq!((read(outer), read(inner)), (b"outer".to_vec(), vec![POISON; 5]));
        loans.edited(Lending::Body(1));
        assert_eq!(read(body), b"body");
        loans.edited(Lending::Body(0));
        assert_eq!(read(body), [POISON; 4]);
        loans.take_back(1);
        assert_eq!(read(outer), [POISON; 5]);
    }

    #[test]
    fn bytes_from_nowhere_are_told_from_no_bytes() {
        assert_eq!(given(AbiBuffer::EMPTY), Some(Vec::new()));
        assert_eq!(given(AbiBuffer { ptr: std::ptr::null(), length: 1 }), None);
        assert_eq!(given_array::<u64>(std::ptr::null(), 0), Some(Vec::new()));
        assert_eq!(given_array::<u64>(std::ptr::null(), 2), None);
    }
}
