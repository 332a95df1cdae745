//! The command line: what it prints, what it changes, and how it ends.

use fusebox::edge::embedded::stub::Act;
use http::StatusCode;
use serde_json::{Value, json};

use crate::harness::{Event, World, free_port, fusebox, until};

/// Whoever makes a service fail means to look, and to act.
#[test]
fn dev_without_its_story_says_at_once_what_to_try() {
    let ports = [free_port(), free_port()].map(|port| port.to_string());
    let ran = fusebox(&["dev", "--fail", "vms", "--seconds", "1", "--kafka-port", &ports[0], "--http-port", &ports[1]], "").exits(0);
    for words in ["Failing from the start: vms.", "FUSEBOX_TOKEN=fbx_", "kcat -b"] {
        assert!(ran.out.contains(words) || ran.err.contains(words), "{words}: {}", ran.err);
    }
}

#[test]
fn a_wrong_config_is_answered_with_every_fault() {
    let world = World::new("wrong").without_topics().start();
    let file = world.path("wrong.toml");
    let faults = "[kafka]\ngruop = \"mine\"\n[processing]\nconcurrency = 0\ncommit_interval = \"soon\"\n[services.rag]\nurl = \"ftp://rag\"\n\
                  [[pipeline]]\nservice = \"rag\"\nwhen = \"event.camera_id ==\"\n[[pipeline]]\nservice = \"nobody\"\n";
    std::fs::write(&file, faults).expect("written");
    let file = file.to_string_lossy().into_owned();
    for command in [["run"].as_slice(), &["config", "check"], &["migrate"], &["dead-letters", "list"]] {
        let ran = world.cli(&[command, &["--config", &file]].concat()).exits(2);
        assert_eq!(ran.out, "", "{command:?}: results only go to standard output");
        for word in [
            "kafka.gruop",
            "group",
            "processing.concurrency",
            "processing.commit_interval",
            "services.rag.url",
            "pipeline[0].when",
            "nobody",
            "wrong.toml",
        ] {
            assert!(ran.err.contains(word), "{command:?} does not name {word}: {}", ran.err);
        }
    }
    std::fs::write(world.path("broken.toml"), "[kafka\n").expect("written");
    let broken = world.path("broken.toml").to_string_lossy().into_owned();
    assert!(fusebox(&["config", "check", "--config", &broken], "").exits(2).err.contains("broken.toml"));
    assert!(fusebox(&["config", "check", "--config", "/nowhere/at-all.toml"], "").exits(2).err.contains("/nowhere/at-all.toml"));
    for usage in [["run", "--role", "boss"].as_slice(), &["publish"], &["no-such-command"], &["config", "check", "--set", "kafka"]] {
        fusebox(usage, "").exits(2);
    }
    assert_eq!(world.cli(&["config", "check"]).exits(0).out, "the config is sound\n");
}

#[test]
fn migrate_creates_what_is_missing_and_no_more() {
    let world = World::new("migrate").partitions(2).without_topics().start();
    world.cli(&["migrate", "--status"]).exits(1);
    let dry = world.cli(&["migrate", "--dry-run"]).exits(0);
    assert!(dry.out.contains("would be created"), "{dry:?}");
    world.cli(&["migrate", "--status"]).exits(1);
    world.cli(&["migrate"]).exits(0);
    for topic in world.topics() {
        until("the topic is there", || world.partitions_of(topic) == 2);
    }
    world.publish(&[Event::of("cam-1")]);
    let again = world.cli(&["migrate", "--output", "json"]).exits(0).json();
    let steps = again.as_array().expect("a list");
    assert!(!steps.is_empty() && steps.iter().all(|step| step["status"] == "applied"), "{again}");
    assert_eq!(world.count(&world.events), 1, "nothing is lost");
    world.cli(&["migrate", "--status"]).exits(0);
}

#[test]
fn events_are_published_and_what_is_unreadable_is_listed() {
    let world = World::new("publish").start();
    let lines = concat!(r#"{"camera_id":"cam-1","label":"car"}"#, "\n\n", r#"{"camera_id":"cam-2"}"#, "\n");
    let file = world.path("events.jsonl");
    std::fs::write(&file, lines).expect("written");
    let ran = world.cli(&["publish", &file.to_string_lossy(), "--output", "json"]).exits(0);
    assert_eq!(ran.json(), json!({ "published": 2, "refused": 0, "topic": world.events }));
    assert_eq!(world.cli_with_input(&["publish", "-", "--output", "json"], lines).exits(0).json()["published"], 2);
    assert_eq!(world.cli(&["publish", "--generate", "30", "--cameras", "3", "--output", "json"]).exits(0).json()["published"], 30);
    // What no event can be read from is named and left out, unless it is asked for.
    let refused = world.cli_with_input(&["publish", "-", "--output", "json"], "{\"camera_id\":\"cam-1\"}\n{\"camera\":7}\n").exits(1);
    assert_eq!((&refused.json()["published"], &refused.json()["refused"]), (&json!(1), &json!(1)));
    assert!(refused.err.contains("line 2") && refused.err.contains("missing_field"), "{refused:?}");
    world.cli_with_input(&["publish", "-", "--raw"], "{\"camera\":7}\nno json\n").exits(0);
    assert_eq!(world.count(&world.events), 37);
    let keyed = world.read(&world.events).iter().filter(|record| record.key.as_deref() == Some(b"cam-1")).count();
    assert_eq!(keyed, 3, "events are keyed by their camera");

    let mut instance = world.run();
    world.outcomes(35);
    world.wait_for(&world.dead_letters, 2);
    assert_eq!(instance.stop(), 0);
    let listed = world.cli(&["dead-letters", "list", "--output", "json"]).exits(0);
    let mut letters: Vec<Value> = listed.out.lines().map(|line| serde_json::from_str(line).expect("one object a line")).collect();
    letters.sort_by_key(|letter| letter["code"].to_string());
    assert_eq!(letters.len(), 2);
    for (letter, code, text) in [(&letters[0], "invalid_json", "no json"), (&letters[1], "missing_field", "{\"camera\":7}")] {
        assert_eq!((&letter["code"], &letter["value"]["text"]), (&json!(code), &json!(text)), "{letter}");
        assert_eq!(letter["origin"]["topic"], world.events);
        assert!(letter["origin"]["offset"].is_i64() && letter["error"].is_string(), "{letter}");
    }
    let table = world.cli(&["dead-letters", "list", "--code", "missing_field"]).exits(0).out;
    assert!(table.contains("missing_field") && !table.contains("invalid_json"), "{table}");
}

#[test]
fn an_instance_is_asked_and_steered() {
    let made = fusebox(&["token", "new", "on call", "--role", "operator", "--output", "json"], "").exits(0).json();
    let (token, digest) = (made["token"].as_str().expect("a token"), made["sha256"].as_str().expect("a digest"));
    let tokens = format!("[[http.tokens]]\nname = \"on call\"\nrole = \"operator\"\nsha256 = \"{digest}\"");
    let world = World::new("steered").config(&tokens).start();
    let mut instance = world.run();
    let url = instance.url();
    let ask = |arguments: &[&str]| fusebox(&[arguments, &["--api", &url]].concat(), "");
    let ask_json = |arguments: &[&str]| ask(&[arguments, &["--output", "json"]].concat()).exits(0).json();

    let list = ask(&["breakers", "list"]).exits(0).out;
    for service in ["rag", "rulegen", "notifier", "vms"] {
        assert!(list.contains(service), "{list}");
    }
    assert_eq!(ask_json(&["breakers", "list"])["circuit_breakers"]["vms"]["state"], "closed");
    assert_eq!(ask_json(&["breakers", "show", "rag"])["settings"]["fail_max"], 5);
    let refused = ask(&["breakers", "force", "notifier", "forced_open"]).exits(1);
    assert!(refused.err.contains("401"), "{refused:?}");
    let forced = ["breakers", "force", "notifier", "forced_open", "--reason", "deploy", "--ttl", "1h", "--token", token];
    let shown = ask_json(&forced);
    assert_eq!((&shown["state"], &shown["lock"]["actor"]), (&json!("forced_open"), &json!("on call")));
    until("Redis has it", || world.redis().state("notifier") == "forced_open");
    let history = ask_json(&["breakers", "history", "notifier"]);
    assert_eq!((&history["entries"][0]["to"], &history["entries"][0]["reason"]), (&json!("forced_open"), &json!("deploy")));
    assert!(ask(&["breakers", "history", "notifier"]).exits(0).out.contains("deploy"));
    assert!(ask(&["breakers", "show", "nobody"]).exits(1).err.contains("nobody"));

    world.stub("notifier").set(Act::fail(StatusCode::SERVICE_UNAVAILABLE));
    world.publish(&(0..5).map(|number| Event::of(&format!("cam-{number}")).notifying()).collect::<Vec<_>>());
    world.wait_for(&world.retries, 5);
    until("the backlog is shown", || {
        let status = ask_json(&["retry", "status"]);
        let service = status["services"].as_array().and_then(|all| all.first()).cloned().unwrap_or_default();
        (&service["service"], &service["depth"], &service["held"]) == (&json!("notifier"), &json!(5), &json!(5))
    });
    assert!(ask(&["retry", "status"]).exits(0).out.contains("notifier"));
    assert_eq!(instance.stop(), 0);

    let gone = ask(&["breakers", "list"]).exits(3);
    assert!(gone.err.contains("no instance answers"), "{gone:?}");
}

#[test]
fn a_server_that_cannot_be_reached_is_exit_code_3() {
    let world = World::new("unreachable").brokers(&format!("127.0.0.1:{}", free_port())).start();
    for command in
        [["migrate"].as_slice(), &["dead-letters", "list"], &["breakers", "list", "--api", &format!("http://127.0.0.1:{}", free_port())]]
    {
        let ran = world.cli(command).exits(3);
        assert!(!ran.err.is_empty() && ran.out.is_empty(), "{ran:?}");
    }
    drop(world);
    let redis = World::new("no-redis").redis(&format!("redis://127.0.0.1:{}/0", free_port())).start();
    assert!(redis.cli(&["migrate"]).exits(3).err.to_lowercase().contains("redis"));
}
