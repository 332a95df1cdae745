//! What becomes of a call when all its tries are over: of a live one ([`live`]), and of a parked one ([`drained`]).

use std::time::Duration;

use super::judgement::CallOutcome;
use super::schedule::Schedule;
use crate::event::UnixMillis;
use crate::event::dead_letter::Code;
use crate::event::envelope::Reason;

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The service answered.
    Done {
        /// With an answer that can be used.
        data: bool,
    },
    /// It failed, and may be tried again.
    Failed {
        /// How.
        outcome: CallOutcome,
        /// When the service asked to be tried again.
        retry_after: Option<Duration>,
    },
    /// The service refused it for good.
    Rejected,
    /// The breaker refused it: no call was made.
    CircuitOpen,
    /// It got no turn: no call was made.
    Overload,
    /// The process stops: the call was cancelled, or never made.
    Stopped,
    /// Calls of its key are parked in front of it: no call was made.
    Behind,
}

impl End {
    /// What went wrong, as an outcome's `error_type`; `None` if nothing did.
    pub fn error_type(self) -> Option<&'static str> {
        match self {
            Self::Done { data: true } => None,
            Self::Done { data: false } => Some(CallOutcome::BadBody.as_str()),
            Self::Failed { .. } => self.reason().map(Reason::as_str),
            Self::Rejected => Some(CallOutcome::Rejected.as_str()),
            Self::CircuitOpen => Some(Reason::CircuitOpen.as_str()),
            Self::Overload => Some(Reason::Overload.as_str()),
            Self::Stopped => Some(Reason::Shutdown.as_str()),
            Self::Behind => Some(Reason::Behind.as_str()),
        }
    }

    /// Why a call that ended like this is parked; `None` if it is not to be made again.
    fn reason(self) -> Option<Reason> {
        match self {
            Self::Failed { outcome, .. } => Some(match outcome {
                CallOutcome::Timeout => Reason::Timeout,
                CallOutcome::Http429 => Reason::Http429,
                CallOutcome::Http5xx => Reason::Http5xx,
                CallOutcome::Connect | CallOutcome::Cancelled => Reason::Connect,
                CallOutcome::Ok | CallOutcome::Slow | CallOutcome::Rejected | CallOutcome::BadBody => Reason::Retryable,
            }),
            Self::CircuitOpen => Some(Reason::CircuitOpen),
            Self::Overload => Some(Reason::Overload),
            Self::Stopped => Some(Reason::Shutdown),
            Self::Behind => Some(Reason::Behind),
            Self::Done { .. } | Self::Rejected => None,
        }
    }
}

/// The kinds of fallback, as far as a decision needs them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FallbackKind {
    /// The last good answer.
    Cached,
    /// A body.
    Default,
    /// Parked.
    Park,
    /// Left out.
    Skip,
    /// The event fails.
    Fail,
}

impl FallbackKind {
    /// Every kind.
    pub const ALL: [Self; 5] = [Self::Cached, Self::Default, Self::Park, Self::Skip, Self::Fail];

    /// The word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cached => "cached",
            Self::Default => "default",
            Self::Park => "park",
            Self::Skip => "skip",
            Self::Fail => "fail",
        }
    }
}

/// What becomes of a live call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Live {
    /// Its answer is the stage's.
    Answer,
    /// Done, and nothing of the answer is needed.
    Delivered,
    /// Its fallback stands in.
    FallBack,
    /// It is parked.
    Park {
        /// Why.
        reason: Reason,
    },
    /// It is a dead letter.
    DeadLetter(Code),
    /// The event is not finished: it will be redelivered.
    Unfinished,
}

/// Decides on a live call that made `calls` failed calls; `max_attempts` is the bound of a service that parks. In this order:
///
/// 1. A usable answer is the answer.
/// 2. A service that parks is called for what it does: an unusable 2xx is done, a refusal for good is a dead letter,
///    calls used up are a dead letter, everything else is parked.
/// 3. A stopping process does not fail an event: where the fallback is `fail`, the event is left to the next instance.
/// 4. Everything else falls back.
pub fn live(end: End, fallback: FallbackKind, calls: u32, max_attempts: u32) -> Live {
    if end == (End::Done { data: true }) {
        return Live::Answer;
    }
    match (fallback, end) {
        (FallbackKind::Park, End::Done { .. }) => Live::Delivered,
        (FallbackKind::Park, End::Rejected) => Live::DeadLetter(Code::RejectedByService),
        (FallbackKind::Park, _) if calls >= max_attempts => Live::DeadLetter(Code::AttemptsExhausted),
        (FallbackKind::Park, _) => end.reason().map_or(Live::FallBack, |reason| Live::Park { reason }),
        (FallbackKind::Fail, End::Stopped) => Live::Unfinished,
        _ => Live::FallBack,
    }
}

/// The bounds of a parked call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Calls made before it is given up, the live one included.
    pub max_attempts: u32,
    /// The longest it is kept.
    pub max_age: Duration,
    /// When it is tried again.
    pub schedule: Schedule,
}

/// What becomes of a parked call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    /// It is delivered.
    Delivered,
    /// It stays where it is, and spends nothing.
    Stay,
    /// It is parked once more.
    Again {
        /// Why.
        reason: Reason,
        /// Calls made and failed.
        attempt: u32,
        /// Not before this long from now.
        delay: Duration,
    },
    /// It is a dead letter.
    DeadLetter(Code),
}

/// Decides on a parked call that had failed `attempt` times before this end. `roll` is chance's share of the delay.
pub fn drained(end: End, attempt: u32, bounds: &Bounds, roll: f64) -> Drained {
    match end {
        End::Done { .. } => Drained::Delivered,
        End::Rejected => Drained::DeadLetter(Code::RejectedByService),
        End::CircuitOpen | End::Overload | End::Stopped | End::Behind => Drained::Stay,
        End::Failed { retry_after, .. } => {
            let attempt = attempt.saturating_add(1);
            if attempt >= bounds.max_attempts {
                return Drained::DeadLetter(Code::AttemptsExhausted);
            }
            let reason = end.reason().unwrap_or(Reason::Connect);
            Drained::Again { reason, attempt, delay: bounds.schedule.delay(attempt, retry_after, roll) }
        }
    }
}

/// Whether a parked call may still be made: what has been kept too long, or was called too often under other bounds, is a dead letter.
pub fn overdue(attempt: u32, first_parked_at: UnixMillis, now: UnixMillis, bounds: &Bounds) -> Option<Code> {
    if now.since(first_parked_at) > bounds.max_age {
        Some(Code::Expired)
    } else if attempt >= bounds.max_attempts {
        Some(Code::AttemptsExhausted)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAILED: End = End::Failed { outcome: CallOutcome::Http5xx, retry_after: None };

    #[test]
    fn every_live_end_under_every_fallback() {
        use FallbackKind::{Cached, Default, Fail, Park, Skip};
        let parked = |reason| Live::Park { reason };
        for (end, others, parking) in [
            (End::Done { data: true }, Live::Answer, Live::Answer),
            (End::Done { data: false }, Live::FallBack, Live::Delivered),
            (FAILED, Live::FallBack, parked(Reason::Http5xx)),
            (End::Failed { outcome: CallOutcome::Timeout, retry_after: None }, Live::FallBack, parked(Reason::Timeout)),
            (End::Failed { outcome: CallOutcome::Http429, retry_after: None }, Live::FallBack, parked(Reason::Http429)),
            (End::Failed { outcome: CallOutcome::Connect, retry_after: None }, Live::FallBack, parked(Reason::Connect)),
            (End::Failed { outcome: CallOutcome::Ok, retry_after: None }, Live::FallBack, parked(Reason::Retryable)),
            (End::Failed { outcome: CallOutcome::Rejected, retry_after: None }, Live::FallBack, parked(Reason::Retryable)),
            (End::Rejected, Live::FallBack, Live::DeadLetter(Code::RejectedByService)),
            (End::CircuitOpen, Live::FallBack, parked(Reason::CircuitOpen)),
            (End::Overload, Live::FallBack, parked(Reason::Overload)),
            (End::Stopped, Live::FallBack, parked(Reason::Shutdown)),
            (End::Behind, Live::FallBack, parked(Reason::Behind)),
        ] {
            for kind in [Cached, Default, Skip] {
                assert_eq!(live(end, kind, 1, 8), others, "{end:?} {kind:?}");
            }
            let failing = if end == End::Stopped { Live::Unfinished } else { others };
            assert_eq!(live(end, Fail, 1, 8), failing, "{end:?}");
            assert_eq!(live(end, Park, 1, 8), parking, "{end:?}");
        }
        assert_eq!(live(FAILED, Park, 3, 3), Live::DeadLetter(Code::AttemptsExhausted));
        assert_eq!(live(End::CircuitOpen, Park, 0, 1), parked(Reason::CircuitOpen));
    }

    #[test]
    fn every_drained_end() {
        let bounds = Bounds {
            max_attempts: 3,
            max_age: Duration::from_secs(60),
            schedule: Schedule { initial: Duration::from_secs(2), max: Duration::from_secs(8) },
        };
        assert_eq!(drained(End::Done { data: true }, 0, &bounds, 0.0), Drained::Delivered);
        assert_eq!(drained(End::Done { data: false }, 0, &bounds, 0.0), Drained::Delivered);
        assert_eq!(drained(End::Rejected, 0, &bounds, 0.0), Drained::DeadLetter(Code::RejectedByService));
        for end in [End::CircuitOpen, End::Overload, End::Stopped, End::Behind] {
            assert_eq!(drained(end, 2, &bounds, 0.0), Drained::Stay, "parking is not failing: {end:?}");
        }
        let again = Drained::Again { reason: Reason::Http5xx, attempt: 1, delay: Duration::from_secs(1) };
        assert_eq!(drained(FAILED, 0, &bounds, 0.5), again);
        assert_eq!(drained(FAILED, 2, &bounds, 0.5), Drained::DeadLetter(Code::AttemptsExhausted));
        assert_eq!(drained(FAILED, u32::MAX, &bounds, 0.5), Drained::DeadLetter(Code::AttemptsExhausted));
    }

    #[test]
    fn age_and_attempts_end_a_record_before_its_call() {
        let bounds = Bounds {
            max_attempts: 3,
            max_age: Duration::from_millis(100),
            schedule: Schedule { initial: Duration::ZERO, max: Duration::ZERO },
        };
        let first = UnixMillis(1_000);
        assert_eq!(overdue(0, first, UnixMillis(1_100), &bounds), None);
        assert_eq!(overdue(0, first, UnixMillis(1_101), &bounds), Some(Code::Expired));
        assert_eq!(overdue(3, first, UnixMillis(1_000), &bounds), Some(Code::AttemptsExhausted));
        assert_eq!(overdue(0, first, UnixMillis(0), &bounds), None, "a clock that went back expires nothing");
    }
}
