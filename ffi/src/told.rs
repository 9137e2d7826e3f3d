//! What the library tells: errors, answers, events. Each is looked at by functions that take NULL as "nothing".
//! Rules: a text lives as long as the handle it came from.
//! Errors: none; NULL, and a handle that is gone, give zero, false or an empty text.

use crate::boundary::{Told, quiet};
use crate::code::everpost_code::{EVERPOST_HANDLE, EVERPOST_OK};
use crate::code::{everpost_code, everpost_event_kind_t, everpost_phase};
use crate::handle::{find, take};
use crate::{c_string, everpost_answer, everpost_error, everpost_event, nothing};
use ::everpost_client::io::client::Answer;
use ::everpost_client::report::Report;
use std::ffi::{CString, c_char, c_void};
use std::ptr::null;

/// What an `everpost_answer` stands for.
#[derive(Debug)]
pub(crate) struct Answered {
    /// With a zero byte behind it.
    bytes: Vec<u8>,
    status: u32,
    endpoint: CString,
}

impl Answered {
    pub(crate) fn new(answer: Answer) -> Answered {
        let Answer { endpoint, mut bytes, status } = answer;
        bytes.push(0);
        Answered { bytes, status, endpoint: c_string(&endpoint) }
    }
}

/// What an `everpost_event` stands for.
#[derive(Debug)]
pub(crate) struct Happened {
    kind: everpost_event_kind_t,
    id: u64,
    destination: CString,
    endpoint: CString,
    text: CString,
}

impl Happened {
    pub(crate) fn new(report: &Report) -> Happened {
        let kind = everpost_event_kind_t::of(report.kind);
        let (destination, endpoint, text) = (c_string(&report.destination), c_string(&report.endpoint), c_string(&report.text));
        Happened { kind, id: report.id, destination, endpoint, text }
    }
}

/// The code. EVERPOST_OK for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn everpost_error_code(error: *const everpost_error) -> everpost_code {
    if error.is_null() {
        return EVERPOST_OK;
    }
    quiet(EVERPOST_HANDLE, || find::<_, Told>(error, "error").map(|told| told.code))
}

/// The code's name, "EVERPOST_NOT_SENT". Never NULL; valid for the life of the process.
#[unsafe(no_mangle)]
pub extern "C" fn everpost_error_name(error: *const everpost_error) -> *const c_char {
    everpost_error_code(error).name().as_ptr()
}

/// What happened and what to do, for people; no patient data. Never NULL; valid until the error is freed.
#[unsafe(no_mangle)]
pub extern "C" fn everpost_error_text(error: *const everpost_error) -> *const c_char {
    quiet(nothing(), || find::<_, Told>(error, "error").map(|told| told.text.as_ptr()))
}

/// How far the message came.
#[unsafe(no_mangle)]
pub extern "C" fn everpost_error_phase(error: *const everpost_error) -> everpost_phase {
    quiet(everpost_phase::EVERPOST_PHASE_NONE, || find::<_, Told>(error, "error").map(|told| told.phase))
}

/// The name of the endpoint that was tried last; empty: none. Never NULL; valid until the error is freed.
#[unsafe(no_mangle)]
pub extern "C" fn everpost_error_endpoint(error: *const everpost_error) -> *const c_char {
    quiet(nothing(), || find::<_, Told>(error, "error").map(|told| told.endpoint.as_ptr()))
}

/// Whether the same call may succeed later, with nothing changed and without the risk of a duplicate.
#[unsafe(no_mangle)]
pub extern "C" fn everpost_error_is_retriable(error: *const everpost_error) -> bool {
    quiet(false, || find::<_, Told>(error, "error").map(|told| told.retriable))
}

/// Frees an error. NULL, and what was freed before, is left alone.
#[unsafe(no_mangle)]
pub extern "C" fn everpost_error_free(error: *mut everpost_error) {
    quiet((), || take::<_, Told>(error, "error").map(drop));
}

/// The answer's bytes: HL7: the message that came back; DICOM: none. A zero byte stands behind them. `len` may be NULL. NULL for no answer; valid until
/// the answer is freed.
///
/// # Safety
/// `len` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn everpost_answer_bytes(answer: *const everpost_answer, len: *mut usize) -> *const c_void {
    // SAFETY: the caller's promise; NULL becomes None.
    let place = unsafe { len.as_mut() };
    let (bytes, count) =
        quiet((null(), 0), || find::<_, Answered>(answer, "answer").map(|answer| (answer.bytes.as_ptr().cast(), answer.bytes.len() - 1)));
    if let Some(place) = place {
        *place = count;
    }
    bytes
}

/// DICOM: the status (0000,0900). HL7: 0 for AA and CA, else the two letters of MSA-1 as a number: "AE" is 0x4145.
#[unsafe(no_mangle)]
pub extern "C" fn everpost_answer_status(answer: *const everpost_answer) -> u32 {
    quiet(0, || find::<_, Answered>(answer, "answer").map(|answer| answer.status))
}

/// The name of the endpoint that answered. Never NULL; valid until the answer is freed.
#[unsafe(no_mangle)]
pub extern "C" fn everpost_answer_endpoint(answer: *const everpost_answer) -> *const c_char {
    quiet(nothing(), || find::<_, Answered>(answer, "answer").map(|answer| answer.endpoint.as_ptr()))
}

/// Frees an answer. NULL, and what was freed before, is left alone.
#[unsafe(no_mangle)]
pub extern "C" fn everpost_answer_free(answer: *mut everpost_answer) {
    quiet((), || take::<_, Answered>(answer, "answer").map(drop));
}

/// What the event tells. EVERPOST_EVENT_NONE for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn everpost_event_kind(event: *const everpost_event) -> everpost_event_kind_t {
    quiet(everpost_event_kind_t::EVERPOST_EVENT_NONE, || find::<_, Happened>(event, "event").map(|event| event.kind))
}

/// The id of the message, as submit gave it; 0: none. EVERPOST_EVENT_LOST: how many events were lost.
#[unsafe(no_mangle)]
pub extern "C" fn everpost_event_id(event: *const everpost_event) -> u64 {
    quiet(0, || find::<_, Happened>(event, "event").map(|event| event.id))
}

/// The name of the destination; empty: none. Never NULL; valid until the event is freed.
#[unsafe(no_mangle)]
pub extern "C" fn everpost_event_destination(event: *const everpost_event) -> *const c_char {
    quiet(nothing(), || find::<_, Happened>(event, "event").map(|event| event.destination.as_ptr()))
}

/// The name of the endpoint; empty: none. Never NULL; valid until the event is freed.
#[unsafe(no_mangle)]
pub extern "C" fn everpost_event_endpoint(event: *const everpost_event) -> *const c_char {
    quiet(nothing(), || find::<_, Happened>(event, "event").map(|event| event.endpoint.as_ptr()))
}

/// What happened, for people; no patient data. Never NULL; valid until the event is freed.
#[unsafe(no_mangle)]
pub extern "C" fn everpost_event_text(event: *const everpost_event) -> *const c_char {
    quiet(nothing(), || find::<_, Happened>(event, "event").map(|event| event.text.as_ptr()))
}

/// Frees an event. NULL, and what was freed before, is left alone.
#[unsafe(no_mangle)]
pub extern "C" fn everpost_event_free(event: *mut everpost_event) {
    quiet((), || take::<_, Happened>(event, "event").map(drop));
}
