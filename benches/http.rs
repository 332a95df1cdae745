//! What a call costs its caller's thread in CPU time, beside the floor: one of hyper's connections held by hand.
//!
//! The stub runs on a thread of its own, so the figures are the client's alone, its share of the kernel included. Linux only: they are
//! read from `/proc/thread-self/schedstat`.

use std::net::{Ipv4Addr, SocketAddr};
use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use bytes::Bytes;
use fusebox::config::{Endpoint, Fallback, Service};
use fusebox::edge::clock::SystemClock;
use fusebox::edge::embedded::stub::Stub;
use fusebox::edge::http::HttpCaller;
use fusebox::machine::breaker;
use fusebox::machine::verdict::Rules;
use fusebox::pipeline::ports::{Body, Call, Caller};
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::runtime;

const CALLS: u32 = 20_000;

const KEY: &str = "018f6d1e-0000-7000-8000-000000000000/notifier";

/// CPU time of this thread so far, nanoseconds.
fn cpu_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
    text.split(' ').next().and_then(|ns| ns.parse().ok()).expect("the first figure is nanoseconds on the CPU")
}

fn service(addr: SocketAddr) -> Service {
    Service {
        name: "notifier".to_owned(),
        endpoint: Endpoint {
            uri: format!("http://{addr}/notify").parse().expect("a URL"),
            method: http::Method::POST,
            headers: Vec::new(),
            ca: None,
            identity: None,
        },
        timeout: Duration::from_secs(15),
        slow: None,
        attempts: NonZeroU32::MIN,
        concurrency: NonZeroUsize::new(64).expect("not zero"),
        adaptive: None,
        max_reply_bytes: NonZeroUsize::new(1 << 20).expect("not zero"),
        breaker: breaker::Settings {
            recovery_timeout_max: Duration::from_secs(1),
            ..breaker::Settings::new(
                breaker::PolicySettings::Consecutive { fail_max: NonZeroU32::MIN },
                Duration::from_secs(1),
                Duration::from_secs(16),
            )
        },
        rules: Rules::default(),
        health: None,
        fallback: Fallback::Skip,
    }
}

fn request(uri: &http::Uri, host: &str, body: &Bytes) -> Request<Full<Bytes>> {
    let request = Request::post(uri.clone())
        .header("host", host)
        .header("content-type", "application/json")
        .header("accept", "application/json")
        .header("user-agent", "fusebox")
        .header("idempotency-key", KEY);
    request.body(Full::new(body.clone())).expect("a request")
}

/// Says what one call cost.
async fn measure<F: Future>(name: &str, mut call: impl FnMut() -> F) {
    for _ in 0..CALLS / 10 {
        call().await;
    }
    let before = cpu_ns();
    for _ in 0..CALLS {
        call().await;
    }
    println!("{name:<20} {:>6.2} µs CPU a call", (cpu_ns() - before) as f64 / 1_000.0 / f64::from(CALLS));
}

async fn run(addr: SocketAddr) {
    let body = Bytes::from(format!("{{\"event\":\"{}\"}}", "x".repeat(1_000)));
    let host = addr.to_string();
    for _ in 0..3 {
        let stream = tokio::net::TcpStream::connect(addr).await.expect("the stub listens");
        stream.set_nodelay(true).expect("a socket");
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("a connection");
        tokio::spawn(connection);
        let sender = tokio::sync::Mutex::new(sender);
        let path = http::Uri::from_static("/notify");
        measure("hyper, held by hand", || async {
            let mut sender = sender.lock().await;
            sender.ready().await.expect("a connection");
            let response = sender.send_request(request(&path, &host, &body)).await.expect("a reply");
            response.into_body().collect().await.expect("a body").to_bytes()
        })
        .await;

        let caller = HttpCaller::new(&[service(addr)], SystemClock::new()).expect("a service");
        measure("HttpCaller", || async {
            let call = Call { service: 0, body: body.clone(), idempotency_key: KEY, trace: &[] };
            assert!(matches!(caller.call(call).await.expect("a reply").body, Body::Whole(_)));
        })
        .await;

        let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
        let uri: http::Uri = format!("http://{addr}/notify").parse().expect("a URL");
        measure("hyper-util's pool", || async {
            let response = client.request(request(&uri, &host, &body)).await.expect("a reply");
            response.into_body().collect().await.expect("a body").to_bytes()
        })
        .await;
    }
}

fn main() {
    let (addr, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(async {
            let stub = Stub::start((Ipv4Addr::LOCALHOST, 0).into(), "notifier").await.expect("a free port");
            addr.send(stub.addr()).expect("somebody asks");
            std::future::pending::<()>().await;
        });
    });
    let addr = told.recv().expect("a stub");
    runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(run(addr));
}
