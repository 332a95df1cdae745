//! Verdicts by expression: what a reply says of its service, where the class of its status does not tell.
//!
//! A service may have two expressions, asked in this order:
//!
//! 1. `ignore`: true, and the reply says nothing of the service.
//! 2. `failure`: true, and the service fails; false, and it works (slow, if it took longer than it should).
//!
//! Where neither decides, [`judge`](super::judgement::judge) has the word, by the status. An expression that cannot be evaluated over a reply
//! does not decide, and says so. They speak of the *service*, for its breaker; what becomes of the *call* is not theirs to say: a reply
//! that counts as a failure is an answer all the same, and one that is ignored may still be tried again.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use super::breaker::Verdict;
use super::expression::{CompileError, Condition, EvaluationError, Root};
use super::judgement::{Answer, Judgement};
use crate::event::Headers;

/// The names that the expressions know, in the order of [`Seen::roots`].
const VARIABLES: &[&str] = &["status", "outcome", "headers", "body", "duration"];

/// Compiles an expression over a reply.
///
/// # Errors
/// The source is not CEL, too long or too deep, or names something unknown.
pub fn compile(source: &str) -> Result<Condition, CompileError> {
    Condition::compile_over(source, VARIABLES)
}

/// A service's expressions; without any, its replies are judged by their status alone.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// Which replies say nothing of the service.
    pub ignore: Option<Condition>,
    /// Which replies, of the others, say that it fails.
    pub failure: Option<Condition>,
}

/// One of the two expressions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// `ignore`.
    Ignore,
    /// `failure`.
    Failure,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ignore => "ignore",
            Self::Failure => "failure",
        })
    }
}

/// What the expressions see of a call.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    /// What came of it.
    pub answer: Answer,
    /// The reply's headers, by lower-case name; none where [`Rules::read_headers`] says that nobody asks.
    pub headers: &'a Headers,
    /// The reply's body, JSON; null where there is none, or none that can be read.
    pub body: &'a Bytes,
    /// How long it took.
    pub took: Duration,
    /// From when a service that works counts as slow.
    pub slow: Option<Duration>,
}

impl<'a> Seen<'a> {
    /// `status` is 0 where no status line came; `outcome` says then why.
    fn roots(&self, judgement: &Judgement) -> [Root<'a>; VARIABLES.len()] {
        let status = match self.answer {
            Answer::Replied { status, .. } => status,
            Answer::NoReply | Answer::TimedOut => 0,
        };
        [
            Root::Int(status.into()),
            Root::Text(judgement.outcome.as_str()),
            Root::Headers(self.headers),
            Root::Json(self.body),
            Root::Duration(self.took),
        ]
    }

    fn works(&self) -> Verdict {
        if self.slow.is_some_and(|limit| self.took > limit) { Verdict::Slow } else { Verdict::Success }
    }

    /// The service's `Retry-After` lengthens the open time, whichever status it came with.
    fn fails(&self) -> Verdict {
        let retry_after = match self.answer {
            Answer::Replied { retry_after, .. } => retry_after,
            Answer::NoReply | Answer::TimedOut => None,
        };
        Verdict::Failure { retry_after }
    }
}

impl Rules {
    /// Whether there are none: then nothing need be collected for them, and nobody asks them.
    pub fn is_empty(&self) -> bool {
        self.ignore.is_none() && self.failure.is_none()
    }

    /// Whether one of them reads the reply's headers.
    pub fn read_headers(&self) -> bool {
        [&self.ignore, &self.failure].into_iter().flatten().any(|rule| rule.reads("headers"))
    }

    /// The verdict on the service, where `judgement` is the one by status. Each expression that could not be evaluated is told to `failed`.
    pub fn verdict(&self, judgement: &Judgement, seen: &Seen<'_>, mut failed: impl FnMut(Rule, EvaluationError)) -> Verdict {
        let roots = seen.roots(judgement);
        let mut asks = |rule: Rule, condition: &Option<Condition>| {
            let answer = condition.as_ref()?.holds_over(&roots);
            answer.map_err(|error| failed(rule, error)).ok()
        };
        if asks(Rule::Ignore, &self.ignore) == Some(true) {
            return Verdict::Ignored;
        }
        match asks(Rule::Failure, &self.failure) {
            Some(true) => seen.fails(),
            Some(false) => seen.works(),
            None => judgement.verdict,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::judgement::{BodyKind, judge};

    const SLOW: Duration = Duration::from_millis(100);
    const WAIT: Option<Duration> = Some(Duration::from_secs(7));

    fn rules(ignore: &str, failure: &str) -> Rules {
        let rule = |source: &str| (!source.is_empty()).then(|| compile(source).expect("an expression"));
        Rules { ignore: rule(ignore), failure: rule(failure) }
    }

    fn replied(status: u16, retry_after: Option<Duration>) -> Answer {
        Answer::Replied { status, body: BodyKind::Json, retry_after }
    }

    /// The verdict, and the expressions that could not be evaluated.
    fn weigh(rules: &Rules, answer: Answer, body: &'static str, took: Duration) -> (Verdict, Vec<String>) {
        let mut headers = Headers::new();
        headers.append("x-state", Some("degraded".into()));
        headers.append("x-tries", Some("3".into()));
        let body = Bytes::from_static(body.as_bytes());
        let seen = Seen { answer, headers: &headers, body: &body, took, slow: Some(SLOW) };
        let mut errors = Vec::new();
        let verdict = rules.verdict(&judge(answer, took, Some(SLOW)), &seen, |rule, error| errors.push(format!("{rule}: {error}")));
        (verdict, errors)
    }

    #[test]
    fn every_variable_can_decide() {
        let failure = Verdict::Failure { retry_after: None };
        let quick = Duration::from_millis(20);
        let example = "status >= 500 || (status == 200 && body != null && has(body.error))";
        for (expression, answer, body, took, expect) in [
            (example, replied(200, None), r#"{"error":"no model"}"#, quick, failure),
            (example, replied(200, None), r#"{"answer":1}"#, quick, Verdict::Success),
            (example, replied(200, None), "null", quick, Verdict::Success),
            (example, replied(502, None), "null", quick, failure),
            (example, replied(429, None), "{}", quick, Verdict::Success),
            (example, replied(429, None), "{}", SLOW * 2, Verdict::Slow),
            ("status == 0", Answer::NoReply, "null", quick, failure),
            ("status == 0", Answer::TimedOut, "null", SLOW, failure),
            ("outcome == 'timeout'", Answer::TimedOut, "null", SLOW, failure),
            ("outcome == 'timeout'", Answer::NoReply, "null", quick, Verdict::Success),
            ("outcome in ['timeout', 'connect']", Answer::NoReply, "null", quick, failure),
            ("outcome.startsWith('http_')", replied(503, None), "{}", quick, failure),
            ("headers['x-state'] == 'degraded'", replied(200, None), "{}", quick, failure),
            ("'x-state' in headers", replied(200, None), "{}", quick, failure),
            ("'x-other' in headers", replied(500, None), "{}", quick, Verdict::Success),
            ("has(headers.retry)", replied(200, None), "{}", quick, Verdict::Success),
            ("int(headers['x-tries']) > 2", replied(200, None), "{}", quick, failure),
            ("body.errors.exists(e, e.fatal)", replied(200, None), r#"{"errors":[{"fatal":false},{"fatal":true}]}"#, quick, failure),
            ("size(body) == 0", replied(200, None), "[]", quick, failure),
            ("duration > duration('50ms')", replied(200, None), "{}", quick, Verdict::Success),
            ("duration > duration('50ms')", replied(200, None), "{}", Duration::from_micros(50_001), failure),
            ("duration >= duration('20ms') && duration + duration('1s') < duration('2s')", replied(200, None), "{}", quick, failure),
            ("duration.getMilliseconds() == 20", replied(200, None), "{}", quick, failure),
            ("duration == duration('20ms')", replied(200, None), "{}", quick, failure),
            ("[duration].exists(d, d > duration('9h'))", replied(200, None), "{}", Duration::MAX, failure),
            ("false", replied(500, None), "{}", SLOW, Verdict::Success),
            ("false", replied(500, None), "{}", SLOW * 2, Verdict::Slow),
            ("true", replied(200, None), "{}", quick, failure),
        ] {
            assert_eq!(weigh(&rules("", expression), answer, body, took), (expect, vec![]), "{expression}: {answer:?} {body}");
        }
    }

    #[test]
    fn ignore_is_asked_first_and_leaves_the_rest_to_the_next() {
        let quick = Duration::from_millis(20);
        let failure = Verdict::Failure { retry_after: None };
        for (ignore, fails, status, expect) in [
            ("status == 503", "", 503, Verdict::Ignored),
            ("status == 503", "", 500, failure),
            ("status == 503", "", 404, Verdict::Success),
            ("status == 404", "status >= 400", 404, Verdict::Ignored),
            ("status == 404", "status >= 400", 403, failure),
            ("status == 404", "status >= 400", 200, Verdict::Success),
            ("true", "true", 500, Verdict::Ignored),
        ] {
            assert_eq!(weigh(&rules(ignore, fails), replied(status, None), "{}", quick), (expect, vec![]), "{ignore} {fails} {status}");
        }
    }

    #[test]
    fn a_failure_by_expression_takes_the_service_s_own_word_on_when_to_come_back() {
        for status in [200, 403, 429, 503] {
            let (verdict, _) = weigh(&rules("", "true"), replied(status, WAIT), "{}", Duration::ZERO);
            assert_eq!(verdict, Verdict::Failure { retry_after: WAIT }, "{status}");
        }
    }

    #[test]
    fn what_cannot_be_evaluated_does_not_decide() {
        let quick = Duration::from_millis(20);
        let missing = "no such key: `body.error`";
        let failure = Verdict::Failure { retry_after: WAIT };
        for (ignore, fails, status, expect, errors) in [
            ("", "body.error", 200, Verdict::Success, vec![format!("failure: {missing}")]),
            ("", "body.error", 503, failure, vec![format!("failure: {missing}")]),
            ("body.error", "", 503, failure, vec![format!("ignore: {missing}")]),
            ("body.error", "status == 403", 403, failure, vec![format!("ignore: {missing}")]),
            ("body.error", "body.error", 503, failure, vec![format!("ignore: {missing}"), format!("failure: {missing}")]),
            ("", "status", 503, failure, vec!["failure: a bool is expected, not a int".to_owned()]),
            // The deciding side decides, whatever is wrong with the other.
            ("", "status >= 500 || body.error", 503, failure, vec![]),
        ] {
            let got = weigh(&rules(ignore, fails), replied(status, WAIT), "{}", quick);
            assert_eq!(got, (expect, errors), "{ignore} {fails} {status}");
        }
    }

    #[test]
    fn it_is_known_who_reads_the_headers() {
        for (ignore, failure, expect) in [
            ("", "", false),
            ("status == 404", "body.error == true", false),
            ("'x' in headers", "", true),
            ("", "has(headers.x)", true),
            ("", "status > 1 && headers['x'] == 'y'", true),
            ("", "['headers'].exists(headers, headers == outcome)", false),
        ] {
            let rules = rules(ignore, failure);
            assert_eq!((rules.read_headers(), rules.is_empty()), (expect, ignore.is_empty() && failure.is_empty()), "{ignore} {failure}");
        }
    }

    #[test]
    fn a_name_that_is_not_a_reply_s_is_unknown() {
        let error = compile("status > 499 ||\n  event.id == 'x'").expect_err("no event").to_string();
        assert_eq!(
            error,
            "line 2, column 3: `event` is not known; the variables here are `status`, `outcome`, `headers`, `body`, `duration`"
        );
    }
}
