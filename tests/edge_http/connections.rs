//! How connections are used: again, by many at once, and not when they are dead.

use std::sync::Arc;
use std::time::Duration;

use fusebox::edge::embedded::stub::{Act, Ended};
use fusebox::pipeline::ports::{Body, CallError, Caller};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{ANYWHERE, PATIENCE, ask, call, caller, caller_of, service, stub};

#[tokio::test]
async fn one_call_after_the_other_takes_one_connection() {
    let stub = stub().await;
    let caller = caller_of(&stub);
    for _ in 0..200 {
        assert!(ask(&caller).await.is_ok());
    }
    let counts = stub.counts();
    assert_eq!((counts.requests, counts.max_in_flight), (200, 1));
    assert_eq!(counts.connections, 1, "kept and used again");
}

async fn a_thousand_calls_sixty_four_at_once() {
    let stub = stub().await;
    stub.set(Act::Jitter { min_ms: 0, max_ms: 3 });
    let caller = Arc::new(caller_of(&stub));
    let places = Arc::new(Semaphore::new(64));
    let mut calls = JoinSet::new();
    for n in 0..1_000 {
        let (caller, places) = (Arc::clone(&caller), Arc::clone(&places));
        calls.spawn(async move {
            let _place = places.acquire().await.unwrap();
            caller.call(call(&format!("{n}/notifier"))).await
        });
    }
    let replies = tokio::time::timeout(PATIENCE, calls.join_all()).await.expect("all calls end");
    assert!(replies.iter().all(|reply| reply.as_ref().is_ok_and(|reply| reply.status == 200)));
    let counts = stub.counts();
    assert_eq!(counts.answered[&200], 1_000);
    assert!(counts.max_in_flight <= 64, "{counts:?}");
    assert!(counts.connections <= 64, "{counts:?}");
    let mut keys: Vec<_> = stub.journal().into_iter().map(|entry| entry.idempotency_key.unwrap()).collect();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), 1_000, "each was asked once, with its own key");
}

#[tokio::test]
async fn a_thousand_calls_on_one_thread() {
    a_thousand_calls_sixty_four_at_once().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_calls_on_two_threads() {
    a_thousand_calls_sixty_four_at_once().await;
}

#[tokio::test]
async fn connections_that_were_closed_while_idle_cost_no_call() {
    let stub = stub().await;
    let caller = caller_of(&stub);
    for _ in 0..20 {
        assert_eq!(ask(&caller).await.map(|reply| reply.status), Ok(200));
        stub.close_idle_connections();
        stub.wait_until(PATIENCE, |journal| journal.counts.connections_open == 0).await.unwrap();
    }
    assert_eq!(stub.counts().requests, 20, "and none was asked twice");
    assert_eq!(stub.counts().connections, 20);
}

#[tokio::test(start_paused = true)]
async fn an_unused_connection_is_closed_before_the_usual_servers_would() {
    let listener = TcpListener::bind(ANYWHERE).await.unwrap();
    let caller = caller(service(&format!("http://{}", listener.local_addr().unwrap())));
    let server = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        for _ in 0..2 {
            let mut request = Vec::new();
            while !request.ends_with(b"}") {
                assert!(stream.read_buf(&mut request).await.unwrap() > 0);
            }
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        }
        let answered = Instant::now();
        // Time stands still but for the caller's own timer, and this one.
        let closed = tokio::time::timeout(Duration::from_secs(3_600), stream.read(&mut [0])).await;
        assert_eq!(closed.expect("it is closed at all").unwrap(), 0);
        answered.elapsed()
    };
    let calls = async {
        caller.call(call("1")).await.unwrap();
        caller.call(call("2")).await.unwrap();
    };
    let (unused_for, ()) = tokio::join!(server, calls);
    assert!((3..5).contains(&unused_for.as_secs()), "closed after {unused_for:?}");
}

#[tokio::test]
async fn a_restarted_service_costs_no_call() {
    let mut stub = stub().await;
    let caller = caller_of(&stub);
    for _ in 0..5 {
        assert!(ask(&caller).await.is_ok());
        let addr = stub.addr();
        stub.stop().await;
        stub = super::Stub::start(addr, "notifier").await.unwrap();
        assert!(ask(&caller).await.is_ok());
        assert_eq!(stub.counts().requests, 1);
    }
}

#[tokio::test]
async fn cancelled_calls_among_others_harm_none() {
    let stub = stub().await;
    stub.set(Act::Slow { ms: 2 });
    let caller = Arc::new(caller_of(&stub));
    let mut calls = JoinSet::new();
    let mut dropped = Vec::new();
    for n in 0..400 {
        let caller = Arc::clone(&caller);
        let task = async move { caller.call(call(&n.to_string())).await.map(|reply| reply.body) };
        if n % 4 == 0 {
            dropped.push(tokio::spawn(task));
        } else {
            drop(calls.spawn(task));
        }
        if n % 40 == 39 {
            // By now some have their reply, some are sent, some connect.
            tokio::task::yield_now().await;
            dropped.drain(..).for_each(|task| task.abort());
        }
    }
    let bodies = tokio::time::timeout(PATIENCE, calls.join_all()).await.expect("all calls end");
    let expect = bodies[0].clone();
    assert!(matches!(&expect, Ok(Body::Whole(body)) if !body.is_empty()));
    assert!(bodies.iter().all(|body| *body == expect), "nobody got another's reply");
    stub.wait_until(PATIENCE, |journal| journal.counts.in_flight == 0).await.unwrap();
    let of_the_others = stub.journal().into_iter().filter(|entry| entry.idempotency_key.as_ref().unwrap().parse::<u32>().unwrap() % 4 != 0);
    let ends: Vec<_> = of_the_others.map(|entry| entry.ended).collect();
    assert_eq!(ends, vec![Some(Ended::Answered(200)); 300]);
}

/// A server that answers with these bytes, whatever they are, and closes.
async fn says(bytes: &'static [u8]) -> String {
    let listener = TcpListener::bind(ANYWHERE).await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = Vec::new();
            while !request.ends_with(b"}") {
                if stream.read_buf(&mut request).await.unwrap_or(0) == 0 {
                    break;
                }
            }
            let _ = stream.write_all(bytes).await;
            let _ = stream.shutdown().await;
        }
    });
    format!("http://{addr}")
}

#[tokio::test]
async fn what_is_no_http_is_no_reply() {
    for (bytes, expect) in [
        (&b""[..], Err(CallError::Connect)),
        (b"HTTP/1.1 20", Err(CallError::Connect)),
        (b"HTTP/1.1 200 OK\r\ncontent-le", Err(CallError::Connect)),
        (b"SSH-2.0-OpenSSH_9.2\r\n", Err(CallError::Connect)),
        (b"\x15\x03\x01\x00\x02\x02\x46", Err(CallError::Connect)),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", Ok((200, Some("{}")))),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", Ok((200, Some("{}")))),
        (b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n", Ok((202, Some("")))),
        (b"HTTP/1.0 200 OK\r\n\r\n{\"to\":\"the end\"}", Ok((200, Some("{\"to\":\"the end\"}")))),
        (b"HTTP/1.1 999 Odd\r\ncontent-length: 0\r\n\r\n", Ok((999, Some("")))),
        (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 100\r\n\r\n", Ok((304, Some("")))),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n{}", Ok((200, None))),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nx-trailer: 1\r\n\r\n", Ok((200, Some("{}")))),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n", Ok((200, None))),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", Ok((200, None))),
    ] {
        let caller = caller(service(&says(bytes).await));
        let reply = ask(&caller).await.map(|reply| (reply.status, reply.body));
        let expect = expect.map(|(status, body)| (status, body.map_or(Body::CutOff, |body| Body::Whole(body.into()))));
        assert_eq!(reply, expect, "{}", bytes.escape_ascii());
    }
}
