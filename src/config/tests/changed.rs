//! A breaker's settings, changed while they are in force.

use std::time::Duration;

use serde_json::{Value as Json, json};

use crate::config::{breaker_table, changed_breaker, read_breaker};
use crate::machine::breaker::Settings;

const TIMEOUT: Duration = Duration::from_secs(30);

fn table(value: Json) -> serde_json::Map<String, Json> {
    let Json::Object(table) = value else { panic!("no object: {value}") };
    table
}

fn in_force(written: Json) -> Settings {
    read_breaker(table(written), TIMEOUT).expect("sound")
}

/// The keys that come out otherwise than they were; null: it is gone.
fn difference(before: &Settings, after: &Settings) -> Json {
    let (before, after) = (breaker_table(before), breaker_table(after));
    let gone = before.keys().filter(|key| !after.contains_key(*key)).map(|key| (key.clone(), Json::Null));
    let other = after.iter().filter(|(key, value)| before.get(*key) != Some(value)).map(|(key, value)| (key.clone(), value.clone()));
    gone.chain(other).collect::<serde_json::Map<_, _>>().into()
}

#[test]
fn what_is_not_named_stays_and_so_does_the_lease() {
    let consecutive = json!({ "fail_max": 4, "recovery_timeout": "30s", "half_open_timeout": "5s", "jitter": 0.1 });
    let in_a_hurry = json!({ "recovery_timeout": "5s", "recovery_timeout_max": "10s" });
    let count = json!({ "policy": "count", "size": 20, "failure_rate": 0.4 });
    let any = json!({ "any": [{ "policy": "consecutive", "fail_max": 4 }, { "policy": "count", "size": 20 }] });
    let to_consecutive = |fail_max: u32| {
        json!({ "policy": "consecutive", "fail_max": fail_max, "size": null, "minimum_calls": null, "failure_rate": null,
                "slow_call_rate": null, "slow_call_duration": null })
    };
    for (before, changes, expect) in [
        (&consecutive, json!({}), json!({})),
        (&consecutive, json!({ "fail_max": 4, "recovery_timeout": "30000ms" }), json!({})),
        (&consecutive, json!({ "fail_max": 10 }), json!({ "fail_max": 10 })),
        (&consecutive, json!({ "half_open_timeout": null }), json!({ "half_open_timeout": null })),
        (&consecutive, json!({ "fail_max": null }), json!({ "fail_max": 5 })),
        (&consecutive, json!({ "half_open_failure_rate": 0.5 }), json!({ "half_open_failure_rate": 0.5 })),
        // The longest open time is drawn along.
        (&consecutive, json!({ "recovery_timeout": "1h" }), json!({ "recovery_timeout": "1h", "recovery_timeout_max": "1h" })),
        (&in_a_hurry, json!({ "recovery_timeout": null }), json!({ "recovery_timeout": "1m", "recovery_timeout_max": "10m" })),
        (&count, json!({ "failure_rate": 0.6 }), json!({ "failure_rate": 0.6 })),
        (&count, json!({ "policy": "consecutive", "fail_max": 3 }), to_consecutive(3)),
        // Nulls go back to the default policy, and what the policy in force is set by goes with it.
        (&consecutive, json!({ "policy": null }), json!({})),
        (&consecutive, json!({ "any": null }), json!({})),
        (&consecutive, json!({ "policy": null, "any": null, "fail_max": 7 }), json!({ "fail_max": 7 })),
        (&count, json!({ "any": null }), json!({})),
        (&count, json!({ "any": null, "size": 30 }), json!({ "size": 30 })),
        (&count, json!({ "policy": null }), to_consecutive(5)),
        (&count, json!({ "policy": null, "fail_max": 3 }), to_consecutive(3)),
        (&any, json!({ "any": null }), json!({ "any": null, "policy": "consecutive", "fail_max": 5 })),
        (&any, json!({ "any": null, "fail_max": 2 }), json!({ "any": null, "policy": "consecutive", "fail_max": 2 })),
        (&any, json!({ "policy": null }), json!({ "any": null, "policy": "consecutive", "fail_max": 5 })),
        (&any, json!({ "any": null, "policy": null }), json!({ "any": null, "policy": "consecutive", "fail_max": 5 })),
        (&any, json!({ "any": null, "policy": "consecutive" }), json!({ "any": null, "policy": "consecutive", "fail_max": 5 })),
        (&any, json!({ "policy": "consecutive", "fail_max": 4 }), json!({ "any": null, "policy": "consecutive", "fail_max": 4 })),
        (&any, json!({ "policy": null, "any": [{ "fail_max": 6 }] }), json!({ "any": [{ "policy": "consecutive", "fail_max": 6 }] })),
        (
            &consecutive,
            json!({ "policy": null, "any": [{ "fail_max": 6 }] }),
            json!({ "any": [{ "policy": "consecutive", "fail_max": 6 }], "policy": null, "fail_max": null }),
        ),
    ] {
        let before = in_force(before.clone());
        let after = changed_breaker(&before, &table(changes.clone())).unwrap_or_else(|faults| panic!("{changes}: {faults}"));
        assert_eq!(difference(&before, &after), expect, "{changes}");
        assert_eq!(after.lease, before.lease, "{changes}");
    }
}

#[test]
fn every_fault_is_named_and_nothing_else() {
    let before = in_force(json!({ "fail_max": 4 }));
    for (changes, keys) in [
        (json!({ "fail_max": 0, "jitter": 2, "permits": "many" }), &["fail_max", "jitter", "permits"][..]),
        (json!({ "fail_mx": 3, "permits": 2 }), &["fail_mx"]),
        (json!({ "size": 10 }), &["size"]),
        (json!({ "recovery_timeout": "soon" }), &["recovery_timeout"]),
        (json!({ "recovery_timeout": "1h", "recovery_timeout_max": "1m" }), &["recovery_timeout_max"]),
        (json!({ "policy": "clairvoyant" }), &["policy"]),
        (json!({ "policy": "expression", "trip": "failures >=" }), &["trip"]),
        (json!({ "failure": "status == 500", "ignore": null, "fail_max": 0 }), &["fail_max", "failure", "ignore"]),
        (json!({ "failure": "status == 500" }), &["failure"]),
        (json!({ "fail_max": { "deep": [1] } }), &["fail_max"]),
        (json!({ "lease": "1s" }), &["lease"]),
        (json!({ "policy": null, "size": 10 }), &["size"]),
        (json!({ "any": null, "size": 10 }), &["size"]),
    ] {
        let faults = changed_breaker(&before, &table(changes.clone())).expect_err("refused");
        let mut named: Vec<_> = faults.0.iter().map(|fault| fault.key.clone().unwrap_or_default()).collect();
        named.sort();
        assert_eq!(named, keys, "{changes}: {faults}");
        assert!(faults.0.iter().all(|fault| fault.place.is_none() && !fault.message.is_empty()), "{faults}");
    }
}
