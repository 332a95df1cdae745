//! Judgement by expression: what a reply says of its service, and what becomes of its call, where the class of its status does not tell.
//!
//! Of the *service*, for its breaker, two expressions may speak, asked in this order:
//!
//! 1. `ignore`: true, and the reply says nothing of the service.
//! 2. `failure`: true, and the service fails; false, and it works (slow, if it took longer than it should).
//!
//! Of the *call* three, asked in this order:
//!
//! 1. `done_if`: true, and it is done; its body, if it can be read, is the answer.
//! 2. `reject_if`: true, and it is refused for good.
//! 3. `retry_if`: true, and it may be tried again.
//!
//! Where none decides, [`judge`] has the word, by the status. An expression that cannot be evaluated over a reply does not decide, and says so.
//! Neither half speaks for the other: a reply that counts as a failure may be an answer all the same, and one that is ignored may be tried again.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use super::breaker::Verdict;
use super::expression::{CompileError, Condition, EvaluationError, Root};
use super::judgement::{Answer, BodyKind, CallVerdict, Judgement, judge};
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
    /// Which replies end their call well.
    pub done_if: Option<Condition>,
    /// Which replies, of the others, refuse their call for good.
    pub reject_if: Option<Condition>,
    /// After which replies, of the others, the call may be tried again.
    pub retry_if: Option<Condition>,
}

/// One of the expressions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// `ignore`.
    Ignore,
    /// `failure`.
    Failure,
    /// `done_if`.
    DoneIf,
    /// `reject_if`.
    RejectIf,
    /// `retry_if`.
    RetryIf,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ignore => "ignore",
            Self::Failure => "failure",
            Self::DoneIf => "done_if",
            Self::RejectIf => "reject_if",
            Self::RetryIf => "retry_if",
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

    /// What the service asks for counts whichever status it came with.
    fn retry_after(&self) -> Option<Duration> {
        match self.answer {
            Answer::Replied { retry_after, .. } => retry_after,
            Answer::NoReply | Answer::TimedOut => None,
        }
    }

    fn has_data(&self) -> bool {
        matches!(self.answer, Answer::Replied { body: BodyKind::Json | BodyKind::Empty, .. })
    }
}

impl Rules {
    /// Whether there are none: then nothing need be collected for them, and nobody asks them.
    pub fn is_empty(&self) -> bool {
        self.all().all(|rule| rule.is_none())
    }

    /// Whether one of them reads the reply's headers.
    pub fn read_headers(&self) -> bool {
        self.all().flatten().any(|rule| rule.reads("headers"))
    }

    fn all(&self) -> impl Iterator<Item = Option<&Condition>> {
        [&self.ignore, &self.failure, &self.done_if, &self.reject_if, &self.retry_if].into_iter().map(Option::as_ref)
    }

    /// Both judgements. Each expression that could not be evaluated is told to `failed`.
    pub fn judge(&self, seen: &Seen<'_>, mut failed: impl FnMut(Rule, EvaluationError)) -> Judgement {
        let judgement = judge(seen.answer, seen.took, seen.slow);
        let roots = seen.roots(&judgement);
        let mut asks = |rule: Rule, condition: &Option<Condition>| {
            let answer = condition.as_ref()?.holds_over(&roots);
            answer.map_err(|error| failed(rule, error)).ok()
        };
        let verdict = if asks(Rule::Ignore, &self.ignore) == Some(true) {
            Verdict::Ignored
        } else {
            match asks(Rule::Failure, &self.failure) {
                Some(true) => Verdict::Failure { retry_after: seen.retry_after() },
                Some(false) => seen.works(),
                None => judgement.verdict,
            }
        };
        let call = if asks(Rule::DoneIf, &self.done_if) == Some(true) {
            CallVerdict::Done { data: seen.has_data() }
        } else if asks(Rule::RejectIf, &self.reject_if) == Some(true) {
            CallVerdict::Refused
        } else if asks(Rule::RetryIf, &self.retry_if) == Some(true) {
            CallVerdict::Again { retry_after: seen.retry_after() }
        } else {
            judgement.call
        };
        Judgement { verdict, call, ..judgement }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOW: Duration = Duration::from_millis(100);
    const WAIT: Option<Duration> = Some(Duration::from_secs(7));

    fn rules(ignore: &str, failure: &str) -> Rules {
        let rule = |source: &str| (!source.is_empty()).then(|| compile(source).expect("an expression"));
        Rules { ignore: rule(ignore), failure: rule(failure), ..Rules::default() }
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
        let judgement = rules.judge(&seen, |rule, error| errors.push(format!("{rule}: {error}")));
        assert_eq!(judgement.call, judge(answer, took, Some(SLOW)).call, "these speak of the service alone");
        (judgement.verdict, errors)
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
    fn a_call_s_end_is_told_by_the_first_expression_that_is_true() {
        let (done, again) = (CallVerdict::Done { data: true }, CallVerdict::Again { retry_after: WAIT });
        let gone = Answer::Replied { status: 200, body: BodyKind::CutOff, retry_after: WAIT };
        let busy = r#"{"state":"busy"}"#;
        for ([done_if, reject_if, retry_if], answer, body, call, failed) in [
            (["status == 409", "", ""], replied(409, WAIT), "{}", done, ""),
            (["status == 409", "", ""], replied(404, WAIT), "{}", CallVerdict::Refused, ""),
            (["status == 409", "true", "true"], replied(409, WAIT), "{}", done, ""),
            (["status == 200", "", ""], gone, "null", CallVerdict::Done { data: false }, ""),
            (["outcome == 'timeout'", "", ""], Answer::TimedOut, "null", CallVerdict::Done { data: false }, ""),
            (["", "status == 501", ""], replied(501, WAIT), "{}", CallVerdict::Refused, ""),
            (["", "status == 501", "true"], replied(501, WAIT), "{}", CallVerdict::Refused, ""),
            (["", "status == 501", ""], replied(503, WAIT), "{}", again, ""),
            (["", "", "status in [404, 423]"], replied(423, WAIT), "{}", again, ""),
            (["", "", "status in [404, 423]"], replied(403, WAIT), "{}", CallVerdict::Refused, ""),
            (["", "", "body.state == 'busy'"], replied(200, None), busy, CallVerdict::Again { retry_after: None }, ""),
            (["body.no", "", "status == 404"], replied(404, WAIT), "{}", again, "done_if: no such key: `body.no`"),
            (["", "body.no", ""], replied(503, WAIT), "{}", again, "reject_if: no such key: `body.no`"),
            (["", "", "body.no"], replied(404, WAIT), "{}", CallVerdict::Refused, "retry_if: no such key: `body.no`"),
        ] {
            let rule = |source: &str| (!source.is_empty()).then(|| compile(source).expect("an expression"));
            let rules = Rules { done_if: rule(done_if), reject_if: rule(reject_if), retry_if: rule(retry_if), ..Rules::default() };
            let (headers, body) = (Headers::new(), Bytes::from_static(body.as_bytes()));
            let seen = Seen { answer, headers: &headers, body: &body, took: Duration::ZERO, slow: None };
            let mut errors = String::new();
            let judgement = rules.judge(&seen, |rule, error| errors = format!("{rule}: {error}"));
            let by_status = judge(answer, Duration::ZERO, None);
            assert_eq!((judgement, errors.as_str()), (Judgement { call, ..by_status }, failed), "{rules:?} {answer:?}");
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
        let reads = || compile("has(headers.x)").ok();
        for rules in [
            Rules { done_if: reads(), ..Rules::default() },
            Rules { reject_if: reads(), ..Rules::default() },
            Rules { retry_if: reads(), ..Rules::default() },
        ] {
            assert!(rules.read_headers() && !rules.is_empty(), "{rules:?}");
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
