//! A breaker's state on its way between a machine's clock and Redis': every time is a span from now, as in the program's own wire.

use std::time::Duration;

use fusebox::machine::breaker::{Counts, Generation, Held, Lock, LockKind, Snapshot, StateName, Testimony, Told};
use fusebox::machine::time::Tick;

use super::store::{Hash, State, Tell};

fn span(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).expect("a span of a test")
}

/// A snapshot, at `now` of the sender's clock.
pub fn state_of(snapshot: &Snapshot, now: Tick) -> State {
    let mut state = State {
        generation: snapshot.generation.0,
        state: snapshot.held.name().as_str().to_owned(),
        trips: snapshot.trips.into(),
        age: span(now.since(snapshot.since)),
        retry_in: None,
        expires_in: None,
        actor: String::new(),
        reason: String::new(),
    };
    match &snapshot.held {
        Held::Closed | Held::HalfOpen => {}
        Held::Open { until } => state.retry_in = Some(span(until.since(now))),
        Held::Locked(lock) => {
            state.expires_in = lock.expires_at.map(|at| span(at.since(now)));
            (state.actor, state.reason) = (lock.actor.clone(), lock.reason.clone());
        }
    }
    state
}

/// The snapshot, at `now` of the reader's clock.
pub fn snapshot_of(state: &State, now: Tick) -> Snapshot {
    let after = |span: i64| now.plus(Duration::from_millis(u64::try_from(span).unwrap_or(0)));
    let lock = |kind| {
        Held::Locked(Lock { kind, actor: state.actor.clone(), reason: state.reason.clone(), expires_at: state.expires_in.map(after) })
    };
    let held = match StateName::parse(&state.state).expect("one of the six") {
        StateName::Closed => Held::Closed,
        StateName::HalfOpen => Held::HalfOpen,
        StateName::Open => Held::Open { until: after(state.retry_in.expect("an open one has it")) },
        StateName::ForcedOpen => lock(LockKind::ForcedOpen),
        StateName::ForcedClosed => lock(LockKind::ForcedClosed),
        StateName::MetricsOnly => lock(LockKind::MetricsOnly),
    };
    Snapshot {
        generation: Generation(state.generation),
        held,
        trips: u32::try_from(state.trips).unwrap_or(u32::MAX),
        since: Tick(now.0.saturating_sub(u64::try_from(state.age).unwrap_or(0))),
    }
}

/// The same state a while later.
pub fn later(state: State, by: Duration) -> State {
    let by = span(by);
    let left = |span: Option<i64>| span.map(|span| 0.max(span - by));
    State { age: state.age + by, retry_in: left(state.retry_in), expires_in: left(state.expires_in), ..state }
}

/// What an instance says, as the script is told it: for so long, and nothing for no time.
pub fn tell_of(testimony: &Testimony, lasts: Duration, instance: &str) -> Tell {
    let figures = testimony
        .figures
        .iter()
        .map(|Counts { calls, failures, slow, consecutive_failures }| format!("{calls}/{failures}/{slow}/{consecutive_failures}"));
    let asked = testimony.retry_after.map(|after| format!(" {}", span(after))).unwrap_or_default();
    Tell {
        instance: instance.to_owned(),
        generation: testimony.generation.0,
        lasts: if testimony.is_empty() { 0 } else { span(lasts) },
        what: format!("{} {} {}{asked}", u8::from(testimony.alone), testimony.kind, figures.collect::<Vec<_>>().join(",")),
    }
}

/// What was heard of a life, without what cannot be read.
pub fn told_of(heard: Hash, generation: Generation) -> Vec<Told> {
    let read = |(instance, what): (String, String)| {
        let (what, retry_after) = match what.splitn(4, ' ').collect::<Vec<_>>()[..] {
            [alone, kind, figures, after] => ((alone, kind, figures), Some(Duration::from_millis(after.parse().ok()?))),
            [alone, kind, figures] => ((alone, kind, figures), None),
            _ => return None,
        };
        let (alone @ ("0" | "1"), kind, figures) = what else { return None };
        let counts = |text: &str| {
            let numbers: Vec<u64> = text.split('/').map(|number| number.parse().ok()).collect::<Option<_>>()?;
            let [calls, failures, slow, consecutive_failures] = numbers[..] else { return None };
            Some(Counts { calls, failures, slow, consecutive_failures })
        };
        let figures = figures.split(',').map(counts).collect::<Option<_>>()?;
        Some(Told { instance, testimony: Testimony { generation, alone: alone == "1", kind: kind.parse().ok()?, figures, retry_after } })
    };
    heard.into_iter().filter_map(read).collect()
}
