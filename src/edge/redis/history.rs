//! A breaker's transitions as streams' entries, and back: the changes of the breaker that is stored in one stream, what was one instance's alone in
//! another, so that no number of those makes a change be forgotten. Read, they are one history.

use std::collections::HashMap;

use redis::streams::StreamId;
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

/// Of what is one instance's alone, so many transitions are kept.
pub(super) const NOTES: usize = 64;

/// The fields of what is one instance's alone. Of two such changes by one instance, between the same states and in one millisecond, one is kept.
pub(super) fn note(transition: &Transition, instance: &str) -> Vec<String> {
    let id = format!("{instance} {} {} {}", transition.at.0, transition.from.as_str(), transition.to.as_str());
    let mut all = vec!["note".to_owned(), id];
    all.extend(fields(transition, instance));
    all
}

/// A page of `limit` from both streams, each newest first, and where the next one begins. Two entries of one id are on one page, whose cursor is that
/// id: then it has one more. Which stream had its entry first, is not known within a millisecond.
pub(super) fn page(history: Vec<StreamId>, notes: Vec<StreamId>, limit: usize) -> (Vec<StreamId>, Option<String>) {
    let mut all: Vec<StreamId> = history.into_iter().chain(notes).collect();
    all.sort_by_key(|entry| std::cmp::Reverse(place(&entry.id)));
    let same = all.get(limit).is_some_and(|next| all.get(limit - 1).is_some_and(|last| last.id == next.id));
    let kept = limit + usize::from(same);
    let next = if all.len() > kept { all.get(kept - 1).map(|last| last.id.clone()) } else { None };
    all.truncate(kept);
    (all, next)
}

/// A stream's id, `milliseconds-number`, as what it is ordered by.
fn place(id: &str) -> (u64, u64) {
    let (ms, number) = id.split_once('-').unwrap_or((id, ""));
    (ms.parse().unwrap_or(0), number.parse().unwrap_or(0))
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
    fn pages_of_both_streams_have_every_entry_once() {
        let ids = |ids: &[&str]| ids.iter().map(|id| StreamId { id: (*id).to_owned(), ..StreamId::default() }).collect::<Vec<_>>();
        let (history, notes) = (ids(&["12-0", "10-1", "10-0", "9-0"]), ids(&["11-0", "10-0", "2-0"]));
        for limit in 1..9 {
            let (mut cursor, mut told): (Option<String>, Vec<String>) = (None, Vec::new());
            loop {
                // As Redis answers: what is below the cursor, one more than a page.
                let below = |all: &[StreamId]| {
                    let under = |entry: &&StreamId| cursor.as_ref().is_none_or(|cursor| place(&entry.id) < place(cursor));
                    all.iter().filter(under).take(limit + 1).cloned().collect::<Vec<_>>()
                };
                let (entries, next) = page(below(&history), below(&notes), limit);
                assert!(entries.len() <= limit + 1);
                told.extend(entries.into_iter().map(|entry| entry.id));
                cursor = next;
                if cursor.is_none() {
                    break;
                }
            }
            assert_eq!(told, ["12-0", "11-0", "10-1", "10-0", "10-0", "9-0", "2-0"], "pages of {limit}");
        }
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
