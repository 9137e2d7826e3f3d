//! One envelope's story for people: what it is, then line by line what happened to it, in order.
//! Rules: 80 columns, but for names, keys and outcomes that are longer; what is not known is not told.
//! Errors: none.

use crate::status::wrapped;
use serde_json::Value;
use std::fmt::Write as _;

/// Fields told before the story, in this order.
const FIELDS: [&str; 13] = [
    "id",
    "message",
    "destination",
    "protocol",
    "state",
    "ambiguous",
    "replay",
    "replay_of",
    "out_of_order",
    "size",
    "accepted_at",
    "attempts",
    "next_attempt_at",
];

/// The answer of `GET /api/v1/envelopes/{id}` as text.
pub fn text(story: &Value) -> String {
    let mut out = String::new();
    for field in FIELDS {
        let value = match &story[field] {
            Value::String(text) => text.clone(),
            Value::Null => "-".to_owned(),
            other => other.to_string(),
        };
        let _ = writeln!(out, "{field:<18} {value}");
    }
    for (name, value) in story["keys"].as_object().into_iter().flatten() {
        let _ = writeln!(out, "  {name:<22} {}", value.as_str().unwrap_or_default());
    }
    let mut lines: Vec<(String, String)> = Vec::new();
    let attempts = story["story"].as_array().map(Vec::as_slice).unwrap_or_default();
    let untold = story["attempts_not_told"].as_u64().unwrap_or(0);
    let mut before = 0;
    for attempt in attempts {
        let number = attempt["number"].as_u64();
        if let Some(number) = number {
            if untold > 0 && number > before + 1 {
                let what = format!("      ... {} attempts between are counted and no longer told ...\n", number - before - 1);
                lines.push((moment(&attempt["ended_at"]), what));
            }
            before = number;
        }
        lines.push((moment(&attempt["ended_at"]), told(attempt)));
    }
    if let Some(begun) = story["begun"].as_object() {
        let text = |field: &str| begun.get(field).and_then(Value::as_str).unwrap_or_default();
        let number = begun.get("number").and_then(Value::as_u64).unwrap_or_default();
        let what = format!("{number:>4}  {}  {}\n      begun; its end is not known, or not yet\n", text("began_at"), text("endpoint"));
        // It is the last there is.
        lines.push(("~".to_owned(), what));
    }
    for decision in story["decisions"].as_array().into_iter().flatten() {
        let text = |field: &str| decision[field].as_str().unwrap_or_default();
        let what = match (text("to"), text("why")) {
            ("held", "") => "held by an operator".to_owned(),
            (_, "") => "let go on by an operator".to_owned(),
            (to, why) => format!("{to}: {why}"),
        };
        lines.push((moment(&decision["at"]), format!("      {}  {what}\n", text("at"))));
    }
    // Stable: what happened in one millisecond stays as it was recorded.
    lines.sort_by(|a, b| a.0.cmp(&b.0));
    out.extend(lines.into_iter().map(|(_, line)| line));
    if let Some(end) = story["discarded"].as_object() {
        let text = |field: &str, unknown| end.get(field).and_then(Value::as_str).unwrap_or(unknown).to_owned();
        let _ = writeln!(out, "{}  discarded: {}", text("at", "time unknown"), text("reason", "(the reason is not known here)"));
    }
    out
}

/// When, so that it sorts: all times are in UTC and of one length.
fn moment(at: &Value) -> String {
    at.as_str().unwrap_or_default().to_owned()
}

/// One attempt: when and where, how far it came and what was answered, what followed.
fn told(attempt: &Value) -> String {
    let text = |field: &str| attempt[field].as_str().unwrap_or_default();
    let mut head = match attempt["number"].as_u64() {
        Some(number) => format!("{number:>4}  "),
        None => "      ".to_owned(),
    };
    head.push_str(if text("began_at").is_empty() { text("ended_at") } else { text("began_at") });
    if let Some(seconds) = attempt["seconds"].as_f64() {
        let _ = write!(head, " +{seconds:.3} s");
    }
    if !text("endpoint").is_empty() {
        let _ = write!(head, "  {}", text("endpoint"));
    }
    if !text("address").is_empty() {
        let _ = write!(head, " ({})", text("address"));
    }
    let mut next = text("phase").to_owned();
    if !text("answer").is_empty() {
        let _ = write!(next, ", answered {}", text("answer"));
    }
    if attempt["ambiguous"].as_bool() == Some(true) {
        next.push_str(", may have arrived");
    }
    if attempt["replay"].as_bool() == Some(true) {
        next.push_str(", a replay");
    }
    if let Some(failover) = attempt["failover"].as_object() {
        match failover.get("to").and_then(Value::as_str) {
            Some(to) => drop(write!(next, ", failover to {to}")),
            None => next.push_str(", no endpoint is left"),
        }
    }
    let mut out = format!("{head}\n      {next}\n");
    for line in wrapped(text("outcome"), 74) {
        let _ = writeln!(out, "      {line}");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_story_tells_of_its_end_by_an_operator() {
        let mut story = json!({"id": "2", "state": "discarded", "story": []});
        assert!(!text(&story).contains("discarded:"));
        story["discarded"] = json!({"at": "2026-01-02T03:04:05.000Z", "reason": "sent by hand"});
        assert!(text(&story).ends_with("2026-01-02T03:04:05.000Z  discarded: sent by hand\n"), "{}", text(&story));
        story["discarded"] = json!({"at": null, "reason": null});
        assert!(text(&story).ends_with("time unknown  discarded: (the reason is not known here)\n"));
    }

    fn attempt(number: u64, second: u64) -> Value {
        json!({"number": number, "replay": false, "endpoint": "primary", "address": "192.0.2.1:104", "ambiguous": number == 9, "phase": "answer",
            "began_at": format!("2026-01-02T03:04:{:02}.000Z", second - 1), "ended_at": format!("2026-01-02T03:04:{second:02}.000Z"),
            "seconds": 1.0, "answer": "A700H", "verdict": "elsewhere", "failover": {"to": "secondary"}, "outcome": "elsewhere: A700H, out of resources"})
    }

    #[test]
    fn a_story_goes_by_time_and_says_what_it_leaves_out() {
        let story = json!({"id": "2", "state": "held", "attempts": 9, "attempts_not_told": 6, "story": [attempt(1, 1), attempt(8, 20), attempt(9, 40)],
            "decisions": [{"at": "2026-01-02T03:04:30.000Z", "to": "ready", "by": "operator", "why": ""}],
            "begun": {"number": 10, "endpoint": "secondary", "began_at": "2026-01-02T03:04:50.000Z"}});
        let text = text(&story);
        let places: Vec<Option<usize>> =
            ["   1  2026", "... 6 attempts between", "   8  2026", "let go on by an operator", "   9  2026", "  10  2026"]
                .map(|s| text.find(s))
                .to_vec();
        assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{places:?}\n{text}");
        let last = "   9  2026-01-02T03:04:39.000Z +1.000 s  primary (192.0.2.1:104)\n      answer, answered A700H, may have arrived, failover to secondary\n";
        assert!(text.contains(last), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    }
}
