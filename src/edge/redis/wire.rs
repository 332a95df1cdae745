//! A breaker's state as it crosses the process's border: every time is a span in milliseconds from now.
//!
//! Hosts agree on no clock. A sender says how much time is left; Redis adds its own clock's time and stores the sum; a reader gets
//! what is left and adds it to its own monotonic clock. Time on the way lengthens a span, never shortens it: an open circuit
//! read back lets no probe go early.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::machine::breaker::{Generation, Held, Lock, LockKind, Snapshot, StateName};
use crate::machine::time::Tick;

/// The version of the hash's and the message's layout. `scripts/state.lua` and the migration name the same.
pub(super) const LAYOUT: u32 = 1;

/// The longest span that is sent: a hundred years. [`Tick::NEVER`] would have more digits than the scripts read.
const LONGEST_MS: u64 = 100 * 365 * 24 * 60 * 60 * 1000;

/// The highest generation or revision that is stored: 15 digits, which Lua's numbers hold exactly.
pub(super) const MAX_NUMBER: u64 = 999_999_999_999_999;

/// A state on its way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Wire {
    /// The instance that decided it.
    pub(super) instance: String,
    pub(super) generation: u64,
    pub(super) state: StateName,
    pub(super) trips: u32,
    /// How long ago the state began; below zero when Redis' clock was set back since.
    pub(super) age_ms: i64,
    /// What is left until probes go; of an open circuit only.
    pub(super) retry_in_ms: Option<i64>,
    /// What is left of a lock; none if it does not end.
    pub(super) lock_expires_in_ms: Option<i64>,
    pub(super) lock_actor: Option<String>,
    pub(super) lock_reason: Option<String>,
}

impl Wire {
    /// A snapshot, at `now` of the sender's clock.
    pub(super) fn of(snapshot: &Snapshot, instance: &str, now: Tick) -> Self {
        let mut wire = Self {
            instance: instance.to_owned(),
            generation: snapshot.generation.0,
            state: snapshot.held.name(),
            trips: snapshot.trips,
            age_ms: span(now.since(snapshot.since)),
            retry_in_ms: None,
            lock_expires_in_ms: None,
            lock_actor: None,
            lock_reason: None,
        };
        match &snapshot.held {
            Held::Closed | Held::HalfOpen => {}
            Held::Open { until } => wire.retry_in_ms = Some(span(until.since(now))),
            Held::Locked(lock) => {
                wire.lock_expires_in_ms = lock.expires_at.map(|at| span(at.since(now)));
                wire.lock_actor = Some(lock.actor.clone());
                wire.lock_reason = Some(lock.reason.clone());
            }
        }
        wire
    }

    /// The snapshot, at `now` of the reader's clock; `None` if the state lacks what belongs to it.
    pub(super) fn snapshot(self, now: Tick) -> Option<Snapshot> {
        let after = |ms: i64| now.plus(Duration::from_millis(u64::try_from(ms).unwrap_or(0)));
        let lock = |kind| {
            Some(Held::Locked(Lock {
                kind,
                actor: self.lock_actor.clone()?,
                reason: self.lock_reason.clone()?,
                expires_at: self.lock_expires_in_ms.map(after),
            }))
        };
        let held = match self.state {
            StateName::Closed => Held::Closed,
            StateName::HalfOpen => Held::HalfOpen,
            StateName::Open => Held::Open { until: after(self.retry_in_ms?) },
            StateName::ForcedOpen => lock(LockKind::ForcedOpen)?,
            StateName::ForcedClosed => lock(LockKind::ForcedClosed)?,
            StateName::MetricsOnly => lock(LockKind::MetricsOnly)?,
        };
        Some(Snapshot {
            generation: Generation(self.generation),
            held,
            trips: self.trips,
            since: Tick(now.0.saturating_sub(u64::try_from(self.age_ms).unwrap_or(0))),
        })
    }

    /// Reads what `scripts/state.lua` answers, in its order; `None` if it answers something else.
    pub(super) fn from_reply(reply: &[Vec<u8>]) -> Option<Self> {
        let [instance, generation, state, trips, age, retry_in, expires_in, actor, reason] = reply else { return None };
        let locked = |value: String, state: StateName| {
            (!matches!(state, StateName::Closed | StateName::Open | StateName::HalfOpen)).then_some(value)
        };
        let state = StateName::parse(&text(state))?;
        Some(Self {
            instance: text(instance),
            generation: text(generation).parse().ok()?,
            state,
            trips: u32::try_from(text(trips).parse::<u64>().ok()?).unwrap_or(u32::MAX),
            age_ms: text(age).parse().ok()?,
            retry_in_ms: optional(retry_in)?,
            lock_expires_in_ms: optional(expires_in)?,
            lock_actor: locked(text(actor), state),
            lock_reason: locked(text(reason), state),
        })
    }
}

/// A span in whole milliseconds, at most [`LONGEST_MS`].
pub(super) fn span(duration: Duration) -> i64 {
    let ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).min(LONGEST_MS);
    i64::try_from(ms).unwrap_or(i64::MAX)
}

pub(super) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// `Some(None)` for the empty text, `None` for what is no number.
pub(super) fn optional(bytes: &[u8]) -> Option<Option<i64>> {
    if bytes.is_empty() { Some(None) } else { text(bytes).parse().ok().map(Some) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lock(kind: LockKind, expires_at: Option<Tick>) -> Held {
        Held::Locked(Lock { kind, actor: "ann".into(), reason: "deploy".into(), expires_at })
    }

    #[test]
    fn times_move_from_one_clock_to_the_other() {
        let (here, there) = (Tick(1_000), Tick(9_000_000));
        for (held, expect) in [
            (Held::Closed, Held::Closed),
            (Held::HalfOpen, Held::HalfOpen),
            (Held::Open { until: Tick(61_000) }, Held::Open { until: Tick(9_060_000) }),
            (Held::Open { until: Tick(400) }, Held::Open { until: there }),
            (lock(LockKind::ForcedOpen, Some(Tick(2_000))), lock(LockKind::ForcedOpen, Some(Tick(9_001_000)))),
            (lock(LockKind::ForcedClosed, None), lock(LockKind::ForcedClosed, None)),
            (lock(LockKind::MetricsOnly, Some(Tick(1))), lock(LockKind::MetricsOnly, Some(there))),
        ] {
            let sent = Snapshot { generation: Generation(7), held, trips: 2, since: Tick(300) };
            let got = Wire::of(&sent, "a", here).snapshot(there);
            assert_eq!(got, Some(Snapshot { generation: Generation(7), held: expect, trips: 2, since: Tick(8_999_300) }), "{sent:?}");
        }
    }

    #[test]
    fn the_end_of_time_is_sent_as_a_hundred_years() {
        let sent = Snapshot { generation: Generation(1), held: Held::Open { until: Tick::NEVER }, trips: 1, since: Tick(0) };
        let wire = Wire::of(&sent, "a", Tick(5));
        assert_eq!(wire.retry_in_ms, Some(3_153_600_000_000));
    }

    #[test]
    fn a_state_without_what_belongs_to_it_is_none() {
        let whole = Wire::of(
            &Snapshot { generation: Generation(1), held: lock(LockKind::ForcedOpen, None), trips: 0, since: Tick(0) },
            "a",
            Tick(0),
        );
        assert_eq!(Wire { lock_actor: None, ..whole.clone() }.snapshot(Tick(0)), None);
        assert_eq!(Wire { state: StateName::Open, ..whole }.snapshot(Tick(0)), None);
    }

    #[test]
    fn a_reply_of_another_shape_is_none() {
        let reply: Vec<Vec<u8>> = ["a", "7", "open", "1", "-20", "500", "", "", ""].iter().map(|field| field.as_bytes().to_vec()).collect();
        let wire = Wire::from_reply(&reply).expect("the scripts' shape");
        assert_eq!((wire.generation, wire.age_ms, wire.retry_in_ms, wire.lock_actor), (7, -20, Some(500), None));
        assert_eq!(Wire::from_reply(&reply[1..]), None);
        let mut other = reply;
        other[1] = b"seven".to_vec();
        assert_eq!(Wire::from_reply(&other), None);
    }

    proptest! {
        #[test]
        fn no_reading_panics(generation: u64, age: i64, left: Option<i64>, now: u64) {
            let wire = Wire {
                instance: "a".into(), generation, state: StateName::Open, trips: 0, age_ms: age,
                retry_in_ms: left, lock_expires_in_ms: left, lock_actor: None, lock_reason: None,
            };
            prop_assert_eq!(wire.snapshot(Tick(now)).is_some(), left.is_some());
        }
    }
}
