//! Services that are asked for their health: what closes a breaker where no event comes, and that none is spent on it.

use fusebox::edge::embedded::stub::{Act, Ended, Entry};
use http::{Method, StatusCode};

use crate::harness::{Event, World, until};

/// A breaker that opens soon, lets so many probes through and wants as many good ones, and is asked about often.
fn asked(service: &str, probes: u32) -> String {
    let health = format!("[services.{service}.health]\npath = \"/up\"\ninterval = \"200ms\"");
    let breaker = format!("fail_max = 1\nrecovery_timeout = \"500ms\"\npermits = {probes}\nsuccess_threshold = {probes}");
    format!("[services.{service}.breaker]\n{breaker}\n{health}")
}

/// The calls and the checks that a stub has seen.
fn told_apart(entries: Vec<Entry>) -> (Vec<Entry>, Vec<Entry>) {
    let (checks, calls): (Vec<_>, Vec<_>) = entries.into_iter().partition(|entry| entry.method == Method::GET);
    assert!(checks.iter().all(|check| check.path == "/up" && check.idempotency_key.is_none()), "{checks:?}");
    (calls, checks)
}

#[test]
fn a_service_without_traffic_recovers() {
    let world = World::new("health").config(&asked("rag", 1)).start();
    let mut instance = world.run();
    world.stub("rag").set(Act::fail(StatusCode::SERVICE_UNAVAILABLE));
    assert_eq!(world.outcome_of(&Event::of("cam-1"))["stages"]["rag"]["error_type"], "http_5xx");

    // It stays unwell: the breaker tries, by checks alone, and what comes meanwhile is refused.
    until("it was half-open, and is open again", || {
        world.redis().transitions("rag").iter().any(|change| change == "half_open→open probe_failed")
    });
    assert_eq!(world.outcome_of(&Event::of("cam-2"))["stages"]["rag"]["error_type"], "circuit_open");
    let (calls, checks) = told_apart(world.calls("rag"));
    assert!(calls.len() == 1 && !checks.is_empty(), "{} calls and {} checks", calls.len(), checks.len());

    world.stub("rag").set(Act::Ok);
    instance.wait_for_state("rag", "closed");
    let (calls, checks) = told_apart(world.calls("rag"));
    assert_eq!(calls.len(), 1, "no event was spent on it");
    assert_eq!(checks.last().and_then(|check| check.ended), Some(Ended::Answered(200)));
    until("Redis has it", || world.redis().state("rag") == "closed");
    assert_eq!(world.redis().transitions("rag").last().map(String::as_str), Some("half_open→closed recovered"));

    // Closed, nobody asks: the next thing that the service sees is a call.
    let before = checks.len();
    assert_eq!(world.outcome_of(&Event::of("cam-3"))["status"], "ok");
    let (calls, checks) = told_apart(world.calls("rag"));
    assert_eq!((calls.len(), checks.len()), (2, before));
    assert_eq!(instance.stop(), 0);
}

#[test]
fn a_parked_call_waits_until_a_check_has_closed_the_breaker() {
    // With three places there would be room for the call beside the check.
    let world = World::new("health-parked").config(&asked("notifier", 3)).start();
    let mut instance = world.run();
    world.stub("notifier").set(Act::fail(StatusCode::SERVICE_UNAVAILABLE));
    assert_eq!(world.outcome_of(&Event::of("cam-1").notifying())["stages"]["notifier"]["error_type"], "http_5xx");
    // Long enough for the call to be due, and for the breaker to have let it through as a probe.
    until("checks fail, half-open", || {
        world.redis().transitions("notifier").iter().filter(|change| *change == "half_open→open probe_failed").count() >= 3
    });
    world.stub("notifier").set(Act::Ok);
    until("it is delivered", || told_apart(world.calls("notifier")).0.len() == 2);
    world.wait_for_commits();
    assert_eq!(instance.stop(), 0);

    let (calls, checks) = told_apart(world.calls("notifier"));
    let [failed, delivered] = calls.as_slice() else { panic!("two calls, not {}", calls.len()) };
    assert_eq!((failed.ended, delivered.ended), (Some(Ended::Answered(503)), Some(Ended::Answered(200))));
    let good = checks.iter().filter(|check| check.ended == Some(Ended::Answered(200)) && check.seq < delivered.seq);
    assert!(good.count() >= 3, "three good checks came first");
    assert!(checks.iter().all(|check| check.seq < delivered.seq), "and none after it");
}
