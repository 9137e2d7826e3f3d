//! Handles: numbers that look like pointers. What they stand for is found in a table and never by following them, so that a handle that was closed, made
//! up, or is of another kind is an error and never a crash.
//! Rules: a number is never given twice; what a handle stands for lives on until the last call that uses it has ended. The table is the only thing that
//! all clients of a process share.
//! Errors: `EVERPOST_HANDLE`, `EVERPOST_ARGUMENT` for NULL.

use crate::boundary::Fault;
use crate::code::everpost_code::{EVERPOST_ARGUMENT, EVERPOST_HANDLE};
use ::everpost_client::io::client::ClientError;
use std::any::Any;
use std::collections::HashMap;
use std::ffi::{CString, c_char};
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

type Thing = Arc<dyn Any + Send + Sync>;

/// What is alive in this process.
struct Table {
    process: u32,
    /// Numbers up to here were given by the parent, before a fork.
    inherited: usize,
    last: AtomicUsize,
    lists: RwLock<Lists>,
}

#[derive(Default)]
struct Lists {
    things: Option<HashMap<usize, Thing>>,
    /// Texts that were handed out, by address.
    texts: Option<HashMap<usize, CString>>,
}

static TABLE: AtomicPtr<Table> = AtomicPtr::new(std::ptr::null_mut());

/// The table of this process. The child of a fork gets one of its own: a lock of its parent's may be held by a thread that the child does not have.
fn table() -> &'static Table {
    let process = std::process::id();
    loop {
        let now = TABLE.load(Ordering::Acquire);
        // SAFETY: what was stored is never freed.
        let found = unsafe { now.as_ref() };
        match found {
            Some(table) if table.process == process => return table,
            _ => {
                let inherited = found.map_or(0, |table| table.last.load(Ordering::Acquire));
                let new = Table { process, inherited, last: AtomicUsize::new(inherited), lists: RwLock::default() };
                let new = Box::into_raw(Box::new(new));
                if TABLE.compare_exchange(now, new, Ordering::AcqRel, Ordering::Acquire).is_err() {
                    // SAFETY: nobody has seen it.
                    drop(unsafe { Box::from_raw(new) });
                }
            }
        }
    }
}

fn read() -> RwLockReadGuard<'static, Lists> {
    table().lists.read().unwrap_or_else(PoisonError::into_inner)
}

fn write() -> RwLockWriteGuard<'static, Lists> {
    table().lists.write().unwrap_or_else(PoisonError::into_inner)
}

/// A handle for something. `H` is the opaque type of C.
pub(crate) fn give<H, T: Any + Send + Sync>(thing: T) -> *mut H {
    let place = table().last.fetch_add(1, Ordering::AcqRel) + 1;
    // Odd, so that it is no address of anything that C aligns; above the first page, so that it is not taken for a small number.
    let number = (place << 12) | 1;
    write().things.get_or_insert_default().insert(number, Arc::new(thing));
    std::ptr::without_provenance_mut(number)
}

/// What a handle stands for.
pub(crate) fn find<H, T: Any + Send + Sync>(handle: *const H, name: &str) -> Result<Arc<T>, Fault> {
    if handle.is_null() {
        return Err(Fault::new(EVERPOST_ARGUMENT, format!("{name} is NULL")));
    }
    if handle.addr() & 0xfff == 1 && handle.addr() >> 12 <= table().inherited {
        return Err(Fault::from(ClientError::Forked));
    }
    let thing = read().things.as_ref().and_then(|things| things.get(&handle.addr())).cloned();
    thing.and_then(|thing| thing.downcast::<T>().ok()).ok_or_else(|| gone(name))
}

/// The same, and the handle is gone.
pub(crate) fn take<H, T: Any + Send + Sync>(handle: *const H, name: &str) -> Result<Arc<T>, Fault> {
    let found = find::<H, T>(handle, name)?;
    let mut table = write();
    let things = table.things.as_mut().and_then(|things| things.remove(&handle.addr()));
    if table.things.as_ref().is_some_and(HashMap::is_empty) {
        table.things = None;
    }
    drop(table);
    // Another thread may have been quicker.
    things.map(|_| found).ok_or_else(|| gone(name))
}

fn gone(name: &str) -> Fault {
    Fault::new(EVERPOST_HANDLE, format!("{name} is no handle of this kind: it was closed or freed, or never given"))
}

/// A text that lives until it is freed.
pub(crate) fn give_text(text: String) -> *mut c_char {
    let text = CString::new(text.replace('\0', " ")).unwrap_or_default();
    let address = text.as_ptr();
    write().texts.get_or_insert_default().insert(address.addr(), text);
    address.cast_mut()
}

/// Frees such a text; anything else is left alone.
pub(crate) fn free_text(text: *const c_char) {
    let mut table = write();
    let freed = table.texts.as_mut().and_then(|texts| texts.remove(&text.addr()));
    if table.texts.as_ref().is_some_and(HashMap::is_empty) {
        table.texts = None;
    }
    drop(table);
    drop(freed);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_is_good_once_and_for_its_kind() {
        let handle: *mut u8 = give(String::from("x"));
        assert_eq!(*find::<u8, String>(handle, "h").unwrap(), "x");
        assert_eq!(find::<u8, u64>(handle, "h").unwrap_err().code, EVERPOST_HANDLE);
        assert!(take::<u8, String>(handle, "h").is_ok());
        assert_eq!(take::<u8, String>(handle, "h").unwrap_err().code, EVERPOST_HANDLE);
        assert_eq!(find::<u8, String>(std::ptr::null(), "h").unwrap_err().code, EVERPOST_ARGUMENT);
        let other: *mut u8 = give(String::from("y"));
        assert_ne!(handle, other);
        free_text(std::ptr::null());
        let text = give_text("a\0b".into());
        free_text(text);
        free_text(text);
    }
}
