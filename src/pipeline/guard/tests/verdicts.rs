//! What the breaker hears of a call: its reply judged by expression, its `Retry-After`, its cancellation.

use super::*;

/// How long the guards' breakers stay open of themselves, and the longest that a service may ask for.
const OPEN: Duration = Duration::from_secs(10);
const OPEN_MAX: Duration = Duration::from_secs(30);

fn rules(ignore: &str, failure: &str) -> verdict::Rules {
    let rule = |source: &str| (!source.is_empty()).then(|| verdict::compile(source).expect("an expression"));
    verdict::Rules { ignore: rule(ignore), failure: rule(failure), ..verdict::Rules::default() }
}

fn reply(status: u16, retry_after: Option<Duration>, header: (&'static str, &'static str), body: &'static str) -> Reply {
    let mut headers = Headers::new();
    headers.append(header.0, Some(header.1.into()));
    Reply { status, retry_after, headers, body: Body::Whole(Bytes::from_static(body.as_bytes())) }
}

async fn answered(answers: &Answers, guard: &Guard<Answering>, answer: Result<Reply, CallError>) -> Guarded {
    drop(answers.due().send(answer));
    call(guard, Class::Live).await
}

fn told(guard: &Guard<Answering>, what: &str) -> Vec<String> {
    guard.witness.0.lock().expect("unpoisoned").iter().filter(|fact| fact.starts_with(what)).cloned().collect()
}

#[tokio::test(start_paused = true)]
async fn an_expression_judges_the_service_and_not_the_call() {
    let failed = |outcome| End::Failed { outcome, retry_after: None };
    let failure = "status >= 500 || headers['x-state'] == 'degraded' || body.error == true";
    let fine = r#"{"error":false}"#;
    for (ignore, failure, answer, end, state) in [
        ("", failure, Ok(reply(200, None, ("x-state", "good"), fine)), End::Done { data: true }, StateName::Closed),
        ("", failure, Ok(reply(200, None, ("x-state", "degraded"), fine)), End::Done { data: true }, StateName::Open),
        ("", failure, Ok(reply(200, None, ("x-state", "good"), r#"{"error":true}"#)), End::Done { data: true }, StateName::Open),
        ("", "status >= 500", Ok(reply(429, None, ("a", "b"), fine)), failed(CallOutcome::Http429), StateName::Closed),
        ("", "status == 404", Ok(reply(404, None, ("a", "b"), fine)), End::Rejected, StateName::Open),
        ("status == 503", "", Ok(reply(503, None, ("a", "b"), fine)), failed(CallOutcome::Http5xx), StateName::Closed),
        ("status == 503", "", Ok(reply(500, None, ("a", "b"), fine)), failed(CallOutcome::Http5xx), StateName::Open),
        ("outcome == 'connect'", "", Err(CallError::Connect), failed(CallOutcome::Connect), StateName::Closed),
        ("", "status != 0", Err(CallError::Connect), failed(CallOutcome::Connect), StateName::Closed),
    ] {
        let (answers, guard) = guard_by(1, rules(ignore, failure));
        let what = format!("{ignore} {failure} {answer:?}");
        let guarded = answered(&answers, &guard, answer).await;
        assert_eq!((guarded.end, guarded.state), (end, state), "{what}");
        assert_eq!(told(&guard, "VerdictFailed"), [""; 0], "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_without_a_reply_in_time_has_no_status() {
    let (answers, guard) = guard_by(1, rules("outcome == 'timeout' && status == 0 && duration >= duration('10s') && body == null", ""));
    let _never = answers.due();
    let guarded = call(&guard, Class::Live).await;
    assert_eq!((guarded.end.error_type(), guarded.state), (Some("timeout"), StateName::Closed));
}

#[tokio::test(start_paused = true)]
async fn an_expression_that_cannot_be_evaluated_leaves_the_status_s_verdict_and_is_told() {
    for (status, state) in [(200, StateName::Closed), (500, StateName::Open)] {
        let (answers, guard) = guard_by(1, rules("", "body.error == true"));
        assert_eq!(answered(&answers, &guard, Ok(replied(status))).await.state, state);
        let told = told(&guard, "VerdictFailed");
        assert_eq!(told, ["VerdictFailed { service: 0, rule: Failure, error: \"no such key: `body.error`\" }"], "{status}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_that_asks_for_time_gets_it_up_to_the_longest() {
    let wait = |seconds| Some(Duration::from_secs(seconds));
    for (failure, status, retry_after, open) in [
        ("", 503, None, OPEN),
        ("", 503, wait(3), OPEN),
        ("", 503, wait(20), Duration::from_secs(20)),
        ("", 429, wait(20), Duration::from_secs(20)),
        ("", 503, wait(3_600), OPEN_MAX),
        ("status >= 400", 429, wait(20), Duration::from_secs(20)),
        ("status >= 400", 503, wait(3_600), OPEN_MAX),
        ("status >= 400", 403, wait(20), Duration::from_secs(20)),
    ] {
        let (answers, guard) = guard_by(1, rules("", failure));
        let guarded = answered(&answers, &guard, Ok(reply(status, retry_after, ("a", "b"), "{}"))).await;
        assert_eq!((guarded.state, guarded.retry_at), (StateName::Open, Some(Tick(0).plus(open))), "{failure} {status} {retry_after:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_is_cancelled_or_ignored_gives_its_permit_back_and_settles_nothing() {
    let (answers, guard) = guard_by(1, rules("status == 404", ""));
    assert_eq!(answered(&answers, &guard, Ok(replied(500))).await.state, StateName::Open);
    tokio::time::sleep(OPEN).await;
    let held = answers.due();
    let mut probe = Box::pin(call(&guard, Class::Live));
    assert!((&mut probe).now_or_never().is_none());
    assert_eq!(call(&guard, Class::Live).await.end, End::CircuitOpen, "the one place is taken");
    drop(probe);
    assert!(held.is_closed());
    assert_eq!(guard.breakers.state(0), StateName::HalfOpen, "a cancelled call is neither a success nor a failure");
    assert_eq!(told(&guard, "Called").last().map(|fact| fact.contains("Cancelled")), Some(true));
    assert_eq!(answered(&answers, &guard, Ok(replied(404))).await.state, StateName::HalfOpen, "nor is one that is ignored");
    assert_eq!(answered(&answers, &guard, Ok(replied(200))).await.state, StateName::Closed);
}
