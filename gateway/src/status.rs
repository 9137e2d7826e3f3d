//! What `status` tells: the report (the same shape over HTTP, in `--json` and as a table), whether it is good, and the table for people.
//! Rules: the JSON shape is a contract with scripts; fields are added, never renamed. The table fits into 80 columns: names are cut, never figures.
//! Errors: none.

use crate::capacity::Outlook;
use crate::drills::DrillLine;
use crate::outages::{ObjectivesLine, OutageLine};
use everpost_client::delivery::status::{DestinationStatus, EndpointStatus, NameStatus, ShiftStatus};
use everpost_client::spool::{UnixMillis, Usage};
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;

/// The words of the alarm for the same thing, so that a report says it once.
const NO_ENDPOINT: &str = "no endpoint is eligible; everything waits in the spool and all endpoints are tried in turn";

/// `state` of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// All is as configured.
    #[default]
    Ok,
    /// Messages are taken; something needs a look.
    Degraded,
    /// Messages are not taken.
    Refusing,
}

/// The whole report.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Report {
    /// Name of the gateway.
    pub name: String,
    /// Its version.
    pub version: String,
    /// In one word.
    pub state: Standing,
    /// Why it is not `ok`.
    pub reasons: Vec<String>,
    /// The disk.
    pub spool: SpoolLine,
    /// In the order of the configuration.
    pub listeners: Vec<ListenerLine>,
    /// In the order of the configuration; those no longer configured but with waiting envelopes last.
    pub destinations: Vec<DestinationLine>,
}

/// `spool`.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct SpoolLine {
    /// Bytes on disk.
    pub bytes: u64,
    /// Bytes free on its file system.
    pub free_bytes: u64,
    /// Free bytes at which intake closes.
    #[serde(default)]
    pub reserve_bytes: u64,
    /// Of `bytes`: history that goes before intake closes.
    #[serde(default)]
    pub history_bytes: u64,
    /// Bytes it can take before intake closes.
    #[serde(default)]
    pub room_bytes: u64,
    /// Bytes of messages accepted, on disk; `null`: not known yet.
    #[serde(default)]
    pub accepted_bytes_per_second: Option<f64>,
    /// Until intake closes if nothing is delivered to anybody from now on; `null`: not known, or beyond a year.
    #[serde(default)]
    pub lasts_seconds: Option<u64>,
}

impl SpoolLine {
    /// What is used and what lies ahead.
    #[must_use]
    pub fn new(usage: Usage, ahead: &Outlook) -> Self {
        let Outlook { accepted_bytes_per_second, lasts_seconds, .. } = *ahead;
        let (room_bytes, Usage { bytes, free, history, reserve }) = (usage.room(), usage);
        Self { bytes, free_bytes: free, reserve_bytes: reserve, history_bytes: history, room_bytes, accepted_bytes_per_second, lasts_seconds }
    }
}

/// `listeners[]`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ListenerLine {
    /// Name.
    pub name: String,
    /// `mllp` or `dicom`.
    pub protocol: String,
    /// Address listened on.
    pub bind: String,
    /// Open now.
    pub connections: usize,
}

/// `destinations[]`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct DestinationLine {
    /// Name.
    pub name: String,
    /// `mllp` or `dicom`; empty if no longer configured.
    pub protocol: String,
    /// `failover`, `round-robin`, `least-outstanding`; empty if no longer configured.
    pub policy: String,
    /// Delivery is paused by an operator.
    pub paused: bool,
    /// Names of the endpoints that get traffic now.
    pub active: Vec<String>,
    /// Why these.
    #[serde(default)]
    pub reason: String,
    /// What is being replayed, and where, if anything is.
    #[serde(default)]
    pub replay: Option<String>,
    /// Replays that wait, counted among the envelopes below too.
    #[serde(default)]
    pub replays: u64,
    /// An operator's shift, if any.
    pub shift: Option<ShiftLine>,
    /// Waiting their turn.
    pub ready: u64,
    /// Being attempted.
    pub in_flight: u64,
    /// Waiting for their next attempt.
    pub deferred: u64,
    /// Kept until released.
    pub held: u64,
    /// Waiting, sent once whole but unanswered.
    pub ambiguous: u64,
    /// Set aside.
    pub dead_letter: u64,
    /// Age of the oldest envelope still to be delivered; 0: none waits.
    pub oldest_waiting_seconds: u64,
    /// What outages are measured against, and the worst of the last 30 days.
    #[serde(default)]
    pub objectives: ObjectivesLine,
    /// The outage that runs.
    #[serde(default)]
    pub outage: Option<OutageLine>,
    /// Messages accepted for it, by the last minute; `null`: not known yet.
    #[serde(default)]
    pub accepted_per_second: Option<f64>,
    /// The same in bytes on disk, by the last ten minutes.
    #[serde(default)]
    pub accepted_bytes_per_second: Option<f64>,
    /// Envelopes delivered, by the last minute; `null`: not known yet.
    #[serde(default)]
    pub delivered_per_second: Option<f64>,
    /// Until what is ready, in flight or deferred is delivered, at the rates just seen; `null`: not known, or it does not shrink.
    #[serde(default)]
    pub drain_seconds: Option<u64>,
    /// Until the spool is full if nothing is delivered to it from now on; `null`: not known, or beyond a year.
    #[serde(default)]
    pub spool_lasts_seconds: Option<u64>,
    /// Failover drills.
    #[serde(default)]
    pub drill: Option<DrillLine>,
    /// In order of preference.
    pub endpoints: Vec<EndpointLine>,
}

/// `shift`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShiftLine {
    /// To this endpoint.
    pub to: String,
    /// Why.
    pub reason: String,
    /// Who wished it.
    pub by: String,
    /// When it began, RFC 3339.
    #[serde(default)]
    pub since: String,
    /// When it ends by itself, RFC 3339.
    pub until: String,
    /// The site that was left by it.
    #[serde(default)]
    pub site: Option<String>,
    /// Its endpoint is not in service, so the destination delivers elsewhere.
    #[serde(default)]
    pub suspended: bool,
}

impl From<ShiftStatus> for ShiftLine {
    fn from(ShiftStatus { shift, suspended }: ShiftStatus) -> Self {
        let (since, until) = (time(shift.since), time(shift.until));
        let site = shift.site.map(|site| site.to_string());
        Self { to: shift.to.to_string(), reason: shift.reason.to_string(), by: shift.by.to_string(), since, until, site, suspended }
    }
}

impl ShiftLine {
    fn told(&self) -> String {
        let Self { to, reason, by, until, .. } = self;
        let suspended = if self.suspended { ", suspended: that endpoint is not in service" } else { "" };
        format!("shifted to {to} by {by} until {until} ({reason}){suspended}")
    }
}

/// `endpoints[]`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct EndpointLine {
    /// Name.
    pub name: String,
    /// `up`, `suspect`, `down`, `probing`, `degraded`.
    pub health: String,
    /// What should be looked at although it is up: each reason by itself.
    #[serde(default)]
    pub degraded: Vec<String>,
    /// Not active: whether it would take what went to the destination lately; null: not known, or active.
    #[serde(default)]
    pub ready: Option<bool>,
    /// `enabled`, `draining`, `disabled`.
    pub admin: String,
    /// Why it is as it is.
    pub reason: String,
    /// Addresses its name stands for.
    pub resolved: Vec<String>,
    /// Addresses connected to now.
    pub connected: Vec<String>,
    /// What is known of its name; `null`: it is configured by its address.
    #[serde(default)]
    pub dns: Option<NameLine>,
}

/// `endpoints[].dns`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct NameLine {
    /// The name.
    pub name: String,
    /// Seconds since the last good answer; `null`: there was none.
    pub age_seconds: Option<u64>,
    /// How long that answer counts.
    pub ttl_seconds: u64,
    /// The last failure, if look-ups fail now.
    pub error: Option<String>,
}

impl From<DestinationStatus> for DestinationLine {
    fn from(seen: DestinationStatus) -> Self {
        Self {
            name: seen.name,
            protocol: seen.protocol.to_string(),
            policy: seen.policy.to_owned(),
            paused: seen.paused,
            active: seen.active,
            reason: seen.reason,
            shift: seen.shift.map(ShiftLine::from),
            replay: seen.replay,
            replays: seen.replays,
            ready: seen.ready,
            in_flight: seen.in_flight,
            deferred: seen.deferred,
            held: seen.held,
            ambiguous: seen.ambiguous,
            dead_letter: seen.dead_letter,
            oldest_waiting_seconds: seen.oldest_waiting_seconds,
            outage: seen.objectives.outage.as_ref().map(|running| OutageLine::new(&running.outage, running.elapsed)),
            objectives: ObjectivesLine::from(seen.objectives),
            endpoints: seen.endpoints.into_iter().map(EndpointLine::from).collect(),
            ..Self::default()
        }
    }
}

impl From<EndpointStatus> for EndpointLine {
    fn from(seen: EndpointStatus) -> Self {
        let EndpointStatus { name, health, degraded, ready, admin, reason, resolved, connected, dns } = seen;
        let dns = dns.map(NameLine::from);
        Self { name, health: health.to_owned(), degraded, ready, admin: admin.to_owned(), reason, resolved, connected, dns }
    }
}

impl From<NameStatus> for NameLine {
    fn from(seen: NameStatus) -> Self {
        let NameStatus { name, age_seconds, ttl_seconds, error } = seen;
        Self { name, age_seconds, ttl_seconds, error }
    }
}

impl NameLine {
    /// For people: what it stands for, since when, and what is wrong.
    fn text(&self, resolved: &[String]) -> String {
        let mut text = match (resolved, self.age_seconds) {
            ([], None) => format!("{} was never found", self.name),
            ([], Some(seconds)) => format!("{} is unknown, last found {} ago", self.name, age(seconds)),
            (_, seconds) => format!("{} = {} ({} ago)", self.name, resolved.join(", "), age(seconds.unwrap_or_default())),
        };
        if let Some(error) = &self.error {
            let _ = write!(text, "; DNS: {error}");
        }
        text
    }
}

impl EndpointLine {
    /// Fit for traffic.
    #[must_use]
    pub fn is_up(&self) -> bool {
        matches!(self.health.as_str(), "up" | "suspect" | "degraded")
    }
}

impl Report {
    /// Fills `state` and `reasons` from the rest, from what the caller knows of intake (`refusing`: why not) and from standing alarms.
    #[must_use]
    pub fn judged(mut self, refusing: Option<String>, alarms: Vec<String>) -> Self {
        let mut reasons: Vec<String> = refusing.iter().map(|why| format!("intake is closed: {why}")).collect();
        for d in &self.destinations {
            reasons.extend(d.reasons());
        }
        for alarm in alarms {
            if !reasons.contains(&alarm) {
                reasons.push(alarm);
            }
        }
        self.state = match (&refusing, reasons.is_empty()) {
            (Some(_), _) => Standing::Refusing,
            (None, false) => Standing::Degraded,
            (None, true) => Standing::Ok,
        };
        self.reasons = reasons;
        self
    }

    /// The table for people.
    #[must_use]
    pub fn table(&self) -> String {
        let mut out = String::new();
        let state = match self.state {
            Standing::Ok => "ok",
            Standing::Degraded => "DEGRADED",
            Standing::Refusing => "REFUSING",
        };
        let _ = writeln!(out, "{}  {state}  version {}", self.name, self.version);
        let lasts = self.spool.lasts_seconds.map(|s| format!("; {} left if nothing is delivered", age(s))).unwrap_or_default();
        let _ = writeln!(out, "spool {}, {} free{lasts}", bytes(self.spool.bytes), bytes(self.spool.free_bytes));
        for reason in &self.reasons {
            for (i, line) in wrapped(reason, 76).into_iter().enumerate() {
                let _ = writeln!(out, "{} {line}", if i == 0 { "!" } else { " " });
            }
        }
        if !self.listeners.is_empty() {
            let _ = writeln!(out, "\n{:<18} {:<8} {:<28} {:>11}", "LISTENER", "PROTOCOL", "ADDRESS", "CONNECTIONS");
            for l in &self.listeners {
                let _ = writeln!(out, "{:<18} {:<8} {:<28} {:>11}", cut(&l.name, 18), l.protocol, cut(&l.bind, 28), l.connections);
            }
        }
        if !self.destinations.is_empty() {
            let _ = writeln!(
                out,
                "\n{:<18} {:>8} {:>6} {:>8} {:>6} {:>6} {:>6}  {:>8}",
                "DESTINATION", "READY", "FLIGHT", "DEFERRED", "HELD", "AMBIG", "DEAD", "OLDEST"
            );
        }
        for d in &self.destinations {
            d.table(&mut out);
        }
        out
    }
}

impl DestinationLine {
    /// Envelopes in custody.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        self.ready + self.in_flight + self.deferred + self.held + self.dead_letter
    }

    /// Envelopes still to be delivered.
    #[must_use]
    pub fn backlog(&self) -> u64 {
        self.ready + self.in_flight + self.deferred
    }

    /// Takes over what lies ahead.
    pub fn foresee(&mut self, ahead: &Outlook) {
        let Outlook { accepted_bytes_per_second, accepted_per_second, delivered_per_second, lasts_seconds, drain_seconds } = *ahead;
        (self.accepted_bytes_per_second, self.accepted_per_second) = (accepted_bytes_per_second, accepted_per_second);
        (self.delivered_per_second, self.drain_seconds, self.spool_lasts_seconds) = (delivered_per_second, drain_seconds, lasts_seconds);
    }

    /// What lies ahead, for people; nothing if nothing can be told.
    fn ahead(&self) -> Option<String> {
        let rate = |rate: f64| if rate < 10.0 { format!("{rate:.1}/s") } else { format!("{rate:.0}/s") };
        let mut parts = Vec::new();
        if let (true, Some(delivered), Some(accepted)) = (self.backlog() > 0, self.delivered_per_second, self.accepted_per_second) {
            let rates = format!("{} out, {} in", rate(delivered), rate(accepted));
            parts.push(match self.drain_seconds {
                Some(seconds) => format!("drains in {} ({rates})", age(seconds)),
                None => format!("does not drain ({rates})"),
            });
        }
        parts.extend(self.spool_lasts_seconds.map(|seconds| format!("spool lasts {} without it", age(seconds))));
        (!parts.is_empty()).then(|| parts.join("; "))
    }

    fn reasons(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        let mut say = |what: String| reasons.push(format!("destination {}: {what}", self.name));
        let counted = [
            (self.dead_letter, "dead letter waits for a decision", "dead letters wait for a decision"),
            (self.held, "held envelope waits for a decision", "held envelopes wait for a decision"),
            (self.ambiguous, "envelope was sent but not answered", "envelopes were sent but not answered"),
        ];
        if self.endpoints.is_empty() {
            say(format!("no longer configured, {} envelopes are kept; configure it again or decide on them", self.waiting()));
            return reasons;
        }
        let preferred = self.endpoints.first().map(|e| e.name.as_str());
        if !self.endpoints.iter().any(|e| e.is_up() && e.admin == "enabled") {
            say(NO_ENDPOINT.to_owned());
        } else if let Some(shift) = &self.shift {
            say(shift.told());
        } else if self.policy == "failover"
            && let (Some(active), Some(preferred)) = (self.active.first(), preferred)
            && active != preferred
        {
            let why = if self.reason.is_empty() { String::new() } else { format!(" ({})", self.reason) };
            say(format!("delivers to {active}, not to the preferred {preferred}{why}"));
        }
        if let Some(missed) = self.outage.as_ref().and_then(OutageLine::missed) {
            say(missed);
        }
        for (count, one, many) in counted.into_iter().filter(|(count, ..)| *count > 0) {
            say(format!("{count} {}", if count == 1 { one } else { many }));
        }
        for e in &self.endpoints {
            // The words of the alarms for the same, so that a report says each once.
            e.degraded.iter().for_each(|why| say(format!("endpoint {} is degraded: {why}", e.name)));
        }
        reasons
    }

    fn table(&self, out: &mut String) {
        let oldest = if self.oldest_waiting_seconds == 0 { "-".to_owned() } else { age(self.oldest_waiting_seconds) };
        let _ = writeln!(
            out,
            "{:<18} {:>8} {:>6} {:>8} {:>6} {:>6} {:>6}  {:>8}{}",
            cut(&self.name, 18),
            self.ready,
            self.in_flight,
            self.deferred,
            self.held,
            self.ambiguous,
            self.dead_letter,
            oldest,
            if self.paused { "\n  PAUSED by an operator" } else { "" }
        );
        if let Some(replay) = &self.replay {
            let _ = writeln!(out, "  {replay}: {} to go", self.replays);
        }
        for line in self.drill.iter().filter_map(DrillLine::told).flat_map(|told| wrapped(&told, 76)) {
            let _ = writeln!(out, "  {line}");
        }
        for line in self.outage.iter().map(OutageLine::told).chain(self.objectives.told()).flat_map(|told| wrapped(&told, 76)) {
            let _ = writeln!(out, "  {line}");
        }
        if let Some(ahead) = self.ahead() {
            let _ = writeln!(out, "  {ahead}");
        }
        for e in &self.endpoints {
            let mark = if self.active.contains(&e.name) { "*" } else { " " };
            let admin = if e.admin == "enabled" { String::new() } else { format!(" {}", e.admin) };
            let address = e.connected.first().or(e.resolved.first()).cloned().unwrap_or_default();
            let head = format!("{mark} {:<16} {:<8}{admin} {}", cut(&e.name, 16), e.health, cut(&address, 45));
            let _ = writeln!(out, "{}", head.trim_end());
            for line in e.dns.iter().flat_map(|dns| wrapped(&dns.text(&e.resolved), 74)) {
                let _ = writeln!(out, "     {line}");
            }
            if e.health != "up" && !e.reason.is_empty() {
                for line in wrapped(&e.reason, 74) {
                    let _ = writeln!(out, "     {line}");
                }
            }
        }
    }
}

/// RFC 3339, in UTC.
#[must_use]
pub fn time(at: UnixMillis) -> String {
    let at = i64::try_from(at).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    at.map(|t| format!("{t:.3}")).unwrap_or_default()
}

/// Bytes for people.
#[must_use]
pub fn bytes(count: u64) -> String {
    const UNITS: [(&str, u64); 4] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    for (unit, size) in UNITS {
        if count >= size {
            return format!("{:.1} {unit}", count as f64 / size as f64);
        }
    }
    format!("{count} B")
}

/// Seconds for people, at most eight columns.
#[must_use]
pub fn age(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        7_200..172_800 => format!("{}h{:02}m", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

/// Text of at most `width` characters, cut in the middle if it is longer: what tells UIDs apart is their end.
#[must_use]
pub fn cut_middle(text: &str, width: usize) -> String {
    let length = text.chars().count();
    if length <= width {
        return text.to_owned();
    }
    let head = width.saturating_sub(1) / 3;
    let tail = width.saturating_sub(1) - head;
    text.chars().take(head).chain(std::iter::once('~')).chain(text.chars().skip(length - tail)).collect()
}

/// A text cut to a width, with a mark where it was cut.
#[must_use]
pub fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(std::iter::once('~')).collect()
}

/// A text in lines of a width, broken at blanks; a longer word stands whole.
#[must_use]
pub fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().filter(|line| line.is_empty() || line.chars().count() + 1 + word.chars().count() <= width);
        match line {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) => {
                line.push(' ');
                line.push_str(word);
            }
            None => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(name: &str, health: &str) -> EndpointLine {
        EndpointLine { name: name.into(), health: health.into(), admin: "enabled".into(), ..EndpointLine::default() }
    }

    fn destination() -> DestinationLine {
        DestinationLine {
            name: "pacs".into(),
            protocol: "dicom".into(),
            policy: "failover".into(),
            active: vec!["primary".into()],
            endpoints: vec![endpoint("primary", "up"), endpoint("secondary", "up")],
            ..DestinationLine::default()
        }
    }

    fn judged(d: DestinationLine) -> Report {
        Report { destinations: vec![d], ..Report::default() }.judged(None, vec![])
    }

    #[test]
    fn each_sign_of_trouble_degrades() {
        assert_eq!(judged(destination()).state, Standing::Ok);
        type Change = fn(&mut DestinationLine);
        let changes: [(Change, &str); 7] = [
            (|d| d.endpoints[1].degraded = vec!["would refuse MG".into()], "endpoint secondary is degraded: would refuse MG"),
            (|d| d.active = vec!["secondary".into()], "not to the preferred primary"),
            (|d| d.held = 1, "1 held envelope waits for a decision"),
            (|d| d.dead_letter = 2, "2 dead letters"),
            (|d| d.ambiguous = 3, "3 envelopes were sent but not answered"),
            (|d| d.endpoints.iter_mut().for_each(|e| e.health = "down".into()), NO_ENDPOINT),
            (|d| d.endpoints.clear(), "no longer configured"),
        ];
        for (change, told) in changes {
            let mut d = destination();
            change(&mut d);
            let report = judged(d);
            assert_eq!(report.state, Standing::Degraded, "{told}");
            assert!(report.reasons.iter().any(|r| r.contains(told)), "{told}: {:?}", report.reasons);
        }
    }

    #[test]
    fn what_an_alarm_says_too_is_said_once() {
        let mut d = destination();
        d.endpoints[1].degraded = vec!["would refuse MG".into()];
        let alarm = "destination pacs: endpoint secondary is degraded: would refuse MG".to_owned();
        let report = Report { destinations: vec![d], ..Report::default() }.judged(None, vec![alarm.clone()]);
        assert_eq!(report.reasons, [alarm]);
    }

    #[test]
    fn an_active_active_destination_has_no_preferred_endpoint() {
        let d = DestinationLine { policy: "round-robin".into(), active: vec!["secondary".into()], ..destination() };
        assert_eq!(judged(d).state, Standing::Ok);
    }

    #[test]
    fn what_dns_says_stands_below_the_endpoint() {
        let line = |resolved: &[&str], age_seconds, error: Option<&str>| {
            let dns = NameLine { name: "pacs.example.org".into(), age_seconds, ttl_seconds: 60, error: error.map(str::to_owned) };
            dns.text(&resolved.iter().map(|r| (*r).to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(line(&["10.0.0.1:104", "10.0.0.2:104"], Some(12), None), "pacs.example.org = 10.0.0.1:104, 10.0.0.2:104 (12s ago)");
        assert_eq!(line(&["10.0.0.1:104"], Some(720), Some("SERVFAIL")), "pacs.example.org = 10.0.0.1:104 (12m00s ago); DNS: SERVFAIL");
        assert_eq!(line(&[], Some(90_000), Some("NXDOMAIN")), "pacs.example.org is unknown, last found 25h00m ago; DNS: NXDOMAIN");
        assert_eq!(line(&[], None, None), "pacs.example.org was never found");
        let mut d = destination();
        d.endpoints[0].dns = Some(NameLine { name: "pacs.example.org".into(), age_seconds: Some(1), ..NameLine::default() });
        d.endpoints[0].resolved = vec!["10.0.0.1:104".into()];
        assert!(judged(d).table().contains("     pacs.example.org = 10.0.0.1:104 (1s ago)"));
    }

    #[test]
    fn what_lies_ahead_is_told_as_far_as_it_is_known() {
        let told = |backlog, drain_seconds, lasts_seconds, rates: Option<(f64, f64)>| {
            let mut d = DestinationLine { ready: backlog, ..destination() };
            let (delivered_per_second, accepted_per_second) = (rates.map(|r| r.0), rates.map(|r| r.1));
            d.foresee(&Outlook { delivered_per_second, accepted_per_second, drain_seconds, lasts_seconds, ..Outlook::default() });
            d.ahead().unwrap_or_default()
        };
        assert_eq!(told(0, None, None, None), "");
        assert_eq!(told(7, None, None, None), "", "right after the start nothing is known");
        assert_eq!(
            told(7_000, Some(7_500), Some(147_600), Some((12.34, 3.0))),
            "drains in 2h05m (12/s out, 3.0/s in); spool lasts 41h00m without it"
        );
        assert_eq!(told(7_000, None, Some(147_600), Some((0.0, 3.0))), "does not drain (0.0/s out, 3.0/s in); spool lasts 41h00m without it");
        assert_eq!(told(0, Some(0), Some(147_600), Some((3.0, 3.0))), "spool lasts 41h00m without it");
        let spool = SpoolLine { lasts_seconds: Some(147_600), ..SpoolLine::default() };
        assert!(Report { spool, ..Report::default() }.table().contains("; 41h00m left if nothing is delivered\n"));
    }

    #[test]
    fn closed_intake_is_refusing() {
        let report = Report::default().judged(Some("reserve".into()), vec![]);
        assert_eq!(report.state, Standing::Refusing);
        assert_eq!(serde_json::to_value(&report).ok().and_then(|v| v["state"].as_str().map(str::to_owned)), Some("refusing".to_owned()));
    }

    #[test]
    fn the_table_fits_80_columns() {
        let mut d = destination();
        d.name = "a-destination-with-a-name-of-sixty-four-bytes-as-long-as-allowed".into();
        (d.ready, d.deferred, d.held, d.ambiguous, d.dead_letter) = (12_345_678, 12_345_678, 123_456, 123_456, 123_456);
        d.oldest_waiting_seconds = 9_999_999;
        d.paused = true;
        d.foresee(&Outlook {
            accepted_per_second: Some(99_999.4),
            delivered_per_second: Some(99_999.6),
            drain_seconds: Some(31_000_000),
            lasts_seconds: Some(31_000_000),
            ..Outlook::default()
        });
        d.endpoints[0].health = "suspect".into();
        d.endpoints[0].reason = "a reason that goes on ".repeat(10);
        d.endpoints[0].resolved = vec!["[2001:0db8:85a3:0000:0000:8a2e:0370:7334]:65535".into()];
        let listener =
            ListenerLine { name: "x".repeat(64), protocol: "dicom".into(), bind: "[2001:db8:85a3::8a2e:370:7334]:65535".into(), connections: 1_024 };
        let report = Report { name: "gw".into(), version: "0.1.0".into(), listeners: vec![listener], destinations: vec![d], ..Report::default() };
        let table = report.judged(Some("the reserve of the spool is reached and this text is rather long for one line".into()), vec![]).table();
        for line in table.lines() {
            assert!(line.chars().count() <= 80, "{} columns: {line}\n{table}", line.chars().count());
        }
        assert!(table.contains("12345678") && table.contains("PAUSED") && table.contains("REFUSING"));
    }
}
