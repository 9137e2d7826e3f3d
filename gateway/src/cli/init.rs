//! `everpost init`: writes a first configuration, from flags or by asking a few questions on a terminal.
//! Rules: a file that is there stays as it is; what is written passes `check`, or nothing is written; the text is meant to be read and grown.
//! Errors: `Failure`: 2 for answers that make no configuration, 1 for a file that is there already or cannot be written.

use super::{EXIT_DONE, EXIT_REFUSED, EXIT_USAGE, Failure, answer, answer_json, config_path};
use crate::config::Config;
use clap::Args;
use everpost_client::io::url::Url;
use serde_json::json;
use std::fmt::Write as _;
use std::io::{BufRead, IsTerminal, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Where a listener binds unless told: the ports that IANA and DICOM know.
const MLLP_DEFAULT: &str = "0.0.0.0:2575";
const DICOM_DEFAULT: &str = "EVERPOST@0.0.0.0:11112";
const ADMIN_DEFAULT: &str = "127.0.0.1:8080";
const DATA_DIR_DEFAULT: &str = "/var/lib/everpost";

/// Questions asked again after a wrong answer.
const TRIES: usize = 5;

/// `init`.
#[derive(Debug, Args)]
#[command(after_help = "Without --ris and --pacs it asks, if standard input is a terminal.
Example: everpost init --config everpost.toml --pacs PACS@pacs-a.example.org:104 --pacs PACS@pacs-b.example.org:104")]
pub struct Init {
    /// File to write; `-` is standard output
    #[arg(long, value_name = "F")]
    config: Option<PathBuf>,
    /// Name of this gateway; default: the name of the machine
    #[arg(long, value_name = "N")]
    name: Option<String>,
    /// Directory for spool and admin socket
    #[arg(long, value_name = "D", default_value = DATA_DIR_DEFAULT)]
    data_dir: String,
    /// Take HL7 here (port, or address:port); default with --ris: 0.0.0.0:2575
    #[arg(long, value_name = "ADDRESS", value_parser = bind)]
    listen_mllp: Vec<SocketAddr>,
    /// Take DICOM here ([AE@]port, or [AE@]address:port); default with --pacs: EVERPOST@0.0.0.0:11112
    #[arg(long, value_name = "[AE@]ADDRESS", value_parser = titled)]
    listen_dicom: Vec<(String, SocketAddr)>,
    /// A receiver of HL7, host:port; again for the secondary, and so on
    #[arg(long, value_name = "HOST:PORT", value_parser = ris)]
    ris: Vec<Url>,
    /// A receiver of DICOM, AE@host:port; again for the secondary, and so on
    #[arg(long, value_name = "AE@HOST:PORT", value_parser = pacs)]
    pacs: Vec<Url>,
    /// Address for metrics and health on this machine; `none` for none
    #[arg(long, value_name = "ADDRESS", default_value = ADMIN_DEFAULT)]
    admin: String,
}

/// What a first configuration says.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Plan {
    name: String,
    data_dir: String,
    mllp: Vec<SocketAddr>,
    dicom: Vec<(String, SocketAddr)>,
    ris: Vec<Url>,
    pacs: Vec<Url>,
    admin: Option<String>,
}

/// A port, or an address and a port.
fn bind(text: &str) -> Result<SocketAddr, String> {
    match text.parse::<u16>() {
        Ok(port) => Ok((Ipv4Addr::UNSPECIFIED, port).into()),
        Err(_) => text.parse().map_err(|_| format!("{text:?} is no port and no address:port (of this machine, as 0.0.0.0:2575)")),
    }
}

fn titled(text: &str) -> Result<(String, SocketAddr), String> {
    let (ae, address) = text.rsplit_once('@').unwrap_or(("EVERPOST", text));
    Ok((ae.to_owned(), bind(address)?))
}

fn ris(text: &str) -> Result<Url, String> {
    let bare = text.strip_prefix("mllp://").unwrap_or(text);
    format!("mllp://{bare}").parse::<Url>().map_err(|_| format!("{text:?} is no host:port"))
}

fn pacs(text: &str) -> Result<Url, String> {
    let bare = text.strip_prefix("dicom://").unwrap_or(text);
    let parsed = format!("dicom://{bare}").parse::<Url>();
    parsed.ok().filter(|_| bare.contains('@')).ok_or_else(|| format!("{text:?} is no AE@host:port"))
}

impl Init {
    /// Runs it.
    /// # Errors
    /// As the module says.
    pub fn execute(self, as_json: bool) -> Result<u8, Failure> {
        let path = self.config.clone().unwrap_or_else(|| config_path(None));
        let to_output = path == Path::new("-");
        if !to_output && path.exists() {
            return Err(Failure::new(
                EXIT_REFUSED,
                format!("{} is there already and stays as it is; name another file with --config F", path.display()),
            ));
        }
        let plan = self.plan()?;
        let text = plan.text();
        if to_output {
            answer(&text)?;
            return Ok(EXIT_DONE);
        }
        write(&path, &text)?;
        let (listeners, destinations) = (plan.mllp.len() + plan.dicom.len(), usize::from(!plan.ris.is_empty()) + usize::from(!plan.pacs.is_empty()));
        if as_json {
            answer_json(&json!({"file": path.display().to_string(), "listeners": listeners, "destinations": destinations}))?;
        } else {
            let file = path.display();
            answer(&format!("{file} is written. Next:\n  everpost doctor --config {file}\n  everpost run --config {file}"))?;
        }
        Ok(EXIT_DONE)
    }

    fn plan(self) -> Result<Plan, Failure> {
        let usage = |what: &str| Failure::new(EXIT_USAGE, what);
        let by_flags = !(self.ris.is_empty() && self.pacs.is_empty());
        let admin = (self.admin != "none").then_some(self.admin);
        let name = self.name.unwrap_or_else(machine);
        let mut plan =
            Plan { name, data_dir: self.data_dir, mllp: self.listen_mllp, dicom: self.listen_dicom, ris: self.ris, pacs: self.pacs, admin };
        if !by_flags {
            if !(plan.mllp.is_empty() && plan.dicom.is_empty()) {
                return Err(usage("a listener needs a receiver: --ris host:port for HL7, --pacs AE@host:port for DICOM"));
            }
            let stdin = std::io::stdin();
            if !stdin.is_terminal() {
                return Err(usage("name the receivers with --ris host:port and --pacs AE@host:port, or run it on a terminal, where it asks"));
            }
            return ask(plan, &mut stdin.lock(), &mut std::io::stderr());
        }
        for (given, wanted, what) in [
            (!plan.mllp.is_empty(), !plan.ris.is_empty(), "--listen-mllp needs --ris host:port, where its messages go"),
            (!plan.dicom.is_empty(), !plan.pacs.is_empty(), "--listen-dicom needs --pacs AE@host:port, where its images go"),
        ] {
            if given && !wanted {
                return Err(usage(what));
            }
        }
        plan.listen_as_usual();
        Ok(plan)
    }
}

/// The name of the machine, as far as it makes a name of ours.
fn machine() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let kept: String = name.trim().chars().filter(|c| c.is_ascii_alphanumeric() || "._-".contains(*c)).take(64).collect();
    if kept.starts_with(|c: char| c.is_ascii_alphanumeric()) { kept } else { "everpost".to_owned() }
}

/// Asks what a first configuration needs. Questions go to standard error: the answer may be piped.
fn ask(mut plan: Plan, input: &mut dyn BufRead, out: &mut dyn Write) -> Result<Plan, Failure> {
    plan.name = question(input, out, "Name of this gateway", Some(&plan.name), |text| Ok(text.to_owned()))?;
    plan.data_dir = question(input, out, "Directory for what it keeps (a local disk)", Some(&plan.data_dir), |text| Ok(text.to_owned()))?;
    plan.ris = receivers(input, out, "RIS or interface engine that gets HL7, host:port", ris)?;
    if !plan.ris.is_empty() {
        plan.mllp = vec![question(input, out, "HL7 comes in at", Some(MLLP_DEFAULT), bind)?];
    }
    plan.pacs = receivers(input, out, "PACS that gets images, AE@host:port", pacs)?;
    if !plan.pacs.is_empty() {
        plan.dicom = vec![question(input, out, "Images come in at, AE@address:port", Some(DICOM_DEFAULT), titled)?];
    }
    if plan.ris.is_empty() && plan.pacs.is_empty() {
        return Err(Failure::new(EXIT_USAGE, "neither a RIS nor a PACS: there is nothing to deliver to, and nothing was written"));
    }
    Ok(plan)
}

/// Endpoints in order of preference, until an empty answer.
fn receivers(input: &mut dyn BufRead, out: &mut dyn Write, what: &str, read: fn(&str) -> Result<Url, String>) -> Result<Vec<Url>, Failure> {
    let mut found = Vec::new();
    loop {
        let which = if found.is_empty() { format!("{what} (empty: none)") } else { format!("  {} (empty: no more)", endpoint_name(found.len())) };
        match question(input, out, &which, Some(""), |text| if text.is_empty() { Ok(None) } else { read(text).map(Some) })? {
            Some(url) => found.push(url),
            None => return Ok(found),
        }
    }
}

/// One question, asked again while the answer cannot be used; an empty answer is the default.
fn question<T>(
    input: &mut dyn BufRead,
    out: &mut dyn Write,
    what: &str,
    default: Option<&str>,
    read: impl Fn(&str) -> Result<T, String>,
) -> Result<T, Failure> {
    let failed = |e: std::io::Error| Failure::new(EXIT_REFUSED, format!("the terminal: {e}"));
    for _ in 0..TRIES {
        let shown = default.filter(|d| !d.is_empty()).map(|d| format!(" [{d}]")).unwrap_or_default();
        write!(out, "{what}{shown}: ").and_then(|()| out.flush()).map_err(failed)?;
        let mut line = String::new();
        if input.read_line(&mut line).map_err(failed)? == 0 {
            return Err(Failure::new(EXIT_USAGE, "the answers ended too soon; nothing was written"));
        }
        let text = match (line.trim(), default) {
            ("", Some(default)) => default,
            (text, _) => text,
        };
        match read(text) {
            Ok(value) => return Ok(value),
            Err(why) => writeln!(out, "  {why}").map_err(failed)?,
        }
    }
    Err(Failure::new(EXIT_USAGE, format!("{what}: no answer that can be used; nothing was written")))
}

fn endpoint_name(number: usize) -> String {
    ["primary", "secondary", "tertiary"].get(number).map_or_else(|| format!("endpoint-{}", number + 1), |name| (*name).to_owned())
}

/// A string as TOML writes it.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

impl Plan {
    /// Where there is a receiver and no listener, the usual one.
    fn listen_as_usual(&mut self) {
        if self.mllp.is_empty() && !self.ris.is_empty() {
            self.mllp.extend(bind(MLLP_DEFAULT));
        }
        if self.dicom.is_empty() && !self.pacs.is_empty() {
            self.dicom.extend(titled(DICOM_DEFAULT));
        }
    }

    /// The file.
    fn text(&self) -> String {
        let mut out = String::from(
            "# Everpost, written by `everpost init`. All keys: docs/configuration.md; an example with comments: everpost.example.toml.\n\
             # After a change: everpost check --config FILE, then reload (systemctl reload everpost, or SIGHUP).\n\n",
        );
        let _ = writeln!(out, "name     = {}\ndata_dir = {}", quoted(&self.name), quoted(&self.data_dir));
        if let Some(admin) = &self.admin {
            let _ = writeln!(out, "\n[admin]\nbind = {}            # /metrics /healthz /readyz; loopback only", quoted(admin));
        }
        let _ = writeln!(out, "\n[spool]\nreserve = \"1 GiB\"              # below this much free disk, messages are refused; delivery goes on");
        let name = |base: &str, count: usize, n: usize| if count == 1 { base.to_owned() } else { format!("{base}-{}", n + 1) };
        let (mut hl7, mut images) = (Vec::new(), Vec::new());
        for (n, at) in self.mllp.iter().enumerate() {
            hl7.push(quoted(&name("ris-in", self.mllp.len(), n)));
            let _ = writeln!(out, "\n[[listener]]\nname     = {}\nprotocol = \"mllp\"\nbind     = \"{at}\"", hl7[n]);
        }
        for (n, (ae, at)) in self.dicom.iter().enumerate() {
            images.push(quoted(&name("modalities", self.dicom.len(), n)));
            let _ = writeln!(out, "\n[[listener]]\nname     = {}\nprotocol = \"dicom\"\nbind     = \"{at}\"\nae_title = {}", images[n], quoted(ae));
        }
        destination(&mut out, "ris", "mllp", "ordering = \"strict\"              # one after the other; or \"patient\"\n", &self.ris);
        destination(&mut out, "pacs", "dicom", "calling_ae = \"pass\"              # the modality's own title\n", &self.pacs);
        for (from, to) in [(hl7, "ris"), (images, "pacs")] {
            if !from.is_empty() {
                let _ = writeln!(out, "\n[[route]]\nfrom = [{}]\nto   = [\"{to}\"]", from.join(", "));
            }
        }
        out
    }
}

/// A destination with its endpoints in order of preference.
fn destination(out: &mut String, name: &str, protocol: &str, more: &str, endpoints: &[Url]) {
    if endpoints.is_empty() {
        return;
    }
    let _ = write!(out, "\n[[destination]]\nname     = \"{name}\"\nprotocol = \"{protocol}\"\n{more}");
    for (n, url) in endpoints.iter().enumerate() {
        let host = if url.host.contains(':') { format!("[{}]", url.host) } else { url.host.clone() };
        let address = quoted(&format!("{host}:{}", url.port));
        let _ = write!(out, "\n  [[destination.endpoint]]\n  name    = \"{}\"\n  address = {address}\n", endpoint_name(n));
        if protocol == "dicom" {
            let _ = writeln!(out, "  ae_title = {}", quoted(&url.ae_title));
        }
    }
}

/// Writes the file under its name only when it passes `check`, and never over another.
fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let failed = |at: &Path, e: std::io::Error| Failure::new(EXIT_REFUSED, format!("{}: {e}", at.display()));
    let mut part = path.as_os_str().to_owned();
    part.push(format!(".{}", std::process::id()));
    let part = PathBuf::from(part);
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o640).open(&part).map_err(|e| failed(&part, e))?;
    // Where root writes into the service's folder, the service is to read it; elsewhere the group is the writer's own.
    let group = path.parent().filter(|p| !p.as_os_str().is_empty()).and_then(|p| std::fs::metadata(p).ok()).map(|found| found.gid());
    drop(group.map(|group| std::os::unix::fs::chown(&part, None, Some(group)))); // `doctor` tells if it cannot
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(|e| failed(&part, e));
    let placed = written.and_then(|()| {
        Config::load(&part).map_err(|problems| {
            let lines: Vec<String> = problems.iter().map(|p| format!("{}; {}", p.what, p.remedy)).collect();
            Failure::new(EXIT_USAGE, format!("nothing was written: {}", lines.join("\n")))
        })?;
        // A link, unlike a rename, does not replace what somebody else has put there meanwhile.
        std::fs::hard_link(&part, path).map_err(|e| failed(path, e))
    });
    drop(std::fs::remove_file(&part)); // the other name of the same file, or what is of no use
    placed
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn plan(ris_at: &[&str], pacs_at: &[&str]) -> Plan {
        let mut plan = Plan {
            name: "gw".into(),
            data_dir: "data".into(),
            mllp: Vec::new(),
            dicom: Vec::new(),
            ris: ris_at.iter().map(|t| ris(t).unwrap()).collect(),
            pacs: pacs_at.iter().map(|t| pacs(t).unwrap()).collect(),
            admin: Some(ADMIN_DEFAULT.into()),
        };
        plan.listen_as_usual();
        plan
    }

    #[track_caller]
    fn loaded(plan: &Plan) -> Config {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("everpost.toml");
        write(&path, &plan.text()).unwrap_or_else(|e| panic!("{e}\n{}", plan.text()));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing else stays");
        Config::load(&path).unwrap()
    }

    #[test]
    fn what_is_written_passes_check_without_a_remark() {
        for plan in [
            plan(&["ris-a.example.org:2575"], &[]),
            plan(&[], &["PACS@pacs-a.example.org:104", "PACS@[2001:db8::1]:104"]),
            plan(&["10.0.0.1:1", "10.0.0.2:2", "10.0.0.3:3", "10.0.0.4:4"], &["PACS@10.0.0.1:104"]),
        ] {
            let config = loaded(&plan);
            assert!(config.warnings.is_empty(), "{:?}\n{}", config.warnings, plan.text());
            let endpoints: usize = config.destinations.iter().map(|d| d.endpoints.len()).sum();
            assert_eq!((endpoints, config.routes.len()), (plan.ris.len() + plan.pacs.len(), config.listeners.len()));
        }
        let mut several = plan(&["10.0.0.1:1"], &["PACS@10.0.0.1:104"]);
        several.mllp = vec![bind("2575").unwrap(), bind("127.0.0.1:2576").unwrap()];
        several.admin = None;
        let config = loaded(&several);
        assert_eq!((config.listeners.len(), config.routes.len(), config.admin_bind), (3, 2, None));
    }

    #[test]
    fn a_file_that_is_there_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("everpost.toml");
        std::fs::write(&path, "precious").unwrap();
        let failure = write(&path, &plan(&["h:1"], &[]).text()).unwrap_err();
        assert_eq!((failure.code, std::fs::read_to_string(&path).unwrap().as_str()), (EXIT_REFUSED, "precious"));
        let failure = write(&dir.path().join("new"), "name = 1").unwrap_err();
        assert_eq!(failure.code, EXIT_USAGE);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn questions_and_answers() {
        let asked = |answers: &str| {
            let (blank, mut out) = (Plan { ris: vec![], pacs: vec![], mllp: vec![], dicom: vec![], ..plan(&[], &[]) }, Vec::new());
            let done = ask(blank, &mut answers.as_bytes(), &mut out);
            done.map(|plan| (plan, String::from_utf8(out).unwrap()))
        };
        let (found, out) = asked("ct-room\n\nris-a:2575\na@b:1\nris-b:2575\n\n2576\nPACS@pacs:104\n\n\n").unwrap();
        assert_eq!((found.name.as_str(), found.data_dir.as_str(), found.ris.len(), found.pacs.len()), ("ct-room", "data", 2, 1));
        assert_eq!((found.mllp[0].to_string(), found.dicom[0].0.as_str()), ("0.0.0.0:2576".to_owned(), "EVERPOST"));
        assert!(out.contains("Name of this gateway [gw]: ") && out.contains("  secondary (empty: no more): "), "{out}");
        loaded(&found);
        assert_eq!(asked("\n\n\n\n").unwrap_err().code, EXIT_USAGE, "nothing to deliver to");
        assert!(asked("a\n").unwrap_err().what.contains("ended too soon"));
        assert!(asked(&format!("\n\n{}", "a@b:1\n".repeat(TRIES))).unwrap_err().what.contains("no answer that can be used"));
    }

    #[test]
    fn addresses_as_people_write_them() {
        assert_eq!(bind("2575").unwrap().to_string(), "0.0.0.0:2575");
        assert_eq!(titled("CT@[::]:104").unwrap(), ("CT".to_owned(), "[::]:104".parse().unwrap()));
        assert!(bind("ris.example.org:2575").is_err() && pacs("pacs:104").is_err() && pacs("@pacs:104").is_err() && ris("a@b:1").is_err());
        assert_eq!(pacs("dicom://PACS@pacs").unwrap().port, 104);
    }
}
