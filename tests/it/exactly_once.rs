//! `processing.guarantee = "exactly_once"`: whatever dies, a reader of what is committed sees each event's outcome once, and each hop of a parked
//! call once.

use std::collections::{BTreeMap, BTreeSet};

use fusebox::edge::embedded::stub::Act;
use http::StatusCode;

use crate::harness::{Event, Instance, Message, World, until};

const EVENTS: usize = 3_000;

fn world(name: &str) -> World {
    // A killed member is noticed soon.
    let config = "[processing]\nguarantee = \"exactly_once\"\n[kafka.properties]\n\"session.timeout.ms\" = \"4000\"";
    let world = World::new(name).partitions(6).config(config).start();
    for service in ["rag", "rulegen", "vms"] {
        world.stub(service).set(Act::Slow { ms: 20 });
    }
    let events: Vec<Event> = (0..EVENTS).map(|number| Event::of(&format!("cam-{}", number % 60)).notifying()).collect();
    world.publish(&events);
    world
}

/// How often each event has an outcome, by what says so.
fn outcomes(world: &World) -> BTreeMap<String, Vec<Message>> {
    let mut by_event: BTreeMap<String, Vec<Message>> = BTreeMap::new();
    for outcome in world.read(&world.outcomes) {
        let id = outcome.json()["event_id"].as_str().expect("an id").to_owned();
        by_event.entry(id).or_default().push(outcome);
    }
    by_event
}

fn all_have_ended(world: &World, events: usize) {
    until("every event has an outcome", || outcomes(world).len() == events);
    until("every event is committed", || world.committed().values().filter_map(|of| of.offset).sum::<i64>() == events as i64);
}

/// Each outcome once, each parked call where an outcome says so, each of its hops once.
fn judge(world: &World) {
    let outcomes = outcomes(world);
    let again: Vec<_> = outcomes.iter().filter(|(_, all)| all.len() != 1).map(|(id, all)| (id, all.len())).collect();
    assert!(again.is_empty(), "{} of {EVENTS} events have more than one outcome: {again:?}", again.len());
    let says_so = |outcome: &Message| outcome.json()["stages"]["notifier"]["parked"] == true;
    let parked: BTreeSet<&str> = outcomes.iter().filter(|(_, all)| all.iter().any(says_so)).map(|(id, _)| id.as_str()).collect();
    // A transaction's marks reach one partition a moment after another.
    until("the outcomes that say so, and no others, have parked calls", || {
        let calls = world.read(&world.retries);
        calls.iter().map(|call| call.header("fusebox-event-id")).collect::<BTreeSet<_>>() == parked
    });
    let mut hops = BTreeSet::new();
    for call in world.read(&world.retries) {
        let hop = (call.header("fusebox-event-id").to_owned(), call.number("fusebox-parks"));
        assert!(hops.insert(hop.clone()), "{hop:?} is parked twice");
    }
    assert_eq!(world.read(&world.dead_letters).len(), 0);
}

/// Starts one, and waits until it has asked rag that often.
fn run_until(world: &World, id: Option<&str>, calls: usize) -> Instance {
    let named = id.map(|id| format!("processing.transactional_id={id}"));
    let flags: Vec<&str> = named.iter().flat_map(|named| ["--set", named.as_str()]).collect();
    let instance = world.spawn(&flags);
    until("it is in the middle of it", || world.call_count("rag") >= calls);
    instance
}

#[test]
fn kills_under_load_repeat_no_outcome() {
    let world = world("eos-kill");
    // Some calls are parked, and some are drained, while it dies again and again.
    for (number, (id, notifier)) in
        [(Some("a"), Act::Ok), (Some("a"), Act::fail(StatusCode::SERVICE_UNAVAILABLE)), (None, Act::Ok), (Some("a"), Act::Ok)]
            .into_iter()
            .enumerate()
    {
        world.stub("notifier").set(notifier);
        let calls = world.call_count("rag") + 300 + 100 * number;
        run_until(&world, id, calls).kill();
    }
    let begun = outcomes(&world).len();
    assert!((1..EVENTS).contains(&begun), "the kills must come in between: {begun} of {EVENTS}");
    let mut last = run_until(&world, Some("a"), world.call_count("rag") + 1);
    all_have_ended(&world, EVENTS);
    assert_eq!(last.stop(), 0, "{}", last.log());
    judge(&world);
}

#[test]
fn instances_that_come_and_go_repeat_no_outcome() {
    let world = world("eos-move");
    let mut first = run_until(&world, None, 300);
    let mut second = run_until(&world, None, world.call_count("rag") + 300);
    assert_eq!(first.stop(), 0, "{}", first.log());
    let mut third = run_until(&world, None, world.call_count("rag") + 300);
    second.kill();
    all_have_ended(&world, EVENTS);
    assert_eq!(third.stop(), 0, "{}", third.log());
    judge(&world);
}

#[test]
fn a_stop_under_load_commits_what_is_finished() {
    let world = world("eos-stop");
    let mut first = run_until(&world, None, 500);
    assert_eq!(first.stop(), 0, "{}", first.log());
    until("what was begun is finished, and nothing else", || outcomes(&world).len() == world.call_count("rag"));
    let finished = world.call_count("rag");
    assert!((300..EVENTS).contains(&finished), "the stop must come in between: {finished} of {EVENTS}");
    let mut second = run_until(&world, None, finished + 1);
    all_have_ended(&world, EVENTS);
    assert_eq!(second.stop(), 0, "{}", second.log());
    judge(&world);
    assert_eq!(world.call_count("rag"), EVENTS, "no event ran twice");
}

#[test]
fn a_frozen_instance_that_wakes_commits_nothing() {
    let world = world("eos-frozen");
    let mut frozen = run_until(&world, None, 500);
    frozen.signal("STOP");
    // Its partitions are the other's when its session has ended, and what it has left open when its transaction has.
    let mut other = run_until(&world, None, world.call_count("rag") + 500);
    frozen.signal("CONT");
    all_have_ended(&world, EVENTS);
    // Either it has become a member again, or a broker has ended its transaction for it, and it has ended too.
    until("it has noticed", || frozen.exited().is_some() || frozen.log().contains("partitions lost"));
    let more: Vec<Event> = (0..60).map(|number| Event::of(&format!("cam-{number}")).notifying()).collect();
    world.publish(&more);
    all_have_ended(&world, EVENTS + more.len());
    judge(&world);
    assert_eq!(other.stop(), 0, "{}", other.log());
}

#[test]
fn an_outcome_that_its_topic_does_not_take_is_a_dead_letter_and_holds_up_no_other() {
    let config = "[processing]\nguarantee = \"exactly_once\"\n[kafka.properties]\n\"compression.type\" = \"none\"";
    let world = World::new("eos-large").config(config).start();
    // The topics were made for smaller replies.
    let mut instance = world.spawn(&["--set", "services.rag.max_reply_bytes=16MiB"]);
    world.stub("rag").set(Act::TooLarge { bytes: 12_000_000 });
    let large = Event::of("cam-1");
    world.publish(std::slice::from_ref(&large));
    let letters = world.wait_for(&world.dead_letters, 1);
    assert_eq!((letters.len(), letters[0].header("fusebox-error-code")), (1, "too_large"));
    world.stub("rag").set(Act::Ok);
    let others: Vec<Event> = (0..20).map(|number| Event::of(&format!("cam-{}", number % 3))).collect();
    world.publish(&others);
    until("the others have outcomes", || outcomes(&world).len() == others.len());
    assert!(!outcomes(&world).contains_key(&large.id), "it ends once, as a dead letter");
    until("all is committed", || world.committed().values().filter_map(|of| of.offset).sum::<i64>() == 21);
    assert_eq!(instance.stop(), 0, "{}", instance.log());
}
