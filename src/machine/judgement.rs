//! One reply, two judgements: of the *service* (does it work?) and of the *call* (is it done, may it be tried again, is it refused for good?).
//!
//! | reply | word | service | call |
//! |---|---|---|---|
//! | 2xx, JSON or empty body | `ok`, `slow` | success, slow | done |
//! | 2xx, a body that is not JSON or is too large | `bad_body` | failure | done, without data |
//! | 2xx, cut off | `connect` | failure | may be tried again |
//! | 3xx (redirects are not followed), other 4xx | `rejected` | success, slow | refused for good |
//! | 408 | `timeout` | failure | may be tried again |
//! | 429 | `http_429` | failure | may be tried again |
//! | 5xx, and what is no status | `http_5xx` | failure | may be tried again |
//! | no connection, no status line | `connect` | failure | may be tried again |
//! | no reply in time | `timeout` | failure | may be tried again |

use std::time::Duration;

use super::breaker::Verdict;

/// What came of one call, as far as it can be told without knowing what the call was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// A status line came.
    Replied {
        /// The status.
        status: u16,
        /// What the body is.
        body: BodyKind,
        /// `Retry-After`, from now.
        retry_after: Option<Duration>,
    },
    /// No connection, or none that brought a status line.
    NoReply,
    /// No whole reply within the call's timeout.
    TimedOut,
}

/// What a reply's body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyKind {
    /// JSON.
    Json,
    /// Nothing at all.
    Empty,
    /// Something else, or more than is read.
    Unreadable,
    /// It ended before it was complete.
    CutOff,
}

/// The word for a call's outcome, as metrics and outcomes spell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CallOutcome {
    /// Done.
    Ok,
    /// Done, but it took longer than it should.
    Slow,
    /// Refused for good.
    Rejected,
    /// 5xx.
    Http5xx,
    /// 429.
    Http429,
    /// No reply in time, or 408.
    Timeout,
    /// No connection, or a broken one.
    Connect,
    /// 2xx with a body that cannot be read.
    BadBody,
    /// Cancelled by its caller; says nothing of the service.
    Cancelled,
}

impl CallOutcome {
    /// Every outcome.
    pub const ALL: [Self; 9] =
        [Self::Ok, Self::Slow, Self::Rejected, Self::Http5xx, Self::Http429, Self::Timeout, Self::Connect, Self::BadBody, Self::Cancelled];

    /// The word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Slow => "slow",
            Self::Rejected => "rejected",
            Self::Http5xx => "http_5xx",
            Self::Http429 => "http_429",
            Self::Timeout => "timeout",
            Self::Connect => "connect",
            Self::BadBody => "bad_body",
            Self::Cancelled => "cancelled",
        }
    }
}

/// Both judgements of one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Judgement {
    /// The word.
    pub outcome: CallOutcome,
    /// Of the service: what its breaker is told.
    pub verdict: Verdict,
    /// Of the call.
    pub call: CallVerdict,
}

/// What can become of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallVerdict {
    /// It is done; `data`: with an answer that can be used.
    Done {
        /// Whether the body can be used.
        data: bool,
    },
    /// It may be tried again, not before `retry_after` from now.
    Again {
        /// What the service asked for.
        retry_after: Option<Duration>,
    },
    /// It is refused for good.
    Refused,
}

/// Judges an answer that took `took`; longer than `slow`, and a service that works counts as slow.
pub fn judge(answer: Answer, took: Duration, slow: Option<Duration>) -> Judgement {
    use CallOutcome::{BadBody, Connect, Http5xx, Http429, Ok, Rejected, Slow, Timeout};
    let again =
        |outcome, retry_after| Judgement { outcome, verdict: Verdict::Failure { retry_after }, call: CallVerdict::Again { retry_after } };
    // A service that takes its time to say no is as slow as one that takes it to say yes.
    let is_slow = slow.is_some_and(|limit| took > limit);
    let works = if is_slow { Verdict::Slow } else { Verdict::Success };
    match answer {
        Answer::NoReply => again(Connect, None),
        Answer::TimedOut => again(Timeout, None),
        Answer::Replied { status, body, retry_after } => match (status, body) {
            (200..=299, BodyKind::Json | BodyKind::Empty) => {
                Judgement { outcome: if is_slow { Slow } else { Ok }, verdict: works, call: CallVerdict::Done { data: true } }
            }
            (200..=299, BodyKind::Unreadable) => {
                Judgement { outcome: BadBody, verdict: Verdict::Failure { retry_after: None }, call: CallVerdict::Done { data: false } }
            }
            (200..=299, BodyKind::CutOff) => again(Connect, None),
            (408, _) => again(Timeout, retry_after),
            (429, _) => again(Http429, retry_after),
            (300..=499, _) => Judgement { outcome: Rejected, verdict: works, call: CallVerdict::Refused },
            _ => again(Http5xx, retry_after),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_of_the_table() {
        use BodyKind::{CutOff, Empty, Json, Unreadable};
        use CallOutcome as O;
        let failure = Verdict::Failure { retry_after: None };
        let again = CallVerdict::Again { retry_after: None };
        let done = CallVerdict::Done { data: true };
        for (status, body, outcome, verdict, call) in [
            (200, Json, O::Ok, Verdict::Success, done),
            (204, Empty, O::Ok, Verdict::Success, done),
            (299, Json, O::Ok, Verdict::Success, done),
            (200, Unreadable, O::BadBody, failure, CallVerdict::Done { data: false }),
            (200, CutOff, O::Connect, failure, again),
            (301, Empty, O::Rejected, Verdict::Success, CallVerdict::Refused),
            (307, Json, O::Rejected, Verdict::Success, CallVerdict::Refused),
            (400, Json, O::Rejected, Verdict::Success, CallVerdict::Refused),
            (404, Unreadable, O::Rejected, Verdict::Success, CallVerdict::Refused),
            (499, CutOff, O::Rejected, Verdict::Success, CallVerdict::Refused),
            (408, Empty, O::Timeout, failure, again),
            (429, Json, O::Http429, failure, again),
            (500, Json, O::Http5xx, failure, again),
            (503, CutOff, O::Http5xx, failure, again),
            (599, Unreadable, O::Http5xx, failure, again),
            (199, Empty, O::Http5xx, failure, again),
            (999, Empty, O::Http5xx, failure, again),
        ] {
            let answer = Answer::Replied { status, body, retry_after: None };
            assert_eq!(judge(answer, Duration::ZERO, None), Judgement { outcome, verdict, call }, "{status} {body:?}");
        }
        assert_eq!(judge(Answer::NoReply, Duration::ZERO, None), Judgement { outcome: O::Connect, verdict: failure, call: again });
        assert_eq!(judge(Answer::TimedOut, Duration::ZERO, None), Judgement { outcome: O::Timeout, verdict: failure, call: again });
    }

    #[test]
    fn slow_is_longer_than_the_limit() {
        let answer = Answer::Replied { status: 200, body: BodyKind::Json, retry_after: None };
        let limit = Some(Duration::from_millis(100));
        assert_eq!(judge(answer, Duration::from_millis(100), limit).verdict, Verdict::Success);
        let slow = judge(answer, Duration::from_millis(101), limit);
        assert_eq!((slow.verdict, slow.outcome, slow.call), (Verdict::Slow, CallOutcome::Slow, CallVerdict::Done { data: true }));
        let no = judge(Answer::Replied { status: 404, body: BodyKind::Json, retry_after: None }, Duration::from_millis(101), limit);
        assert_eq!((no.verdict, no.outcome, no.call), (Verdict::Slow, CallOutcome::Rejected, CallVerdict::Refused));
        let failed = judge(Answer::Replied { status: 500, body: BodyKind::Json, retry_after: None }, Duration::from_millis(101), limit);
        assert_eq!(failed.verdict, Verdict::Failure { retry_after: None }, "a failure is a failure, however long it took");
    }

    #[test]
    fn retry_after_reaches_both_judgements() {
        let retry_after = Some(Duration::from_secs(7));
        for status in [408, 429, 503] {
            let judged = judge(Answer::Replied { status, body: BodyKind::Empty, retry_after }, Duration::ZERO, None);
            assert_eq!(judged.verdict, Verdict::Failure { retry_after }, "{status}");
            assert_eq!(judged.call, CallVerdict::Again { retry_after }, "{status}");
        }
    }
}
