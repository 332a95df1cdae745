//! The HTTP caller against stub services, over real connections on loopback.

mod connections;
mod control;
mod replies;
mod requests;
mod setup;
mod tls;

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
use fusebox::pipeline::ports::{Call, CallError, Caller, Reply};

/// Far more than anything here takes: what runs into it hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// The largest reply that the services of these tests are read to.
const MAX_REPLY: usize = 64 * 1_024;

const ANYWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

async fn stub() -> Stub {
    Stub::start(ANYWHERE, "notifier").await.unwrap()
}

fn service(url: &str) -> Service {
    Service {
        name: "notifier".to_owned(),
        endpoint: Endpoint {
            uri: format!("{url}/notify").parse().unwrap(),
            method: http::Method::POST,
            headers: Vec::new(),
            ca: None,
            identity: None,
        },
        timeout: Duration::from_secs(15),
        slow: None,
        attempts: NonZeroU32::MIN,
        concurrency: NonZeroUsize::new(64).unwrap(),
        adaptive: None,
        max_reply_bytes: NonZeroUsize::new(MAX_REPLY).unwrap(),
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

fn caller(service: Service) -> HttpCaller<SystemClock> {
    HttpCaller::new(&[service], SystemClock::new()).unwrap()
}

fn caller_of(stub: &Stub) -> HttpCaller<SystemClock> {
    caller(service(&stub.url()))
}

fn call(key: &str) -> Call<'_> {
    Call { service: 0, body: Bytes::from_static(b"{\"event_id\":\"e1\"}"), idempotency_key: key, trace: &[] }
}

/// One call, which must end.
async fn ask(caller: &impl Caller) -> Result<Reply, CallError> {
    tokio::time::timeout(PATIENCE, caller.call(call("e1/notifier"))).await.expect("the call ends")
}
