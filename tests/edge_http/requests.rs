//! What a service gets to see.

use std::time::Duration;

use bytes::Bytes;
use fusebox::config::Health;
use fusebox::edge::embedded::stub::Act;
use fusebox::pipeline::ports::{Call, CallError, Caller, HealthCheck};
use http::{HeaderName, StatusCode};

use super::{call, caller, caller_of, service, stub};

#[tokio::test]
async fn a_request_is_what_the_config_and_the_call_say() {
    let stub = stub().await;
    let mut service = service(&stub.url());
    service.endpoint.uri = format!("{}/api/notify?tenant=7", stub.url()).parse().unwrap();
    service.endpoint.method = http::Method::PUT;
    for (name, value) in
        [("authorization", "Bearer secret"), ("x-site", "north"), ("x-site", "south"), ("accept", "application/problem+json")]
    {
        service.endpoint.headers.push((HeaderName::from_static(name), value.to_owned().into()));
    }
    let caller = caller(service);
    let trace = [
        ("traceparent", Bytes::from_static(b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")),
        ("tracestate", Bytes::from_static(b"a=1")),
    ];
    let body = Bytes::from_static(b"{\"event_id\":\"018f\"}");
    let reply = caller.call(Call { service: 0, body: body.clone(), idempotency_key: "018f/notifier", trace: &trace }).await.unwrap();
    assert_eq!(reply.status, 200);

    let entry = stub.journal().remove(0);
    assert_eq!((entry.method, entry.path.as_str(), entry.body), (http::Method::PUT, "/api/notify?tenant=7", body));
    assert_eq!(entry.idempotency_key.as_deref(), Some("018f/notifier"));
    let host = stub.addr().to_string();
    for (name, expect) in [
        ("host", vec![host.as_str()]),
        ("content-type", vec!["application/json"]),
        ("content-length", vec!["19"]),
        ("accept", vec!["application/problem+json"]),
        ("user-agent", vec![concat!("fusebox/", env!("CARGO_PKG_VERSION"))]),
        ("authorization", vec!["Bearer secret"]),
        ("x-site", vec!["north", "south"]),
        ("traceparent", vec!["00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"]),
        ("tracestate", vec!["a=1"]),
        ("transfer-encoding", vec![]),
        ("connection", vec![]),
    ] {
        let values: Vec<_> = entry.headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect();
        assert_eq!(values, expect, "{name}");
    }
}

#[tokio::test]
async fn a_health_check_has_the_service_s_own_headers_and_none_of_a_call() {
    let stub = stub().await;
    let mut service = service(&stub.url());
    service.endpoint.headers.push((HeaderName::from_static("authorization"), "Bearer secret".to_owned().into()));
    let uri = format!("{}/up?deep=1", stub.url()).parse().unwrap();
    service.health = Some(Health { uri, interval: Duration::from_secs(5), timeout: Duration::from_secs(2), probe: true });
    let caller = caller(service);
    caller.call(call("first")).await.unwrap();
    assert_eq!(caller.check(0).await.unwrap().status, 200);
    stub.set(Act::fail(StatusCode::SERVICE_UNAVAILABLE));
    assert_eq!(caller.check(0).await.unwrap().status, 503);
    stub.set(Act::Reset);
    assert_eq!(caller.check(0).await, Err(CallError::Connect));

    let entry = stub.journal().remove(1);
    assert_eq!((entry.method, entry.path.as_str(), entry.body.len(), entry.connection), (http::Method::GET, "/up?deep=1", 0, 1));
    let mut names: Vec<_> = entry.headers.keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["accept", "authorization", "host", "user-agent"]);
}

#[tokio::test]
async fn nothing_is_left_over_from_the_call_before() {
    let stub = stub().await;
    let caller = caller_of(&stub);
    let trace = [("traceparent", Bytes::from_static(b"00-1-2-01"))];
    caller.call(Call { trace: &trace, ..call("first") }).await.unwrap();
    caller.call(call("second")).await.unwrap();
    let [first, second] = stub.journal().try_into().unwrap();
    assert!(first.headers.contains_key("traceparent"));
    assert!(!second.headers.contains_key("traceparent"));
    assert_eq!(second.headers.get_all("idempotency-key").iter().count(), 1);
    assert_eq!(second.idempotency_key.as_deref(), Some("second"));
}

#[tokio::test]
async fn keys_and_traces_cannot_add_headers() {
    let stub = stub().await;
    let caller = caller_of(&stub);
    let keys = ["a\r\nx-admin: 1", "a\nx-admin: 1", "a\0", "\u{7f}", "ключ", "", "\r\n\r\nPOST /x HTTP/1.1\r\n\r\n"];
    for key in keys {
        let trace = [
            ("traceparent", Bytes::from(key.to_owned())),
            ("tracestate", Bytes::from_static(b"a=1\r\nx-admin: 1")),
            ("x-admin", Bytes::from_static(b"1")),
            ("Not A Name", Bytes::from_static(b"1")),
        ];
        let reply = caller.call(Call { trace: &trace, ..call(key) }).await.unwrap();
        assert_eq!(reply.status, 200, "{key:?}");
    }
    let journal = stub.journal();
    assert_eq!(journal.len(), keys.len(), "each was one request");
    assert!(journal.iter().all(|entry| !entry.headers.contains_key("x-admin") && !entry.headers.contains_key("tracestate")));
    let mut seen: Vec<_> = journal.into_iter().map(|entry| entry.idempotency_key.unwrap()).collect();
    assert_eq!(seen[0], "a%0D%0Ax-admin:%201");
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), keys.len(), "different keys stay different");
}
