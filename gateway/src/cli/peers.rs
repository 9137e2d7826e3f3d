//! `everpost send` and `everpost echo`: test clients that speak to any peer.
//! Rules: they need no gateway and no configuration; what a peer answers is shown; every wait has a deadline.
//! Errors: exit status 4 for a negative answer, 5 for none, 1 for a file that cannot be read, 2 for a target or certificate that cannot be used.

use super::{EXIT_DONE, EXIT_NEGATIVE, EXIT_REFUSED, EXIT_UNREACHABLE, EXIT_USAGE, Failure, answer, answer_json};
use clap::{Args, Subcommand};
use everpost_client::config::{Endpoint, Finding, HealthSettings, Probe, TlsClient, Verify};
use everpost_client::delivery::{AckCode, Outcome};
use everpost_client::io::dicom_send::{self, Class, SendOptions};
use everpost_client::io::mllp_link;
use everpost_client::io::tls::ClientTls;
use everpost_client::io::url::Url;
use everpost_client::keys::Protocol;
use everpost_client::limits::MLLP_BLOCK_BYTES_DEFAULT;
use serde_json::json;
use std::io::Read;
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Largest file of HL7 messages taken, in bytes: it is read whole.
const HL7_FILE_BYTES_MAX: u64 = 4 * MLLP_BLOCK_BYTES_DEFAULT as u64;

/// `everpost send`.
#[derive(Debug, Subcommand)]
pub enum Send {
    /// Send the HL7 messages of a file, one after the other, and show each answer
    Hl7 {
        /// File with one or more messages, bare or as MLLP blocks; line ends become CR; `-` is standard input
        file: PathBuf,
        /// Where to
        #[command(flatten)]
        to: Target,
    },
    /// Send DICOM files by C-STORE
    Dicom {
        /// Files (Part 10)
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// Parallel associations
        #[arg(long, value_name = "N", default_value = "1")]
        associations: NonZeroU16,
        /// Where to
        #[command(flatten)]
        to: Target,
    },
}

/// Where to.
#[derive(Debug, Args)]
pub struct Target {
    /// mllp://host:port, mllps://..., dicom://AE@host:port, dicoms://...
    #[arg(long = "to", value_name = "URL")]
    url: Url,
    #[command(flatten)]
    how: How,
}

/// `everpost echo`.
#[derive(Debug, Args)]
pub struct Echo {
    /// mllp://host:port, mllps://..., dicom://AE@host:port, dicoms://...
    url: Url,
    #[command(flatten)]
    how: How,
}

/// Settings all test clients share.
#[derive(Debug, Args)]
pub struct How {
    /// Calling AE title (DICOM)
    #[arg(long, value_name = "AE", default_value = "EVERPOST")]
    calling_ae: String,
    /// Seconds to wait for each answer
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
    /// Authorities to trust, PEM (mllps, dicoms)
    #[arg(long, value_name = "F")]
    ca: Option<PathBuf>,
    /// Own certificate, PEM (mutual TLS)
    #[arg(long, value_name = "F", requires = "key")]
    cert: Option<PathBuf>,
    /// Its key, PEM
    #[arg(long, value_name = "F", requires = "cert")]
    key: Option<PathBuf>,
    /// Do not check the peer's certificate
    #[arg(long, conflicts_with = "ca")]
    insecure: bool,
}

impl How {
    fn tls(&self, url: &Url) -> Result<Option<TlsClient>, Failure> {
        if !url.tls {
            return Ok(None);
        }
        if self.ca.is_none() && !self.insecure {
            return Err(Failure::new(EXIT_USAGE, "TLS needs --ca F, the authorities to trust, or --insecure to check nothing"));
        }
        let verify = if self.insecure { Verify::None } else { Verify::Full };
        let identity = self.cert.clone().zip(self.key.clone());
        Ok(Some(TlsClient { ca: self.ca.clone(), identity, server_name: None, verify }))
    }

    fn client_tls(&self, url: &Url) -> Result<Option<ClientTls>, Failure> {
        let settings = self.tls(url)?;
        settings.map(|tls| ClientTls::load(&tls, &url.host)).transpose().map_err(|e| Failure::new(EXIT_USAGE, e.to_string()))
    }

    fn options(&self, associations: NonZeroU16) -> SendOptions {
        let answer_timeout = Duration::from_secs(self.timeout);
        SendOptions { calling_ae: self.calling_ae.clone(), answer_timeout, associations, ..SendOptions::default() }
    }

    /// The peer as an endpoint.
    fn endpoint(&self, url: &Url) -> Result<Endpoint, Failure> {
        let health = HealthSettings::of(Probe::Tcp);
        Ok(Endpoint {
            name: url.to_string().into(),
            host: url.host.clone(),
            port: url.port,
            finding: Finding::Any,
            tier: 0,
            ae_title: url.ae_title.clone(),
            tls: self.tls(url)?,
            weight: 1,
            site: None,
            health,
        })
    }
}

impl Send {
    /// Runs it.
    /// # Errors
    /// As the module says.
    pub async fn execute(self, json: bool) -> Result<u8, Failure> {
        match self {
            Send::Hl7 { file, to } => {
                demand(&to.url, Protocol::Mllp)?;
                hl7(&file, &to, json).await
            }
            Send::Dicom { files, associations, to } => {
                demand(&to.url, Protocol::Dicom)?;
                dicom(files, associations, &to, json).await
            }
        }
    }
}

async fn dicom(files: Vec<PathBuf>, associations: NonZeroU16, to: &Target, json: bool) -> Result<u8, Failure> {
    let tls = to.how.client_tls(&to.url)?;
    let tell = |r: &dicom_send::FileResult| {
        if !json {
            drop(answer(&format!("{}: {} ({} ms)", r.file.display(), r.what, r.took.as_millis())));
        }
    };
    let results = dicom_send::send_dicom(files, &to.url, tls, &to.how.options(associations), tell).await;
    let worst = results.iter().map(|r| r.class).max().unwrap_or(Class::Done);
    let done = results.iter().filter(|r| r.class == Class::Done).count();
    if json {
        let rows: Vec<_> = results
            .iter()
            .map(|r| {
                json!({"file": r.file.display().to_string(), "sop_instance": r.sop_instance, "bytes": r.bytes, "done": r.class == Class::Done,
                       "outcome": r.what, "seconds": r.took.as_secs_f64()})
            })
            .collect();
        answer_json(&json!({"sent": results.len(), "done": done, "files": rows}))?;
    } else {
        answer(&format!("{done} of {} stored", results.len()))?;
    }
    Ok(worst.exit_status())
}

async fn hl7(file: &Path, to: &Target, json: bool) -> Result<u8, Failure> {
    let content = read(file)?;
    let messages = messages(&content);
    if messages.is_empty() {
        return Err(Failure::new(EXIT_REFUSED, format!("{}: no HL7 message (none begins with MSH, FHS or BHS)", file.display())));
    }
    let (endpoint, tls) = (to.how.endpoint(&to.url)?, to.how.client_tls(&to.url)?);
    let (mut rows, mut worst) = (Vec::new(), EXIT_DONE);
    for (number, message) in messages.iter().enumerate() {
        let answered = mllp_link::send(message, &endpoint, tls.as_ref(), Duration::from_secs(to.how.timeout)).await;
        let (status, code, text) = match &answered {
            Ok(reply) => {
                let good = matches!(reply.code, AckCode::AA | AckCode::CA);
                let lines = String::from_utf8_lossy(&reply.text).replace('\r', "\n");
                (if good { EXIT_DONE } else { EXIT_NEGATIVE }, Some(format!("{:?}", reply.code)), lines)
            }
            Err(outcome) => (EXIT_UNREACHABLE, None, told(outcome)),
        };
        worst = worst.max(status);
        if json {
            rows.push(json!({"code": code, "answer": text.trim_end()}));
        } else {
            answer(&format!("message {}: {}\n{}", number + 1, code.as_deref().unwrap_or("no answer"), text.trim_end()))?;
        }
        if code.is_none() {
            break; // the rest would meet the same
        }
    }
    if json {
        answer_json(&json!({"messages": messages.len(), "answers": rows}))?;
    }
    Ok(worst)
}

fn read(file: &Path) -> Result<Vec<u8>, Failure> {
    let failed = |what: String| Failure::new(EXIT_REFUSED, format!("{}: {what}", file.display()));
    let mut content = Vec::new();
    let source: Box<dyn Read> = match file.to_str() {
        Some("-") => Box::new(std::io::stdin()),
        _ => Box::new(std::fs::File::open(file).map_err(|e| failed(e.to_string()))?),
    };
    source.take(HL7_FILE_BYTES_MAX + 1).read_to_end(&mut content).map_err(|e| failed(e.to_string()))?;
    if content.len() as u64 > HL7_FILE_BYTES_MAX {
        return Err(failed(format!("larger than {HL7_FILE_BYTES_MAX} bytes; send it in parts")));
    }
    Ok(content)
}

/// The messages of a file. Segments end with CR in HL7, whatever an editor made of them; a batch is one unit.
fn messages(content: &[u8]) -> Vec<Vec<u8>> {
    let mut segments: Vec<&[u8]> = Vec::new();
    let without_blocks = |byte: &u8| matches!(byte, b'\r' | b'\n' | 0x0b | 0x1c);
    segments.extend(content.split(without_blocks).filter(|segment| !segment.is_empty()));
    let mut messages: Vec<Vec<u8>> = Vec::new();
    // The segment that ends the batch we are in.
    let mut batch_ends: Option<&[u8]> = None;
    for segment in segments {
        let begins = [(&b"FHS"[..], &b"FTS"[..]), (b"BHS", b"BTS")].into_iter().find(|(begin, _)| batch_ends.is_none() && segment.starts_with(begin));
        if begins.is_some() || (batch_ends.is_none() && segment.starts_with(b"MSH")) {
            messages.push(Vec::new());
        }
        batch_ends = begins.map(|(_, end)| end).or(batch_ends.filter(|end| !segment.starts_with(end)));
        if let Some(message) = messages.last_mut() {
            message.extend_from_slice(segment);
            message.push(b'\r');
        }
    }
    messages
}

impl Echo {
    /// Runs it.
    /// # Errors
    /// As the module says.
    pub async fn execute(self, json: bool) -> Result<u8, Failure> {
        let tls = self.how.client_tls(&self.url)?;
        match dicom_send::echo(&self.url, tls, &self.how.options(NonZeroU16::MIN)).await {
            Ok(echoed) => {
                let ms = echoed.took.as_secs_f64() * 1_000.0;
                if json {
                    answer_json(&json!({"ok": true, "peer": echoed.peer.to_string(), "answer": echoed.what, "seconds": echoed.took.as_secs_f64()}))?;
                } else {
                    answer(&format!("{} at {}: {} in {ms:.1} ms", self.url, echoed.peer, echoed.what))?;
                }
                Ok(EXIT_DONE)
            }
            Err((outcome, class, what)) => {
                if json {
                    answer_json(&json!({"ok": false, "phase": outcome.phase().name(), "answer": what}))?;
                    return Ok(class.exit_status());
                }
                let url = self.url.to_string();
                let what = if what.contains(&url) { what } else { format!("{url}: {what}") };
                Err(Failure::new(class.exit_status(), what))
            }
        }
    }
}

fn demand(url: &Url, protocol: Protocol) -> Result<(), Failure> {
    if url.protocol == protocol {
        return Ok(());
    }
    Err(Failure::new(EXIT_USAGE, format!("{url} speaks {}, the command sends {protocol}", url.protocol)))
}

/// An outcome without an answer, for people.
fn told(outcome: &Outcome) -> String {
    match outcome {
        Outcome::NotSent { phase, cause, .. } => format!("not sent ({phase}): {cause}"),
        Outcome::Unanswered { cause, .. } => format!("sent, and no answer that counts: {cause}; the peer may have it"),
        other => format!("{other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_cut_into_messages_whatever_its_line_ends() {
        let two = vec![b"MSH|^~\\&|A\rPID|1\r".to_vec(), b"MSH|^~\\&|B\r".to_vec()];
        for file in [
            &b"MSH|^~\\&|A\rPID|1\rMSH|^~\\&|B\r"[..],
            b"MSH|^~\\&|A\r\nPID|1\r\n\r\nMSH|^~\\&|B",
            b"MSH|^~\\&|A\nPID|1\nMSH|^~\\&|B\n",
            b"\x0bMSH|^~\\&|A\rPID|1\r\x1c\r\x0bMSH|^~\\&|B\r\x1c\r",
        ] {
            assert_eq!(messages(file), two);
        }
        assert_eq!(messages(b"FHS|^~\\&\nBHS|^~\\&\nMSH|^~\\&|A\nBTS|1\nFTS|1\n").len(), 1, "a batch is one unit");
        let batches = b"FHS|^~\\&\nBHS|^~\\&\nMSH|^~\\&|A\nBTS|1\nFTS|1\nBHS|^~\\&\nMSH|^~\\&|B\nMSH|^~\\&|C\nBTS|2\nMSH|^~\\&|D\n";
        let begins: Vec<Vec<u8>> = messages(batches).iter().map(|message| message[..3].to_vec()).collect();
        assert_eq!(begins, [b"FHS", b"BHS", b"MSH"], "and ends");
        assert!(messages(b"hello").is_empty());
    }
}
