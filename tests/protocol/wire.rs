//! A breaker's state on its way between a machine's clock and Redis': every time is a span from now, as in the program's own wire.

use std::time::Duration;

use fusebox::machine::breaker::{Generation, Held, Lock, LockKind, Snapshot, StateName};
use fusebox::machine::time::Tick;

use super::store::State;

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
