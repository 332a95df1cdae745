//! Parked calls, listed: every instance shows what an independent reader of the topics finds, page by page, while some of them finish.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{Event, Instance, World, until};

fn wall_clock() -> i64 {
    fusebox::edge::clock::wall_of(std::time::SystemTime::now()).0
}

const REASONS: [&str; 4] = ["circuit_open", "timeout", "http_5xx", "connect"];

/// A parked call of this service, and what differs between them by its number.
fn parked(service: &str, number: i64, now: i64) -> Event {
    let id = Uuid::new_v4();
    let envelope = json!({
        "version": 1,
        "service": service,
        "event_id": id,
        "camera_id": format!("cam-{}", number % 5),
        "request": { "method": "POST", "path": "/notify", "idempotency_key": format!("{id}/{service}"), "body": { "number": number } },
        "results": { "rag": { "word": format!("word-{}", number % 3) } },
    });
    let mut event = Event::raw(Some(envelope.to_string().as_bytes()));
    event.key = Some(format!("cam-{}", number % 5).into_bytes());
    event.partition = Some(i32::try_from(number % 3).expect("small"));
    // A third of them may not go for hours.
    let not_before = if number % 3 == 1 { now + 7_200_000 } else { now - 1_000 };
    let first = now - 60_000 * (number % 7) - 1_000;
    event
        .header("fusebox-service", service)
        .header("fusebox-event-id", &id.to_string())
        .header("fusebox-reason", REASONS[usize::try_from(number % 4).expect("small")])
        .header("fusebox-attempt", &(number % 4).to_string())
        .header("fusebox-parks", &(number % 4 + 1).to_string())
        .header("fusebox-not-before", &not_before.to_string())
        .header("fusebox-first-parked-at", &first.to_string())
        .header("fusebox-origin-topic", "events")
        .header("fusebox-origin-partition", "0")
        .header("fusebox-origin-offset", &number.to_string())
        .header("x-api-key", "k-1234")
}

/// A record, as the reader that knows nothing of Fusebox finds it.
#[derive(Debug, Clone)]
struct Seen {
    headers: BTreeMap<String, String>,
    camera: String,
    value: String,
    timestamp: i64,
}

type Place = (String, i64, i64);

fn independent(world: &World, topics: &[&str]) -> BTreeMap<Place, Seen> {
    let mut all = BTreeMap::new();
    for topic in topics {
        for message in world.read(topic) {
            let text = |value: &Option<Vec<u8>>| String::from_utf8(value.clone().unwrap_or_default()).expect("text");
            let seen = Seen {
                headers: message.headers.iter().map(|(name, value)| (name.clone(), text(value))).collect(),
                camera: message.json()["camera_id"].as_str().expect("a camera").to_owned(),
                value: text(&message.value),
                timestamp: message.timestamp,
            };
            all.insert(((*topic).to_owned(), i64::from(message.partition), message.offset), seen);
        }
    }
    all
}

fn place(message: &Value) -> Place {
    let number = |field: &str| message[field].as_i64().expect("a number");
    (message["topic"].as_str().expect("a topic").to_owned(), number("partition"), number("offset"))
}

/// Every page, in order, each asked of the next instance.
fn pages(fleet: &[Instance], token: Option<&str>, query: &str, from: Option<String>) -> Vec<Value> {
    let (mut all, mut cursor) = (Vec::new(), from);
    for turn in 0..60 {
        let next = cursor.as_ref().map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
        let answer = fleet[turn % fleet.len()].get_as(token, &format!("/api/v1/retry/messages?{query}{next}")).json();
        all.extend(answer["messages"].as_array().unwrap_or_else(|| panic!("no list: {answer}")).clone());
        match answer["next"].as_str() {
            Some(next) => cursor = Some(next.to_owned()),
            None => {
                assert_eq!(answer["complete"], true, "{answer}");
                return all;
            }
        }
    }
    panic!("it does not end: {query}")
}

fn status(instance: &Instance, service: &str) -> Value {
    let all = instance.get("/api/v1/retry").json();
    let found = all["services"].as_array().expect("a list").iter().find(|one| one["service"] == service).cloned();
    found.unwrap_or_else(|| panic!("no {service}: {all}"))
}

/// Whether a record is meant.
type Meant = Box<dyn Fn(&Seen) -> bool>;

fn metric(instance: &Instance, name: &str, service: &str) -> f64 {
    let text = instance.get("/metrics").body;
    let start = format!("{name}{{service=\"{service}\"}} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&start)).unwrap_or_else(|| panic!("no {start}"));
    line.parse().expect("a number")
}

#[test]
fn every_page_together_is_what_an_independent_reader_counts() {
    let world = World::new("listed").partitions(3).start();
    let other = format!("{}.rag.retry", world.group);
    let topic = format!("services.rag.retry.topic={other}");
    let flags = ["--set", "services.rag.fallback={kind=\"park\"}", "--set", &topic];
    world.cli(&[&["migrate"], &flags[..]].concat()).exits(0);
    let run = || {
        let instance = world.spawn(&flags);
        instance.wait_ready();
        instance
    };
    let mut fleet = vec![run(), run()];
    for service in ["notifier", "rag"] {
        fleet[0].force(service, &json!({ "state": "forced_open", "reason": "a drill" }));
        fleet.iter().for_each(|one| one.wait_for_state(service, "forced_open"));
    }
    let now = wall_clock();
    let notices: Vec<Event> = (0..70).map(|number| parked("notifier", number, now)).collect();
    let questions: Vec<Event> = (0..25).map(|number| parked("rag", number, now)).collect();
    // In turns, so that the two topics' records are of one time.
    for (notices, questions) in notices.chunks(14).zip(questions.chunks(5)) {
        world.publish_to(&world.retries, notices);
        world.publish_to(&other, questions);
    }
    let topics = [world.retries.as_str(), other.as_str()];
    let all = independent(&world, &topics);
    assert_eq!(all.len(), 95);

    // All of them, each once, oldest first.
    let listed = pages(&fleet, None, "limit=7", None);
    let places: Vec<Place> = listed.iter().map(place).collect();
    assert_eq!(places.iter().cloned().collect::<BTreeSet<_>>(), all.keys().cloned().collect());
    assert_eq!(places.len(), 95, "each once");
    let times: Vec<i64> = places.iter().map(|place| all[place].timestamp).collect();
    assert!(times.is_sorted(), "{times:?}");
    for message in &listed {
        let seen = &all[&place(message)];
        assert_eq!(message["event_id"].as_str(), Some(seen.headers["fusebox-event-id"].as_str()));
        assert_eq!(message["reason"].as_str(), Some(seen.headers["fusebox-reason"].as_str()));
        assert_eq!(message["attempts"].to_string(), seen.headers["fusebox-attempt"]);
        assert_eq!(message["camera_id"].as_str(), Some(seen.camera.as_str()));
        assert_eq!(message["due"], seen.headers["fusebox-not-before"].parse::<i64>().expect("a time") <= now);
    }

    // Filters find what the same question to the records finds.
    let one = all.values().next().expect("one").headers["fusebox-event-id"].clone();
    let header = |name: &'static str, value: &str| {
        let value = value.to_owned();
        Box::new(move |seen: &Seen| seen.headers[name] == value) as Meant
    };
    let older = now - 150_000;
    let asked: Vec<(String, Meant)> = vec![
        ("service=rag".into(), header("fusebox-service", "rag")),
        ("reason=timeout".into(), header("fusebox-reason", "timeout")),
        (format!("event_id={one}"), header("fusebox-event-id", &one)),
        ("camera=cam-3".into(), Box::new(|seen| seen.camera == "cam-3")),
        ("attempts=2".into(), Box::new(|seen| seen.headers["fusebox-attempt"].parse::<i64>().expect("a number") >= 2)),
        (
            "attempt=3&service=notifier".into(),
            Box::new(|seen| seen.headers["fusebox-attempt"] == "3" && seen.headers["fusebox-service"] == "notifier"),
        ),
        // Minutes apart, so that the test's own seconds do not matter.
        ("older_than=150s".into(), Box::new(move |seen| seen.headers["fusebox-first-parked-at"].parse::<i64>().expect("a time") < older)),
        ("text=word-2".into(), Box::new(|seen| seen.value.contains("word-2"))),
        ("reason=overload".into(), Box::new(|_| false)),
    ];
    for (query, meant) in asked {
        let found: Vec<Place> = pages(&fleet, Some(&world.operator), &format!("{query}&limit=4"), None).iter().map(place).collect();
        let expected: BTreeSet<Place> = all.iter().filter(|(_, seen)| meant(seen)).map(|(place, _)| place.clone()).collect();
        assert_eq!((found.len(), found.into_iter().collect::<BTreeSet<_>>()), (expected.len(), expected), "{query}");
    }

    // The backlog's figures are the same, whoever is asked, and so are the metrics.
    let due = |service: &str| {
        let mine = all.values().filter(|seen| seen.headers["fusebox-service"] == service);
        mine.filter(|seen| seen.headers["fusebox-not-before"].parse::<i64>().expect("a time") <= now).count()
    };
    for instance in &fleet {
        for (service, depth) in [("notifier", 70), ("rag", 25)] {
            let status = status(instance, service);
            assert_eq!((&status["depth"], &status["due"]), (&json!(depth), &json!(due(service))), "{status}");
            assert_eq!(status["looked"]["exact"], true, "{status}");
            let mut reasons: BTreeMap<&str, u64> = BTreeMap::new();
            for seen in all.values().filter(|seen| seen.headers["fusebox-service"] == service) {
                *reasons.entry(seen.headers["fusebox-reason"].as_str()).or_default() += 1;
            }
            assert_eq!(status["by_reason"], json!(reasons), "{status}");
            assert_eq!(
                status["by_attempts"].as_object().expect("counts").values().filter_map(Value::as_u64).sum::<u64>(),
                depth,
                "{status}"
            );
            let age = status["oldest_seconds"].as_f64().expect("an age");
            assert!((361.0..480.0).contains(&age), "{status}");
            assert_eq!(
                (&status["time_to_drain_seconds"], &status["time_to_drain_basis"]),
                (&Value::Null, &json!("forced_open")),
                "{status}"
            );
            assert!(status["retention_seconds"].as_f64().expect("seconds") > 3_600.0, "{status}");
            let level = |name| metric(instance, name, service).to_string();
            assert_eq!(level("fusebox_retry_depth"), depth.to_string());
            assert_eq!(level("fusebox_retry_due"), due(service).to_string());
            assert!(metric(instance, "fusebox_retry_drain_seconds", service).is_nan());
            assert_eq!(level("fusebox_retry_retention_short"), "0");
            assert!((0.0..0.01).contains(&metric(instance, "fusebox_retry_retention_used_ratio", service)));
        }
    }

    // The command line asks for as many pages as it takes.
    let api = ["--api", &fleet[1].url(), "--token", &world.operator].map(str::to_owned);
    let cli = |arguments: &[&str]| {
        let api: Vec<&str> = api.iter().map(String::as_str).collect();
        world.cli(&[&["retry"], &api[..], arguments].concat()).exits(0)
    };
    let whole = cli(&["list", "--all", "--output", "json"]).json();
    assert_eq!(whole["messages"].as_array().map(Vec::len), Some(95));
    let some = cli(&["list", "--service", "rag", "--attempts", "2", "--text", "word-1", "--limit", "2"]);
    assert_eq!((some.out.lines().count(), some.err.contains("there are more")), (3, true), "{some:?}");
    let (topic, partition, offset) = places[0].clone();
    let shown = cli(&["show", &topic, &partition.to_string(), &offset.to_string()]);
    assert!(shown.out.contains("/notify") && shown.out.contains("[redacted]") && !shown.out.contains("k-1234"), "{shown:?}");
    let table = cli(&["status"]);
    assert!(table.out.contains("forced_open") && table.out.contains("REASONS"), "{table:?}");

    // What finishes while somebody pages is left out, and nothing else.
    let first = fleet[0].get("/api/v1/retry/messages?limit=10").json();
    let cursor = first["next"].as_str().expect("more").to_owned();
    let ids: Vec<&str> = places[20..85].iter().step_by(3).map(|place| all[place].headers["fusebox-event-id"].as_str()).collect();
    let body = json!({ "ids": ids, "reason": "a drill" });
    assert_eq!(fleet[0].post("/api/v1/retry/discard", Some(&world.operator), &body).json()["calls"], ids.len());
    world.wait_for(&world.dead_letters, ids.len());
    let gone: BTreeSet<&str> = ids.into_iter().collect();
    let left = |place: &Place| !gone.contains(all[place].headers["fusebox-event-id"].as_str());
    until("they have finished for every reader", || {
        let rest: Vec<Place> = pages(&fleet, None, "limit=9", Some(cursor.clone())).iter().map(place).collect();
        rest == places[10..].iter().filter(|place| left(place)).cloned().collect::<Vec<_>>()
    });
    let kept = 95 - gone.len();
    until("the figures say so too", || {
        let depth = |service| status(&fleet[1], service)["depth"].as_u64().unwrap_or(0);
        depth("notifier") + depth("rag") == kept as u64
    });

    // After a restart, and of one that has just begun.
    assert_eq!(fleet[0].stop(), 0, "{}", fleet[0].log());
    fleet[0] = run();
    let again: Vec<Place> = pages(&fleet[..1], None, "limit=200", None).iter().map(place).collect();
    assert_eq!(again, places.iter().filter(|place| left(place)).cloned().collect::<Vec<_>>());
    for instance in &mut fleet {
        assert_eq!(instance.stop(), 0, "{}", instance.log());
    }
}

#[test]
fn a_backlog_that_drains_says_when_it_is_gone_and_then_that_it_is() {
    let world = World::new("forecast").partitions(3).config("[services.notifier.breaker]\nrecovery_timeout = \"1h\"").start();
    let instance = world.run();
    instance.force("notifier", &json!({ "state": "open", "reason": "a drill" }));
    instance.wait_for_state("notifier", "open");
    let now = wall_clock();
    // Those that are due.
    let calls: Vec<Event> = (0..30).map(|number| parked("notifier", number * 3, now)).collect();
    world.publish_to(&world.retries, &calls);
    until("all are seen", || status(&instance, "notifier")["depth"] == 30);
    let open = status(&instance, "notifier");
    assert_eq!((&open["time_to_drain_basis"], &open["time_to_drain_seconds"]), (&json!("circuit_open"), &Value::Null), "{open}");
    assert!(open["held_until"].is_string(), "it is known when it probes: {open}");
    let pause = "/api/v1/retry/services/notifier/pause";
    instance.post(pause, Some(&world.operator), &json!({ "reason": "a drill", "ttl": "1h" }));
    let paused = status(&instance, "notifier");
    assert_eq!((&paused["time_to_drain_basis"], paused["held_until"].is_string()), (&json!("paused"), true), "{paused}");
    instance.post("/api/v1/retry/services/notifier/resume", Some(&world.operator), &json!({}));
    instance.force("notifier", &json!({ "state": "closed", "reason": "mended" }));
    until("all are delivered", || world.call_count("notifier") == 30);
    until("it says so", || {
        let status = status(&instance, "notifier");
        (&status["depth"], &status["due"], &status["time_to_drain_seconds"], &status["time_to_drain_basis"])
            == (&json!(0), &json!(0), &json!(0.0), &json!("empty"))
    });
    until("and so do the metrics", || metric(&instance, "fusebox_retry_drain_seconds", "notifier") == 0.0);
    assert_eq!(pages(&[instance], None, "", None), Vec::<Value>::new());
}

#[test]
fn a_list_refuses_what_cannot_be_meant_and_keeps_to_itself_what_events_said() {
    let world = World::new("listing-refused").start();
    let instance = world.run();
    for (query, word) in [
        ("colour=red", "colour"),
        ("limit=0", "between 1 and 200"),
        ("limit=201", "between 1 and 200"),
        ("service=rag", "no service `rag` parks"),
        ("reason=boredom", "circuit_open"),
        ("older_than=soon", "no duration"),
        ("event_id=seven", "UUID"),
        ("cursor=abc", "not one that was given out"),
        // Of another topic.
        ("cursor=eyJ0Ijp7IjAiOlszLDldfX0", "not one that was given out"),
    ] {
        let answer = instance.get(&format!("/api/v1/retry/messages?{query}"));
        assert!(answer.problem(400).contains(word), "{query}: {answer:?}");
    }
    assert_eq!(instance.get("/api/v1/retry/messages?text=a").status, 401);
    assert_eq!(instance.get_as(Some(&world.viewer), "/api/v1/retry/messages?text=a").status, 403);
    assert_eq!(instance.get_as(Some(&world.operator), "/api/v1/retry/messages?text=a").status, 200);
    instance.force("notifier", &json!({ "state": "forced_open", "reason": "a drill" }));
    instance.wait_for_state("notifier", "forced_open");
    let (partition, offset) = world.publish_to(&world.retries, &[parked("notifier", 3, wall_clock())])[0];
    let path = |offset: i64| format!("/api/v1/retry/messages/{}/{partition}/{offset}", world.retries);
    assert_eq!(instance.get(&path(offset)).status, 401);
    assert_eq!(instance.get_as(Some(&world.viewer), &path(offset)).status, 403);
    let whole = instance.get_as(Some(&world.operator), &path(offset)).json();
    assert_eq!((&whole["envelope"]["request"]["body"]["number"], &whole["finished"]), (&json!(3), &json!(false)), "{whole}");
    assert_eq!(instance.get_as(Some(&world.operator), &path(offset + 9)).status, 404);
    let elsewhere = format!("/api/v1/retry/messages/{}/0/0", world.events);
    assert_eq!(instance.get_as(Some(&world.operator), &elsewhere).status, 404, "not any topic");
}
