//! Every behaviour of a stub, and what the caller makes of it.

use std::pin::pin;
use std::time::Duration;

use fusebox::config::Service;
use fusebox::edge::embedded::stub::{Act, Behaviour, Ended, RetryAfter, Turn};
use fusebox::machine::verdict::{Rules, compile};
use fusebox::pipeline::ports::{Body, CallError, Caller, Reply};
use http::StatusCode;

use super::{MAX_REPLY, PATIENCE, ask, call, caller, caller_of, service, stub};

/// What a reply's body should be.
#[derive(Debug, Clone, Copy)]
enum Expect {
    Json,
    Empty,
    Html,
    CutOff,
    TooLarge,
}

fn check(act: &Act, reply: &Reply, status: u16, body: Expect) {
    assert_eq!(reply.status, status, "{act:?}");
    match (body, &reply.body) {
        (Expect::Json, Body::Whole(bytes)) => {
            serde_json::from_slice::<serde_json::Value>(bytes).unwrap_or_else(|error| panic!("{act:?}: {error}"));
        }
        (Expect::Empty, Body::Whole(bytes)) => assert!(bytes.is_empty(), "{act:?}"),
        (Expect::Html, Body::Whole(bytes)) => assert!(bytes.starts_with(b"<!doctype html>"), "{act:?}"),
        (Expect::CutOff, Body::CutOff) | (Expect::TooLarge, Body::TooLarge) => {}
        (expect, got) => panic!("{act:?}: expected {expect:?}, got {got:?}"),
    }
}

#[tokio::test]
async fn every_answer() {
    use Expect::{CutOff, Empty, Html, Json, TooLarge};
    let stub = stub().await;
    let caller = caller_of(&stub);
    let most = MAX_REPLY as u64;
    for (act, status, body) in [
        (Act::Ok, 200, Json),
        (Act::Slow { ms: 5 }, 200, Json),
        (Act::Jitter { min_ms: 0, max_ms: 5 }, 200, Json),
        (Act::fail(StatusCode::SERVICE_UNAVAILABLE), 503, Json),
        (Act::fail(StatusCode::INTERNAL_SERVER_ERROR), 500, Json),
        (Act::fail(StatusCode::TOO_MANY_REQUESTS), 429, Json),
        (Act::fail(StatusCode::REQUEST_TIMEOUT), 408, Json),
        (Act::fail(StatusCode::from_u16(599).unwrap()), 599, Json),
        (Act::Reject, 400, Json),
        (Act::CutOff, 200, CutOff),
        (Act::Endless { chunk_bytes: 4_096, every_ms: 0 }, 200, TooLarge),
        (Act::NotJson, 200, Html),
        (Act::NoContent, 204, Empty),
        (Act::fail(StatusCode::RESET_CONTENT), 205, Json),
        (Act::Redirect { status: StatusCode::FOUND, location: None }, 302, Empty),
        (Act::Redirect { status: StatusCode::TEMPORARY_REDIRECT, location: Some(format!("{}/elsewhere", stub.url())) }, 307, Empty),
        (Act::Empty, 200, Empty),
        (Act::TooLarge { bytes: 14 }, 200, Json),
        (Act::TooLarge { bytes: most }, 200, Json),
        (Act::TooLarge { bytes: most + 1 }, 200, TooLarge),
        (Act::TooLarge { bytes: 1 << 40 }, 200, TooLarge),
        (Act::Capacity { max: 1, ms: 0 }, 200, Json),
        (Act::Capacity { max: 0, ms: 0 }, 503, Json),
        (Act::Flaky { share: 0.0 }, 200, Json),
        (Act::Flaky { share: 1.0 }, 503, Json),
    ] {
        stub.set(act.clone());
        let reply = ask(&caller).await.unwrap_or_else(|error| panic!("{act:?}: {error:?}"));
        check(&act, &reply, status, body);
        // Whatever that was, it is over: the next call is answered.
        stub.set(Act::Ok);
        check(&act, &ask(&caller).await.unwrap(), 200, Json);
    }
    assert!(stub.journal().iter().all(|entry| entry.path == "/notify"), "no redirect was followed");
    assert_eq!(stub.counts().requests, 50, "nothing was asked twice");
}

#[tokio::test]
async fn headers_are_handed_on_where_an_expression_reads_them() {
    let stub = stub().await;
    stub.set(Act::Redirect { status: StatusCode::FOUND, location: Some("/there".to_owned()) });
    for (failure, expect) in [("status == 500", None), ("headers['location'] == '/here'", Some("/there"))] {
        let rules = Rules { failure: Some(compile(failure).unwrap()), ..Rules::default() };
        let reply = ask(&caller(Service { rules, ..service(&stub.url()) })).await.unwrap();
        assert_eq!((reply.headers.text("location"), reply.headers.is_empty()), (expect, expect.is_none()), "{failure}");
    }
}

#[tokio::test]
async fn a_reset_is_no_reply_and_is_not_tried_again() {
    let stub = stub().await;
    let caller = caller_of(&stub);
    // On a new connection, then on one that was used before: the client must not take that for an idle one that was closed.
    for before in [0, 1] {
        for _ in 0..before {
            assert!(ask(&caller).await.is_ok());
        }
        stub.set(Behaviour::script([Act::Reset], Act::Ok));
        assert_eq!(ask(&caller).await, Err(CallError::Connect));
        assert!(ask(&caller).await.is_ok());
    }
    let ends: Vec<_> = stub.journal().iter().map(|entry| entry.ended.unwrap()).collect();
    let ok = Ended::Answered(200);
    assert_eq!(ends, [Ended::Reset, ok, ok, Ended::Reset, ok]);
}

#[tokio::test]
async fn nobody_listens() {
    let stub = stub().await;
    let caller = caller_of(&stub);
    assert!(ask(&caller).await.is_ok());
    let addr = stub.addr();
    stub.stop().await;
    for _ in 0..3 {
        assert_eq!(ask(&caller).await, Err(CallError::Connect));
    }
    let _stub = fusebox::edge::embedded::stub::Stub::start(addr, "notifier").await.unwrap();
    assert!(ask(&caller).await.is_ok(), "it is back, and so are calls");
}

#[tokio::test]
async fn a_dropped_call_leaves_its_connection_and_the_next_one_is_answered() {
    for act in [Act::Hang, Act::Stall, Act::Slow { ms: 3_600_000 }, Act::Endless { chunk_bytes: 1, every_ms: 3_600_000 }] {
        let stub = stub().await;
        let caller = caller_of(&stub);
        assert!(ask(&caller).await.is_ok());
        stub.set(act.clone());
        {
            let mut waiting = pin!(caller.call(call("e1/notifier")));
            tokio::select! {
                biased;
                ended = &mut waiting => panic!("{act:?} ended: {ended:?}"),
                seen = stub.wait_until(PATIENCE, |journal| journal.counts.in_flight == 1) => seen.unwrap(),
            }
        }
        stub.wait_until(PATIENCE, |journal| journal.counts.client_gone == 1).await.unwrap_or_else(|error| panic!("{act:?}: {error}"));
        stub.set(Act::Ok);
        let reply = ask(&caller).await.unwrap();
        assert_eq!(reply.status, 200, "{act:?}");
        assert_eq!(stub.counts().connections, 2, "{act:?}: the connection of a call without its reply is not used again");
    }
}

#[tokio::test]
async fn retry_after_in_seconds_and_as_a_date() {
    let stub = stub().await;
    let caller = caller_of(&stub);
    let seconds = |n| Some(Duration::from_secs(n));
    let text = |text: &str| RetryAfter::text(text).unwrap();
    for (retry_after, expect) in [
        (None, None),
        (Some(RetryAfter::seconds(30)), seconds(30)),
        (Some(RetryAfter::seconds(0)), seconds(0)),
        (Some(text("Sun, 06 Nov 1994 08:49:37 GMT")), seconds(0)),
        (Some(text("Sunday, 06-Nov-94 08:49:37 GMT")), seconds(0)),
        (Some(text("soon")), None),
        (Some(text("")), None),
    ] {
        for status in [503, 429, 200] {
            let status = StatusCode::from_u16(status).unwrap();
            stub.set(Act::Fail { status, retry_after: retry_after.clone() });
            assert_eq!(ask(&caller).await.unwrap().retry_after, expect, "{status} {retry_after:?}");
        }
    }
    let in_an_hour = std::time::SystemTime::now() + Duration::from_secs(3_600);
    stub.set(Act::Fail { status: StatusCode::SERVICE_UNAVAILABLE, retry_after: Some(text(&httpdate::fmt_http_date(in_an_hour))) });
    let wait = ask(&caller).await.unwrap().retry_after.unwrap();
    assert!((3_580..=3_600).contains(&wait.as_secs()), "{wait:?}");
}

#[tokio::test]
async fn a_script_is_followed_step_by_step() {
    let stub = stub().await;
    let caller = caller_of(&stub);
    let unavailable = Turn::from(Act::fail(StatusCode::SERVICE_UNAVAILABLE));
    stub.set(Behaviour::script([unavailable.clone().after(Duration::from_millis(1)), Act::Reject.into(), unavailable], Act::NoContent));
    let mut statuses = Vec::new();
    for _ in 0..5 {
        statuses.push(ask(&caller).await.unwrap().status);
    }
    assert_eq!(statuses, [503, 400, 503, 204, 204]);
    let behaviours: Vec<_> = stub.journal().iter().map(|entry| entry.behaviour).collect();
    assert_eq!(behaviours, ["fail", "reject", "fail", "no_content", "no_content"]);
}

#[tokio::test]
async fn flaky_fails_its_share_and_the_same_ones_each_time() {
    let mut runs = Vec::new();
    for _ in 0..2 {
        let stub = stub().await;
        let caller = caller_of(&stub);
        stub.set(Act::Flaky { share: 0.3 });
        let mut statuses = Vec::new();
        for _ in 0..300 {
            statuses.push(ask(&caller).await.unwrap().status);
        }
        runs.push(statuses);
    }
    assert_eq!(runs[0], runs[1]);
    let failed = runs[0].iter().filter(|status| **status == 503).count();
    assert!((60..120).contains(&failed), "{failed} of 300");
}
