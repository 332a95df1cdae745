//! A retry topic that deletes records sooner than they may be parked: found at start and while running, shown by the log, `/readyz` and metrics.

use std::time::Duration;

use crate::harness::{Event, Instance, World, eventually, until, within};

/// Topics that were as they must be are looked at once a minute.
const FOUND_WITHIN: Duration = Duration::from_secs(100);

const HOUR: (&str, &str) = ("retention.ms", "3600000");

const WORDS: &str = "keeps records for 1h, but a call may be parked for 1day: raise its retention.ms, or lower retry.max_age";

const LOGGED: &str = "a retry topic deletes records before their max_age is over: raise its retention.ms, or lower retry.max_age";

/// What the metrics say: whether it is too short, and how long it is.
fn metrics(instance: &Instance) -> (String, String) {
    let text = instance.get("/metrics").body;
    let value = |name: &str| {
        let start = format!("fusebox_retry_retention_{name}{{service=\"notifier\"}} ");
        text.lines().find_map(|line| line.strip_prefix(&start)).unwrap_or_else(|| panic!("no {start}")).to_owned()
    };
    (value("short"), value("seconds"))
}

fn found(instance: &Instance, topic: &str) -> bool {
    let (state, detail) = instance.part("topics");
    state == "degraded" && detail.contains(topic) && detail.contains(WORDS)
}

fn times_logged(instance: &Instance, topic: &str) -> usize {
    instance.log().lines().filter(|line| line.contains(LOGGED) && line.contains(topic)).count()
}

#[test]
fn a_retention_that_is_too_short_is_found_at_start_and_while_running() {
    let world = World::new("retention").start();
    world.set(&world.retries, &[HOUR]);
    let mut instance = world.spawn(&[]);
    until("it is found at start", || found(&instance, &world.retries));
    until("events are processed all the same", || instance.get("/readyz").status == 200);
    assert_eq!(world.outcome_of(&Event::of("cam-1"))["status"], "ok");
    until("a metric says so", || metrics(&instance) == ("1".into(), "3600".into()));
    assert_eq!(times_logged(&instance, &world.retries), 1, "{}", instance.log());

    world.set(&world.retries, &[("retention.ms", "604800000")]);
    until("it is long enough", || instance.part("topics").0 == "ok");
    until("the metric says so", || metrics(&instance) == ("0".into(), "604800".into()));

    world.set(&world.retries, &[HOUR]);
    within(FOUND_WITHIN, "it is found while running", || found(&instance, &world.retries).then_some(()));
    until("a metric says so", || metrics(&instance) == ("1".into(), "3600".into()));
    eventually("it is logged again", || (times_logged(&instance, &world.retries) == 2).then_some(()));
    assert_eq!(instance.stop(), 0, "{}", instance.log());
}
