//! The C interface of Everpost: `include/everpost.h` is made from this file, and committed; a test compares.
//!
//! Rules: signatures, numbers and meanings never change; handles are looked up and never followed; every pointer is checked for NULL; no panic crosses
//! the boundary; nothing is written to standard output or standard error; no signal handler is installed. What a function returns as a pointer, and who
//! frees it, stands at the function.
//! Errors: `everpost_code`, with an `everpost_error` beside it where a function takes one.

#![allow(non_camel_case_types, reason = "the names are those of C")]

use std::ffi::{CString, c_char, c_int, c_void};

mod boundary;
mod code;
mod config;
mod deliver;
mod handle;
mod told;

pub use code::{everpost_code, everpost_event_kind_t, everpost_phase};
pub use config::*;
pub use deliver::*;
pub use told::*;

/// Version of this interface: raised when something is added; what was there stays as it was.
pub const EVERPOST_ABI: u32 = 1;

/// Settings of a client, before it is opened. One thread at a time.
#[derive(Debug)]
pub struct everpost_config {
    _private: (),
}

/// An engine: a spool of messages, and what delivers them. Any number of threads at a time.
#[derive(Debug)]
pub struct everpost_client {
    _private: (),
}

/// A DICOM object that is being written. Any thread, one at a time.
#[derive(Debug)]
pub struct everpost_object {
    _private: (),
}

/// A peer's answer. Does not change; any thread.
#[derive(Debug)]
pub struct everpost_answer {
    _private: (),
}

/// What went wrong. Does not change; any thread.
#[derive(Debug)]
pub struct everpost_error {
    _private: (),
}

/// Something that happened. Does not change; any thread.
#[derive(Debug)]
pub struct everpost_event {
    _private: (),
}

/// What a system calls a descriptor that an event loop can watch.
pub type everpost_descriptor = c_int;

/// Called with each event, on a thread of the library. The event is freed when it returns.
pub type everpost_on_event = Option<unsafe extern "C" fn(event: *const everpost_event, user: *mut c_void)>;

/// Called with each line of the log, on a thread of the library. `level`: 1 error, 2 warning, 3 news, 4 detail. The text is gone when it returns.
pub type everpost_on_log = Option<unsafe extern "C" fn(level: u32, text: *const c_char, user: *mut c_void)>;

/// The version of the library, "major.minor.patch". Never NULL; valid for the life of the process. Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn everpost_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

/// The version of this interface that the library has: at least that of any program it can serve. Compare with EVERPOST_ABI. Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn everpost_abi() -> u32 {
    EVERPOST_ABI
}

/// Frees a text that the library returned as `char *`. NULL, and what was freed before, is left alone. Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn everpost_string_free(text: *mut c_char) {
    boundary::quiet((), || {
        handle::free_text(text);
        Ok(())
    });
}

/// An empty text with a place that lasts.
fn nothing() -> *const c_char {
    c"".as_ptr()
}

fn c_string(text: &str) -> CString {
    boundary::c_text(text)
}
