//! Settings: from a file, from a string, by setters; and where events go.
//! Errors: `EVERPOST_CONFIGURATION`, `EVERPOST_ARGUMENT`, `EVERPOST_HANDLE`.

use crate::boundary::{Fault, boundary, keep_silent, out, quiet, text};
use crate::code::everpost_code;
use crate::code::everpost_code::EVERPOST_VERSION;
use crate::handle::{find, give, take};
use crate::{EVERPOST_ABI, everpost_config, everpost_error, everpost_on_event, everpost_on_log};
use ::everpost_client::io::client::{Settings, with_room};
use std::ffi::{c_char, c_void};
use std::path::Path;
use std::ptr::null_mut;
use std::sync::{Mutex, PoisonError};

/// What a `everpost_config` stands for.
#[derive(Debug, Default)]
pub(crate) struct Config(Mutex<Wanted>);

/// What was set.
#[derive(Debug, Default, Clone)]
pub(crate) struct Wanted {
    pub(crate) settings: Settings,
    pub(crate) abi: u32,
    pub(crate) on_event: Option<(everpost_on_event, User)>,
    pub(crate) on_log: Option<(everpost_on_log, User, u32)>,
}

/// The host's pointer. It is handed back and never looked at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct User(pub(crate) *mut c_void);

// SAFETY: the host was told that its pointer goes to another thread, and nothing here follows it.
unsafe impl Send for User {}
// SAFETY: as above.
unsafe impl Sync for User {}

impl Config {
    pub(crate) fn wanted(&self) -> Wanted {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn change(config: *mut everpost_config, change: impl FnOnce(&mut Wanted) -> Result<(), Fault> + Send) -> Result<(), Fault> {
    let config = find::<_, Config>(config, "config")?;
    let mut guard = config.0.lock().unwrap_or_else(PoisonError::into_inner);
    let wanted: &mut Wanted = &mut guard;
    // Reading TOML takes more stack than some threads have.
    with_room(|| change(wanted))?
}

/// Makes an empty configuration. Free it with everpost_config_free; it may be freed once the client is open.
///
/// Returns EVERPOST_ARGUMENT if `config` is NULL. Any thread.
///
/// # Safety
/// `config` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn everpost_config_new(config: *mut *mut everpost_config) -> everpost_code {
    // SAFETY: no error object is asked for; the rest is the caller's promise.
    unsafe {
        boundary(null_mut(), || {
            keep_silent();
            *out(config, null_mut(), "config")? = give(Config::default());
            Ok(())
        })
    }
}

/// Frees a configuration. NULL, and what was freed before, is left alone.
#[unsafe(no_mangle)]
pub extern "C" fn everpost_config_free(config: *mut everpost_config) {
    quiet((), || take::<_, Config>(config, "config").map(drop));
}

/// Reads TOML from a file, in place of what was read or set before: `data_dir`, `[client]`, `[spool]`, `[names]` and `[[destination]]`, as in the
/// gateway's configuration. Relative paths in it start from its folder.
///
/// Returns EVERPOST_CONFIGURATION, with `file:line:column: what; remedy` for each problem; then nothing has changed.
///
/// # Safety
/// `path` is NULL or a string that ends with a zero byte; `error` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn everpost_config_load_file(
    config: *mut everpost_config,
    path: *const c_char,
    error: *mut *mut everpost_error,
) -> everpost_code {
    // SAFETY: the caller's promises.
    unsafe {
        boundary(error, || {
            let path = text(path, "path")?;
            change(config, |wanted| Ok(wanted.settings.load_file(Path::new(path))?))
        })
    }
}

/// The same from a string. Relative paths in it start from the working directory.
///
/// # Safety
/// `toml` is NULL or a string that ends with a zero byte; `error` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn everpost_config_load_string(
    config: *mut everpost_config,
    toml: *const c_char,
    error: *mut *mut everpost_error,
) -> everpost_code {
    // SAFETY: the caller's promises.
    unsafe {
        boundary(error, || {
            let toml = text(toml, "toml")?;
            change(config, |wanted| Ok(wanted.settings.load_toml(toml)?))
        })
    }
}

/// Says where the spool is: a folder for this program alone, made if new. Replaces `data_dir` of the TOML.
///
/// # Safety
/// `path` is NULL or a string that ends with a zero byte; `error` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn everpost_config_set_data_dir(
    config: *mut everpost_config,
    path: *const c_char,
    error: *mut *mut everpost_error,
) -> everpost_code {
    // SAFETY: the caller's promises.
    unsafe {
        boundary(error, || {
            let path = text(path, "path")?;
            change(config, |wanted| {
                wanted.settings.set_data_dir(path);
                Ok(())
            })
        })
    }
}

/// Adds a destination. `protocol` is "mllp" or "dicom".
///
/// Returns EVERPOST_CONFIGURATION if there is one of this name. The rest is checked by everpost_open.
///
/// # Safety
/// The strings are NULL or end with a zero byte; `error` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn everpost_config_add_destination(
    config: *mut everpost_config,
    name: *const c_char,
    protocol: *const c_char,
    error: *mut *mut everpost_error,
) -> everpost_code {
    // SAFETY: the caller's promises.
    unsafe {
        boundary(error, || {
            let (name, protocol) = (text(name, "name")?, text(protocol, "protocol")?);
            change(config, |wanted| Ok(wanted.settings.add_destination(name, protocol)?))
        })
    }
}

/// Adds an endpoint behind those that a destination has. `address` is "host:port"; `ae_title` is needed for DICOM and NULL for HL7.
///
/// Returns EVERPOST_CONFIGURATION if there is no such destination. The rest is checked by everpost_open.
///
/// # Safety
/// The strings are NULL or end with a zero byte; `error` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn everpost_config_add_endpoint(
    config: *mut everpost_config,
    destination: *const c_char,
    name: *const c_char,
    address: *const c_char,
    ae_title: *const c_char,
    error: *mut *mut everpost_error,
) -> everpost_code {
    // SAFETY: the caller's promises.
    unsafe {
        boundary(error, || {
            let (destination, name, address) = (text(destination, "destination")?, text(name, "name")?, text(address, "address")?);
            let title = if ae_title.is_null() { None } else { Some(text(ae_title, "ae_title")?) };
            change(config, |wanted| Ok(wanted.settings.add_endpoint(destination, name, address, title)?))
        })
    }
}

/// Sets one key to a TOML value: "\"30s\"" with its quotes, "4", "{ probe = \"tcp\" }". `table` is "" for the top, "client", "spool", "names", the
/// name of a destination, or "DESTINATION/ENDPOINT".
///
/// # Safety
/// The strings are NULL or end with a zero byte; `error` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn everpost_config_set(
    config: *mut everpost_config,
    table: *const c_char,
    key: *const c_char,
    value: *const c_char,
    error: *mut *mut everpost_error,
) -> everpost_code {
    // SAFETY: the caller's promises.
    unsafe {
        boundary(error, || {
            let (table, key, value) = (text(table, "table")?, text(key, "key")?, text(value, "value")?);
            change(config, |wanted| Ok(wanted.settings.set(table, key, value)?))
        })
    }
}

/// Has everpost_open fail with EVERPOST_VERSION if the library is older than the header: pass EVERPOST_ABI.
#[unsafe(no_mangle)]
pub extern "C" fn everpost_config_expect(config: *mut everpost_config, abi: u32) -> everpost_code {
    // SAFETY: no error object is asked for.
    unsafe {
        boundary(null_mut(), || {
            change(config, |wanted| {
                wanted.abi = abi;
                Ok(())
            })
        })
    }
}

/// Has a thread of the library call `callback` with every event, one after the other, from everpost_open until everpost_close returns; everpost_poll
/// then finds none. The callback may call every function on the client except everpost_close. NULL: no callback.
///
/// # Safety
/// `callback` may be called on another thread, with `user`, until everpost_close has returned.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn everpost_config_on_event(config: *mut everpost_config, callback: everpost_on_event, user: *mut c_void) -> everpost_code {
    let user = User(user);
    // SAFETY: no error object is asked for.
    unsafe {
        boundary(null_mut(), || {
            change(config, |wanted| {
                wanted.on_event = callback.is_some().then_some((callback, user));
                Ok(())
            })
        })
    }
}

/// Has a thread of the library call `callback` with every line of the log up to a level: 1 errors, 2 warnings, 3 news, 4 details. The
/// callback may call every function on the client except everpost_close. NULL: no callback.
///
/// # Safety
/// As everpost_config_on_event.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn everpost_config_on_log(
    config: *mut everpost_config,
    level: u32,
    callback: everpost_on_log,
    user: *mut c_void,
) -> everpost_code {
    let user = User(user);
    // SAFETY: no error object is asked for.
    unsafe {
        boundary(null_mut(), || {
            change(config, |wanted| {
                wanted.on_log = callback.is_some().then_some((callback, user, level));
                Ok(())
            })
        })
    }
}

/// Whether the program was built for what this library is.
pub(crate) fn check_version(wanted: &Wanted) -> Result<(), Fault> {
    if wanted.abi <= EVERPOST_ABI {
        return Ok(());
    }
    let what = format!("the program needs interface {} and this library has {EVERPOST_ABI}; install a newer libeverpost", wanted.abi);
    Err(Fault::new(EVERPOST_VERSION, what))
}
