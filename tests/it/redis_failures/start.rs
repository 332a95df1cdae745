//! Instances that start or stop while Redis fails: no later than an answer may take, and as if there were none.

use std::time::{Duration, Instant};

use serde_json::json;

use super::course::{agree, is_degraded, is_well};
use super::failures::{Failure, REFUSING, Rig, SILENT, TIMEOUT};
use crate::harness::{Event, Instance, World, until};

/// What starts of one process may differ by on a machine that does other things.
const SLACK: Duration = Duration::from_secs(2);

fn started(world: &World) -> (Instance, Duration) {
    let from = Instant::now();
    (world.spawn(&[]), from.elapsed())
}

#[test]
fn no_start_waits_for_redis_longer_than_its_timeout() {
    let mut rig = Rig::start();
    let config = format!("[redis]\nurl = \"{}\"\ntimeout = \"{}\"", rig.proxy.url(), humantime::format_duration(TIMEOUT));
    let world = World::new("redis-start").redis(&rig.url()).config(&config).start();
    let (mut old, usual) = started(&world);
    old.wait_ready();
    assert_eq!(old.force("vms", &json!({ "state": "metrics_only", "reason": "before" })).status, 200);
    until("it is stored", || agree(&world, &[&old]));

    let named =
        |name: &str| -> &Failure { [SILENT, REFUSING].into_iter().flatten().find(|failure| failure.name == name).expect("a failure") };
    for name in ["frozen", "slower than the timeout", "busy with a script"] {
        let failure = named(name);
        (failure.strike)(&mut rig);
        let (mut new, took) = started(&world);
        assert!(took < usual + TIMEOUT + SLACK, "{name}: it took {took:?}, where {usual:?} are usual");
        until("it is ready", || is_degraded(&new));
        assert_eq!(new.breaker("vms")["state"], "closed", "{name}: it knows of nothing yet");
        assert_eq!(world.outcome_of(&Event::of("cam-1").notifying())["status"], "ok", "{name}");
        (failure.mend)(&mut rig);
        until("all agree", || is_well(&old) && is_well(&new) && agree(&world, &[&old, &new]));
        assert_eq!(new.breaker("vms")["lock"]["reason"], "before", "{name}");
        assert_eq!(new.stop(), 0);
    }

    // What takes no writes can still be read.
    let failure = named("out of memory");
    (failure.strike)(&mut rig);
    let (mut new, _) = started(&world);
    assert_eq!(new.breaker("vms")["lock"]["reason"], "before");
    (failure.mend)(&mut rig);
    until("all agree", || is_well(&old) && is_well(&new) && agree(&world, &[&old, &new]));

    // Who stops has nothing to wait for but its last save, be it known that Redis fails or not.
    let failure = named("frozen");
    (failure.strike)(&mut rig);
    for instance in [&mut old, &mut new] {
        assert_eq!(instance.force("rag", &json!({ "state": "metrics_only", "reason": "the last" })).status, 200);
        let from = Instant::now();
        assert_eq!(instance.stop(), 0);
        assert!(from.elapsed() < 2 * TIMEOUT + SLACK, "it took {:?}", from.elapsed());
    }
    (failure.mend)(&mut rig);
}
