//! The client: open, submit, send, echo, events, status, close.
//! Errors: as stated at each function; every function returns `EVERPOST_HANDLE` for a handle that is none, `EVERPOST_CLOSED` on a client that another
//! thread is closing, `EVERPOST_FORKED` in a child of the process that opened it, `EVERPOST_INTERNAL` after a fault of the library.

use crate::boundary::{Fault, boundary, bytes, out, quiet, text};
use crate::code::everpost_code;
use crate::config::{Config, Wanted, check_version};
use crate::handle::{find, give, give_text, take};
use crate::told::{Answered, Happened};
use crate::{everpost_answer, everpost_client, everpost_config, everpost_descriptor, everpost_error, everpost_event, everpost_object};
use ::everpost_client::ids::EnvelopeId;
use ::everpost_client::io::client::{Answer, Client, ClientError, Upload};
use ::everpost_client::report::Report;
use std::ffi::{CString, c_char, c_void};
use std::path::Path;
use std::ptr::null_mut;
use std::sync::Arc;
use std::time::Duration;

fn millis(time: u32) -> Duration {
    Duration::from_millis(u64::from(time))
}

fn client(client: *mut everpost_client) -> Result<Arc<Client>, Fault> {
    find::<_, Client>(client, "client")
}

fn object(object: *mut everpost_object) -> Result<Arc<Upload>, Fault> {
    find::<_, Upload>(object, "object")
}

type OnReport = Box<dyn FnMut(Report) + Send>;

/// What the host wants called for each event.
fn on_event(wanted: &Wanted) -> Option<OnReport> {
    let (callback, user) = wanted.on_event?;
    let callback = callback?;
    Some(Box::new(move |report| {
        let user = user;
        let event = give::<everpost_event, _>(Happened::new(&report));
        // SAFETY: the host promised that it may be called so.
        unsafe { callback(event, user.0) };
        quiet((), || take::<_, Happened>(event, "event").map(drop));
    }))
}

fn on_log(wanted: &Wanted) -> Option<OnReport> {
    let (callback, user, most) = wanted.on_log?;
    let callback = callback?;
    Some(Box::new(move |report| {
        let user = user;
        let level = report.kind.level();
        if level > most {
            return;
        }
        let about = [&*report.destination, &*report.endpoint].into_iter().filter(|name| !name.is_empty()).collect::<Vec<_>>().join("/");
        let id = report.envelope().map(|id| format!(" {id}")).unwrap_or_default();
        let line = CString::new(format!("{about}{id}: {}: {}", report.kind.name(), report.text)).unwrap_or_default();
        // SAFETY: the host promised that it may be called so.
        unsafe { callback(level, line.as_ptr(), user.0) };
    }))
}

/// Opens the spool in the configuration's `data_dir`, and delivers from now on what waits in it. The folder is locked until everpost_close. Close the
/// client with everpost_close; the configuration is not needed any more.
///
/// Returns EVERPOST_CONFIGURATION, EVERPOST_IN_USE, EVERPOST_STORAGE, EVERPOST_LIMIT, EVERPOST_VERSION; `*client` is NULL then. Blocks on the disk.
/// Any thread.
///
/// # Safety
/// `client` and `error` are NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn everpost_open(
    config: *const everpost_config,
    client: *mut *mut everpost_client,
    error: *mut *mut everpost_error,
) -> everpost_code {
    // SAFETY: the caller's promises.
    unsafe {
        boundary(error, || {
            let place = out(client, null_mut(), "client")?;
            let wanted = find::<_, Config>(config, "config")?.wanted();
            check_version(&wanted)?;
            *place = give(Client::open_with(&wanted.settings, on_event(&wanted), on_log(&wanted))?);
            Ok(())
        })
    }
}

/// Closes a client: takes nothing more, lets what is on its way arrive while there is time and an endpoint in service, gives the folder back. `left`, if
/// not NULL, says how many messages wait for the next start. Objects that are being written are dropped. NULL is left alone.
///
/// The handle is gone afterwards, whatever is returned; calls on other threads end with EVERPOST_CLOSED, and a second close with EVERPOST_HANDLE.
/// Returns EVERPOST_STORAGE if the disk did not take the last bookkeeping, which costs at most repeated work; EVERPOST_ARGUMENT in a callback, where
/// nothing happens. Blocks at most `timeout_ms` and some seconds for a disk that hangs. Any thread but those that call back.
///
/// # Safety
/// `left` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn everpost_close(client: *mut everpost_client, timeout_ms: u32, left: *mut u64) -> everpost_code {
    if client.is_null() {
        return everpost_code::EVERPOST_OK;
    }
    // SAFETY: no error object is asked for; the rest is the caller's promise.
    unsafe {
        boundary(null_mut(), || {
            let mut unwanted = 0;
            let left = left.as_mut().unwrap_or(&mut unwanted);
            *left = 0;
            let found = find::<_, Client>(client, "client")?;
            found.may_close()?;
            let taken = take::<_, Client>(client, "client")?;
            drop(found);
            *left = taken.close(millis(timeout_ms))?;
            Ok(())
        })
    }
}

/// Takes an HL7 message into the spool. It is durable when EVERPOST_OK is returned, and `*id` is that of its events. Segments end with CR; bytes go out
/// as they are. Delivery goes on in the background, in order, through restarts of the process.
///
/// Returns EVERPOST_DESTINATION, EVERPOST_CONTENT, EVERPOST_FULL, EVERPOST_STORAGE, EVERPOST_LIMIT: nothing was taken. Blocks for one sync of the
/// disk, never for the network. `id` may be NULL. The message is copied. Any thread.
///
/// # Safety
/// `destination` is NULL or ends with a zero byte; `message` points to `len` bytes; `id` and `error` are NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn everpost_submit_hl7(
    client: *mut everpost_client,
    destination: *const c_char,
    message: *const c_void,
    len: usize,
    id: *mut u64,
    error: *mut *mut everpost_error,
) -> everpost_code {
    // SAFETY: the caller's promises.
    unsafe {
        submit(id, error, || {
            let (destination, message) = (text(destination, "destination")?, bytes(message, len, "message")?);
            Ok(self::client(client)?.submit_hl7(destination, message)?)
        })
    }
}

/// Takes a DICOM file (PS3.10) into the spool. As everpost_submit_hl7; EVERPOST_ARGUMENT for a file that cannot be read. The file is copied.
///
/// # Safety
/// The strings are NULL or end with a zero byte; `id` and `error` are NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn everpost_submit_dicom_file(
    client: *mut everpost_client,
    destination: *const c_char,
    path: *const c_char,
    id: *mut u64,
    error: *mut *mut everpost_error,
) -> everpost_code {
    // SAFETY: the caller's promises.
    unsafe {
        submit(id, error, || {
            let (destination, path) = (text(destination, "destination")?, text(path, "path")?);
            Ok(self::client(client)?.submit_dicom_file(destination, Path::new(path))?)
        })
    }
}

/// Takes a DICOM file that is in memory into the spool. As everpost_submit_hl7.
///
/// # Safety
/// As everpost_submit_hl7.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn everpost_submit_dicom(
    client: *mut everpost_client,
    destination: *const c_char,
    part10: *const c_void,
    len: usize,
    id: *mut u64,
    error: *mut *mut everpost_error,
) -> everpost_code {
    // SAFETY: the caller's promises.
    unsafe {
        submit(id, error, || {
            let (destination, part10) = (text(destination, "destination")?, bytes(part10, len, "part10")?);
            Ok(self::client(client)?.submit_dicom(destination, part10)?)
        })
    }
}

/// # Safety
/// `id` and `error` are NULL or writable.
unsafe fn submit(id: *mut u64, error: *mut *mut everpost_error, submit: impl FnOnce() -> Result<EnvelopeId, Fault>) -> everpost_code {
    // SAFETY: the caller's promises.
    unsafe {
        boundary(error, || {
            let mut unwanted = 0;
            let place = id.as_mut().unwrap_or(&mut unwanted);
            *place = 0;
            *place = submit()?.0;
            Ok(())
        })
    }
}

/// Starts a DICOM object whose data set is written piece by piece, in the given transfer syntax and without File Meta Information. End it with
/// everpost_object_finish or everpost_object_abort, which free it. Whatever its size, one chunk of 256 KiB is in memory.
///
/// Returns EVERPOST_CONTENT for a UID that is none, EVERPOST_DESTINATION, EVERPOST_FULL, EVERPOST_LIMIT (too many objects at a time). Any thread.
///
/// # Safety
/// The strings are NULL or end with a zero byte; `object` and `error` are NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn everpost_object_begin(
    client: *mut everpost_client,
    destination: *const c_char,
    sop_class: *const c_char,
    sop_instance: *const c_char,
    transfer_syntax: *const c_char,
    object: *mut *mut everpost_object,
    error: *mut *mut everpost_error,
) -> everpost_code {
    // SAFETY: the caller's promises.
    unsafe {
        boundary(error, || {
            let place = out(object, null_mut(), "object")?;
            let (destination, class) = (text(destination, "destination")?, text(sop_class, "sop_class")?);
            let (instance, syntax) = (text(sop_instance, "sop_instance")?, text(transfer_syntax, "transfer_syntax")?);
            *place = give(self::client(client)?.begin(destination, class, instance, syntax)?);
            Ok(())
        })
    }
}

/// Appends bytes of the data set. Blocks on the disk at most for the writing of a chunk.
///
/// Returns EVERPOST_FULL or EVERPOST_STORAGE: the object is lost, and must still be ended. EVERPOST_CLOSED after everpost_close.
///
/// # Safety
/// `data` points to `len` bytes; `error` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn everpost_object_write(
    object: *mut everpost_object,
    data: *const c_void,
    len: usize,
    error: *mut *mut everpost_error,
) -> everpost_code {
    // SAFETY: the caller's promises.
    unsafe {
        boundary(error, || {
            let data = bytes(data, len, "data")?;
            Ok(self::object(object)?.write(data)?)
        })
    }
}

/// The object is whole: it is durable when EVERPOST_OK is returned, and `*id` is that of its events. The handle is gone afterwards, whatever is
/// returned.
///
/// Returns EVERPOST_CONTENT if nothing was written; EVERPOST_FULL, EVERPOST_STORAGE, EVERPOST_CLOSED: nothing was taken. Blocks for a sync.
///
/// # Safety
/// `id` and `error` are NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn everpost_object_finish(object: *mut everpost_object, id: *mut u64, error: *mut *mut everpost_error) -> everpost_code {
    // SAFETY: the caller's promises.
    unsafe { submit(id, error, || Ok(take::<_, Upload>(object, "object")?.finish()?)) }
}

/// Gives an object up. The handle is gone afterwards. NULL is left alone.
///
/// Returns EVERPOST_HANDLE if it was ended before. Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn everpost_object_abort(object: *mut everpost_object) -> everpost_code {
    if object.is_null() {
        return everpost_code::EVERPOST_OK;
    }
    // SAFETY: no error object is asked for.
    unsafe {
        boundary(null_mut(), || {
            take::<_, Upload>(object, "object")?.abort();
            Ok(())
        })
    }
}

/// Sends an HL7 message and waits for the answer of the first endpoint that takes it, failing over meanwhile. Nothing is kept.
///
/// Returns EVERPOST_OK with `*answer`; EVERPOST_NEGATIVE with `*answer`; EVERPOST_NOT_SENT: no endpoint can have it, it is safe to try elsewhere;
/// EVERPOST_UNANSWERED: one may have it; EVERPOST_DESTINATION; EVERPOST_CONTENT. Free the answer with everpost_answer_free. Blocks at most
/// `timeout_ms`. Any thread.
///
/// # Safety
/// `destination` is NULL or ends with a zero byte; `message` points to `len` bytes; `answer` and `error` are NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn everpost_send_hl7(
    client: *mut everpost_client,
    destination: *const c_char,
    message: *const c_void,
    len: usize,
    timeout_ms: u32,
    answer: *mut *mut everpost_answer,
    error: *mut *mut everpost_error,
) -> everpost_code {
    // SAFETY: the caller's promises.
    unsafe {
        send(answer, error, || {
            let (destination, message) = (text(destination, "destination")?, bytes(message, len, "message")?);
            Ok(self::client(client)?.send_hl7(destination, message, millis(timeout_ms)))
        })
    }
}

/// Sends a DICOM file and waits for the status. As everpost_send_hl7; EVERPOST_ARGUMENT for a file that cannot be read.
///
/// # Safety
/// The strings are NULL or end with a zero byte; `answer` and `error` are NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn everpost_send_dicom_file(
    client: *mut everpost_client,
    destination: *const c_char,
    path: *const c_char,
    timeout_ms: u32,
    answer: *mut *mut everpost_answer,
    error: *mut *mut everpost_error,
) -> everpost_code {
    // SAFETY: the caller's promises.
    unsafe {
        send(answer, error, || {
            let (destination, path) = (text(destination, "destination")?, text(path, "path")?);
            Ok(self::client(client)?.send_dicom_file(destination, Path::new(path), millis(timeout_ms)))
        })
    }
}

/// Sends a DICOM file that is in memory. As everpost_send_hl7.
///
/// # Safety
/// As everpost_send_hl7.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn everpost_send_dicom(
    client: *mut everpost_client,
    destination: *const c_char,
    part10: *const c_void,
    len: usize,
    timeout_ms: u32,
    answer: *mut *mut everpost_answer,
    error: *mut *mut everpost_error,
) -> everpost_code {
    // SAFETY: the caller's promises.
    unsafe {
        send(answer, error, || {
            let (destination, part10) = (text(destination, "destination")?, bytes(part10, len, "part10")?);
            Ok(self::client(client)?.send_dicom(destination, part10, millis(timeout_ms)))
        })
    }
}

/// # Safety
/// `answer` and `error` are NULL or writable.
unsafe fn send(
    answer: *mut *mut everpost_answer,
    error: *mut *mut everpost_error,
    send: impl FnOnce() -> Result<Result<Answer, ClientError>, Fault>,
) -> everpost_code {
    // SAFETY: the caller's promises.
    unsafe {
        boundary(error, || {
            let mut unwanted = null_mut();
            let wanted = answer.is_null();
            let place = answer.as_mut().unwrap_or(&mut unwanted);
            *place = null_mut();
            let mut keep = |answer: Answer| {
                if !wanted {
                    *place = give(Answered::new(answer));
                }
            };
            match send()? {
                Ok(answer) => keep(answer),
                Err(error) => {
                    let mut fault = Fault::from(error);
                    if let Some(answer) = fault.answer.take() {
                        keep(*answer);
                    }
                    return Err(fault);
                }
            }
            Ok(())
        })
    }
}

/// Asks the endpoints of a destination, one after the other, whether one is there: C-ECHO for DICOM, the configured probe for HL7.
///
/// Returns EVERPOST_NOT_SENT, with what the last one met; EVERPOST_DESTINATION. Blocks at most `timeout_ms`. Any thread.
///
/// # Safety
/// `destination` is NULL or ends with a zero byte; `error` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn everpost_echo(
    client: *mut everpost_client,
    destination: *const c_char,
    timeout_ms: u32,
    error: *mut *mut everpost_error,
) -> everpost_code {
    // SAFETY: the caller's promises.
    unsafe {
        boundary(error, || {
            let destination = text(destination, "destination")?;
            self::client(client)?.echo(destination, millis(timeout_ms))?;
            Ok(())
        })
    }
}

/// The oldest event, waiting for one at most `timeout_ms` (0: not at all). `*event` is NULL if none came. Free it with everpost_event_free.
///
/// Returns EVERPOST_OK in both cases. Any thread; each event goes to one.
///
/// # Safety
/// `event` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn everpost_poll(client: *mut everpost_client, timeout_ms: u32, event: *mut *mut everpost_event) -> everpost_code {
    // SAFETY: no error object is asked for; the rest is the caller's promise.
    unsafe {
        boundary(null_mut(), || {
            let place = out(event, null_mut(), "event")?;
            if let Some(report) = self::client(client)?.poll(millis(timeout_ms))? {
                *place = give(Happened::new(&report));
            }
            Ok(())
        })
    }
}

/// A descriptor that select, poll, epoll, Qt or GLib can watch for reading: it is readable while there is an event to poll. It belongs to the client:
/// neither read nor close it, and stop watching it before everpost_close. -1 if there is none. Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn everpost_event_fd(client: *mut everpost_client) -> everpost_descriptor {
    quiet(-1, || Ok(self::client(client)?.event_fd()?))
}

/// What became of a message, as an event, also after its event was read or lost: as long as the spool's history reaches. Free it with
/// everpost_event_free.
///
/// Returns EVERPOST_UNKNOWN for an id of which nothing is known. Blocks on the disk. Any thread.
///
/// # Safety
/// `event` and `error` are NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn everpost_outcome(
    client: *mut everpost_client,
    id: u64,
    event: *mut *mut everpost_event,
    error: *mut *mut everpost_error,
) -> everpost_code {
    // SAFETY: the caller's promises.
    unsafe {
        boundary(error, || {
            let place = out(event, null_mut(), "event")?;
            *place = give(Happened::new(&self::client(client)?.outcome(EnvelopeId(id))?));
            Ok(())
        })
    }
}

/// Waits until every message submitted before has come to an outcome. `left`, if not NULL, says how many have not.
///
/// Returns EVERPOST_TIMEOUT if there are any; they are delivered when an endpoint takes them. Blocks at most `timeout_ms`. Any thread.
///
/// # Safety
/// `left` and `error` are NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn everpost_flush(
    client: *mut everpost_client,
    timeout_ms: u32,
    left: *mut u64,
    error: *mut *mut everpost_error,
) -> everpost_code {
    // SAFETY: the caller's promises.
    unsafe {
        boundary(error, || {
            let mut unwanted = 0;
            let left = left.as_mut().unwrap_or(&mut unwanted);
            *left = 0;
            self::client(client)?.flush(millis(timeout_ms)).inspect_err(|error| {
                if let ClientError::TimedOut(count) = error {
                    *left = *count;
                }
            })?;
            Ok(())
        })
    }
}

/// How it stands, as JSON: version, spool_bytes, spool_free_bytes, intake ("open", "reserve", "broken"), destinations with their counts and endpoints, as
/// in `everpost status --json`. Free it with everpost_string_free. Any thread.
///
/// # Safety
/// `json` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn everpost_status_json(client: *mut everpost_client, json: *mut *mut c_char) -> everpost_code {
    // SAFETY: no error object is asked for; the rest is the caller's promise.
    unsafe {
        boundary(null_mut(), || {
            let place = out(json, null_mut(), "json")?;
            let status = self::client(client)?.status()?;
            let text = serde_json::to_string(&status).map_err(|e| Fault::new(everpost_code::EVERPOST_INTERNAL, e.to_string()))?;
            *place = give_text(text);
            Ok(())
        })
    }
}
