//! A `breaker` table by itself: settings written as one, and one read outside a config, over settings that are in force.

use std::time::Duration;

use figment::value::Value as Written;
use serde_json::{Map, Value as Json, json};

use super::faults::{Fault, Faults};
use super::layer::Layer;
use super::reader::Reader;
use super::sections;
use super::tree::Tree;
use crate::machine::breaker::{Over, PolicySettings, Rates, Settings};

/// Keys of a `breaker` table that say what a reply tells of its service.
const JUDGING: [&str; 2] = ["failure", "ignore"];

/// A breaker's settings as the table that would be read into them. The lease is not in it: it follows from the service's timeout.
pub fn breaker_table(settings: &Settings) -> Map<String, Json> {
    let mut table = policy_table(&settings.policy);
    table.extend(entries([
        ("recovery_timeout", time(settings.recovery_timeout)),
        ("backoff_multiplier", json!(settings.backoff_multiplier)),
        ("recovery_timeout_max", time(settings.recovery_timeout_max)),
        ("jitter", json!(settings.jitter)),
        ("permits", json!(settings.permits)),
        ("success_threshold", json!(settings.success_threshold)),
        ("ramp", time(settings.ramp)),
        ("ignore_first", json!(settings.ignore_first)),
        ("evidence", json!(settings.evidence)),
        ("quorum", json!(settings.quorum)),
    ]));
    if let Some(rate) = settings.half_open_failure_rate {
        table.insert("half_open_failure_rate".to_owned(), json!(rate));
    }
    if let Some(timeout) = settings.half_open_timeout {
        table.insert("half_open_timeout".to_owned(), time(timeout));
    }
    table
}

/// Reads a `breaker` table's changes over settings that are in force; nulls take optional keys away, and put the others back to their
/// defaults. The lease stays.
///
/// # Errors
/// Everything that is wrong with the result, each with its key. A key of a policy that is not chosen is at fault if it is among the changes,
/// and so is one that judges replies: it is no breaker's setting.
pub fn changed_breaker(settings: &Settings, changes: &Map<String, Json>) -> Result<Settings, Faults> {
    let (judging, changes): (Map<_, _>, Map<_, _>) =
        changes.iter().map(|(key, value)| (key.clone(), value.clone())).partition(|(key, _)| JUDGING.contains(&key.as_str()));
    let message = "it judges replies, and is read from the config at start alone";
    let mut faults: Vec<_> =
        judging.into_iter().map(|(key, _)| Fault { place: None, key: Some(key), message: message.to_owned() }).collect();
    match changed(settings, changes) {
        Ok(settings) if faults.is_empty() => Ok(settings),
        Ok(_) => Err(Faults(faults)),
        Err(others) => {
            faults.extend(others.0);
            Err(Faults(faults))
        }
    }
}

fn changed(settings: &Settings, changes: Map<String, Json>) -> Result<Settings, Faults> {
    let defaults = read(Vec::new(), Duration::ZERO)?;
    let (gone, mut changes): (Map<_, _>, Map<_, _>) = changes.into_iter().partition(|(_, value)| value.is_null());
    let mut base = breaker_table(settings);
    if changes.contains_key("any") {
        base.remove("policy");
    } else if gone.contains_key("policy") {
        // Named, it leaves the keys of the one in force aside.
        changes.insert("policy".to_owned(), defaults.policy.name().into());
    }
    if changes.contains_key("policy") {
        base.remove("any");
    }
    // Of a pair that must stay in order a change of the one moves the other, unless that is given too.
    let longest = match changes.get("recovery_timeout") {
        Some(value) => value.as_str().and_then(|text| humantime::parse_duration(text).ok()),
        None => gone.contains_key("recovery_timeout").then_some(defaults.recovery_timeout),
    };
    if longest.is_some_and(|longest| longest > settings.recovery_timeout_max) {
        base.remove("recovery_timeout_max");
    }
    base.retain(|key, _| !gone.contains_key(key));
    let read = read(vec![base, changes], Duration::ZERO)?;
    Ok(Settings { lease: settings.lease, ..read })
}

/// Reads a whole `breaker` table; what it does not say is the default. `timeout` is the service's.
///
/// # Errors
/// Everything that is wrong with it, each with its key.
pub fn read_breaker(table: Map<String, Json>, timeout: Duration) -> Result<Settings, Faults> {
    read(vec![table], timeout)
}

fn read(layers: Vec<Map<String, Json>>, timeout: Duration) -> Result<Settings, Faults> {
    let layers = layers.into_iter().map(|table| {
        let mut layer = Layer::default();
        for (key, value) in table {
            if let Ok(value) = Written::serialize(value) {
                layer.values.insert(key, value);
            }
        }
        layer
    });
    let tree = Tree::merge(layers.collect());
    let reader = Reader::new(&tree);
    let settings = reader.root(|root| sections::breaker(root, Some(timeout)));
    let (faults, _, _) = reader.finish();
    match settings {
        Some(settings) if faults.is_empty() => Ok(settings),
        // Where it was written says whoever hands it in.
        _ => Err(Faults(faults.into_iter().map(|fault| Fault { place: None, ..fault }).collect())),
    }
}

fn policy_table(policy: &PolicySettings) -> Map<String, Json> {
    let mut table = Map::new();
    if let PolicySettings::Any(policies) = policy {
        table.insert("any".to_owned(), policies.iter().map(policy_table).collect());
        return table;
    }
    table.insert("policy".to_owned(), policy.name().into());
    match policy {
        PolicySettings::Consecutive { fail_max } => table.extend(entries([("fail_max", json!(fail_max))])),
        PolicySettings::Count { size, rates } => {
            table.extend(entries([("size", json!(size))]));
            table.extend(rates_table(rates));
        }
        PolicySettings::Time { window, rates } => {
            table.extend(entries([("window", time(*window))]));
            table.extend(rates_table(rates));
        }
        PolicySettings::Expression { trip, over, slow } => {
            let over = match over {
                Over::Calls(size) => ("size", json!(size)),
                Over::Time(window) => ("window", time(*window)),
            };
            table.extend(entries([("trip", json!(trip.source())), over, ("slow_call_duration", time(*slow))]));
        }
        PolicySettings::Adaptive(adaptive) => table.extend(entries([
            ("window", time(adaptive.window)),
            ("multiplier", json!(adaptive.multiplier)),
            ("trickle", time(adaptive.trickle)),
            ("patience", time(adaptive.patience)),
            ("slow_call_duration", time(adaptive.slow_call_duration)),
        ])),
        PolicySettings::Any(_) => {}
    }
    table
}

fn rates_table(rates: &Rates) -> impl Iterator<Item = (String, Json)> {
    entries([
        ("minimum_calls", json!(rates.minimum_calls)),
        ("failure_rate", json!(rates.failure_rate)),
        ("slow_call_rate", json!(rates.slow_call_rate)),
        ("slow_call_duration", time(rates.slow_call_duration)),
    ])
}

fn entries<const N: usize>(entries: [(&str, Json); N]) -> impl Iterator<Item = (String, Json)> {
    entries.map(|(key, value)| (key.to_owned(), value)).into_iter()
}

fn time(duration: Duration) -> Json {
    humantime::format_duration(duration).to_string().into()
}
