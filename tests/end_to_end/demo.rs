//! `everpost demo`: the story that a newcomer sees first. It must tell the truth, in time, and plainly when nobody watches.

use harness::World;
use harness::gateway::program;
use harness::process::run_any;
use serde_json::Value;
use std::process::Command;

#[test]
fn the_demo_reconciles_and_reports() {
    let world = World::new("demo");
    let report = world.path("report.json");
    let began = std::time::Instant::now();
    let (status, out, err) = run_any(Command::new(program()).args(["demo", "--seconds", "20", "--report"]).arg(&report).current_dir(world.dir()), 90);
    assert_eq!(status.code(), Some(0), "{out}\n{err}");
    assert!(began.elapsed().as_secs() < 45, "{:?}", began.elapsed());
    assert!(!out.contains('\u{1b}'), "no escape sequences when it is not a terminal");
    let report: Value = serde_json::from_str(&std::fs::read_to_string(&report).expect("a report")).expect("JSON");
    assert_eq!(report["ok"], true, "{report}");
    for protocol in ["hl7", "dicom"] {
        let part = &report[protocol];
        assert!(part["sent"].as_u64().is_some_and(|n| n > 20), "{report}");
        assert_eq!((&part["lost"], &part["reordered"]), (&Value::from(0), &Value::from(0)), "{report}");
        assert!(part["answered"].is_u64() && part["duplicated"].is_u64());
        let received = part["received"].as_object().expect("counts by peer");
        assert!(received.len() >= 2 && received.values().all(|n| n.as_u64().is_some_and(|n| n > 0)), "both of a pair received: {report}");
    }
    for key in ["failover_ms", "restart_ms", "failback_ms"] {
        assert!(report[key].is_number(), "no {key}: {report}");
    }
}
