//! Which layer wins, and what the environment can say.

use std::collections::BTreeMap;
use std::time::Duration;

use secrecy::ExposeSecret;
use serde_json::json;

use super::World;
use crate::config::{Fallback, Loaded, Origin, Service};

fn service<'c>(loaded: &'c Loaded, name: &str) -> &'c Service {
    loaded.config.services.iter().find(|service| service.name == name).unwrap()
}

fn origins(loaded: &Loaded) -> BTreeMap<String, String> {
    loaded.values().map(|(key, _, origin): (_, _, &Origin)| (key, origin.to_string())).collect()
}

#[test]
fn a_later_layer_wins_key_by_key() {
    let world = World::file("[kafka]\nbrokers = 'a:1'\ngroup = 'a'\n[processing]\nconcurrency = 1\nmax_in_flight = 1")
        .and_file("b.toml", "[kafka]\nbrokers = 'b:1'\n[processing]\nconcurrency = 2\nmax_in_flight = 2")
        .and_env("FUSEBOX_PROCESSING__CONCURRENCY", "3")
        .and_env("FUSEBOX_PROCESSING__MAX_IN_FLIGHT", "3")
        .and_flag("processing.concurrency", 4)
        .and_flag("processing.max_in_flight", 4);
    let loaded = world.loaded();
    assert_eq!(loaded.config.kafka.brokers, "b:1");
    assert_eq!(loaded.config.kafka.group, "a");
    assert_eq!(loaded.config.processing.concurrency.get(), 4);
    let origins = origins(&loaded);
    for (key, expect) in [
        ("kafka.brokers", "b.toml:2"),
        ("kafka.group", "a.toml:3"),
        ("processing.concurrency", "--processing.concurrency"),
        ("processing.commit_interval", "default"),
        ("services.rag.attempts", "default"),
    ] {
        assert_eq!(world.clean(&origins[key]), expect, "{key}");
    }
}

#[test]
fn arrays_and_bodies_are_replaced_whole() {
    let loaded = World::file("[[pipeline]]\nservice = 'vms'\n[services.vms.fallback]\nbody = { gone = true }").loaded();
    assert_eq!(loaded.config.pipeline.len(), 1);
    assert_eq!(loaded.config.service_of(&loaded.config.pipeline[0]).name, "vms");
    let Fallback::Default { body } = &service(&loaded, "vms").fallback else { panic!() };
    assert_eq!(serde_json::Value::from(body.clone()), json!({ "gone": true }));
}

#[test]
fn a_later_kind_of_fallback_leaves_the_earlier_ones_keys_aside() {
    let world = World::file("[services.rag]\nfallback.kind = 'park'\nconcurrency = 4\n[services.notifier]\nfallback.kind = 'skip'");
    let loaded = world.loaded();
    let Fallback::Park(retry) = &service(&loaded, "rag").fallback else { panic!() };
    assert_eq!(retry.topic.as_str(), "surveillance.rag.retry");
    assert_eq!(retry.drain_concurrency.get(), 4, "a small concurrency lowers the default");
    assert!(matches!(service(&loaded, "notifier").fallback, Fallback::Skip));
    let keys = origins(&loaded);
    assert!(!keys.contains_key("services.rag.fallback.ttl") && !keys.contains_key("services.notifier.retry.topic"));
}

#[test]
fn the_environment_reaches_every_kind_of_key() {
    let world = World::file("[services.my-maps]\nurl = 'http://m'\nfallback.kind = 'skip'")
        .and_env("FUSEBOX_KAFKA__GROUP", "0042")
        .and_env("FUSEBOX_KAFKA__PROPERTIES__SASL_PASSWORD", "1e5")
        .and_env("FUSEBOX_KAFKA__PROPERTIES__SSL_KEY_PASSWORD_FILE", "DIR/secret")
        .and_secret("secret", "from a file\n")
        .and_env("FUSEBOX_SERVICES__NOTIFIER__URL", "https://n:1/base/")
        .and_env("FUSEBOX_SERVICES__NOTIFIER__BREAKER__FAIL_MAX", "9")
        .and_env("FUSEBOX_SERVICES__NOTIFIER__BREAKER__JITTER", "0.5")
        .and_env("FUSEBOX_SERVICES__NOTIFIER__HEADERS__X_API_KEY", "true")
        .and_env("FUSEBOX_SERVICES__MY_MAPS__TIMEOUT", "250ms")
        .and_env("FUSEBOX_SERVICES__VMS__BREAKER", "{ permits = 2 }")
        .and_env("FUSEBOX_PROCESSING__MAX_IN_FLIGHT_BYTES", "2097152")
        .and_env("FUSEBOX_TOPICS__DELIVERIES", "\"quoted\"")
        .and_env(
            "FUSEBOX_HTTP__TOKENS",
            "[{ name = 'a', role = 'admin', sha256 = '0000000000000000000000000000000000000000000000000000000000000001' }]",
        )
        .and_env("FUSEBOX_TOKEN", "x")
        .and_env("FUSEBOX_PORT_8080_TCP_ADDR", "x")
        .and_env("FUSEBOX_SERVICE_HOST", "x")
        .and_env("OTHER__KEY", "x");
    let loaded = world.loaded();
    let config = &loaded.config;
    assert_eq!(config.kafka.group, "0042");
    assert_eq!(config.kafka.properties["sasl.password"].expose_secret(), "1e5");
    assert_eq!(config.kafka.properties["ssl.key.password"].expose_secret(), "from a file");
    let notifier = service(&loaded, "notifier");
    assert_eq!(notifier.endpoint.uri, "https://n:1/base/notify");
    assert_eq!(notifier.breaker.policy, crate::machine::breaker::PolicySettings::Consecutive { fail_max: 9.try_into().unwrap() });
    assert!((notifier.breaker.jitter - 0.5).abs() < f64::EPSILON);
    assert_eq!(notifier.endpoint.headers[0].0, "x-api-key");
    assert_eq!(notifier.endpoint.headers[0].1.expose_secret(), "true");
    assert_eq!(service(&loaded, "my-maps").timeout, Duration::from_millis(250));
    assert_eq!(service(&loaded, "vms").breaker.permits, 2);
    assert_eq!(config.processing.max_in_flight_bytes.get(), 2 << 20);
    assert_eq!(config.topics.deliveries.as_ref().unwrap().as_str(), "quoted");
    assert_eq!(config.http.tokens[0].sha256[31], 1);
}

#[test]
fn librdkafkas_names_may_be_quoted_or_not() {
    let world = World::file("[kafka.properties]\nsasl.username = 'a'\n'client.id' = 'a'").and_file(
        "b.toml",
        "[kafka]\nproperties = { 'sasl.username' = 'b', client.id = 'b', session.timeout.ms = 6000, socket.keepalive.enable = true }",
    );
    let properties = world.loaded().config.kafka.properties;
    let read: Vec<_> = properties.iter().map(|(name, value)| (name.as_str(), value.expose_secret())).collect();
    assert_eq!(read, [("client.id", "b"), ("sasl.username", "b"), ("session.timeout.ms", "6000"), ("socket.keepalive.enable", "true")]);
}

#[test]
fn an_empty_string_takes_an_optional_key_away() {
    let world = World::file("[redis]\nurl = 'redis://h'\n[topics]\ndeliveries = 'd'");
    assert!(world.loaded().config.redis.is_some());
    let world = world.and_env("FUSEBOX_REDIS__URL", "").and_env("FUSEBOX_TOPICS__DELIVERIES", "");
    let config = world.loaded().config;
    assert!(config.redis.is_none());
    assert!(config.topics.deliveries.is_none());
}

#[test]
fn a_variable_under_a_plain_value_is_a_fault() {
    let world = World::new().and_env("FUSEBOX_HTTP__LISTEN", "127.0.0.1:1").and_env("FUSEBOX_HTTP__LISTEN__PORT", "1");
    assert_eq!(
        world.faults(),
        "FUSEBOX_HTTP__LISTEN__PORT: http.listen.port: cannot be set: `http.listen` is set to a plain value as well"
    );
}

#[test]
fn what_follows_from_a_key_is_derived() {
    let loaded = World::file("[services.rag]\ntimeout = '7s'\nbreaker.recovery_timeout = '15m'").loaded();
    let breaker = &service(&loaded, "rag").breaker;
    assert_eq!(breaker.lease, Duration::from_secs(8), "the call's timeout and a second");
    assert_eq!(breaker.recovery_timeout_max, Duration::from_secs(900), "a longer recovery_timeout raises the default");
}

#[test]
fn every_form_of_a_duration_and_of_a_size() {
    for (text, ms) in
        [("250ms", 250), ("30s", 30_000), ("1h", 3_600_000), ("5m", 300_000), ("1m 30s", 90_000), ("2min", 120_000), ("1500 ms", 1_500)]
    {
        assert_eq!(
            World::file(&format!("shutdown.timeout = '{text}'")).loaded().config.shutdown.timeout,
            Duration::from_millis(ms),
            "{text}"
        );
    }
    for (text, bytes) in [
        ("1024", 1_024),
        ("'1024'", 1_024),
        ("'1KiB'", 1_024),
        ("'1kB'", 1_000),
        ("'1.5 MiB'", 3 << 19),
        ("'2MB'", 2_000_000),
        ("0x400", 1_024),
        ("1_000", 1_000),
    ] {
        assert_eq!(
            World::file(&format!("processing.max_event_bytes = {text}")).loaded().config.processing.max_event_bytes.get(),
            bytes,
            "{text}"
        );
    }
}
