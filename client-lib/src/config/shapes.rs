//! The keys of `[spool]` and `[[destination]]`: what they take, what they are by default, what they mean.
//! Rules: the reader, the reference page and the tests all go by these.
//! Errors: none.

use super::shape::{Default, Kind, Shape, field};

/// The keys of a source that `read_client` reads.
pub const CLIENT: Shape = Shape {
    title: "the source",
    meaning: "Settings of the client library.",
    fields: &[
        field("name", NAME, Default::Depends("none"), "what this sender is called, for people"),
        field("data_dir", Kind::Text("a folder, relative to the configuration file"), Default::Depends("given by the program"), "where the spool is"),
        field("client", Kind::Table(&CLIENT_BOUNDS), Default::Depends("see there"), "what the library may use of its host process"),
        field("spool", Kind::Table(&SPOOL), Default::Depends("see there"), "the durable store"),
        field("names", Kind::Table(&NAMES), Default::Depends("see there"), "name resolution"),
        field("destination", Kind::Tables(&DESTINATION), YES, "where messages go"),
    ],
};

/// `[client]`.
pub const CLIENT_BOUNDS: Shape = Shape {
    title: "[client]",
    meaning: "What the library may use of its host process.",
    fields: &[
        field("threads", Kind::Count(3, 64), Default::Value("3"), "threads at most, without the one that makes callbacks, if any"),
        field("events", Kind::Count(16, 1_000_000), Default::Value("4096"), "events kept until they are read; those beyond are counted"),
    ],
};

/// `[spool]`.
pub const SPOOL: Shape = Shape {
    title: "[spool]",
    meaning: "The durable store in `data_dir`. A change needs a restart.",
    fields: &[
        field(
            "reserve",
            Kind::Size("1 MiB", "16384 GiB"),
            Default::Value("1 GiB"),
            "free space of the file system below which messages are refused; delivery goes on",
        ),
        field("history", Kind::Duration("0s", "3650d"), Default::Value("7d"), "how long delivered content stays readable, space permitting"),
        field(
            "segment_size",
            Kind::Size("1 MiB", "1 GiB"),
            Default::Value("64 MiB"),
            "bytes of one segment file; at most 1/16 of the file system is used",
        ),
        field("buffers", Kind::Size("4 MiB", "64 GiB"), Default::Value("64 MiB"), "memory for objects that are arriving"),
    ],
};

/// `[names]`.
pub const NAMES: Shape = Shape {
    title: "[names]",
    meaning: "Name resolution. `/etc/hosts` comes first, then DNS; names of other sources (mDNS, NIS, LDAP) are not found.",
    fields: &[
        field(
            "servers",
            Kind::Texts(
                "a DNS server: an address or address:port, or with the transport `tcp://10.0.0.53`, `tls://10.0.0.53:853#name-in-its-certificate`",
            ),
            Default::Depends("those in `/etc/resolv.conf`, with its search list; with `servers` names are taken as they stand"),
            "which servers are asked",
        ),
        field(
            "ca",
            FILE,
            Default::Depends("needed for `tls://`"),
            "PEM file with the authorities of servers asked over TLS, or with their own certificates",
        ),
        field("max_ttl", Kind::Duration("1s", "1d"), Default::Value("60s"), "the longest an answer is used without asking again, whatever its TTL"),
        field(
            "max_stale",
            Kind::Duration("0s", "30d"),
            Default::Value("24h"),
            "how old the last good answer may become while look-ups fail, whether by time-out, SERVFAIL or NXDOMAIN",
        ),
    ],
};

const YES: Default = Default::Required;
const NONE: Default = Default::Depends("none");
const NAME: Kind = Kind::Text("a name: letters, digits, `.`, `_`, `-`, at most 64, a letter or digit first");
const AE_TITLE: Kind = Kind::Text("an AE title: 1 to 16 printable ASCII characters, no backslash");
const FILE: Kind = Kind::Text("a file, relative to the configuration file");

/// `[[destination]]`.
pub const DESTINATION: Shape = Shape {
    title: "[[destination]]",
    meaning: "A logical receiver with one or more endpoints, in order of preference.",
    fields: &[
        field("name", NAME, YES, "unique; waiting messages belong to it, so renaming a destination leaves them behind"),
        field("protocol", Kind::Choice(&["mllp", "dicom"]), YES, "what its endpoints speak"),
        field(
            "policy",
            Kind::Choice(&["failover", "round-robin", "least-outstanding"]),
            Default::Value("failover"),
            "how an endpoint is chosen: the first good one, or all in turn",
        ),
        field(
            "ordering",
            Kind::Choice(&["strict", "patient", "study", "none"]),
            Default::Depends("\"strict\" for mllp, \"none\" for dicom"),
            "what keeps its order: all, what belongs to one patient or one study (dicom only), nothing",
        ),
        field(
            "connect_timeout",
            Kind::Duration("100ms", "10m"),
            Default::Value("5s"),
            "for resolve, connect, TLS and association together; and how long a receiver's machine may acknowledge nothing on a connection that stands",
        ),
        field("ack_timeout", Kind::Duration("100ms", "1d"), Default::Value("30s"), "for the answer, and for progress while sending"),
        field(
            "attempts_before_failover",
            Kind::Count(1, 100),
            Default::Value("2"),
            "attempts on one endpoint, when nothing was sent, before it is left",
        ),
        field("hold_down", Kind::Duration("0s", "1d"), Default::Value("30s"), "time of good probes before the return to the preferred endpoint"),
        field("hold_down_max", Kind::Duration("0s", "7d"), Default::Value("30m"), "where the doubling of `hold_down` after failed returns ends"),
        field(
            "failback",
            Kind::Choice(&["auto", "manual"]),
            Default::Value("auto"),
            "whether it returns by itself; with \"manual\" by `everpost destination failback`",
        ),
        field(
            "failback_window",
            Kind::Text("two times of day, `HH:MM-HH:MM`"),
            Default::Depends("at any time"),
            "when it may return by itself, in the machine's local time; a window may go over midnight",
        ),
        field(
            "ambiguous",
            Kind::Choice(&["resend", "hold"]),
            Default::Value("resend"),
            "what becomes of a message that was sent and not answered; `hold` for receivers that cannot tell duplicates",
        ),
        field(
            "on_ae",
            Kind::Choice(&["dead-letter", "retry", "hold"]),
            Default::Value("dead-letter"),
            "mllp: what becomes of a message answered with AE",
        ),
        field(
            "after_dead_letter",
            Kind::Choice(&["continue", "stop"]),
            Default::Value("continue"),
            "whether later messages of the same order go on past a dead letter",
        ),
        field("after_hold", Kind::Choice(&["stop", "continue"]), Default::Value("stop"), "the same for a held one"),
        field("reject_alarm", Kind::Duration("1s", "30d"), Default::Value("1h"), "how long refusals are retried before an alarm"),
        field("retry", Kind::Table(&RETRY), Default::Depends("see there"), "delays between attempts"),
        field(
            "replay_window",
            Kind::Duration("0s", "7d"),
            Default::Value("0s"),
            "on failover, what the old endpoint had answered within this time goes to the new one too; 0s: off",
        ),
        field(
            "resync",
            Kind::Choice(&["none", "outage"]),
            Default::Value("none"),
            "`outage`: before its return an endpoint gets what others had answered since it was left, and what it may have lost",
        ),
        field(
            "reconcile",
            Kind::Choice(&["none", "query"]),
            Default::Value("none"),
            "dicom: `query`: before a replay the receiver is asked by C-FIND what it has, and only what it lacks is sent",
        ),
        field(
            "answers",
            Kind::Choice(&["always", "as-asked"]),
            Default::Value("always"),
            "mllp: whether a message may ask its receiver for silence (MSH-15 NE or ER)",
        ),
        field(
            "calling_ae",
            Kind::Text("\"pass\" or an AE title: 1 to 16 printable ASCII characters, no backslash"),
            Default::Value("EVERPOST"),
            "dicom: the title it calls with; `pass`: the sender's own",
        ),
        field("associations", Kind::Count(1, 256), Default::Value("4"), "connections at a time, where the order allows"),
        field(
            "window",
            Kind::Count(1, 256),
            Default::Value("1"),
            "dicom: objects outstanding on one association, where the endpoint grants it and nothing keeps its order",
        ),
        field(
            "convert",
            Kind::Flag,
            Default::Value("false"),
            "dicom: convert between uncompressed transfer syntaxes where the endpoint refuses the object's own",
        ),
        field("idle_release", Kind::Duration("100ms", "1d"), Default::Value("10s"), "dicom: idle time after which an association is released"),
        field("rto", Kind::Duration("1s", "30d"), NONE, "time within which delivery shall go on in an outage: outages are measured against it"),
        field(
            "rpo",
            Kind::Duration("0s", "30d"),
            NONE,
            "how far back an endpoint may lose what it answered, after what was delivered again: outages are measured against it",
        ),
        field("health", Kind::Table(&HEALTH), Default::Depends("see there"), "how endpoints are probed"),
        field("drill", Kind::Table(&DRILL), Default::Depends("see there"), "failover drills: what they do, and when they are made by themselves"),
        field("endpoint", Kind::Tables(&ENDPOINT), YES, "the endpoints, in order of preference"),
    ],
};

/// `retry`.
pub const RETRY: Shape = Shape {
    title: "retry",
    meaning: "Exponential backoff with jitter, without end.",
    fields: &[
        field("first", Kind::Duration("10ms", "1h"), Default::Value("1s"), "the first delay"),
        field("max", Kind::Duration("10ms", "1d"), Default::Value("60s"), "the longest delay"),
    ],
};

/// `health`.
pub const HEALTH: Shape = Shape {
    title: "health",
    meaning: "Probes of a destination's endpoints, or of one endpoint; what an endpoint does not say is as in its destination.",
    fields: &[
        field(
            "probe",
            Kind::Choice(&["tcp", "tls", "dicom-echo", "mllp", "http", "dicom-store"]),
            Default::Depends("\"tcp\" for mllp, \"dicom-echo\" for dicom"),
            "what is tried: a TCP connect, a TLS handshake, a C-ECHO, a test message, a URL, a test object",
        ),
        field("interval", Kind::Duration("100ms", "1d"), Default::Value("10s"), "time between probes, jittered"),
        field("timeout", Kind::Duration("10ms", "10m"), Default::Value("3s"), "deadline of one probe"),
        field("fall", Kind::Count(1, 100), Default::Value("3"), "failed probes in a row that take an endpoint down"),
        field("rise", Kind::Count(1, 100), Default::Value("2"), "good probes in a row that bring it up"),
        field("message", FILE, NONE, "probe `mllp`: file with the message that is sent; a positive answer is expected"),
        field(
            "url",
            Kind::Text("an http:// or https:// URL"),
            NONE,
            "probe `http`: what is fetched; an answer of 200 to 299 within `timeout` is good",
        ),
        field("ca", FILE, Default::Depends("as in the endpoint's `tls`"), "probe `http` with https: PEM file with the authorities to trust"),
        field(
            "store_interval",
            Kind::Duration("5m", "30d"),
            Default::Value("5m"),
            "probe `dicom-store`: time between two test objects; in between it is a C-ECHO each `interval`",
        ),
        field(
            "look_up",
            Kind::Flag,
            Default::Value("false"),
            "probe `dicom-store`: whether the test object is then looked up with C-FIND (study root)",
        ),
        field(
            "slow",
            Kind::Choice(&["warn", "leave"]),
            Default::Value("warn"),
            "what follows when its answers become slow: it is told (the endpoint is `degraded`), or the destination also leaves it if another endpoint is good",
        ),
        field(
            "slow_after",
            Kind::Duration("1ms", "1d"),
            Default::Depends("learned from what is usual there"),
            "answers that take longer than this are slow",
        ),
        field(
            "rehearse",
            Kind::Duration("0s", "7d"),
            Default::Value("10m"),
            "time between two rehearsals with an endpoint that is not active: what went to the destination in the last 30 days is negotiated, nothing is sent; 0s: none",
        ),
    ],
};

/// `drill`.
pub const DRILL: Shape = Shape {
    title: "drill",
    meaning: "Failover drills: `everpost drill DESTINATION`, and with `schedule` by themselves.",
    fields: &[
        field(
            "schedule",
            Kind::Text("a day and a time of day, `Sun 03:00` or `daily 03:00`"),
            NONE,
            "when one is made by itself, in local time; one that is missed or fails is an alarm",
        ),
        field("to", Kind::Text("the name of an endpoint"), Default::Depends("the second endpoint"), "where it goes"),
        field(
            "fault",
            Kind::Choice(&["none", "refuse", "freeze", "drop", "dns"]),
            Default::Value("none"),
            "what our own dialling simulates at the active endpoint, so that detection is exercised too and real traffic moves; `none`: nothing, traffic is shifted",
        ),
        field("real", Kind::Flag, Default::Value("false"), "whether real traffic is shifted too, and not only test messages sent there"),
        field("stay", Kind::Duration("1s", "1d"), Default::Value("30s"), "how long it stays after the first answer there"),
        field(
            "max_errors",
            Kind::Count(0, 100),
            Default::Value("10"),
            "percent of failed attempts there, of five and more, above which it stops and returns",
        ),
        field("max_age", Kind::Duration("1s", "7d"), Default::Value("5m"), "age of the oldest waiting envelope at which it stops and returns"),
        field("message", FILE, Default::Depends("that of the probe `mllp`"), "mllp: file with the test message, of a marked test patient"),
        field(
            "store",
            Kind::Flag,
            Default::Depends("as with the probe `dicom-store`"),
            "dicom: whether the synthetic object of that probe is stored; else it is a C-ECHO",
        ),
    ],
};

/// `[[destination.endpoint]]`.
pub const ENDPOINT: Shape = Shape {
    title: "[[destination.endpoint]]",
    meaning: "One place to deliver to.",
    fields: &[
        field("name", NAME, YES, "unique in its destination"),
        field("address", Kind::Text("`host:port`, IPv6 addresses in brackets"), Default::Depends("needed, unless `srv` is given"), "where it is"),
        field(
            "srv",
            Kind::Text("an SRV name, `_service._tcp.example.org`"),
            NONE,
            "where it is, by SRV records, instead of `address`: each record is an endpoint `NAME@HOST:PORT`, its priority and weight decide",
        ),
        field(
            "addresses",
            Kind::Choice(&["any", "each"]),
            Default::Value("any"),
            "whether all addresses of the host in `address` are one endpoint, or each is an endpoint `NAME@ADDRESS` of a pool",
        ),
        field("ae_title", AE_TITLE, Default::Depends("needed for dicom"), "dicom: called AE title"),
        field("tls", Kind::Table(&TLS_CLIENT), Default::Depends("no TLS"), "TLS towards it"),
        field("weight", Kind::Count(1, 1000), Default::Value("1"), "share of the traffic where all endpoints take turns"),
        field("site", Kind::Text("the name of a [[site]]"), NONE, "the site it belongs to"),
        field("health", Kind::Table(&HEALTH), Default::Depends("as in the destination"), "probes of this endpoint"),
    ],
};

/// `tls` of an endpoint.
pub const TLS_CLIENT: Shape = Shape {
    title: "tls of an endpoint",
    meaning: "TLS 1.2 or 1.3 with the suites of RFC 9325.",
    fields: &[
        field(
            "ca",
            FILE,
            Default::Depends("needed, unless `verify = \"none\"`"),
            "PEM file with the authorities to trust, or with the endpoint's own certificate",
        ),
        field("cert", FILE, NONE, "PEM file with our certificate and its chain, where the endpoint asks for one; with `key`"),
        field("key", FILE, NONE, "PEM file with its private key, not encrypted"),
        field(
            "server_name",
            Kind::Text("a host name or address"),
            Default::Depends("the host in `address`; with `srv` the domain after `._tcp.`"),
            "the name expected in the endpoint's certificate",
        ),
        field(
            "verify",
            Kind::Choice(&["full", "ca", "none"]),
            Default::Value("full"),
            "what is checked: authority and name, authority only, nothing; `none` makes the status degraded",
        ),
    ],
};
