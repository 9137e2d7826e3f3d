//! The wall between C and Rust: no panic crosses it, no pointer passes unchecked, every failure leaves a text behind.
//! Errors: `Fault`, which becomes the code that C sees and the text of `everpost_last_error`.

use crate::code::Code;
use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A failure on its way to C.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) code: Code,
    pub(crate) what: String,
}

impl Fault {
    pub(crate) fn new(code: Code, what: impl Into<String>) -> Self {
        Self { code, what: what.into() }
    }
}

thread_local! {
    static LAST: RefCell<CString> = RefCell::new(CString::default());
}

/// Runs the body of an exported function.
pub(crate) fn boundary(body: impl FnOnce() -> Result<(), Fault>) -> Code {
    // The body's state is dropped with the panic; what it shares is behind locks that survive one.
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => Code::Ok,
        Ok(Err(fault)) => {
            remember(&fault.what);
            fault.code
        }
        Err(_) => {
            remember("a fault inside the library (panic)");
            Code::Internal
        }
    }
}

fn remember(what: &str) {
    let text = CString::new(what.replace('\0', " ")).unwrap_or_default();
    LAST.with_borrow_mut(|last| *last = text);
}

/// The text of the last fault of this thread.
pub(crate) fn last_error() -> *const c_char {
    LAST.with_borrow(|last| last.as_ptr())
}

/// A text of the caller.
/// # Safety
/// `text` is NULL or points to a string that ends with a zero byte and stays unchanged during the call.
pub(crate) unsafe fn text<'a>(text: *const c_char, name: &str) -> Result<&'a str, Fault> {
    if text.is_null() {
        return Err(Fault::new(Code::Argument, format!("{name} is NULL")));
    }
    // SAFETY: not NULL; the rest is the caller's promise.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_str().map_err(|e| Fault::new(Code::Argument, format!("{name} is not UTF-8: {e}")))
}

/// A place for a result, emptied.
/// # Safety
/// `place` is NULL or points to a writable pointer that nobody else uses during the call.
pub(crate) unsafe fn out<'a, T>(place: *mut *mut T, name: &str) -> Result<&'a mut *mut T, Fault> {
    // SAFETY: the caller's promise; NULL becomes None.
    let place = unsafe { place.as_mut() }.ok_or_else(|| Fault::new(Code::Argument, format!("{name} is NULL")))?;
    *place = std::ptr::null_mut();
    Ok(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::panic)]
    fn a_panic_becomes_a_code_and_a_text() {
        let quiet = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| ()));
        let code = boundary(|| panic!("inside"));
        std::panic::set_hook(quiet);
        assert_eq!(code, Code::Internal);
        // SAFETY: last_error never returns NULL, and this thread makes no other call meanwhile.
        let text = unsafe { CStr::from_ptr(last_error()) };
        assert!(text.to_string_lossy().contains("panic"));
    }
}
