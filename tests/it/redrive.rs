//! Dead letters go back to where they came from: once, whole, and not without end.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use fusebox::edge::embedded::stub::{Act, Ended};
use http::StatusCode;
use serde_json::{Value, json};

use crate::harness::{Event, Message, World, eventually, until};

/// Attempts are spent one after the other, and soon.
const HASTE: &str = "[services.notifier.breaker]\nfail_max = 1000\n[services.notifier.retry]\nmax_attempts = 2\nmax = \"100ms\"\n";

fn redrive(world: &World, flags: &[&str]) -> Value {
    world.cli(&[&["dead-letters", "redrive", "--output", "json"], flags].concat()).exits(0).json()
}

/// Letters by code and service, as another reader of the topic counts them.
fn shares(letters: &[Message]) -> BTreeMap<(String, String), u64> {
    let mut shares = BTreeMap::new();
    for letter in letters {
        let text = |name: &str| letter.headers.iter().find(|(there, _)| there == name).and_then(|(_, value)| value.clone());
        let text = |name: &str| text(name).map(|value| String::from_utf8(value).expect("text")).unwrap_or_default();
        *shares.entry((text("fusebox-error-code"), text("fusebox-service"))).or_default() += 1;
    }
    shares
}

fn shares_of(answer: &Value) -> BTreeMap<(String, String), u64> {
    let text = |share: &Value, field: &str| share[field].as_str().expect("text").to_owned();
    let all = answer["by"].as_array().expect("a list").iter();
    all.map(|share| ((text(share, "code"), text(share, "service")), share["letters"].as_u64().expect("a number"))).collect()
}

fn delivered(world: &World) -> BTreeMap<String, usize> {
    let mut delivered = BTreeMap::new();
    for call in world.calls("notifier").iter().filter(|call| call.ended == Some(Ended::Answered(200))) {
        *delivered.entry(call.headers["idempotency-key"].to_str().expect("text").to_owned()).or_default() += 1;
    }
    delivered
}

#[test]
fn calls_are_delivered_once_when_their_service_is_mended() {
    let world = World::new("redrive").config(HASTE).start();
    world.stub("notifier").set(Act::fail(StatusCode::BAD_GATEWAY));
    let mut instance = world.run();
    let events: Vec<Event> = (0..6).map(|n| Event::of(&format!("cam-{n}")).notifying()).collect();
    world.publish(&events);
    world.publish(&[Event::raw(Some(b"no json"))]);
    let letters = world.wait_to_read(&world.dead_letters, 7);

    let expected = shares(&letters);
    assert_eq!(expected.values().sum::<u64>(), 7);
    let dry = redrive(&world, &["--all", "--dry-run"]);
    assert_eq!((shares_of(&dry), &dry["redriven"], &dry["dry_run"]), (expected, &json!(7), &json!(true)));
    let dry = redrive(&world, &["--code", "attempts_exhausted", "--dry-run"]);
    assert_eq!(dry["redriven"], 6, "a dry run has changed nothing");

    // Not mended yet: they come back as letters, and say how often.
    assert_eq!(redrive(&world, &["--service", "notifier"])["redriven"], 6);
    let letters = world.wait_to_read(&world.dead_letters, 13);
    let again: Vec<&Message> = letters.iter().filter(|letter| letter.number("fusebox-redrives") == 1).collect();
    assert_eq!(again.len(), 6);
    let first =
        letters.iter().find(|letter| letter.number("fusebox-redrives") == 0 && letter.header("fusebox-error-code") != "invalid_json");
    for letter in again {
        assert_eq!(letter.headers.len(), first.expect("a first").headers.len(), "headers pile up: {:?}", letter.headers);
        assert_eq!(letter.header("fusebox-origin-topic"), world.events, "it is still known which event it belongs to");
    }

    world.stub("notifier").set(Act::Ok);
    let answer = redrive(&world, &["--service", "notifier"]);
    assert_eq!((&answer["redriven"], &answer["redriven_before"]), (&json!(6), &json!(6)));
    let keys: BTreeSet<String> = events.iter().map(|event| format!("{}/notifier", event.id)).collect();
    until("all are delivered", || delivered(&world).len() == 6);
    let answer = redrive(&world, &["--service", "notifier"]);
    assert_eq!((&answer["redriven"], &answer["redriven_before"]), (&json!(0), &json!(12)), "a second run skips them");
    until("nothing is parked", || instance.get("/api/v1/retry").json()["services"][0]["held"] == 0);
    until("no backlog is told of", || instance.get("/api/v1/retry").json()["services"][0]["depth"] == 0);
    let once = delivered(&world);
    assert_eq!(once.keys().cloned().collect::<BTreeSet<_>>(), keys);
    assert!(once.values().all(|times| *times == 1), "{once:?}");

    // Unless it is asked for.
    let event = events[0].id.as_str();
    assert_eq!(redrive(&world, &["--id", event, "--again"])["redriven"], 2);
    until("it is delivered again", || delivered(&world)[&format!("{event}/notifier")] == 3);
    assert_eq!(instance.stop(), 0);
}

#[test]
fn an_event_goes_back_whole_and_a_loop_ends() {
    // With the newer protocol of groups too: nobody joins the one that remembers.
    let config = "[dead_letters]\nmax_redrives = 2\n[kafka.properties]\n\"group.protocol\" = \"consumer\"\n";
    let world = World::new("redrive-loop").config(config).start();
    let mut instance = world.run();
    let mut event = Event::raw(Some(b"\xff no json")).header("x-theirs", "1").header("x-theirs", "2");
    event.key = Some(b"cam-1".to_vec());
    world.publish(&[event]);
    world.wait_to_read(&world.dead_letters, 1);
    for round in 1..=2 {
        assert_eq!(redrive(&world, &["--all"])["redriven"], 1, "round {round}");
        let letters = world.wait_to_read(&world.dead_letters, round + 1);
        assert_eq!(letters.iter().filter(|letter| letter.number("fusebox-redrives") == i64::try_from(round).expect("few")).count(), 1);
    }
    let answer = redrive(&world, &["--all"]);
    assert_eq!((&answer["redriven"], &answer["left"], &answer["left_for"]), (&json!(0), &json!(1), &json!({ "max_redrives": 1 })));
    assert_eq!(answer["left_letters"][0]["reason"], "max_redrives");
    assert!(answer["left_letters"][0]["detail"].as_str().is_some_and(|detail| detail.contains("dead_letters.max_redrives")), "{answer}");
    assert_eq!(instance.stop(), 0);

    let (first, records): (Vec<_>, Vec<_>) =
        world.read(&world.events).into_iter().partition(|record| record.headers.iter().all(|(name, _)| name != "fusebox-redrives"));
    let ([first], 2) = (first.as_slice(), records.len()) else { panic!("one record and two that were redriven: {first:?} {records:?}") };
    for record in &records {
        assert_eq!((&record.value, &record.key, record.partition), (&first.value, &first.key, records[0].partition));
        let theirs: Vec<_> = record.headers.iter().filter(|(name, _)| name == "x-theirs").map(|(_, value)| value.clone()).collect();
        assert_eq!(theirs, [Some(b"1".to_vec()), Some(b"2".to_vec())]);
        assert_eq!(record.number("fusebox-origin-timestamp"), first.timestamp, "the time that it was read first");
        assert!(record.headers.iter().all(|(name, _)| !name.starts_with("fusebox-error")), "{:?}", record.headers);
        assert!(record.timestamp > first.timestamp);
    }
    // What does not come from where it says stays.
    let raised = redrive(&world, &["--all", "--set", "dead_letters.max_redrives=3", "--set", "topics.events=elsewhere.events"]);
    assert_eq!(raised["left_for"], json!({ "unknown_origin": 1 }));
}

/// Letters of events that nobody has processed, as Fusebox leaves them.
fn letters(world: &World, count: usize) -> Vec<Event> {
    let letter = |n: usize| {
        let mut letter = Event::raw(Some(format!("letter {n}").as_bytes()))
            .header("fusebox-error-code", if n.is_multiple_of(4) { "invalid_json" } else { "stage_failed" })
            .header("fusebox-origin-topic", &world.events)
            .header("fusebox-origin-partition", "0")
            .header("fusebox-origin-offset", &n.to_string());
        letter.key = Some(format!("cam-{}", n % 7).into());
        letter
    };
    (0..count).map(letter).collect()
}

fn values(world: &World) -> Vec<String> {
    let value = |record: Message| String::from_utf8(record.value.expect("a value")).expect("text");
    let mut values: Vec<String> = world.read(&world.events).into_iter().map(value).collect();
    values.sort();
    values
}

fn all(count: usize) -> Vec<String> {
    let mut all: Vec<String> = (0..count).map(|n| format!("letter {n}")).collect();
    all.sort();
    all
}

fn ended(child: &mut Child) -> i32 {
    eventually("it ends", || child.try_wait().expect("a child").map(|status| status.code().unwrap_or(-1)))
}

/// Letters that are there more than once.
fn twice(values: &[String]) -> usize {
    values.len() - values.iter().collect::<BTreeSet<_>>().len()
}

/// Kills redrives in the middle, and goes on; gives what is there in the end.
fn killed(name: &str, config: &str) -> Vec<String> {
    const COUNT: usize = 900;
    let world = World::new(name).config(config).start();
    world.publish_to(&world.dead_letters, &letters(&world, COUNT));
    for _ in 0..4 {
        let before = values(&world).len();
        let mut running = world.start(&["dead-letters", "redrive", "--code", "stage_failed", "--rate", "120"]);
        until("some have gone", || values(&world).len() > before);
        running.kill().expect("killed");
        running.wait().expect("a child");
    }
    let so_far = values(&world).len();
    assert!(so_far < COUNT * 3 / 4, "all have gone before it was killed");
    redrive(&world, &["--code", "stage_failed"]);
    let answer = redrive(&world, &["--all"]);
    assert_eq!((&answer["redriven"], &answer["redriven_before"]), (&json!(COUNT / 4), &json!(COUNT * 3 / 4)));
    assert_eq!(redrive(&world, &["--all"])["redriven"], 0);
    let values = values(&world);
    assert_eq!(values.iter().collect::<BTreeSet<_>>(), all(COUNT).iter().collect(), "none is missing");
    values
}

#[test]
fn one_that_is_killed_is_gone_on_with() {
    // With this rate 30 are in hand at once.
    let twice = twice(&killed("redrive-killed", ""));
    assert!(twice <= 4 * 30, "{twice} went twice");
}

#[test]
fn with_exactly_once_nothing_goes_twice_though_it_is_killed() {
    assert_eq!(twice(&killed("redrive-once", "[processing]\nguarantee = \"exactly_once\"\n")), 0);
}

#[test]
fn of_two_at_once_one_takes_over() {
    const COUNT: usize = 600;
    let world = World::new("redrive-two").start();
    world.publish_to(&world.dead_letters, &letters(&world, COUNT));
    let mut first = world.start(&["dead-letters", "redrive", "--all", "--rate", "100"]);
    until("the first has begun", || !values(&world).is_empty());
    let answer = redrive(&world, &["--all"]);
    assert_eq!(ended(&mut first), 1);
    let said = first.wait_with_output().expect("output");
    assert!(String::from_utf8_lossy(&said.stderr).contains("another redrive has taken over"), "{said:?}");
    let values = values(&world);
    assert_eq!(values.iter().collect::<BTreeSet<_>>(), all(COUNT).iter().collect());
    assert!(twice(&values) <= 25, "more than the batch that the first had in hand went twice: {}", twice(&values));
    let both = answer["redriven"].as_u64().expect("a number") + answer["redriven_before"].as_u64().expect("a number");
    assert_eq!(both, COUNT as u64);
}

#[test]
fn a_rate_is_kept_and_an_interrupt_stops_it() {
    let world = World::new("redrive-rate").start();
    world.publish_to(&world.dead_letters, &letters(&world, 60));
    let began = Instant::now();
    let mut running = world.start(&["dead-letters", "redrive", "--all", "--rate", "20"]);
    until("some have gone", || values(&world).len() >= 20);
    assert!(began.elapsed() >= Duration::from_millis(700), "20 letters went in {:?}", began.elapsed());
    let pid = running.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().expect("kill runs").success());
    assert_eq!(ended(&mut running), 1);
    let output = running.wait_with_output().expect("output");
    let gone = values(&world).len();
    assert!(gone < 60, "it was stopped before its end");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains(&format!("stopped after {gone} letters; run it again")), "{said}");
    assert_eq!(redrive(&world, &["--all"])["redriven"], json!(60 - gone));
    assert_eq!(values(&world), all(60));
}

#[test]
fn what_is_asked_wrongly_and_of_nobody_is_said() {
    let world = World::new("redrive-wrong").without_topics().start();
    for usage in [["dead-letters", "redrive"].as_slice(), &["dead-letters", "redrive", "--all", "--code", "expired"]] {
        world.cli(usage).exits(2);
    }
    assert!(world.cli(&["dead-letters", "redrive", "--all"]).exits(1).err.contains("does not exist"));
    let away = world.cli(&["dead-letters", "redrive", "--all", "--set", "kafka.brokers=127.0.0.1:1"]).exits(3);
    assert!(away.err.contains("cannot be reached"), "{away:?}");
}

#[test]
fn letters_speak_other_tools_words() {
    let config = format!("{HASTE}[dead_letters]\nheader_style = [\"connect\", \"spring\"]\n");
    let world = World::new("redrive-words").config(&config).start();
    world.stub("notifier").set(Act::fail(StatusCode::BAD_REQUEST));
    let mut instance = world.run();
    let mut raw = Event::raw(Some(b"no json"));
    raw.partition = Some(1);
    let place = world.publish(&[raw])[0];
    world.outcome_of(&Event::of("cam-1").notifying());
    let letters = world.wait_to_read(&world.dead_letters, 2);
    let of = |code: &str| letters.iter().find(|letter| letter.header("fusebox-error-code") == code).expect("its letter").clone();
    let bytes = |letter: &Message, name: &str| letter.headers.iter().find(|(there, _)| there == name).and_then(|(_, value)| value.clone());
    let letter = of("invalid_json");
    assert_eq!((letter.header("__connect.errors.topic"), letter.number("__connect.errors.partition")), (world.events.as_str(), 1));
    assert_eq!((letter.number("__connect.errors.offset"), letter.header("__connect.errors.stage")), (place.1, "VALUE_CONVERTER"));
    assert_eq!(letter.header("__connect.errors.exception.message"), letter.header("fusebox-error"));
    assert_eq!(letter.header("kafka_dlt-original-topic"), world.events);
    assert_eq!(letter.header("kafka_dlt-original-consumer-group"), world.group);
    assert_eq!(bytes(&letter, "kafka_dlt-original-partition"), Some(vec![0, 0, 0, 1]));
    assert_eq!(bytes(&letter, "kafka_dlt-original-offset"), Some(place.1.to_be_bytes().to_vec()));
    assert_eq!(bytes(&letter, "kafka_dlt-original-timestamp"), Some(letter.timestamp.to_be_bytes().to_vec()));
    // A call that was never parked would have gone to its service's topic.
    let call = of("rejected_by_service");
    assert_eq!(
        (call.header("kafka_dlt-original-topic"), call.header("fusebox-origin-topic")),
        (world.retries.as_str(), world.events.as_str())
    );

    redrive(&world, &["--all"]);
    let letters = world.wait_to_read(&world.dead_letters, 4);
    let twice = letters.iter().find(|letter| letter.number("fusebox-redrives") == 1 && letter.value.as_deref() == Some(b"no json"));
    let twice = twice.expect("it came back");
    assert_eq!(twice.headers.iter().filter(|(name, _)| name == "__connect.errors.topic").count(), 1);
    let read_at = (twice.number("__connect.errors.partition"), twice.number("__connect.errors.offset"));
    assert!(read_at != (place.0.into(), place.1), "it says where it was read the second time: {read_at:?}");
    assert_eq!(instance.stop(), 0);
}

#[test]
fn over_http_they_are_shown_and_go_back() {
    let world = World::new("redrive-http").config(HASTE).start();
    world.stub("notifier").set(Act::fail(StatusCode::BAD_GATEWAY));
    let mut instance = world.run();
    let events: Vec<Event> = (0..12).map(|n| Event::of(&format!("cam-{n}")).notifying()).collect();
    world.publish(&events);
    world.publish(&[Event::raw(Some(b"hunter2"))]);
    world.wait_to_read(&world.dead_letters, 13);
    let operator = Some(world.operator.as_str());

    // Who may only read sees that there are some, and why, and nothing of what was sent.
    let shown = instance.get("/api/v1/dead-letters");
    assert_eq!((shown.status, shown.body.contains("hunter2"), shown.body.contains("cam-")), (200, false, false), "{shown:?}");
    assert_eq!(shown.json()["letters"].as_array().expect("a list").len(), 13);
    let inside = instance.get_as(operator, "/api/v1/dead-letters?code=invalid_json").json();
    assert_eq!(inside["letters"][0]["inside"]["value"], json!({ "text": "hunter2" }), "{inside}");
    assert_eq!(inside["letters"][0]["size"], 7);

    // Page by page, newest first, each once.
    let (mut places, mut times, mut cursor) = (Vec::new(), Vec::new(), String::new());
    loop {
        let page = instance.get_as(operator, &format!("/api/v1/dead-letters?limit=4{cursor}")).json();
        for letter in page["letters"].as_array().expect("a list") {
            places.push((letter["partition"].as_i64(), letter["offset"].as_i64()));
            times.push(letter["dead_lettered_at"].as_str().expect("a time").to_owned());
        }
        let Some(next) = page["next"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert!(times.is_sorted_by(|newer, older| newer >= older), "{times:?}");
    let different: BTreeSet<_> = places.iter().collect();
    assert_eq!((places.len(), different.len()), (13, 13));
    let one = instance.get(&format!("/api/v1/dead-letters?id={}&service=notifier", events[2].id)).json();
    assert_eq!((one["letters"].as_array().map(Vec::len), &one["letters"][0]["code"]), (Some(1), &json!("attempts_exhausted")));
    assert_eq!(instance.get("/api/v1/dead-letters?since=2099-01-01T00:00:00Z").json()["letters"], json!([]));
    for wrong in ["limit=0", "limit=201", "cursor=x", "since=yesterday", "colour=red"] {
        instance.get(&format!("/api/v1/dead-letters?{wrong}")).problem(400);
    }

    // Nobody sends them back who may not.
    let path = "/api/v1/dead-letters/redrive";
    instance.post(path, None, &json!({ "filter": {} })).problem(401);
    instance.post(path, Some(&world.viewer), &json!({ "filter": {} })).problem(403);
    for wrong in [json!({}), json!({ "ids": [] }), json!({ "filter": {}, "rate": 0 }), json!({ "filter": { "colour": "red" } })] {
        instance.post(path, operator, &wrong).problem(400);
    }
    let dry = instance.post(path, operator, &json!({ "filter": {}, "dry_run": true })).json();
    assert_eq!((&dry["redriven"], &dry["dry_run"], shares_of(&dry)), (&json!(13), &json!(true), shares(&world.read(&world.dead_letters))));

    world.stub("notifier").set(Act::Ok);
    let some = instance.post(path, operator, &json!({ "ids": [events[0].id, events[1].id], "reason": "mended" })).json();
    assert_eq!(some["redriven"], 2, "{some}");
    until("they are delivered", || delivered(&world).len() == 2);
    // In the background where it takes long, one at a time, and to be stopped.
    let slow = instance.post(path, operator, &json!({ "filter": { "service": "notifier" }, "rate": 1, "again": true }));
    assert_eq!((slow.status, &slow.json()["state"]), (202, &json!("running")), "{slow:?}");
    let id = slow.json()["id"].as_str().expect("an id").to_owned();
    instance.post(path, operator, &json!({ "filter": {} })).problem(409);
    let of = format!("/api/v1/dead-letters/redrives/{id}");
    until("some have gone", || instance.get(&of).json()["redriven"].as_u64() >= Some(1));
    let cancelled = instance.post(&format!("{of}/cancel"), operator, &json!({})).json();
    assert_eq!(cancelled["cancelled_by"], "ops");
    until("it has stopped", || instance.get(&of).json()["state"] == "cancelled");
    assert!(instance.get(&of).json()["redriven"].as_u64() < Some(12));
    let rest = instance.post(path, operator, &json!({ "filter": { "service": "notifier" } }));
    assert_eq!((rest.status, &rest.json()["state"]), (200, &json!("done")));
    until("all are delivered", || delivered(&world).len() == 12);
    assert_eq!(instance.get("/api/v1/dead-letters/redrives").json()["redrives"].as_array().map(Vec::len), Some(4));
    instance.get("/api/v1/dead-letters/redrives/00000000-0000-0000-0000-000000000000").problem(404);
    let log = instance.log();
    let audited = log.lines().find(|line| line.contains("audit") && line.contains("reason=\"mended\""));
    assert!(audited.is_some_and(|line| line.contains("actor=\"ops\"")), "{log}");
    assert!(log.contains("a redrive of dead letters has ended") && !log.contains("hunter2"), "{log}");
    assert_eq!(instance.stop(), 0);
}

/// What the runbook says to type, with this world's names in it.
fn by_kcat(world: &World, partition: i32, offset: i64, to: &str) {
    let runbook = include_str!("../../docs/runbook.md");
    let recipe = runbook.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next()).find(|block| block.contains("kcat"));
    let recipe = recipe.expect("a recipe");
    let typed = recipe
        .replace("surveillance.dead-letters", &world.dead_letters)
        .replace("surveillance.events", to)
        .replace("-p 3 -o 41", &format!("-p {partition} -o {offset}"));
    assert!(typed.contains(to) && typed.contains(&format!("-o {offset}")), "{recipe}");
    let shell = Command::new("sh")
        .args(["-e", "-c", &typed])
        .current_dir(world.path(""))
        .env("BROKERS", std::env::var("KAFKA_BROKERS").expect("it is set"))
        .output()
        .expect("a shell");
    assert!(shell.status.success(), "{shell:?}");
}

#[test]
fn kcat_alone_sends_a_letter_back_as_the_runbook_says() {
    let world = World::new("redrive-kcat").config(HASTE).start();
    world.stub("notifier").set(Act::fail(StatusCode::BAD_GATEWAY));
    let mut instance = world.run();
    let event = Event::of("cam-1").notifying();
    world.publish(std::slice::from_ref(&event));
    let mut raw = Event::raw(Some(b"not\nJSON"));
    raw.key = Some(b"cam 2".to_vec());
    world.publish(&[raw]);
    let letters = world.wait_to_read(&world.dead_letters, 2);
    let of = |code: &str| letters.iter().find(|letter| letter.header("fusebox-error-code") == code).expect("its letter");

    let letter = of("invalid_json");
    by_kcat(&world, letter.partition, letter.offset, &world.events);
    let back = world.wait_to_read(&world.dead_letters, 3);
    let back = back.iter().filter(|back| back.value == letter.value).collect::<Vec<_>>();
    assert_eq!((back.len(), back[0].key(), back[1].key()), (2, "cam 2", "cam 2"), "it was read as it was");

    world.stub("notifier").set(Act::Ok);
    let call = of("attempts_exhausted");
    by_kcat(&world, call.partition, call.offset, &world.retries);
    until("it is delivered", || delivered(&world).contains_key(&format!("{}/notifier", event.id)));
    assert_eq!(instance.stop(), 0);
}
