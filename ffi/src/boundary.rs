//! The wall between C and Rust: no panic crosses it, no pointer passes unchecked, every failure becomes a code and, if wanted, an error object.
//! Errors: `Fault`.

use crate::code::everpost_code::{EVERPOST_ARGUMENT, EVERPOST_INTERNAL, EVERPOST_OK};
use crate::code::{everpost_code, everpost_phase};
use crate::everpost_error;
use ::everpost_client::io::client::{Answer, ClientError};
use std::ffi::{CStr, CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A failure on its way to C.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) code: everpost_code,
    pub(crate) what: String,
    pub(crate) phase: everpost_phase,
    pub(crate) endpoint: String,
    pub(crate) retriable: bool,
    /// The peer's answer, if it refused.
    pub(crate) answer: Option<Box<Answer>>,
}

impl Fault {
    pub(crate) fn new(code: everpost_code, what: impl Into<String>) -> Self {
        let (phase, endpoint) = (everpost_phase::EVERPOST_PHASE_NONE, String::new());
        Self { code, what: what.into(), phase, endpoint, retriable: false, answer: None }
    }
}

impl From<ClientError> for Fault {
    fn from(error: ClientError) -> Self {
        let (code, what, phase, retriable) = (everpost_code::of(&error), error.to_string(), everpost_phase::of(&error), error.is_retriable());
        let endpoint = error.failure().map(|failure| failure.endpoint.to_string()).unwrap_or_default();
        let answer = if let ClientError::Negative(answer, _) = error { Some(answer) } else { None };
        Self { code, what, phase, endpoint, retriable, answer }
    }
}

/// What an error handle stands for.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) code: everpost_code,
    pub(crate) text: CString,
    pub(crate) phase: everpost_phase,
    pub(crate) endpoint: CString,
    pub(crate) retriable: bool,
}

/// A text for C.
pub(crate) fn c_text(text: &str) -> CString {
    CString::new(text.replace('\0', " ")).unwrap_or_default()
}

/// A fault in this library is told as EVERPOST_INTERNAL and never on the host's stderr. (The library has its own copy of Rust's runtime. Without a
/// configuration nothing of it runs, so this is called where one is made.)
pub(crate) fn keep_silent() {
    #[cfg(not(test))]
    {
        static ONCE: std::sync::Once = std::sync::Once::new();
        ONCE.call_once(|| std::panic::set_hook(Box::new(|_| ())));
    }
}

/// Runs the body of an exported function.
/// # Safety
/// `error` is NULL or writable.
pub(crate) unsafe fn boundary(error: *mut *mut everpost_error, body: impl FnOnce() -> Result<(), Fault>) -> everpost_code {
    // SAFETY: the caller's promise; NULL becomes None.
    let place = unsafe { error.as_mut() };
    // The body's state is dropped with the panic; what it shares is behind locks that survive one.
    let done = catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|_| Err(Fault::new(EVERPOST_INTERNAL, "a fault inside the library (panic)")));
    match (done, place) {
        (Ok(()), place) => {
            if let Some(place) = place {
                *place = std::ptr::null_mut();
            }
            EVERPOST_OK
        }
        (Err(fault), place) => {
            let Fault { code, what, phase, endpoint, retriable, .. } = fault;
            if let Some(place) = place {
                *place = crate::handle::give(Told { code, text: c_text(&what), phase, endpoint: c_text(&endpoint), retriable });
            }
            code
        }
    }
}

/// The same where there is nobody to tell but by the value.
pub(crate) fn quiet<T>(otherwise: T, body: impl FnOnce() -> Result<T, Fault>) -> T {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(value)) => value,
        Ok(Err(_)) | Err(_) => otherwise,
    }
}

/// A text of the caller.
/// # Safety
/// `text` is NULL or points to a string that ends with a zero byte and stays unchanged during the call.
pub(crate) unsafe fn text<'a>(text: *const c_char, name: &str) -> Result<&'a str, Fault> {
    if text.is_null() {
        return Err(Fault::new(EVERPOST_ARGUMENT, format!("{name} is NULL")));
    }
    // SAFETY: not NULL; the rest is the caller's promise.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_str().map_err(|e| Fault::new(EVERPOST_ARGUMENT, format!("{name} is not UTF-8: {e}")))
}

/// Lengths from here on are looked at; below, looking would cost more than it is worth.
const LOOKED_AT: usize = 64 << 10;

/// Whether memory stands behind a length that a caller gave: the usual mistake is a negative number, which reaches beyond everything. Looks at the last
/// page, and on the way there at ever greater distances.
fn is_mapped(start: usize, len: usize) -> bool {
    if len < LOOKED_AT {
        return true;
    }
    let distances = std::iter::successors(Some(LOOKED_AT), |at| at.checked_mul(2)).take_while(|at| *at < len).chain([len - 1]);
    distances.into_iter().all(|at| start.checked_add(at).is_some_and(is_mapped_at))
}

fn is_mapped_at(address: usize) -> bool {
    // SAFETY: asks for a number.
    let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096).max(1);
    let (mut resident, at) = (0u8, std::ptr::without_provenance_mut(address - address % page));
    // SAFETY: the call looks at the map of the address space; of the page it touches nothing, and of its answer there is one byte for one page.
    unsafe { libc::mincore(at, 1, &raw mut resident) == 0 || std::io::Error::last_os_error().raw_os_error() != Some(libc::ENOMEM) }
}

/// Bytes of the caller. NULL is allowed for none.
/// # Safety
/// `bytes` points to `len` bytes that stay unchanged during the call, or is NULL.
pub(crate) unsafe fn bytes<'a>(bytes: *const std::ffi::c_void, len: usize, name: &str) -> Result<&'a [u8], Fault> {
    if len == 0 {
        return Ok(&[]);
    }
    if bytes.is_null() {
        return Err(Fault::new(EVERPOST_ARGUMENT, format!("{name} is NULL, and its length is not 0")));
    }
    if isize::try_from(len).is_err() || !is_mapped(bytes.addr(), len) {
        return Err(Fault::new(EVERPOST_ARGUMENT, format!("{name} cannot be that long: there is no memory behind its end")));
    }
    // SAFETY: not NULL, not longer than anything can be; the rest is the caller's promise.
    Ok(unsafe { std::slice::from_raw_parts(bytes.cast(), len) })
}

/// A place for a result, emptied.
/// # Safety
/// `place` is NULL or points to a writable value that nobody else uses during the call.
pub(crate) unsafe fn out<'a, T>(place: *mut T, empty: T, name: &str) -> Result<&'a mut T, Fault> {
    // SAFETY: the caller's promise; NULL becomes None.
    let place = unsafe { place.as_mut() }.ok_or_else(|| Fault::new(EVERPOST_ARGUMENT, format!("{name} is NULL")))?;
    *place = empty;
    Ok(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_that_reaches_beyond_all_memory_is_seen() {
        let kept = vec![7u8; 3 << 20];
        let start = kept.as_ptr().addr();
        for len in [0, 1, LOOKED_AT, 1 << 20, kept.len()] {
            assert!(is_mapped(start, len), "{len}");
        }
        for len in [1usize << 40, 1 << 47, 1 << 62, usize::MAX / 2, usize::MAX - 3, usize::MAX] {
            assert!(!is_mapped(start, len), "{len}");
        }
    }
}
