//! The report of a drill for people: Markdown, and HTML to be printed. Its fields are those of a contingency plan test (45 CFR 164.308(a)(7)(ii)(D)).
//! Rules: what people have to fill in is a line to write on; nothing in it comes from a message. Text is escaped. Errors: none.

use super::record::Record;
use crate::outages::span;
use everpost_client::delivery::drill::{Outcome, Synthetic};
use std::fmt::Write as _;

/// A line to write on.
const LINE: &str = "______________________________";

/// A heading with its rows: name and value.
type Section = (&'static str, Vec<(&'static str, String)>);

/// In one line.
#[must_use]
pub fn summary(r: &Record) -> String {
    let ms = |after: u64| span(after as f64 / 1_000.0);
    let mut out = format!("{} {}", r.id, r.outcome.map_or("running", Outcome::name));
    if let Some(rto) = r.findings.rto_actual() {
        let _ = write!(out, ", {} answered after {}", r.to, ms(rto));
    }
    if let Some(issue) = r.findings.issues.first() {
        let _ = write!(out, "; {issue}");
    }
    out
}

/// What was done, in words.
#[must_use]
pub fn scenario(r: &Record) -> String {
    let test = match r.synthetic {
        Some(Synthetic::Message) if r.protocol == "dicom" => "a synthetic object of a marked test patient each second",
        Some(Synthetic::Message) => "a test message each second",
        Some(Synthetic::Echo) => "a C-ECHO each second",
        Some(Synthetic::None) | None => "no test messages",
    };
    let what = match &r.fault {
        Some(fault) => format!("{} fails as seen from here ({}); real traffic moves to {} by itself", r.from, meaning(fault), r.to),
        None if r.real => format!("real traffic is shifted from {} to {}", r.from, r.to),
        None => format!("{} gets test messages beside the traffic, which stays at {}", r.to, r.from),
    };
    format!("{what}; {test}")
}

fn meaning(fault: &str) -> &'static str {
    match fault {
        "refuse" => "connections are refused",
        "freeze" => "connections are taken and never answered",
        "drop" => "packets are dropped",
        _ => "its name is not found",
    }
}

fn sections(r: &Record) -> Vec<Section> {
    let f = &r.findings;
    let ms = |after: Option<u64>| after.map_or_else(|| "not measured".to_owned(), |after| span(after as f64 / 1_000.0));
    let target = |target: Option<f64>| target.map_or_else(|| "none set".to_owned(), span);
    let met = |actual: Option<u64>, target: Option<f64>| match (actual, target) {
        (Some(actual), Some(target)) if actual as f64 / 1_000.0 <= target => " (met)",
        (Some(_), Some(_)) => " (MISSED)",
        _ => "",
    };
    let lines = |given: &[String]| if given.is_empty() { LINE.to_owned() } else { given.join("; ") };
    let kind = match (&r.fault, r.real) {
        (Some(fault), _) => format!("failover by a simulated fault: {fault}"),
        (None, true) => "shift of real traffic".to_owned(),
        (None, false) => "test messages only".to_owned(),
    };
    let kind = if r.scheduled.is_some() { format!("scheduled practice drill, {kind}") } else { kind };
    let mut results = vec![
        ("Outcome", r.outcome.map_or("running", Outcome::name).to_owned()),
        ("Detection of the fault", ms(f.detection)),
        ("Takeover by the other endpoint", ms(f.taken_over)),
        ("First answer there", format!("{}{}", ms(f.first_answer), if f.first_synthetic { ", to a test message" } else { "" })),
        ("Turned back", ms(f.turned)),
        ("Back at the first endpoint", if r.moves_traffic() { ms(f.back) } else { "traffic had not moved".to_owned() }),
        ("Attempts at the other endpoint", format!("{}, of which {} failed", f.attempts, f.failed)),
        ("Delivered meanwhile", format!("{} messages, {} test messages answered", f.delivered, f.synthetic)),
    ];
    results.push((
        "Answered by the lost side in the window, and nowhere else",
        match (f.exposed, f.exposed_age) {
            (Some(0), _) => "nothing".to_owned(),
            (Some(count), age) => format!("{count} messages, the oldest {} old", ms(age)),
            (None, _) => "not known: neither replay_window nor rpo is set".to_owned(),
        },
    ));
    results.push(("Delivered again", format!("{}, refused {}", f.replayed, f.refused)));
    results.push((
        "Possible duplicates",
        format!("{} ({} sent and not answered, {} delivered again)", f.ambiguous + f.replayed, f.ambiguous, f.replayed),
    ));
    results.push((
        "Order",
        match f.out_of_order {
            Some(0) => "kept".to_owned(),
            Some(count) => format!("{count} deliveries out of order"),
            None => "not checked here: lanes keep their own order, or none is asked for".to_owned(),
        },
    ));
    vec![
        (
            "Test",
            vec![
                ("Id", r.id.clone()),
                ("Date", format!("{} to {}", r.begun, r.ended.as_deref().unwrap_or("(running)"))),
                ("Type", kind),
                ("System", format!("destination {} ({})", r.destination, r.protocol)),
                ("Begun by", r.by.clone()),
                ("Participants", lines(&r.participants)),
                ("Scenario", scenario(r)),
                (
                    "Stop conditions",
                    format!("more than {} percent failed, oldest envelope {}, {} unhealthy", r.max_errors, span(r.max_age_seconds), r.to),
                ),
                ("Notes", if r.notes.is_empty() { "none".to_owned() } else { r.notes.join("; ") }),
            ],
        ),
        (
            "Objectives",
            vec![
                ("RTO target", target(r.rto_seconds)),
                ("RTO actual", format!("{}{}", ms(f.rto_actual()), met(f.rto_actual(), r.rto_seconds))),
                ("RPO target", target(r.rpo_seconds)),
                ("RPO actual", format!("{}{}", ms(f.rpo_actual()), met(f.rpo_actual(), r.rpo_seconds))),
            ],
        ),
        ("Results", results),
        ("Issues", vec![("Issues", if f.issues.is_empty() { "none".to_owned() } else { f.issues.join("; ") })]),
        ("Follow-up", vec![("Corrective actions", lines(&r.corrective)), ("Next test", r.next.clone().unwrap_or_else(|| LINE.to_owned()))]),
        ("Approval", vec![("Name", LINE.to_owned()), ("Role", LINE.to_owned()), ("Date", LINE.to_owned()), ("Signature", LINE.to_owned())]),
    ]
}

/// Markdown.
#[must_use]
pub fn markdown(r: &Record) -> String {
    let mut out = format!("# Failover drill {}\n", escaped_markdown(&r.id));
    for (title, rows) in sections(r) {
        let _ = write!(out, "\n## {title}\n\n| | |\n|---|---|\n");
        for (name, value) in rows {
            let _ = writeln!(out, "| {name} | {} |", escaped_markdown(&value));
        }
    }
    out
}

fn escaped_markdown(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '|' | '\\' | '<' | '>' | '*' | '`' | '[' | ']' => out.extend(['\\', c]),
            '\n' | '\r' => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

/// HTML of its own, without anything from elsewhere, to be printed on a page or two.
#[must_use]
pub fn html(r: &Record) -> String {
    let title = format!("Failover drill {}", escaped_html(&r.id));
    let mut out =
        format!("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title><style>{STYLE}</style></head><body>\n");
    let _ = writeln!(out, "<h1>{title}</h1>");
    for (title, rows) in sections(r) {
        let _ = writeln!(out, "<h2>{title}</h2>\n<table>");
        for (name, value) in rows {
            let value = if value == LINE { "<span class=\"line\"></span>".to_owned() } else { escaped_html(&value) };
            let _ = writeln!(out, "<tr><th>{name}</th><td>{value}</td></tr>");
        }
        out.push_str("</table>\n");
    }
    out.push_str("</body></html>\n");
    out
}

const STYLE: &str = "body{font:11pt/1.4 sans-serif;max-width:48em;margin:2em auto;color:#111}h1{font-size:1.4em}h2{font-size:1.1em;margin:1.2em 0 .3em}\
table{border-collapse:collapse;width:100%}th,td{text-align:left;vertical-align:top;border:1px solid #999;padding:.25em .5em}th{width:34%;font-weight:600}\
tr{break-inside:avoid}.line{display:inline-block;width:18em;height:1.4em;border-bottom:1px solid #111}@page{margin:18mm}";

fn escaped_html(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use everpost_client::delivery::drill::Findings;

    fn record() -> Record {
        Record {
            id: "ris-20260101T030000Z".into(),
            destination: "ris".into(),
            protocol: "mllp".into(),
            outcome: Some(Outcome::Failed),
            by: "uid 0".into(),
            begun: "2026-01-01T03:00:00.000Z".into(),
            from: "primary".into(),
            to: "secondary".into(),
            fault: Some("freeze".into()),
            synthetic: Some(Synthetic::Message),
            rto_seconds: Some(5.0),
            participants: vec!["A <b>".into(), "C | D".into()],
            findings: Findings {
                first_answer: Some(6_200),
                exposed: Some(3),
                exposed_age: Some(8_000),
                replayed: 3,
                ambiguous: 1,
                ..Findings::default()
            },
            ..Record::default()
        }
    }

    #[test]
    fn the_report_has_every_field_of_a_contingency_test() {
        for text in [markdown(&record()), html(&record())] {
            for field in [
                "Id",
                "Date",
                "Type",
                "Participants",
                "Scenario",
                "RTO target",
                "RTO actual",
                "RPO target",
                "RPO actual",
                "Results",
                "Issues",
                "Corrective actions",
                "Next test",
                "Approval",
                "Signature",
            ] {
                assert!(text.contains(field), "{field}: {text}");
            }
            assert!(text.contains("6.2 s (MISSED)") && text.contains("the oldest 8 s old") && text.contains("4 (1 sent and not answered"), "{text}");
        }
    }

    #[test]
    fn what_people_wrote_is_escaped() {
        assert!(html(&record()).contains("A &lt;b&gt;") && !html(&record()).contains("<b>"));
        assert!(markdown(&record()).contains("C \\| D"));
        assert!(!html(&record()).contains("http"), "nothing from elsewhere");
    }

    #[test]
    fn one_line_says_what_came_of_it() {
        assert_eq!(summary(&record()), "ris-20260101T030000Z failed, secondary answered after 6.2 s");
        assert!(scenario(&record()).contains("never answered"));
    }
}
