//! `dead_letters.brake`: a bad deploy upstream stops the partition that it wrote to, and nothing of it is a dead letter before somebody says so.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use crate::harness::{Event, Instance, World, until};

const GOOD: usize = 100;
const BAD: usize = 500;
const BRAKE: &str = "[dead_letters.brake]\nrun = 20\nhold = \"5s\"";

fn on(partition: i32, mut event: Event) -> Event {
    event.partition = Some(partition);
    event
}

fn good(partition: i32, count: usize) -> Vec<Event> {
    (0..count).map(|number| on(partition, Event::of(&format!("cam-{partition}-{}", number % 10)))).collect()
}

/// What a deploy writes that has forgotten the camera.
fn bad(partition: i32, count: usize) -> Vec<Event> {
    (0..count).map(|number| on(partition, Event::raw(Some(format!(r#"{{"camera":"cam-{number}"}}"#).as_bytes())))).collect()
}

/// Dead letters by the coordinates of what they were: how often each is there.
fn letters(world: &World) -> BTreeMap<(i64, i64), usize> {
    let mut letters = BTreeMap::new();
    for letter in world.read(&world.dead_letters) {
        *letters.entry((letter.number("fusebox-origin-partition"), letter.number("fusebox-origin-offset"))).or_default() += 1;
    }
    letters
}

fn outcomes_of(world: &World, partition: i64) -> BTreeSet<i64> {
    let outcomes = world.read(&world.outcomes).into_iter().map(|outcome| outcome.json()["source"].clone());
    outcomes.filter(|source| source["partition"] == partition).map(|source| source["offset"].as_i64().expect("an offset")).collect()
}

fn stopped(instance: &Instance) -> serde_json::Value {
    let partitions = instance.get("/api/v1/partitions").json();
    let all = partitions["partitions"].as_array().expect("a list");
    all.iter().find(|partition| !partition["braked"].is_null()).cloned().unwrap_or_default()
}

fn wait_for_the_stop(instance: &Instance) {
    until("partition 1 is stopped", || stopped(instance)["partition"] == 1);
    let braked = &stopped(instance)["braked"];
    let seen = json!([braked["first"], braked["at"], braked["code"], braked["bad"]]);
    assert_eq!(seen, json!([100, 119, "missing_field", 20]), "{braked}");
}

/// All events of the other partitions have outcomes, and all good ones in front of the bad.
fn the_rest_goes_on(world: &World, others: usize) {
    until("what is good has its outcome", || {
        outcomes_of(world, 0).len() == others && outcomes_of(world, 2).len() == others && outcomes_of(world, 1).len() == GOOD
    });
    until("it is committed, and the bad ones are not", || {
        let committed = world.committed();
        let at = |partition: i32| committed[&partition].offset;
        (at(0), at(1), at(2)) == (Some(others as i64), Some(GOOD as i64), Some(others as i64))
    });
}

fn bad_deploy(name: &str, more: &str) {
    let world = World::new(name).config(&format!("{BRAKE}\n{more}")).start();
    let mut first = world.run();
    let mut events = [good(0, GOOD), good(1, GOOD), good(2, GOOD)].concat();
    events.extend(bad(1, BAD));
    events.extend(good(1, 30));
    world.publish(&events);

    wait_for_the_stop(&first);
    world.publish(&[good(0, GOOD), good(2, GOOD)].concat());
    the_rest_goes_on(&world, 2 * GOOD);
    assert_eq!(letters(&world), BTreeMap::new(), "what tripped is held, too");

    // It is said, and nothing is taken for dead.
    let (state, detail) = first.part("events");
    assert_eq!(state, "degraded");
    assert!(detail.contains("/1 is stopped at 119 (missing_field)") && detail.contains("fusebox partitions"), "{detail}");
    assert_eq!(first.get("/readyz").status, 200);
    assert_eq!(first.get("/livez").status, 200);
    let metrics = first.get("/metrics").body;
    assert!(metrics.lines().any(|line| line == "fusebox_braked_partitions 1"), "{metrics}");
    assert_eq!(first.log().lines().filter(|line| line.contains("a partition is stopped")).count(), 1);
    let listed = world.cli(&["partitions", "list", "--api", &first.url()]).exits(0);
    assert!(listed.out.contains("20 bad from 100 to 119 (missing_field)"), "{}", listed.out);

    // A stop is clean; a kill is a kill. Either way it stands at the same place again.
    assert_eq!(first.stop(), 0, "{}", first.log());
    let mut second = world.spawn(&[]);
    wait_for_the_stop(&second);
    second.kill();
    let mut third = world.spawn(&[]);
    wait_for_the_stop(&third);
    world.publish(&good(0, 1));
    until("others go on", || outcomes_of(&world, 0).len() == 2 * GOOD + 1);
    assert_eq!((letters(&world), outcomes_of(&world, 1).len()), (BTreeMap::new(), GOOD));

    // Who may not, cannot; what is not stopped, or not here, cannot be let go on.
    let path = "/api/v1/partitions/1/release";
    assert_eq!(third.post(path, None, &json!({})).status, 401);
    let release = |arguments: &[&str]| {
        let url = third.url();
        let all: Vec<&str> =
            ["partitions", "release"].iter().chain(arguments).chain(&["--api", &url, "--token", &world.operator]).copied().collect();
        world.cli(&all)
    };
    assert!(release(&["0"]).exits(1).err.contains("is not stopped"));
    assert!(release(&["7"]).exits(1).err.contains("is not this instance's"));
    release(&["1", "--through", "soon"]).exits(2);

    // Those that are held go, and the next ones are too many again.
    release(&["1", "--reason", "looked at them"]).exits(0);
    until("it stops again behind them", || stopped(&third)["braked"]["first"] == 120);
    until("those that were held are dead letters", || letters(&world).len() == 20);
    assert!(letters(&world).iter().all(|((partition, offset), times)| (*partition, *times) == (1, 1) && (100..120).contains(offset)));

    release(&["1", "--through", "end", "--reason", "upstream is mended"]).exits(0);
    world.publish(&good(1, 30));
    world.wait_for_commits();
    let letters = letters(&world);
    let expected: BTreeMap<_, _> = (GOOD..GOOD + BAD).map(|offset| ((1, offset as i64), 1)).collect();
    assert_eq!(letters, expected, "each once");
    assert_eq!(outcomes_of(&world, 1).len(), GOOD + 60);
    assert_eq!(world.read(&world.outcomes).len(), 2 * 2 * GOOD + 1 + GOOD + 60, "each once");
    third.wait_ready();
    let log = third.log();
    assert!(log.contains("a stopped partition goes on") && log.contains("upstream is mended") && log.contains("fusebox::audit"), "{log}");
    assert_eq!(third.stop(), 0);
}

#[test]
fn a_bad_deploy_stops_its_partition_until_somebody_lets_it_go_on() {
    bad_deploy("brake", "");
}

#[test]
fn so_it_does_where_records_and_commits_are_one() {
    bad_deploy("brake-once", "[processing]\nguarantee = \"exactly_once\"");
}

#[test]
fn its_next_owner_stops_at_the_same_record() {
    let world = World::new("brake-moves").partitions(2).config(BRAKE).start();
    let mut first = world.run();
    world.publish(&[good(1, GOOD), bad(1, BAD), good(0, GOOD)].concat());
    wait_for_the_stop(&first);
    let mut second = world.spawn(&[]);
    until("each has one", || {
        [&first, &second]
            .iter()
            .all(|instance| instance.get("/api/v1/partitions").json()["partitions"].as_array().is_some_and(|all| all.len() == 1))
    });
    let stays = stopped(&first)["partition"] == 1;
    if stays {
        assert_eq!(first.stop(), 0);
    }
    wait_for_the_stop(&second);
    assert_eq!(letters(&world), BTreeMap::new());
    let release =
        |instance: &Instance, body: serde_json::Value| instance.post("/api/v1/partitions/1/release", Some(&world.operator), &body).status;
    if !stays {
        assert_eq!((stopped(&first), release(&first, json!({}))), (serde_json::Value::Null, 404));
    }
    assert_eq!(release(&second, json!({ "through": "soon" })), 400);
    assert_eq!(release(&second, json!({ "until": 3 })), 400);
    assert_eq!(release(&second, json!({ "through": 300 })), 202);
    until("it stops behind those", || stopped(&second)["braked"]["first"] == 301);
    until("those are dead letters", || letters(&world).len() == 201);
    assert_eq!(release(&second, json!({ "through": "end" })), 202);
    world.publish(&good(1, 1));
    world.wait_for_commits();
    let expected: BTreeMap<_, _> = (GOOD..GOOD + BAD).map(|offset| ((1, offset as i64), 1)).collect();
    assert_eq!((letters(&world), outcomes_of(&world, 1).len()), (expected, GOOD + 1));
    assert_eq!(second.stop(), 0);
}

#[test]
fn single_bad_records_between_good_ones_never_stop_it() {
    let world = World::new("brake-single").partitions(1).config(BRAKE).start();
    let mut instance = world.run();
    let mut events = Vec::new();
    for number in 0..1_000 {
        // Up to nineteen in a row.
        let run = if number % 100 == 0 { 19 } else { 1 };
        events.extend(bad(0, run));
        events.extend(good(0, 1));
    }
    let dead = events.len() - 1_000;
    world.publish(&events);
    // Nothing comes behind these: they are given up when they have been held for long.
    world.publish(&bad(0, 5));
    world.wait_for_commits();
    assert_eq!((world.read(&world.outcomes).len(), letters(&world).len()), (1_000, dead + 5));
    assert!(letters(&world).values().all(|times| *times == 1));
    assert!(!instance.log().contains("is stopped"), "{}", instance.log());
    assert_eq!(instance.stop(), 0);
}
