//! Orders that contradict each other, given to instances that cannot hear of each other: all of them end at the same, and a lock is lost to
//! nothing but another lock.

use fusebox::edge::embedded::stub::Act;
use http::StatusCode;
use serde_json::{Value, json};

use super::course::{agree, is_degraded, is_well};
use super::failures::Rig;
use crate::harness::{Event, Instance, World, until};

fn lock(instance: &Instance, service: &str, reason: &str) {
    let answer = instance.force(service, &json!({ "state": "metrics_only", "reason": reason }));
    assert_eq!(answer.status, 200, "{answer:?}");
}

fn set(instance: &Instance, service: &str, fail_max: u32) {
    let answer = instance.change_settings(service, None, &json!({ "fail_max": fail_max }));
    assert_eq!(answer.status, 200, "{answer:?}");
}

fn lock_of(instance: &Instance, service: &str) -> Value {
    instance.breaker(service)["lock"]["reason"].clone()
}

fn fail_max(instance: &Instance, service: &str) -> u32 {
    instance.breaker(service)["settings"]["fail_max"].as_u64().and_then(|number| number.try_into().ok()).expect("a number")
}

/// What the instances of both are asked while Redis is away, and what comes of it.
fn contradict(world: &World, fleet: &[&Instance; 2], base: u32, interrupt: impl FnOnce(), resume: impl FnOnce()) {
    let [one, other] = *fleet;
    for service in ["rag", "rulegen"] {
        lock(one, service, "before");
    }
    set(one, "rag", base);
    until("all know of it", || agree(world, fleet) && is_well(one) && is_well(other));

    interrupt();
    until("it is away", || is_degraded(one) && is_degraded(other));
    // Each puts its own lock on.
    lock(one, "vms", "one's");
    lock(other, "vms", "other's");
    // One takes a lock off, the other puts it on anew.
    assert_eq!(one.force("rag", &json!({ "state": "auto", "reason": "done" })).status, 200);
    lock(other, "rag", "once more");
    // One gives two orders, the last of which is not the lock; the other none.
    lock(one, "rulegen", "for a moment");
    assert_eq!(one.force("rulegen", &json!({ "state": "closed", "reason": "done" })).status, 200);
    // Both change the same settings, one of them twice.
    set(one, "vms", base + 1);
    set(other, "vms", base + 2);
    set(other, "vms", base + 3);
    // One goes on from what both know, the other does not.
    set(other, "rag", base + 4);

    resume();
    until("all agree", || is_well(one) && is_well(other) && agree(world, fleet));
    let vms = lock_of(one, "vms");
    assert!(vms == "one's" || vms == "other's", "{vms}");
    assert_eq!((lock_of(one, "rag"), &one.breaker("rulegen")["state"]), (json!("once more"), &json!("closed")));
    assert_eq!([one, other].map(|one| fail_max(one, "rag")), [base + 4; 2]);
    let stands = fail_max(one, "vms");
    assert!((stands == base + 1 || stands == base + 3) && stands == fail_max(other, "vms"), "{stands}");
    let loser = if stands == base + 1 { other } else { one };
    until("whoever lost a change says so", || loser.log().contains("give way to those that were changed there"));
    for service in ["rag", "rulegen", "vms"] {
        assert_eq!(one.force(service, &json!({ "state": "closed", "reason": "the end" })).status, 200);
    }
    until("all agree", || agree(world, fleet));
}

#[test]
fn orders_that_contradict_each_other_while_redis_is_away_end_as_one() {
    let rig = std::cell::RefCell::new(Rig::start());
    let config = format!("[redis]\nurl = \"{}\"\ntimeout = \"500ms\"", rig.borrow().proxy.url());
    let world = World::new("redis-orders").redis(&rig.borrow().url()).config(&config).start();
    let (mut one, mut other) = (world.run(), world.run());
    // What was stored is still there on its return, or nothing is.
    contradict(&world, &[&one, &other], 20, || rig.borrow().proxy.swallow(), || rig.borrow().proxy.pass());
    contradict(&world, &[&one, &other], 30, || rig.borrow_mut().kill(), || rig.borrow_mut().restart());
    assert_eq!((one.stop(), other.stop()), (0, 0));
}

#[test]
fn an_instance_that_is_cut_off_alone_finds_its_way_back() {
    let rig = Rig::start();
    let config = format!("[redis]\nurl = \"{}\"\ntimeout = \"500ms\"\n[services.notifier.breaker]\nfail_max = 1", rig.proxy.url());
    let world = World::new("redis-cut-off").redis(&rig.url()).partitions(4).config(&config).start();
    let mut one = world.run();
    let mut other = world.spawn(&["--set", &format!("redis.url={}", rig.url())]);
    until("both have their share", || [&one, &other].iter().all(|one| is_well(one) && one.part("events").0 == "ok"));
    let notifying = |name: &str| (0..24).map(|number| Event::of(&format!("{name}-{number}")).notifying()).collect::<Vec<_>>();

    rig.proxy.swallow();
    until("it knows", || is_degraded(&one));
    assert!(is_well(&other), "the other is not concerned");
    let notifier = world.stub("notifier");
    notifier.set(Act::fail(StatusCode::SERVICE_UNAVAILABLE));
    world.publish(&notifying("first"));
    world.outcomes(24);
    until("each finds out for itself", || [&one, &other].iter().all(|one| one.breaker("notifier")["state"] != "closed"));
    lock(&one, "rag", "cut off");
    lock(&other, "vms", "connected");
    set(&one, "vms", 21);
    set(&other, "rag", 22);
    notifier.set(Act::Ok);
    until("both are closed again", || [&one, &other].iter().all(|one| one.breaker("notifier")["state"] == "closed"));
    assert!(is_degraded(&one) && is_well(&other));

    rig.proxy.pass();
    until("all agree", || is_well(&one) && agree(&world, &[&one, &other]));
    for instance in [&one, &other] {
        assert_eq!((lock_of(instance, "rag"), lock_of(instance, "vms")), (json!("cut off"), json!("connected")));
        assert_eq!((fail_max(instance, "vms"), fail_max(instance, "rag")), (21, 22));
        assert_eq!(instance.breaker("notifier")["state"], "closed");
    }
    assert_eq!((one.stop(), other.stop()), (0, 0));
}

#[test]
fn an_instance_that_may_only_read_goes_by_what_the_others_decide() {
    let mut rig = Rig::start();
    let world = World::new("redis-reader").redis(&rig.url()).start();
    rig.ask("ACL SETUSER reader on >secret ~* &* +@all -hset -xadd");
    let mut reader = world.spawn(&["--set", &format!("redis.url={}", rig.url().replace("://", "://reader:secret@"))]);
    let mut writer = world.run();
    until("both are ready", || is_well(&reader) && is_well(&writer));

    // Before what comes next can be looked at, these two would have to be stored, one after the other.
    lock(&reader, "rag", "for a moment");
    lock(&reader, "rag", "the reader's");
    assert_eq!(reader.force("notifier", &json!({ "state": "closed", "reason": "a drill" })).status, 200);
    until("it is degraded", || is_degraded(&reader));
    let detail = reader.part("redis").1;
    assert!(detail.contains("NOPERM") && !reader.log().contains("secret"), "{detail}");
    lock(&writer, "vms", "the writer's");
    lock(&writer, "notifier", "the writer's");
    set(&writer, "vms", 31);
    until("it takes up what the other decides", || {
        lock_of(&reader, "vms") == "the writer's" && lock_of(&reader, "notifier") == "the writer's" && fail_max(&reader, "vms") == 31
    });
    assert_eq!(lock_of(&reader, "rag"), "the reader's", "its own, that nobody has heard of, stands");
    assert!(is_degraded(&reader) && is_well(&writer));

    rig.ask("ACL SETUSER reader +@all");
    until("all agree", || is_well(&reader) && agree(&world, &[&reader, &writer]));
    assert_eq!(lock_of(&writer, "rag"), "the reader's");
    assert_eq!((reader.stop(), writer.stop()), (0, 0));
}
