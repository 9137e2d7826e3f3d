//! Metrics: events counted, and the state of the gateway measured when somebody asks (`/metrics`, Prometheus text).
//! Rules: names and labels are those of docs/operating.md, in base units; label values come from the configuration or from fixed lists, never from
//! peers, and of the members that DNS gives to a pool only `ENDPOINTS_MAX` have labels of their own, so no label grows with traffic; nothing else in the process counts. Counters start at 0 with the process.
//! Errors: none.

use crate::config::Config;
use crate::status::Report;
use everpost_client::delivery::drill::Outcome;
use everpost_client::delivery::{Phase, Verdict};
use everpost_client::event::{Event, Refusal, ReplayEnd};
use everpost_client::keys::Protocol;
use everpost_client::limits::ENDPOINTS_MAX;
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Label, Level, Metadata, Recorder, Unit};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

/// Seconds. A commit is a sync (0.1 to 5 ms) or a queue of them.
const COMMIT_BUCKETS: &[f64] = &[0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5];

/// Seconds. A delivery lasts from a loopback round trip to the answer's deadline.
const DELIVERY_BUCKETS: &[f64] = &[0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// Name, kind, help of every metric.
const DESCRIBED: &[(&str, char, &str)] = &[
    ("everpost_messages_accepted_total", 'c', "Messages made durable and answered positively."),
    ("everpost_messages_refused_total", 'c', "Messages answered negatively or not at all, by reason."),
    ("everpost_mllp_garbage_bytes_total", 'c', "Bytes outside of MLLP blocks, dropped; CR and LF not counted."),
    ("everpost_envelopes_delivered_total", 'c', "Envelopes whose custody ended by an endpoint's answer."),
    ("everpost_envelopes_waiting", 'g', "Envelopes in custody, by state."),
    ("everpost_oldest_waiting_seconds", 'g', "Age of the oldest envelope that still has to be delivered; 0 if there is none."),
    ("everpost_commit_seconds", 'h', "Time from a whole message to its durable commit."),
    ("everpost_delivery_seconds", 'h', "Time of the attempt that delivered."),
    ("everpost_endpoint_up", 'g', "1 if the endpoint is fit for traffic."),
    ("everpost_endpoint_active", 'g', "1 if the destination delivers to this endpoint now."),
    ("everpost_dns_age_seconds", 'g', "Time since the last good answer of DNS about the endpoint's name; absent for an address."),
    (
        "everpost_endpoint_degraded",
        'g',
        "1 if the endpoint is up and needs a look: slow, or not ready to stand in, or its certificate is not checked.",
    ),
    ("everpost_endpoint_ready", 'g', "0 if an endpoint that is not active would refuse what went to the destination lately, else 1."),
    ("everpost_failovers_total", 'c', "Changes of the active endpoint."),
    ("everpost_outages_total", 'c', "Outages that began: an active endpoint was left for what it did. Those of drills are not counted."),
    ("everpost_outage", 'g', "1 while an outage runs."),
    ("everpost_objectives_missed_total", 'c', "Outages that are over in which an objective was missed."),
    ("everpost_outage_worst_seconds", 'g', "Of the last 30 days: the longest time until delivery went on (rto), the farthest loss (rpo)."),
    ("everpost_drills_total", 'c', "Failover drills that are over, by how they ended."),
    ("everpost_drill_last_passed", 'g', "1 if the last drill passed, 0 if not; absent if there was none."),
    ("everpost_replayed_total", 'c', "Replays answered positively: messages that another endpoint had answered before."),
    ("everpost_replays_already_there_total", 'c', "Replays not sent because the endpoint, when asked, named the instance (`reconcile`)."),
    ("everpost_replays_refused_total", 'c', "Replays that the endpoint refused; nothing is owed."),
    ("everpost_ambiguous_total", 'c', "Attempts that ended sent whole but unanswered, by phase."),
    ("everpost_dead_letters", 'g', "Dead letters that wait for an operator."),
    ("everpost_spool_bytes", 'g', "Bytes of the spool on disk."),
    ("everpost_spool_free_bytes", 'g', "Bytes free on the spool's file system."),
    ("everpost_spool_room_bytes", 'g', "Bytes the spool can take before intake closes: free above the reserve, and history that goes first."),
    (
        "everpost_spool_lasts_seconds",
        'g',
        "Time until the spool is full at the present rate if nothing is delivered from now on; NaN: not known, or beyond a year.",
    ),
    (
        "everpost_destination_spool_lasts_seconds",
        'g',
        "Time until the spool is full at the present rate if nothing is delivered to the destination from now on; NaN: not known, or beyond a year.",
    ),
    ("everpost_drain_seconds", 'g', "Time until the backlog is delivered at the rates just seen; NaN: not known, or it does not shrink."),
    ("everpost_spool_reserve_bytes", 'g', "Free bytes below which messages are refused."),
    ("everpost_connections", 'g', "Open connections of a listener."),
    ("everpost_tls_certificate_expiry_seconds", 'g', "Time until a certificate expires; 0 once it has."),
    ("everpost_build_info", 'g', "Constant 1; the label carries the version."),
];

/// Meters of one listener; per message these are touched, so they are looked up once.
#[derive(Clone)]
struct ListenerMeters {
    accepted: Counter,
    commit: Histogram,
}

/// Meters of one endpoint's deliveries.
#[derive(Clone)]
struct EndpointMeters {
    delivered: [Counter; 3],
    took: Histogram,
}

/// Destination and endpoint.
type EndpointName = (Arc<str>, Arc<str>);

/// The registry and its reader of events.
pub struct Metrics {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    listeners: RwLock<HashMap<Arc<str>, ListenerMeters>>,
    endpoints: RwLock<HashMap<EndpointName, EndpointMeters>>,
    /// Members of pools that have labels of their own, by destination.
    members: Mutex<HashMap<String, BTreeSet<String>>>,
    /// Certificates' expiry: known since, seconds left then.
    certificates: Mutex<HashMap<String, (Instant, f64)>>,
    /// Gauges with names set by the last report, so that those of removed destinations go to 0 instead of staying.
    shown: Mutex<HashMap<Key, Gauge>>,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// An empty registry with every metric described.
    #[must_use]
    pub fn new() -> Self {
        let builder = PrometheusBuilder::new();
        let builder = with_buckets(builder, "everpost_commit_seconds", COMMIT_BUCKETS);
        let builder = with_buckets(builder, "everpost_delivery_seconds", DELIVERY_BUCKETS);
        let recorder = builder.build_recorder();
        for (name, kind, help) in DESCRIBED {
            let unit = if name.ends_with("_seconds") {
                Some(Unit::Seconds)
            } else if name.ends_with("_bytes") {
                Some(Unit::Bytes)
            } else {
                None
            };
            let (name, help) = (KeyName::from_const_str(name), (*help).into());
            match kind {
                'c' => recorder.describe_counter(name, unit, help),
                'g' => recorder.describe_gauge(name, unit, help),
                _ => recorder.describe_histogram(name, unit, help),
            }
        }
        let handle = recorder.handle();
        let (listeners, endpoints) = (RwLock::default(), RwLock::default());
        Self { recorder, handle, listeners, endpoints, members: Mutex::default(), certificates: Mutex::default(), shown: Mutex::default() }
    }

    /// Every counter that `config` can come to exists from now on, at 0: a series that begins with its first event hides that event from `rate`.
    /// Failovers are known beforehand only between neighbours.
    pub fn expect(&self, config: &Config) {
        self.gauge("everpost_spool_reserve_bytes", vec![]).set(config.spool.reserve as f64);
        for listener in &config.listeners {
            drop(self.listener(&listener.name));
            if listener.protocol == Protocol::Mllp {
                drop(self.garbage(&listener.name));
            }
            for reason in Refusal::ALL {
                drop(self.refused(&listener.name, reason));
            }
        }
        for destination in &config.destinations {
            for endpoint in &destination.endpoints {
                drop(self.endpoint(&destination.name, &endpoint.name));
                drop(self.ambiguous(&destination.name, &endpoint.name, Phase::Answer));
                for end in [ReplayEnd::Answered, ReplayEnd::AlreadyThere, ReplayEnd::Refused] {
                    drop(self.replays(&destination.name, &endpoint.name, end));
                }
            }
            drop(self.outages(&destination.name));
            for outcome in Outcome::ALL {
                drop(self.drills(&destination.name, outcome.name()));
            }
            for objective in ["rto", "rpo"] {
                drop(self.missed(&destination.name, objective));
            }
            for pair in destination.endpoints.windows(2) {
                let [one, other] = pair else { continue };
                drop(self.failovers(&destination.name, Some(&one.name), Some(&other.name)));
                drop(self.failovers(&destination.name, Some(&other.name), Some(&one.name)));
            }
        }
    }

    /// Counts one event.
    pub fn read(&self, event: &Event, now: Instant) {
        match event {
            Event::Accepted { listener, commit, .. } => {
                let meters = self.listener(listener);
                meters.accepted.increment(1);
                meters.commit.record(commit.as_secs_f64());
            }
            Event::Refused { listener, reason } => {
                self.refused(listener, *reason).increment(1);
            }
            Event::Garbage { listener, bytes } => self.garbage(listener).increment(*bytes),
            Event::Connections { listener, open } => {
                self.gauge("everpost_connections", vec![Label::new("listener", name(listener))]).set(*open as f64);
            }
            Event::Delivered { destination, endpoint, outcome, took, .. } => {
                let meters = self.endpoint(destination, endpoint);
                meters.delivered[*outcome as usize].increment(1);
                meters.took.record(took.as_secs_f64());
            }
            Event::Attempt { destination, endpoint, phase, verdict: Verdict::Ambiguous, .. } => {
                self.ambiguous(destination, endpoint, *phase).increment(1);
            }
            Event::Replayed { destination, endpoint, end, .. } => {
                self.replays(destination, endpoint, *end).increment(1);
            }
            Event::Failover { destination, from, to, .. } => {
                self.failovers(destination, from.as_ref(), to.as_ref()).increment(1);
            }
            Event::Drill { destination, outcome: Some(outcome), .. } => self.drills(destination, outcome).increment(1),
            Event::Outage { destination, outage, over: false } if !outage.drill => self.outages(destination).increment(1),
            Event::Outage { destination, outage, over: true } if !outage.drill => {
                for (objective, met) in [("rto", outage.rto_met(0)), ("rpo", outage.rpo_met())] {
                    if met == Some(false) {
                        self.missed(destination, objective).increment(1);
                    }
                }
            }
            Event::Certificate { use_, expires_in } => {
                let mut known = self.certificates.lock().unwrap_or_else(PoisonError::into_inner);
                known.insert(use_.clone(), (now, expires_in.as_secs_f64()));
            }
            _ => {}
        }
    }

    /// The Prometheus text, with the gauges set from `report`.
    #[must_use]
    pub fn render(&self, report: &Report, now: Instant) -> String {
        self.measure(report, now);
        self.handle.render()
    }

    /// Drains histogram buffers, which would grow without bound otherwise. Called every second.
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
    }

    fn measure(&self, report: &Report, now: Instant) {
        let mut values: Vec<(Key, f64)> = Vec::new();
        let mut put = |name: &'static str, labels: Vec<Label>, value: f64| values.push((Key::from_parts(name, labels), value));
        put("everpost_build_info", vec![Label::new("version", report.version.clone())], 1.0);
        put("everpost_spool_bytes", vec![], report.spool.bytes as f64);
        put("everpost_spool_free_bytes", vec![], report.spool.free_bytes as f64);
        put("everpost_spool_room_bytes", vec![], report.spool.room_bytes as f64);
        // NaN: an alarm on a short time must not go off because nothing is known.
        let foreseen = |seconds: Option<u64>| seconds.map_or(f64::NAN, |s| s as f64);
        put("everpost_spool_lasts_seconds", vec![], foreseen(report.spool.lasts_seconds));
        for d in &report.destinations {
            let own = || Label::new("destination", d.name.clone());
            for (state, count) in
                [("ready", d.ready), ("in-flight", d.in_flight), ("deferred", d.deferred), ("held", d.held), ("dead-letter", d.dead_letter)]
            {
                put("everpost_envelopes_waiting", vec![own(), Label::new("state", state)], count as f64);
            }
            put("everpost_oldest_waiting_seconds", vec![own()], d.oldest_waiting_seconds as f64);
            put("everpost_dead_letters", vec![own()], d.dead_letter as f64);
            if let Some(outcome) = d.drill.as_ref().and_then(|drill| drill.outcome.as_deref()) {
                put("everpost_drill_last_passed", vec![own()], f64::from(u8::from(outcome == Outcome::Passed.name())));
            }
            put("everpost_outage", vec![own()], f64::from(u8::from(d.outage.is_some())));
            for (objective, worst) in [("rto", d.objectives.worst_rto_seconds), ("rpo", d.objectives.worst_rpo_seconds)] {
                put("everpost_outage_worst_seconds", vec![own(), Label::new("objective", objective)], worst.unwrap_or(0.0));
            }
            put("everpost_destination_spool_lasts_seconds", vec![own()], foreseen(d.spool_lasts_seconds));
            put("everpost_drain_seconds", vec![own()], foreseen(d.drain_seconds));
            for e in &d.endpoints {
                let labels = || vec![own(), Label::new("endpoint", self.label(&d.name, &e.name))];
                put("everpost_endpoint_up", labels(), f64::from(u8::from(e.is_up())));
                put("everpost_endpoint_active", labels(), f64::from(u8::from(d.active.contains(&e.name))));
                if let Some(age) = e.dns.as_ref().and_then(|dns| dns.age_seconds) {
                    put("everpost_dns_age_seconds", labels(), age as f64);
                }
                put("everpost_endpoint_degraded", labels(), f64::from(u8::from(!e.degraded.is_empty())));
                // Not known, or active: nothing stands against it.
                put("everpost_endpoint_ready", labels(), f64::from(u8::from(e.ready != Some(false))));
            }
        }
        for (use_, (known, left)) in self.certificates.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let left = (left - now.saturating_duration_since(*known).as_secs_f64()).max(0.0);
            put("everpost_tls_certificate_expiry_seconds", vec![Label::new("use", use_.clone())], left);
        }
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        for (key, gauge) in shown.iter() {
            let foreseen = key.name().ends_with("_lasts_seconds") || key.name() == "everpost_drain_seconds";
            gauge.set(if foreseen { f64::NAN } else { 0.0 });
        }
        for (key, value) in values {
            shown.entry(key.clone()).or_insert_with(|| self.recorder.register_gauge(&key, &METADATA)).set(value);
        }
    }

    fn listener(&self, listener: &Arc<str>) -> ListenerMeters {
        if let Some(meters) = self.listeners.read().unwrap_or_else(PoisonError::into_inner).get(listener) {
            return meters.clone();
        }
        let labels = || vec![Label::new("listener", name(listener))];
        let meters = ListenerMeters {
            accepted: self.counter("everpost_messages_accepted_total", labels()),
            commit: self.recorder.register_histogram(&Key::from_name("everpost_commit_seconds"), &METADATA),
        };
        self.listeners.write().unwrap_or_else(PoisonError::into_inner).entry(listener.clone()).or_insert(meters).clone()
    }

    fn endpoint(&self, destination: &Arc<str>, endpoint: &Arc<str>) -> EndpointMeters {
        let label = self.label(destination, endpoint);
        let key = (destination.clone(), if label == **endpoint { endpoint.clone() } else { label.as_str().into() });
        if let Some(meters) = self.endpoints.read().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return meters.clone();
        }
        let labels = || vec![Label::new("destination", name(destination)), Label::new("endpoint", label.clone())];
        let delivered = ["ok", "warning", "unconfirmed"].map(|outcome| {
            let mut labels = labels();
            labels.push(Label::new("outcome", outcome));
            self.counter("everpost_envelopes_delivered_total", labels)
        });
        let took = self.recorder.register_histogram(&Key::from_parts("everpost_delivery_seconds", labels()), &METADATA);
        let meters = EndpointMeters { delivered, took };
        self.endpoints.write().unwrap_or_else(PoisonError::into_inner).entry(key).or_insert(meters).clone()
    }

    fn refused(&self, listener: &Arc<str>, reason: Refusal) -> Counter {
        self.counter("everpost_messages_refused_total", vec![Label::new("listener", name(listener)), Label::new("reason", reason.label())])
    }

    fn garbage(&self, listener: &Arc<str>) -> Counter {
        self.counter("everpost_mllp_garbage_bytes_total", vec![Label::new("listener", name(listener))])
    }

    fn ambiguous(&self, destination: &Arc<str>, endpoint: &Arc<str>, phase: Phase) -> Counter {
        let endpoint = self.label(destination, endpoint);
        let labels = vec![Label::new("destination", name(destination)), Label::new("endpoint", endpoint), Label::new("phase", phase.name())];
        self.counter("everpost_ambiguous_total", labels)
    }

    fn drills(&self, destination: &Arc<str>, outcome: &'static str) -> Counter {
        self.counter("everpost_drills_total", vec![Label::new("destination", name(destination)), Label::new("outcome", outcome)])
    }

    fn outages(&self, destination: &Arc<str>) -> Counter {
        self.counter("everpost_outages_total", vec![Label::new("destination", name(destination))])
    }

    fn missed(&self, destination: &Arc<str>, objective: &'static str) -> Counter {
        let labels = vec![Label::new("destination", name(destination)), Label::new("objective", objective)];
        self.counter("everpost_objectives_missed_total", labels)
    }

    fn replays(&self, destination: &Arc<str>, endpoint: &Arc<str>, end: ReplayEnd) -> Counter {
        let counter = match end {
            ReplayEnd::Answered => "everpost_replayed_total",
            ReplayEnd::AlreadyThere => "everpost_replays_already_there_total",
            ReplayEnd::Refused => "everpost_replays_refused_total",
        };
        let endpoint = self.label(destination, endpoint);
        let labels = vec![Label::new("destination", name(destination)), Label::new("endpoint", endpoint)];
        self.counter(counter, labels)
    }

    fn failovers(&self, destination: &Arc<str>, from: Option<&Arc<str>>, to: Option<&Arc<str>>) -> Counter {
        let end = |side: Option<&Arc<str>>| side.map_or_else(|| "none".to_owned(), |side| self.label(destination, side));
        let labels = vec![Label::new("destination", name(destination)), Label::new("from", end(from)), Label::new("to", end(to))];
        self.counter("everpost_failovers_total", labels)
    }

    /// The label of an endpoint. Members of pools come and go, and a label never goes again: the first `ENDPOINTS_MAX` of a destination that are
    /// seen have one each, the others share `NAME@other`.
    fn label(&self, destination: &str, endpoint: &str) -> String {
        let Some((origin, _)) = endpoint.split_once('@') else { return endpoint.to_owned() };
        let mut members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        let members = members.entry(destination.to_owned()).or_default();
        if members.contains(endpoint) {
            return endpoint.to_owned();
        }
        if members.len() >= ENDPOINTS_MAX {
            return format!("{origin}@other");
        }
        members.insert(endpoint.to_owned());
        endpoint.to_owned()
    }

    fn counter(&self, name: &'static str, labels: Vec<Label>) -> Counter {
        self.recorder.register_counter(&Key::from_parts(name, labels), &METADATA)
    }

    fn gauge(&self, name: &'static str, labels: Vec<Label>) -> Gauge {
        self.recorder.register_gauge(&Key::from_parts(name, labels), &METADATA)
    }
}

static METADATA: Metadata<'static> = Metadata::new("everpost", Level::INFO, None);

fn name(of: &Arc<str>) -> String {
    of.to_string()
}

fn with_buckets(builder: PrometheusBuilder, name: &str, buckets: &[f64]) -> PrometheusBuilder {
    // The only error is an empty list, and the lists above are constants; the outcome would be a registry without buckets, seen by the tests below.
    builder.set_buckets_for_metric(Matcher::Full(name.to_owned()), buckets).unwrap_or_default()
}

/// How often `upkeep` is wanted.
pub const UPKEEP: Duration = Duration::from_secs(1);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use everpost_client::event::Delivered;
    use everpost_client::ids::{EnvelopeId, MessageId};

    fn report() -> Report {
        serde_json::from_value(serde_json::json!({
            "name": "gw", "version": "1", "state": "ok", "reasons": [], "spool": {"bytes": 5, "free_bytes": 7, "room_bytes": 4, "lasts_seconds": 147_600}, "listeners": [],
            "destinations": [{"name": "pacs", "protocol": "dicom", "policy": "failover", "paused": false, "active": ["b"], "shift": null,
                "ready": 3, "in_flight": 1, "deferred": 0, "held": 0, "ambiguous": 0, "dead_letter": 2, "oldest_waiting_seconds": 9, "spool_lasts_seconds": 300_000,
                "endpoints": [{"name": "a", "health": "down", "admin": "enabled", "reason": "", "resolved": [], "connected": []},
                              {"name": "b", "health": "degraded", "degraded": ["slow"], "ready": false, "admin": "enabled", "reason": "", "resolved": [], "connected": []}]}]
        }))
        .unwrap_or_default()
    }

    #[test]
    fn events_and_state_come_out_under_the_documented_names() {
        let (metrics, now) = (Metrics::new(), Instant::now());
        let took = Duration::from_millis(2);
        metrics.read(&Event::Accepted { listener: "in".into(), message: MessageId(1), bytes: 2, commit: took }, now);
        metrics.read(&Event::Refused { listener: "in".into(), reason: Refusal::TooLarge }, now);
        metrics.read(&Event::Garbage { listener: "in".into(), bytes: 7 }, now);
        metrics.read(&Event::Garbage { listener: "in".into(), bytes: 5 }, now);
        for outcome in [Delivered::Ok, Delivered::Warning, Delivered::Warning] {
            metrics.read(&Event::Delivered { destination: "pacs".into(), endpoint: "b".into(), envelope: EnvelopeId(1), outcome, took }, now);
        }
        metrics.read(&Event::Failover { destination: "pacs".into(), from: Some("a".into()), to: Some("b".into()), reason: String::new() }, now);
        for end in [ReplayEnd::Answered, ReplayEnd::Refused, ReplayEnd::AlreadyThere, ReplayEnd::AlreadyThere] {
            metrics.read(&Event::Replayed { destination: "pacs".into(), endpoint: "b".into(), envelope: EnvelopeId(1), end }, now);
        }
        metrics.read(&Event::Certificate { use_: "listener in".into(), expires_in: Duration::from_secs(100) }, now);
        let text = metrics.render(&report(), now + Duration::from_secs(40));
        for line in [
            r#"everpost_messages_accepted_total{listener="in"} 1"#,
            r#"everpost_messages_refused_total{listener="in",reason="too-large"} 1"#,
            r#"everpost_mllp_garbage_bytes_total{listener="in"} 12"#,
            r#"everpost_envelopes_delivered_total{destination="pacs",endpoint="b",outcome="ok"} 1"#,
            r#"everpost_envelopes_delivered_total{destination="pacs",endpoint="b",outcome="warning"} 2"#,
            r#"everpost_replayed_total{destination="pacs",endpoint="b"} 1"#,
            r#"everpost_replays_refused_total{destination="pacs",endpoint="b"} 1"#,
            r#"everpost_replays_already_there_total{destination="pacs",endpoint="b"} 2"#,
            r#"everpost_failovers_total{destination="pacs",from="a",to="b"} 1"#,
            r#"everpost_envelopes_waiting{destination="pacs",state="ready"} 3"#,
            r#"everpost_endpoint_up{destination="pacs",endpoint="a"} 0"#,
            r#"everpost_endpoint_active{destination="pacs",endpoint="b"} 1"#,
            r#"everpost_endpoint_degraded{destination="pacs",endpoint="a"} 0"#,
            r#"everpost_endpoint_degraded{destination="pacs",endpoint="b"} 1"#,
            r#"everpost_endpoint_ready{destination="pacs",endpoint="a"} 1"#,
            r#"everpost_endpoint_ready{destination="pacs",endpoint="b"} 0"#,
            r#"everpost_dead_letters{destination="pacs"} 2"#,
            r#"everpost_commit_seconds_bucket{le="0.0025"} 1"#,
            r#"everpost_tls_certificate_expiry_seconds{use="listener in"} 60"#,
            "everpost_spool_bytes 5",
            "everpost_spool_room_bytes 4",
            "everpost_spool_lasts_seconds 147600",
            r#"everpost_destination_spool_lasts_seconds{destination="pacs"} 300000"#,
            r#"everpost_drain_seconds{destination="pacs"} NaN"#,
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn what_the_configuration_can_come_to_stands_at_0_from_the_start() {
        let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/everpost.example.toml");
        let config = Config::load(std::path::Path::new(example)).unwrap();
        let metrics = Metrics::new();
        metrics.expect(&config);
        let text = metrics.render(&Report::default(), Instant::now());
        let (listener, destination) = (&config.listeners[0].name, &config.destinations[0]);
        let (to, first, second) = (&destination.name, &destination.endpoints[0].name, &destination.endpoints[1].name);
        for line in [
            format!(r#"everpost_messages_accepted_total{{listener="{listener}"}} 0"#),
            format!("everpost_spool_reserve_bytes {}", config.spool.reserve),
            format!(r#"everpost_messages_refused_total{{listener="{listener}",reason="reserve"}} 0"#),
            format!(r#"everpost_envelopes_delivered_total{{destination="{to}",endpoint="{second}",outcome="warning"}} 0"#),
            format!(r#"everpost_ambiguous_total{{destination="{to}",endpoint="{first}",phase="answer"}} 0"#),
            format!(r#"everpost_failovers_total{{destination="{to}",from="{first}",to="{second}"}} 0"#),
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn labels_of_pools_do_not_grow_without_bound() {
        let (metrics, now) = (Metrics::new(), Instant::now());
        let outcome = Delivered::Ok;
        for n in 0..3 * ENDPOINTS_MAX {
            let endpoint = format!("pool@10.0.{}.{}", n / 250, n % 250).into();
            metrics.read(&Event::Delivered { destination: "pacs".into(), endpoint, envelope: EnvelopeId(1), outcome, took: Duration::ZERO }, now);
        }
        let text = metrics.render(&Report::default(), now);
        let series = text.lines().filter(|l| l.starts_with("everpost_envelopes_delivered_total") && l.contains(r#"outcome="ok""#)).count();
        assert_eq!(series, ENDPOINTS_MAX + 1);
        let rest = format!(r#"everpost_envelopes_delivered_total{{destination="pacs",endpoint="pool@other",outcome="ok"}} {}"#, 2 * ENDPOINTS_MAX);
        assert!(text.lines().any(|l| l == rest), "{text}");
    }

    #[test]
    fn the_age_of_an_answer_is_told_where_there_is_one() {
        let metrics = Metrics::new();
        let mut report = report();
        report.destinations[0].endpoints[1].dns = Some(crate::status::NameLine { age_seconds: Some(7), ..Default::default() });
        let text = metrics.render(&report, Instant::now());
        let ages: Vec<&str> = text.lines().filter(|l| l.starts_with("everpost_dns_age_seconds{")).collect();
        assert_eq!(ages, [r#"everpost_dns_age_seconds{destination="pacs",endpoint="b"} 7"#]);
    }

    #[test]
    fn a_destination_that_went_away_counts_zero() {
        let (metrics, now) = (Metrics::new(), Instant::now());
        assert!(metrics.render(&report(), now).contains(r#"everpost_dead_letters{destination="pacs"} 2"#));
        let text = metrics.render(&Report::default(), now);
        assert!(text.contains(r#"everpost_dead_letters{destination="pacs"} 0"#), "{text}");
        // A destination that went away must not look like one whose spool is full.
        assert!(text.contains(r#"everpost_destination_spool_lasts_seconds{destination="pacs"} NaN"#), "{text}");
    }
}
