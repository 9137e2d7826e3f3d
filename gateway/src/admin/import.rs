//! `POST /api/v1/destinations/{name}/import`: takes a message that another gateway exported into the spool, for one destination. Only on the socket.
//! Rules: durable when it is answered; no route is asked, because the message was routed where it came from; its lane is made anew from its content, so the
//! order of imports is the order of delivery; one chunk is in memory, whatever the size.
//! Errors: 404 for a destination that is not configured, 422 for content that is none, 503 while nothing is taken in.

use super::Problem;
use super::auth::Door;
use crate::intake::refusal;
use crate::live::{Live, now};
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use bytes::{Bytes, BytesMut};
use everpost_client::dicom::part10::{self, FileHead};
use everpost_client::dicom::walker::KeyReader;
use everpost_client::event::Refusal;
use everpost_client::hl7::message::Message;
use everpost_client::io::in_place;
use everpost_client::keys::{Key, Keys, Protocol};
use everpost_client::limits::{FILE_HEAD_BYTES_MAX, MLLP_BLOCK_BYTES_DEFAULT};
use everpost_client::mllp;
use everpost_client::spool::{Content, Draft, Spool, UnixMillis};
use http_body_util::BodyExt;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// Silence within the content after which whoever sends it counts as gone.
const PIECE_WITHIN: Duration = Duration::from_secs(30);

/// What the exporting gateway knew of the message.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    listener: Option<String>,
    peer: Option<String>,
    calling_ae: Option<String>,
    called_ae: Option<String>,
    /// RFC 3339.
    accepted_at: Option<String>,
    #[serde(default)]
    stat: bool,
}

impl Origin {
    /// The keys that are not in the content.
    fn keys(&self) -> Keys {
        let mut keys = Keys::new();
        let known = [(Key::Peer, &self.peer), (Key::CallingAe, &self.calling_ae), (Key::CalledAe, &self.called_ae)];
        keys.set(Key::Listener, self.listener.as_deref().unwrap_or("import").as_bytes());
        for (key, value) in known {
            if let Some(value) = value {
                keys.set(key, value.as_bytes());
            }
        }
        keys
    }

    /// When it was first accepted; never in the future, and now if that is not known.
    fn accepted_at(&self) -> Result<UnixMillis, Problem> {
        let Some(text) = &self.accepted_at else { return Ok(now()) };
        let at: jiff::Timestamp = text.parse().map_err(|_| wrong(format!("accepted_at = {text:?} is no time (RFC 3339)")))?;
        Ok(UnixMillis::try_from(at.as_millisecond()).unwrap_or(0).min(now()))
    }
}

fn wrong(detail: impl Into<String>) -> Problem {
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail)
}

fn closed(refusal: Refusal) -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, format!("nothing is taken in now ({}); `everpost status` says why", refusal.label()))
}

/// `POST /api/v1/destinations/{name}/import`.
/// # Errors
/// As the module says.
pub async fn import(
    State(live): State<Arc<Live>>,
    Extension(door): Extension<Door>,
    Path(name): Path<String>,
    Query(origin): Query<Origin>,
    body: Body,
) -> Result<Json<Value>, Problem> {
    door.demand_socket("importing")?;
    let accepted_at = origin.accepted_at()?;
    let running = live.running(&name).map_err(super::endpoints::problem)?;
    let (protocol, intake) = (running.driver.way().0.protocol, live.intake());
    intake.admit().map_err(closed)?;
    let (keys, content) = match protocol {
        Protocol::Mllp => hl7(body, origin.keys()).await?,
        Protocol::Dicom => dicom(live.committer().spool(), body, origin.keys()).await?,
    };
    let addressee = intake.addressed(&name, &keys, origin.stat);
    let addressee = addressee.ok_or_else(|| Problem::new(StatusCode::NOT_FOUND, format!("there is no destination {name}")))?;
    let draft = Draft { keys, content, accepted_at, addressees: vec![addressee], fingerprint: None };
    let receipt = live.committer().commit(draft).await.map_err(|e| closed(refusal(&e)))?;
    tracing::info!(about = name, message = receipt.message().0, "imported by an operator");
    Ok(Json(json!({"message": receipt.message().to_string(), "envelope": receipt.envelope(0).to_string()})))
}

/// The next piece of the content.
async fn piece(body: &mut Body) -> Result<Option<Bytes>, Problem> {
    loop {
        let frame = tokio::time::timeout(PIECE_WITHIN, body.frame()).await;
        let frame = frame.map_err(|_| Problem::new(StatusCode::REQUEST_TIMEOUT, "the content stopped in the middle; nothing was taken"))?;
        let Some(frame) = frame else { return Ok(None) };
        if let Ok(bytes) = frame.map_err(|e| wrong(format!("the content broke off: {e}; nothing was taken")))?.into_data() {
            return Ok(Some(bytes));
        }
    }
}

async fn hl7(mut body: Body, mut keys: Keys) -> Result<(Keys, Content), Problem> {
    let mut content = BytesMut::new();
    while let Some(bytes) = piece(&mut body).await? {
        if content.len() + bytes.len() > MLLP_BLOCK_BYTES_DEFAULT {
            return Err(wrong(format!("an HL7 message has at most {MLLP_BLOCK_BYTES_DEFAULT} bytes")));
        }
        content.extend_from_slice(&bytes);
    }
    let content = content.freeze();
    if !mllp::can_carry(&content) {
        return Err(wrong("the message holds FS CR, which ends an MLLP block; it could not be sent"));
    }
    let read = Message::read(&content).map_err(|e| wrong(format!("this is no HL7 message: {}", e.why)))?;
    read.keys(&mut keys);
    Ok((keys, Content::Whole(content)))
}

async fn dicom(spool: &Spool, mut body: Body, mut keys: Keys) -> Result<(Keys, Content), Problem> {
    let mut begin = BytesMut::new();
    while begin.len() < FILE_HEAD_BYTES_MAX
        && let Some(bytes) = piece(&mut body).await?
    {
        begin.extend_from_slice(&bytes);
    }
    let FileHead { sop_class, sop_instance, transfer_syntax, dataset_at } =
        part10::read_head(&begin[..begin.len().min(FILE_HEAD_BYTES_MAX)]).map_err(|e| wrong(format!("this is no DICOM file: {e}")))?;
    keys.set(Key::SopClass, sop_class.as_bytes());
    keys.set(Key::TransferSyntax, transfer_syntax.as_bytes());
    let mut writer = spool.content_writer().map_err(|e| closed(refusal(&e)))?;
    let (mut reader, mut reading) = (KeyReader::new(&transfer_syntax), true);
    let begin = begin.freeze();
    let dataset_at = usize::try_from(dataset_at).unwrap_or(usize::MAX).min(begin.len());
    let mut next = Some(begin.slice(dataset_at..));
    while let Some(bytes) = next {
        if reading {
            reading = reader.push(&bytes, &mut keys);
        }
        let blocks = writer.would_block(bytes.len());
        let written = if blocks { in_place::run(|| writer.write(&bytes)) } else { writer.write(&bytes) };
        written.map_err(|e| closed(refusal(&e)))?;
        next = piece(&mut body).await?;
    }
    if writer.is_empty() {
        return Err(wrong("the file has no data set"));
    }
    keys.set(Key::SopInstance, sop_instance.as_bytes());
    Ok((keys, Content::Streamed(writer.finish())))
}
