//! What must hold beside what every scenario has to show, judged from outside as well.

use std::collections::HashMap;
use std::fmt;

use fusebox::edge::embedded::stub::Entry;
use fusebox::event::headers::name;

use super::Happened;
use super::plan::{Fault, SETTLED_IN};
use crate::harness::World;

/// From when on every call of a service that went down is a probe, ms: those of before have failed, each instance has tripped or has heard of
/// it, and what was under way has ended within its timeout of a second. A second more for a machine with much to do.
const ALL_KNOW_MS: i64 = 4_000;

/// How much longer than twice as long the slowest hundredth of calls may take while Redis is away, ms: kills and the machine are at work then too.
const SLACK_MS: f64 = 100.0;

/// The `permits` of the notifier's breaker.
const PERMITS: usize = 1;

/// What was seen.
#[derive(Debug, Default)]
pub struct Verdict {
    /// How long calls of a healthy service took while Redis was there, and while it was not, ms: how many, the middle one, of a hundred the
    /// slowest, the slowest.
    took: [(usize, f64, f64, f64); 2],
    /// Probes while Redis had been there for long enough, and the most at once.
    calm: (usize, usize),
    /// The same, while it had not.
    alone: (usize, usize),
    /// Parked records that were looked at.
    parked: usize,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [here, away] = self.took;
        let took = |(calls, middle, slow, slowest): (usize, f64, f64, f64)| {
            format!("{calls} calls, median {middle:.0} ms, p99 {slow:.0} ms, max {slowest:.0} ms")
        };
        write!(
            f,
            "with Redis {}; without {}; none refused; {} probes with Redis, {} at once at most, {} without, {} at once at most; {} parked \
             records, each with no more attempts than calls",
            took(here),
            took(away),
            self.calm.0,
            self.calm.1,
            self.alone.0,
            self.alone.1,
            self.parked
        )
    }
}

/// The times that something went on: from what begins it to what ends it, unix ms.
fn times(happened: &[Happened], begins: impl Fn(Fault) -> bool, ends: impl Fn(Fault) -> bool) -> Vec<(i64, i64)> {
    let mut times = Vec::new();
    for one in happened {
        if begins(one.fault) {
            times.push((one.at, i64::MAX));
        } else if ends(one.fault) {
            times.last_mut().expect("it has begun").1 = one.at;
        }
    }
    times
}

/// The times that Redis was away.
fn away(happened: &[Happened]) -> Vec<(i64, i64)> {
    let begins = |fault| matches!(fault, Fault::RedisKilled | Fault::RedisFrozen);
    times(happened, begins, |fault| matches!(fault, Fault::RedisStarted { .. } | Fault::RedisThawed))
}

/// Judges a world in which nothing moves any more.
#[track_caller]
pub fn judge(world: &World, happened: &[Happened], instances: usize) -> Verdict {
    let mut verdict = Verdict { took: healthy(world, &away(happened)), parked: attempts(world), ..Verdict::default() };
    probes(world, happened, &mut verdict);
    let Verdict { took: [here, without], calm, alone, .. } = &verdict;
    assert!(without.2 <= here.2 * 2.0 + SLACK_MS, "calls take longer while Redis is away: {verdict}");
    assert!(calm.1 <= PERMITS, "too many probes: {verdict}");
    assert!(alone.1 <= PERMITS * instances, "too many probes for so many instances: {verdict}");
    let given_up =
        world.read(&world.dead_letters).iter().filter(|letter| letter.headers.iter().any(|(header, _)| header == name::EVENT_ID)).count();
    assert_eq!(given_up, 0, "each notification arrives");
    verdict
}

/// The first service is well all the time: none of its calls is refused, whatever becomes of Redis. How long they took.
#[track_caller]
fn healthy(world: &World, away: &[(i64, i64)]) -> [(usize, f64, f64, f64); 2] {
    let mut took = [Vec::new(), Vec::new()];
    for outcome in world.read(&world.outcomes) {
        let outcome = outcome.json();
        let rag = &outcome["stages"]["rag"];
        assert_eq!((&rag["success"], &rag["circuit_breaker_state"]), (&true.into(), &"closed".into()), "refused, or failed: {outcome}");
        let ended =
            outcome["processed_at"].as_str().and_then(|time| time.parse::<jiff::Timestamp>().ok()).expect("a time").as_millisecond();
        let without = away.iter().any(|(from, to)| (*from..=*to).contains(&ended));
        took[usize::from(without)].push(rag["response_time_ms"].as_f64().expect("a number"));
    }
    took.map(|mut took| {
        took.sort_by(f64::total_cmp);
        let at = |share: usize| took.get((took.len() * share / 100).min(took.len().saturating_sub(1))).copied().unwrap_or(0.0);
        (took.len(), at(50), at(99), at(100))
    })
}

/// No parked call counts an attempt that was not made: what is refused spends none. Gives how many records were looked at.
#[track_caller]
fn attempts(world: &World) -> usize {
    let mut calls: HashMap<String, i64> = HashMap::new();
    for call in world.calls("notifier") {
        let key = call.idempotency_key.expect("every call has a key");
        *calls.entry(key.split('/').next().unwrap_or_default().to_owned()).or_default() += 1;
    }
    let parked = world.read(&world.retries);
    for record in &parked {
        let made = calls.get(record.header(name::EVENT_ID)).copied().unwrap_or(0);
        assert!(record.number(name::ATTEMPT) <= made, "{made} calls were made: {record:?}");
    }
    parked.len()
}

/// Counts the probes that were out at once: calls of the notifier while it had been down for so long that all knew.
fn probes(world: &World, happened: &[Happened], verdict: &mut Verdict) {
    let settled = i64::try_from(SETTLED_IN.as_millis()).expect("short");
    let away = away(happened);
    let killed: Vec<i64> = happened.iter().filter(|one| matches!(one.fault, Fault::Killed(_))).map(|one| one.at).collect();
    let calls = world.calls("notifier");
    for (down, well) in times(happened, |fault| matches!(fault, Fault::Down { .. }), |fault| fault == Fault::Well) {
        let probes = calls.iter().filter(|call| (down + ALL_KNOW_MS..well).contains(&call.started_at.0));
        for probe in probes {
            let at = probe.started_at.0;
            let out = |call: &&Entry| call.seq <= probe.seq && call.ended_at.is_none_or(|ended| ended.0 > at);
            let at_once = calls.iter().filter(out).count();
            let last_away = away.iter().filter(|(from, _)| *from <= at).max_by_key(|(from, _)| *from);
            match last_away {
                Some((from, to)) if at <= *to + settled => {
                    // One that was started without Redis knows of nothing: its breaker is closed until it has seen for itself.
                    let knows_nothing = killed.iter().any(|killed| (*from - settled..=at).contains(killed));
                    if !knows_nothing {
                        verdict.alone = (verdict.alone.0 + 1, verdict.alone.1.max(at_once));
                    }
                }
                _ => verdict.calm = (verdict.calm.0 + 1, verdict.calm.1.max(at_once)),
            }
        }
    }
}
