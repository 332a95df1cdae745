//! A stub is steered and looked at over HTTP as well, and stubs that start together number their requests together.

use bytes::Bytes;
use fusebox::edge::embedded::stub::{Act, Stub, Stubs};
use fusebox::pipeline::ports::{Body, Call, Caller};
use http::Method;
use serde_json::{Value, json};

use super::{PATIENCE, ask, caller, caller_of, service, stub};

/// Asks a path of the stub's own; the status and the answer.
async fn control(stub: &Stub, method: Method, path: &str, body: Value) -> (u16, Value) {
    let mut service = service(&stub.url());
    service.endpoint.uri = format!("{}/__stub/{path}", stub.url()).parse().unwrap();
    service.endpoint.method = method;
    let call = Call { service: 0, body: Bytes::from(body.to_string()), idempotency_key: "", trace: &[] };
    let reply = caller(service).call(call).await.unwrap();
    let Body::Whole(body) = reply.body else { panic!("{:?}", reply.body) };
    (reply.status, serde_json::from_slice(&body).unwrap_or(Value::Null))
}

#[tokio::test]
async fn behaviour_is_set_and_read_over_http() {
    let stub = stub().await;
    let caller = caller_of(&stub);
    let set = json!({"steps": [{"kind": "fail", "status": 500}], "then": "no_content"});
    assert_eq!(control(&stub, Method::POST, "behaviour", set).await, (204, Value::Null));
    let (_, told) = control(&stub, Method::GET, "behaviour", Value::Null).await;
    assert_eq!(told["steps"][0], json!({"kind": "fail", "status": 500, "retry_after": null, "delay_ms": 0}));
    assert_eq!(ask(&caller).await.unwrap().status, 500);
    assert_eq!(ask(&caller).await.unwrap().status, 204);

    let (status, problem) = control(&stub, Method::POST, "behaviour", json!({"kind": "fail", "stauts": 500})).await;
    assert_eq!(status, 400);
    assert!(problem["detail"].as_str().unwrap().starts_with("unknown field `stauts`"), "{problem}");
    assert_eq!(ask(&caller).await.unwrap().status, 204, "what cannot be read changes nothing");
    assert_eq!(control(&stub, Method::DELETE, "counts", Value::Null).await.0, 405);
    assert_eq!(control(&stub, Method::GET, "nothing", Value::Null).await.0, 404);
}

#[tokio::test]
async fn journal_and_counts_are_read_over_http() {
    let stub = stub().await;
    let caller = caller_of(&stub);
    ask(&caller).await.unwrap();
    stub.set(Act::Reject);
    ask(&caller).await.unwrap();

    let (_, journal) = control(&stub, Method::GET, "journal", Value::Null).await;
    let [first, second] = &journal.as_array().unwrap()[..] else { panic!("{journal}") };
    assert_eq!(first["body"], json!({"event_id": "e1"}));
    assert_eq!((&first["path"], &first["idempotency_key"]), (&json!("/notify"), &json!("e1/notifier")));
    assert_eq!((&first["ended"], &second["ended"]), (&json!({"answered": 200}), &json!({"answered": 400})));
    assert!(second["ended_at"].as_i64() >= second["started_at"].as_i64());
    let (_, counts) = control(&stub, Method::GET, "counts", Value::Null).await;
    assert_eq!((&counts["requests"], &counts["answered"]), (&json!(2), &json!({"200": 1, "400": 1})));

    assert_eq!(control(&stub, Method::DELETE, "journal", Value::Null).await.0, 204);
    assert!(stub.journal().is_empty());
    assert_eq!(stub.counts().requests, 2);
}

#[tokio::test]
async fn stubs_number_their_requests_together() {
    let stubs = Stubs::anywhere().await.unwrap();
    let services: Vec<_> = stubs.iter().map(|stub| service(&stub.url())).collect();
    let caller = fusebox::edge::http::HttpCaller::new(&services, fusebox::edge::clock::SystemClock::new()).unwrap();
    for service in [0, 1, 2, 3, 1, 0] {
        let call = Call { service, body: Bytes::from_static(b"{}"), idempotency_key: "k", trace: &[] };
        assert_eq!(caller.call(call).await.unwrap().status, 200);
    }
    let order: Vec<_> = stubs.journal().into_iter().map(|entry| (entry.seq, entry.service)).collect();
    let order: Vec<_> = order.iter().map(|(seq, service)| (*seq, service.as_str())).collect();
    assert_eq!(order, [(0, "rag"), (1, "rulegen"), (2, "notifier"), (3, "vms"), (4, "rulegen"), (5, "rag")]);
    assert_eq!(stubs.get("vms").unwrap().counts().requests, 1);
    assert!(stubs.get("nobody").is_none());
}

#[tokio::test]
async fn a_journal_keeps_the_last_and_counts_all() {
    let options = fusebox::edge::embedded::stub::Options { journal_entries: 3, ..Default::default() };
    let stub = Stub::start_with(super::ANYWHERE, "vms", &options).await.unwrap();
    let caller = caller_of(&stub);
    for _ in 0..5 {
        ask(&caller).await.unwrap();
    }
    assert_eq!(stub.journal().iter().map(|entry| entry.seq).collect::<Vec<_>>(), [2, 3, 4]);
    assert_eq!((stub.counts().requests, stub.counts().in_flight), (5, 0));
}

#[tokio::test]
async fn capacity_is_what_it_says() {
    let stub = stub().await;
    let caller = caller_of(&stub);
    stub.set(Act::Capacity { max: 2, ms: 3_600_000 });
    let two = futures_util::future::join(caller.call(super::call("1")), caller.call(super::call("2")));
    tokio::select! {
        biased;
        ended = two => panic!("{ended:?}"),
        third = async {
            stub.wait_until(PATIENCE, |journal| journal.counts.in_flight == 2).await.unwrap();
            ask(&caller).await
        } => assert_eq!(third.unwrap().status, 503),
    }
}

#[tokio::test]
async fn what_does_not_come_is_told_with_what_did() {
    let stub = stub().await;
    ask(&caller_of(&stub)).await.unwrap();
    let not_seen = stub.wait_until(std::time::Duration::from_millis(1), |journal| journal.counts.requests == 2).await.unwrap_err();
    let text = not_seen.to_string();
    assert!(text.starts_with("the stub of notifier did not see within 1ms") && text.contains("requests: 1"), "{text}");
}
