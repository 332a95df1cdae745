//! A service's health: when it is asked, and what its answer means.
//!
//! While the breaker is closed nobody asks: the calls tell. Once it is open the service is asked every so often, and at once when the breaker
//! becomes half-open: then the answer may be the probe that closes it.

use std::time::Duration;

use super::breaker::{Generation, StateName, Verdict};
use super::judgement::{Answer, BodyKind};
use super::time::Tick;

/// What a service says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Health {
    /// 2xx.
    Healthy,
    /// Any other status.
    Unhealthy,
    /// No reply in time.
    Timeout,
    /// No connection, or a broken one.
    Connect,
}

impl Health {
    /// Every answer.
    pub const ALL: [Self; 4] = [Self::Healthy, Self::Unhealthy, Self::Timeout, Self::Connect];

    /// The word, as the metric spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
            Self::Timeout => "timeout",
            Self::Connect => "connect",
        }
    }
}

/// What an answer says of the service, and what its breaker is told if it was a probe. A body may be anything: "OK" is as good as JSON.
pub fn judge(answer: Answer) -> (Health, Verdict) {
    let failure = |retry_after| Verdict::Failure { retry_after };
    match answer {
        Answer::Replied { body: BodyKind::CutOff, .. } | Answer::NoReply => (Health::Connect, failure(None)),
        Answer::Replied { status: 200..=299, .. } => (Health::Healthy, Verdict::Success),
        Answer::Replied { retry_after, .. } => (Health::Unhealthy, failure(retry_after)),
        Answer::TimedOut => (Health::Timeout, failure(None)),
    }
}

/// When one service is asked.
#[derive(Debug)]
pub struct Rounds {
    interval: Duration,
    /// The life of the breaker that `due` belongs to.
    life: Option<Generation>,
    due: Tick,
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Nothing, until the breaker changes.
    Rest,
    /// Ask at this tick, unless the breaker changes before; one that is past is now.
    AskAt(Tick),
}

impl Rounds {
    /// Rounds of one question every `interval`, at least a millisecond.
    pub fn new(interval: Duration) -> Self {
        Self { interval: interval.max(Duration::from_millis(1)), life: None, due: Tick(0) }
    }

    /// What to do now, with the breaker in this state of this generation.
    pub fn next(&mut self, generation: Generation, state: StateName, now: Tick) -> Next {
        let begun = self.life.replace(generation) != Some(generation);
        match state {
            // An operator's word stands, whatever the service says.
            StateName::Closed | StateName::ForcedOpen | StateName::ForcedClosed | StateName::MetricsOnly => return Next::Rest,
            StateName::Open if begun => self.asked(now),
            StateName::HalfOpen if begun => self.due = now,
            StateName::Open | StateName::HalfOpen => {}
        }
        Next::AskAt(self.due)
    }

    /// It was asked, from `now` on: the next question is an interval away.
    pub fn asked(&mut self, now: Tick) {
        self.due = now.plus(self.interval);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer() {
        use BodyKind::{CutOff, Empty, Json, Unreadable};
        let wait = Some(Duration::from_secs(7));
        for (status, body, health, verdict) in [
            (200, Json, Health::Healthy, Verdict::Success),
            (204, Empty, Health::Healthy, Verdict::Success),
            (299, Unreadable, Health::Healthy, Verdict::Success),
            (200, CutOff, Health::Connect, Verdict::Failure { retry_after: None }),
            (199, Empty, Health::Unhealthy, Verdict::Failure { retry_after: wait }),
            (301, Empty, Health::Unhealthy, Verdict::Failure { retry_after: wait }),
            (404, Json, Health::Unhealthy, Verdict::Failure { retry_after: wait }),
            (429, Json, Health::Unhealthy, Verdict::Failure { retry_after: wait }),
            (503, Unreadable, Health::Unhealthy, Verdict::Failure { retry_after: wait }),
        ] {
            assert_eq!(judge(Answer::Replied { status, body, retry_after: wait }), (health, verdict), "{status} {body:?}");
        }
        assert_eq!(judge(Answer::NoReply), (Health::Connect, Verdict::Failure { retry_after: None }));
        assert_eq!(judge(Answer::TimedOut), (Health::Timeout, Verdict::Failure { retry_after: None }));
    }

    #[test]
    fn it_is_asked_every_interval_while_open_and_at_once_when_half_open() {
        use StateName::{Closed, ForcedClosed, ForcedOpen, HalfOpen, MetricsOnly, Open};
        let mut rounds = Rounds::new(Duration::from_millis(5));
        // Time, generation, state; when it is to be asked; whether it then is.
        for (now, generation, state, expect, asks) in [
            (0, 0, Closed, Next::Rest, false),
            (100, 1, Open, Next::AskAt(Tick(105)), false),
            (104, 1, Open, Next::AskAt(Tick(105)), false),
            (105, 1, Open, Next::AskAt(Tick(105)), true),
            (106, 1, Open, Next::AskAt(Tick(110)), false),
            (107, 2, HalfOpen, Next::AskAt(Tick(107)), true),
            (108, 2, HalfOpen, Next::AskAt(Tick(112)), false),
            // Its answer was no: open again, and another interval.
            (109, 3, Open, Next::AskAt(Tick(114)), false),
            (113, 4, HalfOpen, Next::AskAt(Tick(113)), true),
            (114, 5, Closed, Next::Rest, false),
            (115, 6, ForcedOpen, Next::Rest, false),
            (115, 7, ForcedClosed, Next::Rest, false),
            (115, 8, MetricsOnly, Next::Rest, false),
            (116, 9, HalfOpen, Next::AskAt(Tick(116)), false),
            // A state that was slept through is asked about as soon as that is seen.
            (150, 9, HalfOpen, Next::AskAt(Tick(116)), true),
            (151, 9, HalfOpen, Next::AskAt(Tick(155)), false),
        ] {
            assert_eq!(rounds.next(Generation(generation), state, Tick(now)), expect, "{now} {state:?}");
            if asks {
                rounds.asked(Tick(now));
            }
        }
    }

    #[test]
    fn no_interval_is_a_short_one() {
        let mut rounds = Rounds::new(Duration::ZERO);
        rounds.asked(Tick(10));
        rounds.life = Some(Generation(1));
        assert_eq!(rounds.next(Generation(1), StateName::Open, Tick(10)), Next::AskAt(Tick(11)));
    }
}
