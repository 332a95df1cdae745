//! `config/default.toml` is the manual: it holds every key and no other, and the defaults are the ones promised.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value as Json;

use super::World;
use crate::config::path::Step;
use crate::config::reader::Form;
use crate::config::schema::catalogue;
use crate::config::{DEFAULTS, Fallback, schema};
use crate::machine::breaker::PolicySettings;

/// The manual with each example key set: `#key = …` becomes `key = …`, and what an example replaces goes.
fn uncommented() -> String {
    let is_example = |line: &str| line.strip_prefix('#').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '['));
    let lines = DEFAULTS.lines().filter(|line| *line != "tokens = []");
    lines.map(|line| if is_example(line) { &line[1..] } else { line }).collect::<Vec<_>>().join("\n")
}

/// The keys of a JSON value, with `*` for what the user names and `[]` for elements.
fn keys(value: &Json, path: &str, found: &mut BTreeSet<String>) {
    match value {
        Json::Object(object) => {
            for (key, value) in object {
                let here =
                    if path == "services" { "services.*".to_owned() } else { format!("{path}.{key}").trim_start_matches('.').to_owned() };
                found.insert(here.clone());
                keys(value, &here, found);
            }
        }
        Json::Array(array) => {
            for value in array {
                keys(value, &format!("{path}[]"), found);
            }
        }
        _ => {}
    }
}

#[test]
fn it_holds_every_key() {
    let table: toml::Table = toml::from_str(&uncommented()).unwrap();
    let mut found = BTreeSet::new();
    keys(&serde_json::to_value(table).unwrap(), "", &mut found);
    found.extend(found.clone().iter().map(|key| key.replacen(".breaker.any[].", ".breaker.", 1)));
    let mut missing = Vec::new();
    for described in catalogue().iter().filter(|described| matches!(described.form, Form::Key { .. } | Form::Open)) {
        let key = described.path.steps().iter().fold(String::new(), |path, step| match step {
            Step::Key(key) => format!("{path}.{key}").trim_start_matches('.').to_owned(),
            Step::AnyKey(_) => format!("{path}.*"),
            Step::Index(_) | Step::AnyIndex => format!("{path}[]"),
        });
        // What a policy takes stands once, in a list of them.
        let key = key.replacen(".breaker.any[].", ".breaker.", 1);
        let twin = key.strip_suffix("_file").map_or_else(|| format!("{key}_file"), ToOwned::to_owned);
        if !found.contains(&key) && !found.contains(&twin) {
            missing.push(key);
        }
    }
    assert_eq!(missing, [""; 0]);
}

#[test]
fn it_holds_no_other_key() {
    let world = World::file(&uncommented());
    if let Err(faults) = world.load() {
        for fault in &faults.0 {
            assert!(
                fault.message.contains("cannot be read"),
                "{fault}: an example may name files that are not there, and nothing else may be wrong"
            );
        }
    }
}

#[test]
fn what_it_says_of_a_default_is_so() {
    // Each example that shows a key of a service with a default of its own shows that default.
    let table: toml::Table = toml::from_str(&uncommented()).unwrap();
    let manual = serde_json::to_value(table).unwrap();
    let schema = schema();
    let service = &schema["properties"]["services"]["additionalProperties"]["properties"];
    for (shown, described) in [
        (&manual["services"]["rag"], service),
        (&manual["services"]["rag"]["breaker"], &service["breaker"]["properties"]),
        (&manual["services"]["example"]["breaker"]["any"][0], &service["breaker"]["properties"]),
        (&manual["services"]["example"]["breaker"]["any"][1], &service["breaker"]["properties"]),
        (&manual["services"]["example"]["breaker"]["any"][4], &service["breaker"]["properties"]),
        (&manual["services"]["rag"]["fallback"], &service["fallback"]["properties"]),
        (&manual["services"]["notifier"]["retry"], &service["retry"]["properties"]),
        (&manual["services"]["rag"]["adaptive"], &service["adaptive"]["properties"]),
        (&manual["services"]["rag"]["health"], &service["health"]["properties"]),
        (&manual["services"]["vms"]["adaptive"], &service["adaptive"]["properties"]),
    ] {
        for (key, shown) in shown.as_object().unwrap() {
            if let Some(default) =
                described[key].get("default").filter(|_| !["path", "topic", "algorithm", "policy"].contains(&key.as_str()))
            {
                assert_eq!(shown, default, "{key}");
            }
        }
    }
}

#[test]
fn the_shipped_services_are_the_promised_ones() {
    let config = World::new().loaded().config;
    let rows: Vec<_> = config
        .services
        .iter()
        .map(|service| {
            let PolicySettings::Consecutive { fail_max } = service.breaker.policy else { panic!("{}: another policy", service.name) };
            let fallback = match &service.fallback {
                Fallback::Cached { .. } => "cached",
                Fallback::Default { .. } => "default",
                Fallback::Park(_) => "park",
                Fallback::Skip => "skip",
                Fallback::Fail => "fail",
            };
            let uri = service.endpoint.uri.to_string();
            (service.name.as_str(), uri, fail_max.get(), service.breaker.recovery_timeout.as_secs(), service.timeout.as_secs(), fallback)
        })
        .collect();
    assert_eq!(
        rows,
        [
            ("notifier", "http://127.0.0.1:8003/notify".to_owned(), 4, 30, 15, "park"),
            ("rag", "http://127.0.0.1:8001/rag/query".to_owned(), 5, 60, 30, "cached"),
            ("rulegen", "http://127.0.0.1:8002/evaluate".to_owned(), 3, 45, 20, "default"),
            ("vms", "http://127.0.0.1:8004/clips/generate".to_owned(), 6, 90, 25, "default"),
        ]
    );
    let stages: Vec<_> =
        config.pipeline.iter().map(|stage| (config.service_of(stage).name.as_str(), stage.when.is_some(), stage.body.is_some())).collect();
    assert_eq!(stages, [("rag", false, true), ("rulegen", false, true), ("notifier", true, true), ("vms", false, true)]);
    let (_, retry) = config.parking().next().unwrap();
    assert_eq!(
        (retry.topic.as_str(), retry.max_attempts.get(), retry.drain_concurrency.get()),
        ("surveillance.notifications.retry", 8, 16)
    );
    assert_eq!((retry.max_age, retry.initial, retry.max), (Duration::from_secs(86_400), Duration::from_secs(1), Duration::from_secs(300)));
    assert!(config.redis.is_none(), "without a URL breakers live in the process");
}

/// Where a value has a key that its schema does not know; all of JSON Schema that the config's schema needs for that.
fn unknown(value: &Json, schema: &Json, path: &str, found: &mut Vec<String>) {
    match value {
        Json::Object(object) if schema.get("properties").is_some() || schema.get("additionalProperties").is_some() => {
            for (key, value) in object {
                let path = format!("{path}.{key}");
                match (schema["properties"].get(key), &schema["additionalProperties"]) {
                    (Some(schema), _) => unknown(value, schema, &path, found),
                    (None, Json::Object(_)) => unknown(value, &schema["additionalProperties"], &path, found),
                    (None, _) => found.push(path),
                }
            }
        }
        Json::Array(array) => {
            for value in array {
                unknown(value, &schema["items"], path, found);
            }
        }
        _ => {}
    }
}

#[test]
fn the_schema_knows_every_key_of_it_and_describes_each() {
    let schema = schema();
    for text in [DEFAULTS, &uncommented()] {
        let table: toml::Table = toml::from_str(text).unwrap();
        let mut found = Vec::new();
        unknown(&serde_json::to_value(table).unwrap(), &schema, "", &mut found);
        assert_eq!(found, [""; 0]);
    }
    let concurrency = &schema["properties"]["processing"]["properties"]["concurrency"];
    assert_eq!(
        *concurrency,
        serde_json::json!({ "type": "integer", "minimum": 1, "maximum": 100_000, "default": 256, "description": "Events running at once." })
    );
    let breaker = &schema["properties"]["services"]["additionalProperties"]["properties"]["breaker"];
    assert_eq!(breaker["additionalProperties"], false);
    assert_eq!(breaker["properties"]["permits"]["default"], 1);
    assert_eq!(schema["properties"]["http"]["properties"]["tokens"]["items"]["required"], serde_json::json!(["name", "role"]));
    let mut unknown_key = Vec::new();
    unknown(&serde_json::json!({ "services": { "x": { "breaker": { "fail_mx": 1 } } } }), &schema, "", &mut unknown_key);
    assert_eq!(unknown_key, [".services.x.breaker.fail_mx"]);
    for described in catalogue() {
        assert!(described.doc.ends_with('.'), "{}", described.path);
    }
}
