//! A partition whose finished records would no longer fit beside its commit: it is held, and a kill repeats none of them.

use std::collections::{BTreeMap, HashSet};

use fusebox::edge::embedded::stub::Act;
use fusebox::machine::progress::{MAX_BYTES, Progress};
use serde_json::json;

use crate::harness::{Event, Message, World, until};

/// One stage that hangs, for slow events; one that every hundredth of the others calls, so that its service can tell whether they run again.
const PIPELINE: &str = r#"
[processing]
max_in_flight = 100_000
concurrency = 30_000
[services.rag]
timeout = "120s"
concurrency = 4
[[pipeline]]
service = "rag"
when = "event.label == 'slow'"
[[pipeline]]
service = "rulegen"
when = "event.label == 'asked'"
"#;

/// More than a bit for each of them fits beside a commit.
const EVENTS: usize = 27_000;

/// Offsets that a bit each can be told of: 4,096 bytes, less those of version and form, in Base64, times eight.
const TOLD: usize = (MAX_BYTES - 9) * 3 / 4 * 8;

#[test]
fn what_has_finished_behind_a_stuck_record_is_not_run_again_after_a_kill() {
    let world = World::new("held").partitions(1).config(PIPELINE).start();
    world.stub("rag").set(Act::Hang);
    // A fifth at random: too many for a distance each, and no pattern that could be deflated much.
    let mut state = 1_u32;
    let mut one_in_five = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 16).is_multiple_of(5)
    };
    let kind = |number: usize, slow: bool| {
        if slow {
            "slow"
        } else if number.is_multiple_of(100) {
            "asked"
        } else {
            "quick"
        }
    };
    let kinds: Vec<&str> = (0..EVENTS).map(|number| if number == 0 { "slow" } else { kind(number, one_in_five()) }).collect();
    let event = |(number, kind): (usize, &&str)| Event::of(&format!("cam-{number}")).with("label", json!(kind));
    let events: Vec<Event> = kinds.iter().enumerate().map(event).collect();
    let mut first = world.run();
    world.publish(&events);

    // What cannot be told of is not begun.
    let quick = kinds[..TOLD].iter().filter(|kind| **kind != "slow").count();
    until("all that may begin and can finish has finished", || world.count(&world.outcomes) >= quick);
    let paused = || first.get("/metrics").body.lines().any(|line| line == "fusebox_paused_partitions 1");
    until("the partition is held", paused);
    until("all of it is told beside the commit", || {
        let committed = &world.committed()[&0];
        let Some(next) = committed.offset else { return false };
        let told = Progress::decode(fusebox::event::Offset(next), &committed.metadata).expect("its own");
        (0..TOLD).all(|number| told.has_finished(fusebox::event::Offset(number as i64)) == (kinds[number] != "slow"))
    });
    assert_eq!(world.count(&world.outcomes), quick, "nothing beyond has begun");
    let asked = world.call_count("rulegen");
    assert_eq!(asked, kinds[..TOLD].iter().filter(|kind| **kind == "asked").count());
    first.kill();

    world.stub("rag").set(Act::Ok);
    let mut second = world.run();
    let outcomes = world.outcomes(EVENTS);
    world.wait_for_commits();
    assert_eq!(second.stop(), 0, "{}", second.log());
    let mut ends: BTreeMap<String, usize> = BTreeMap::new();
    for outcome in outcomes.iter().map(Message::json) {
        *ends.entry(outcome["event_id"].to_string()).or_default() += 1;
    }
    let twice = ends.values().filter(|count| **count > 1).count();
    assert_eq!((ends.len(), twice, world.count(&world.outcomes)), (EVENTS, 0, EVENTS), "one outcome each");
    let keys: HashSet<_> = world.calls("rulegen").iter().map(|call| call.idempotency_key.clone()).collect();
    let all_asked = kinds.iter().filter(|kind| **kind == "asked").count();
    assert_eq!((keys.len(), world.call_count("rulegen")), (all_asked, all_asked), "nobody is asked again about what had finished");
}
