//! The record of calls: what stands in it is what the services saw, and nobody waits for it.

use std::path::Path;

use fusebox::edge::embedded::stub::{Act, Ended, Entry, RetryAfter};
use http::StatusCode;
use serde_json::{Value, json};

use crate::harness::{Event, World, until};

/// The flag that has calls recorded in a file.
fn flag(path: &Path) -> String {
    format!("telemetry.record_calls={}", path.display())
}

/// The lines of a record.
fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).expect("a record");
    assert!(text.is_empty() || text.ends_with('\n'), "its last line is whole");
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"))).collect()
}

/// What a breaker hears of a call that a stub saw.
fn verdict(entry: &Entry) -> &'static str {
    match entry.ended {
        Some(Ended::Answered(200 | 404)) => "success",
        Some(Ended::Answered(500 | 503) | Ended::Reset) => "failure",
        ended => panic!("no call of this test ends so: {ended:?}"),
    }
}

/// Checks that the lines of a service that is called one by one are its calls. The clocks are one, read to the millisecond on both sides.
fn check(world: &World, service: &str, lines: &[Value]) {
    let calls = world.calls(service);
    let lines: Vec<_> = lines.iter().filter(|line| line["service"] == service).collect();
    assert_eq!(lines.len(), calls.len(), "{service}: {lines:?}");
    for (line, call) in lines.into_iter().zip(&calls) {
        assert_eq!(line["verdict"], verdict(call), "{line} is of {call:?}");
        let (at, took) = (line["at"].as_i64().expect("milliseconds"), line["duration_ms"].as_f64().expect("a length"));
        #[expect(clippy::cast_precision_loss, reason = "a call of this test is short")]
        let into = (call.started_at.0 - at) as f64;
        assert!(into >= -2.0 && into <= took + 2.0, "{service} was asked while the call was out: {line} and {call:?}");
    }
}

#[test]
fn the_record_has_each_judged_call_as_its_service_saw_it() {
    // Longer than this test takes: once open, it stays so.
    let breaker = "[services.rag.breaker]\nfail_max = 3\nrecovery_timeout = \"5m\"";
    let world = World::new("recorded").config(breaker).start();
    let path = world.path("calls.jsonl");
    let mut instance = world.spawn(&["--set", &flag(&path)]);
    instance.wait_ready();

    let busy = Act::Fail { status: StatusCode::SERVICE_UNAVAILABLE, retry_after: Some(RetryAfter::seconds(3)) };
    world.stub("notifier").set(Act::fail(StatusCode::INTERNAL_SERVER_ERROR));
    let not_found = Act::fail(StatusCode::NOT_FOUND);
    for act in [Act::Ok, not_found, Act::Reset, Act::fail(StatusCode::INTERNAL_SERVER_ERROR), busy] {
        world.stub("rag").set(act);
        world.outcome_of(&Event::of("cam-1").notifying());
    }
    // Refused: nobody was called.
    let refused = world.outcome_of(&Event::of("cam-1"));
    assert_eq!(refused["stages"]["rag"]["error_type"], "circuit_open");
    // Parked calls are recorded as they are drained.
    world.stub("notifier").set(Act::Ok);
    let delivered = |call: &Entry| call.ended == Some(Ended::Answered(200));
    until("the parked calls are delivered", || world.calls("notifier").iter().filter(|call| delivered(call)).count() == 5);
    world.wait_for_commits();
    assert_eq!(instance.stop(), 0);

    let recorded = lines(&path);
    assert_eq!(world.call_count("rag"), 5);
    for service in ["rag", "rulegen", "vms"] {
        check(&world, service, &recorded);
    }
    // Drained calls may be out side by side, and end in another order than they began in.
    let mut heard: Vec<_> = recorded.iter().filter(|line| line["service"] == "notifier").map(|line| line["verdict"].clone()).collect();
    let mut seen: Vec<_> = world.calls("notifier").iter().map(verdict).collect();
    heard.sort_unstable_by_key(Value::to_string);
    seen.sort_unstable();
    assert_eq!(heard, seen);
    let asked: Vec<_> = recorded.iter().filter_map(|line| line.get("retry_after_ms")).collect();
    assert_eq!(asked, [&json!(3000)]);
    let members = ["at", "duration_ms", "retry_after_ms", "service", "verdict"];
    for line in &recorded {
        assert!(line.as_object().expect("an object").keys().all(|member| members.contains(&member.as_str())), "{line}");
    }

    // The next life goes on with the same file.
    let before = recorded.len();
    let mut instance = world.spawn(&["--set", &flag(&path)]);
    instance.wait_ready();
    world.outcome_of(&Event::of("cam-1"));
    world.wait_for_commits();
    assert_eq!(instance.stop(), 0);
    let all = lines(&path);
    assert!(all.len() > before && all[..before] == recorded, "{all:?}");
    check(&world, "rulegen", &all);
}

#[test]
fn a_record_that_cannot_be_written_stops_nothing_once_it_runs() {
    let world = World::new("unrecorded").start();
    let nowhere = world.path("no-such-directory").join("calls.jsonl");
    let ran = world.cli(&["run", "--set", &flag(&nowhere)]).exits(2);
    let expected = format!("telemetry.record_calls: {} cannot be opened for appending: No such file or directory", nowhere.display());
    assert!(ran.err.contains(&expected), "{ran:?}");

    // A disk that is always full.
    let mut instance = world.spawn(&["--set", &flag(Path::new("/dev/full"))]);
    instance.wait_ready();
    let lost = || {
        let text = instance.get("/metrics").body;
        let value = text.lines().find_map(|line| line.strip_prefix("fusebox_call_records_dropped_total ")?.parse::<u64>().ok());
        value.expect("the series is there")
    };
    assert_eq!(lost(), 0);
    for _ in 0..3 {
        let before = lost();
        assert_eq!(world.outcome_of(&Event::of("cam-1"))["status"], "ok");
        until("what is lost is counted", || lost() > before);
    }
    let calls: usize = ["rag", "rulegen", "notifier", "vms"].iter().map(|service| world.call_count(service)).sum();
    until("each call is counted", || lost() == calls as u64);
    world.wait_for_commits();
    assert_eq!(instance.stop(), 0);
    let told = instance.log().lines().filter(|line| line.contains("calls cannot be recorded")).count();
    assert_eq!(told, 1, "{}", instance.log());
}
