//! The C ABI of Everpost: `include/everpost.h` in Rust. Opaque handles, codes, no panic across the boundary.
//! Rules: signatures and numbers never change; every pointer is checked for NULL; the header is the contract and its test compares both.
//! Errors: `everpost_code`; the text behind it is `everpost_last_error`.

use std::ffi::c_char;

mod boundary;
mod code;
mod handle;

use boundary::{boundary, out, text};
pub use code::Code;
pub use handle::Client;

/// `everpost_version`.
#[unsafe(no_mangle)]
pub extern "C" fn everpost_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

/// `everpost_open`.
/// # Safety
/// `data_dir` and `settings` are NULL or strings that end with a zero byte; `client` is NULL or writable; none is used by others during the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn everpost_open(data_dir: *const c_char, settings: *const c_char, client: *mut *mut Client) -> Code {
    boundary(|| {
        // SAFETY: the caller's promises above.
        let (place, data_dir, settings) = unsafe { (out(client, "client")?, text(data_dir, "data_dir")?, text(settings, "settings")?) };
        *place = Box::into_raw(Box::new(Client::open(data_dir, settings)?));
        Ok(())
    })
}

/// `everpost_close`.
/// # Safety
/// `client` is NULL or came from `everpost_open`, was not closed, and is used by nobody else from now on.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn everpost_close(client: *mut Client) -> Code {
    boundary(|| {
        if client.is_null() {
            return Ok(());
        }
        // SAFETY: it came from Box::into_raw in everpost_open, and this is its last use.
        unsafe { Box::from_raw(client) }.close()
    })
}

/// `everpost_last_error`.
#[unsafe(no_mangle)]
pub extern "C" fn everpost_last_error() -> *const c_char {
    boundary::last_error()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::ffi::{CStr, CString};
    use std::ptr::null_mut;

    const SETTINGS: &CStr = c"[spool]
reserve = \"1 MiB\"
segment_size = \"1 MiB\"
[[destination]]
name = \"ris\"
protocol = \"mllp\"
[[destination.endpoint]]
name = \"a\"
address = \"127.0.0.1:1\"
";

    fn last() -> String {
        // SAFETY: never NULL, and this thread makes no other call meanwhile.
        unsafe { CStr::from_ptr(everpost_last_error()) }.to_string_lossy().into_owned()
    }

    fn open(dir: &CStr, settings: &CStr) -> (Code, *mut Client) {
        let mut client = null_mut();
        // SAFETY: three live pointers.
        let code = unsafe { everpost_open(dir.as_ptr(), settings.as_ptr(), &raw mut client) };
        (code, client)
    }

    #[test]
    fn open_close_and_open_again() {
        let dir = tempfile::tempdir().unwrap();
        let dir = CString::new(dir.path().to_str().unwrap()).unwrap();
        for _ in 0..2 {
            let (code, client) = open(&dir, SETTINGS);
            assert_eq!(code, Code::Ok, "{}", last());
            assert_eq!(open(&dir, SETTINGS).0, Code::InUse, "one owner at a time");
            // SAFETY: the handle of a moment ago, for the last time.
            assert_eq!(unsafe { everpost_close(client) }, Code::Ok, "{}", last());
        }
    }

    #[test]
    fn null_is_told_and_harms_nobody() {
        let mut client = null_mut();
        // SAFETY: NULL is allowed everywhere.
        unsafe {
            assert_eq!(everpost_open(std::ptr::null(), SETTINGS.as_ptr(), &raw mut client), Code::Argument);
            assert!(last().contains("data_dir"), "{}", last());
            assert_eq!(everpost_open(c"/x".as_ptr(), std::ptr::null(), &raw mut client), Code::Argument);
            assert_eq!(everpost_open(c"/x".as_ptr(), SETTINGS.as_ptr(), null_mut()), Code::Argument);
            assert_eq!(everpost_open(c"/x".as_ptr(), c"\xff".as_ptr(), &raw mut client), Code::Argument);
            assert_eq!(everpost_close(null_mut()), Code::Ok);
        }
    }

    #[test]
    fn wrong_settings_say_where() {
        let (code, client) = open(c"/nowhere", c"[spool]\nreserv = 1\n");
        assert_eq!(code, Code::Configuration);
        assert!(client.is_null());
        assert!(last().lines().any(|line| line.starts_with("2:1: ")), "{}", last());
    }

    #[test]
    fn the_header_declares_what_is_exported() {
        let header = include_str!("../include/everpost.h");
        for (name, code) in [
            ("OK", Code::Ok),
            ("ARGUMENT", Code::Argument),
            ("CONFIGURATION", Code::Configuration),
            ("IN_USE", Code::InUse),
            ("STORAGE", Code::Storage),
            ("INTERNAL", Code::Internal),
        ] {
            let line = format!("EVERPOST_{name} = {}", code as i32);
            assert!(header.contains(&line), "{line}");
        }
        let source = include_str!("lib.rs");
        for exported in source.split("extern \"C\" fn ").skip(1).filter_map(|s| s.split('(').next()).filter(|s| s.starts_with("everpost_")) {
            assert!(header.contains(&format!("{exported}(")), "{exported} is not in the header");
        }
    }
}
