//! A breaker's transitions as a stream's entries, and back.

use std::collections::HashMap;

use redis::{FromRedisValue, Value};

use crate::event::UnixMillis;
use crate::machine::breaker::{Cause, Counts, FleetCounts, Generation, StateName, Transition};
use crate::pipeline::ports::HistoryEntry;

/// The largest page, entries.
pub(super) const MAX_PAGE: usize = 1_000;

/// A transition's fields but its time, names and values in turn.
pub(super) fn fields(transition: &Transition, instance: &str) -> Vec<String> {
    let mut fields = Vec::with_capacity(16);
    let mut put = |name: &str, value: String| fields.extend([name.to_owned(), value]);
    put("from", transition.from.as_str().to_owned());
    put("to", transition.to.as_str().to_owned());
    put("cause", transition.cause.as_str().to_owned());
    put("generation", transition.generation.0.to_string());
    put("instance", instance.to_owned());
    if let Some(actor) = &transition.actor {
        put("actor", actor.clone());
    }
    if let Some(reason) = &transition.reason {
        put("reason", reason.clone());
    }
    if transition.alone {
        put("alone", "1".to_owned());
    }
    if let Some(fleet) = transition.fleet.as_deref().and_then(|fleet| serde_json::to_string(fleet).ok()) {
        put("fleet", fleet);
    }
    // Four integers serialize; were they ever not to, a reader takes what is missing for nothing weighed.
    put("counts", serde_json::to_string(&transition.counts).unwrap_or_default());
    fields
}

/// An entry; `None` if a field that it cannot do without is missing or unreadable.
pub(super) fn entry(fields: &HashMap<String, Value>) -> Option<HistoryEntry> {
    let text = |name: &str| fields.get(name).and_then(|value| String::from_redis_value_ref(value).ok());
    Some(HistoryEntry {
        at: UnixMillis(text("at")?.parse().ok()?),
        from: StateName::parse(&text("from")?)?,
        to: StateName::parse(&text("to")?)?,
        cause: Cause::parse(&text("cause")?)?,
        generation: Generation(text("generation")?.parse().ok()?),
        instance: text("instance")?,
        actor: text("actor"),
        reason: text("reason"),
        counts: text("counts").and_then(|counts| serde_json::from_str::<Counts>(&counts).ok()).unwrap_or_default(),
        alone: text("alone").is_some(),
        fleet: text("fleet").and_then(|fleet| serde_json::from_str::<FleetCounts>(&fleet).ok()),
    })
}

/// Whether a cursor is one that a page gave: a stream's id, `milliseconds-number`.
pub(super) fn is_cursor(text: &str) -> bool {
    text.split_once('-').is_some_and(|(ms, number)| ms.parse::<u64>().is_ok() && number.parse::<u64>().is_ok()) && !text.contains('+')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::time::Tick;

    fn read(fields: &[String]) -> HashMap<String, Value> {
        fields.chunks(2).map(|pair| (pair[0].clone(), Value::BulkString(pair[1].clone().into_bytes()))).collect()
    }

    #[test]
    fn an_entry_comes_back_as_it_went() {
        for (actor, reason) in [(None, None), (Some("ann"), Some("deploy")), (Some(""), Some(""))] {
            let transition = Transition {
                from: StateName::Closed,
                to: StateName::Open,
                cause: Cause::Policy,
                generation: Generation(9),
                at: Tick(5),
                counts: Counts { calls: 7, failures: 4, slow: 1, consecutive_failures: 3 },
                actor: actor.map(str::to_owned),
                reason: reason.map(str::to_owned),
                alone: actor.is_none(),
                fleet: reason.map(|reason| {
                    Box::new(FleetCounts { failing: 2, failing_instances: [reason.to_owned()].into(), ..FleetCounts::default() })
                }),
            };
            let mut map = read(&fields(&transition, "a-1"));
            map.insert("at".into(), Value::BulkString(b"1793739845678".to_vec()));
            let entry = entry(&map).expect("whole");
            assert_eq!((entry.at, entry.instance.as_str(), entry.generation), (UnixMillis(1_793_739_845_678), "a-1", Generation(9)));
            assert_eq!(
                (entry.from, entry.to, entry.cause, entry.counts),
                (transition.from, transition.to, transition.cause, transition.counts)
            );
            assert_eq!((entry.actor.as_deref(), entry.reason.as_deref()), (actor, reason));
            assert_eq!((entry.alone, entry.fleet), (transition.alone, transition.fleet.map(|fleet| *fleet)));
        }
    }

    #[test]
    fn damaged_entries_are_none() {
        assert_eq!(entry(&HashMap::new()), None);
        let odd = ["at", "soon", "from", "closed", "to", "open", "cause", "policy", "generation", "1", "instance", "a"].map(str::to_owned);
        assert_eq!(entry(&read(&odd)), None);
    }

    #[test]
    fn cursors() {
        for (text, expect) in [
            ("1793739845678-0", true),
            ("0-1", true),
            ("", false),
            ("-", false),
            ("+", false),
            ("1793739845678", false),
            ("(1-1", false),
            ("1-1 COUNT 9", false),
            ("+1-1", false),
        ] {
            assert_eq!(is_cursor(text), expect, "{text:?}");
        }
    }
}
