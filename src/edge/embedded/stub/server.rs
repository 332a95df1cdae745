//! A stub's HTTP server: accepts, reads a request, notes it, does what the behaviour says. Paths under `/__stub/` are for whoever steers
//! the stub from outside; they are neither noted nor counted.

use std::convert::Infallible;
use std::future::{pending, poll_fn};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, Stream, StreamExt};
use http::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE, LOCATION, RETRY_AFTER};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::answer::answer;
use super::behaviour::Act;
use super::journal::Ended;
use super::shared::{InFlight, Shared};

type StubBody = UnsyncBoxBody<Bytes, Infallible>;

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// How a stub ends a connection by itself.
#[derive(Debug, Clone, Copy)]
enum Cut {
    /// In order (FIN).
    Close,
    /// Not in order (RST).
    Reset,
}

/// The connection that a request came on.
#[derive(Debug)]
struct Connection {
    number: u64,
    cut: mpsc::Sender<Cut>,
    counted: AtomicBool,
}

/// Serves until it is dropped; its connections end with it.
pub(super) async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    let mut number = 0;
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    number += 1;
                    connections.spawn(connection(stream, number, Arc::clone(&shared)));
                }
                // The process is out of descriptors, or the client was gone before it was accepted: the next may fare better.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(stream: TcpStream, number: u64, shared: Arc<Shared>) {
    // A connection that cannot be set up so answers a little later; that is all.
    let _ = stream.set_nodelay(true);
    let (cut, mut cuts) = mpsc::channel(1);
    let mut close_idle = shared.close_idle.subscribe();
    let this = Arc::new(Connection { number, cut, counted: AtomicBool::new(false) });
    let service = service_fn(|request| {
        let (shared, connection) = (Arc::clone(&shared), Arc::clone(&this));
        async move { Ok::<_, Infallible>(handle(&shared, &connection, request).await) }
    });
    let mut server = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    let cut = loop {
        tokio::select! {
            biased;
            // What was written before the cut is sent before it: the server goes first.
            _ = &mut server => break None,
            Some(cut) = cuts.recv() => break Some(cut),
            Ok(()) = close_idle.changed() => std::pin::Pin::new(&mut server).graceful_shutdown(),
        }
    };
    if matches!(cut, Some(Cut::Reset)) {
        // Without lingering the close of a socket is a reset.
        let _ = server.into_parts().io.into_inner().set_zero_linger();
    } else {
        drop(server);
    }
    if this.counted.load(Ordering::Relaxed) {
        shared.update(|state| state.journal.counts.connections_open -= 1);
    }
}

async fn handle(shared: &Arc<Shared>, connection: &Connection, request: Request<Incoming>) -> Response<StubBody> {
    let (head, body) = request.into_parts();
    let Ok(body) = body.collect().await.map(http_body_util::Collected::to_bytes) else {
        // The client went while it was asking: nobody hears this.
        return plain(StatusCode::BAD_REQUEST);
    };
    if let Some(command) = head.uri.path().strip_prefix("/__stub/") {
        return control(shared, &head.method, command, &body);
    }
    if !connection.counted.swap(true, Ordering::Relaxed) {
        shared.update(|state| {
            state.journal.counts.connections += 1;
            state.journal.counts.connections_open += 1;
        });
    }
    let (turn, roll, request) = shared.begin(connection.number, &head, body.clone());
    wait(turn.delay_ms).await;
    act(shared, connection, turn.act, roll, request, &body).await
}

async fn act(shared: &Shared, connection: &Connection, act: Act, roll: f64, request: InFlight, body: &Bytes) -> Response<StubBody> {
    let fine = || json(StatusCode::OK, answer(&shared.service, body));
    let unwell = |status, retry_after: Option<HeaderValue>| {
        let mut response = json(status, Bytes::from_static(b"{\"error\":\"the stub was told to fail\"}"));
        if let Some(value) = retry_after {
            response.headers_mut().insert(RETRY_AFTER, value);
        }
        response
    };
    let response = match act {
        Act::Ok => fine(),
        Act::Fail { status, retry_after } => unwell(status, retry_after.map(|value| value.value())),
        Act::Reject => unwell(StatusCode::BAD_REQUEST, None),
        Act::Slow { ms } => {
            wait(ms).await;
            fine()
        }
        Act::Jitter { min_ms, max_ms } => {
            wait(between(min_ms, max_ms, roll)).await;
            fine()
        }
        Act::Capacity { max, .. } if request.in_flight_at_start > max => unwell(StatusCode::SERVICE_UNAVAILABLE, None),
        Act::Capacity { ms, .. } => {
            wait(ms).await;
            fine()
        }
        Act::Flaky { share } if roll < share => unwell(StatusCode::SERVICE_UNAVAILABLE, None),
        Act::Flaky { .. } => fine(),
        Act::NotJson => {
            let mut response = plain(StatusCode::OK);
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/html"));
            *response.body_mut() = whole(Bytes::from_static(b"<!doctype html><title>Sign in</title><p>Please sign in."));
            response
        }
        Act::NoContent => plain(StatusCode::NO_CONTENT),
        Act::Empty => plain(StatusCode::OK),
        Act::Redirect { status, location } => {
            let mut response = plain(status);
            let location = HeaderValue::try_from(location.as_deref().unwrap_or("/elsewhere"));
            response.headers_mut().insert(LOCATION, location.unwrap_or(HeaderValue::from_static("/elsewhere")));
            response
        }
        Act::TooLarge { bytes } => announced(bytes.max(PADDING), padded(bytes)),
        Act::Hang => {
            // The request is held until the client goes, and this future with it.
            let _held = request;
            return pending().await;
        }
        Act::Reset => {
            request.end(Ended::Reset);
            let _ = connection.cut.try_send(Cut::Reset);
            return pending().await;
        }
        Act::CutOff => {
            request.end(Ended::CutOff);
            let cut = connection.cut.clone();
            let (length, half) = half(&shared.service, body);
            // Asked for more, the body has the connection closed: what it gave before has been written by then.
            let close = move || {
                // Only a second one finds no room, and the connection goes with the first.
                let _ = cut.try_send(Cut::Close);
            };
            return announced(length, stream::once(async { half }).chain(never(close)));
        }
        Act::Stall => {
            let (length, half) = half(&shared.service, body);
            return announced(length, stream::once(async { half }).chain(never(move || _ = &request)));
        }
        Act::Endless { chunk_bytes, every_ms } => {
            let chunk = Bytes::from(vec![b' '; chunk_bytes]);
            let chunks = stream::unfold((request, chunk), move |(request, chunk)| async move {
                wait(every_ms).await;
                Some((chunk.clone(), (request, chunk)))
            });
            return Response::new(streamed(chunks));
        }
    };
    request.end(Ended::Answered(response.status().as_u16()));
    response
}

fn control(shared: &Shared, method: &Method, command: &str, body: &Bytes) -> Response<StubBody> {
    let written = |value: serde_json::Result<Vec<u8>>| match value {
        Ok(value) => json(StatusCode::OK, value.into()),
        Err(error) => problem(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    };
    let allow = |methods| {
        let mut response = problem(StatusCode::METHOD_NOT_ALLOWED, &format!("use {methods}"));
        response.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
        response
    };
    match (command, method) {
        ("journal", &Method::GET) => written(shared.read(|state| serde_json::to_vec(&state.journal.entries))),
        ("journal", &Method::DELETE) => {
            shared.update(|state| state.journal.entries.clear());
            plain(StatusCode::NO_CONTENT)
        }
        ("counts", &Method::GET) => written(shared.read(|state| serde_json::to_vec(&state.journal.counts))),
        ("behaviour", &Method::GET) => written(shared.read(|state| serde_json::to_vec(&state.behaviour))),
        ("behaviour", &Method::POST | &Method::PUT) => match serde_json::from_slice(body) {
            Ok(behaviour) => {
                shared.set(behaviour);
                plain(StatusCode::NO_CONTENT)
            }
            Err(error) => problem(StatusCode::BAD_REQUEST, &error.to_string()),
        },
        ("journal", _) => allow("GET, DELETE"),
        ("counts", _) => allow("GET"),
        ("behaviour", _) => allow("GET, POST, PUT"),
        _ => problem(StatusCode::NOT_FOUND, "a stub knows /__stub/journal, /__stub/counts and /__stub/behaviour"),
    }
}

async fn wait(ms: u64) {
    if ms > 0 {
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a roll of 0 to 1 scales within the span; a millisecond is no matter"
)]
fn between(min: u64, max: u64, roll: f64) -> u64 {
    min + (max.saturating_sub(min) as f64 * roll).round() as u64
}

fn plain(status: StatusCode) -> Response<StubBody> {
    let mut response = Response::new(whole(Bytes::new()));
    *response.status_mut() = status;
    response
}

fn json(status: StatusCode, body: Bytes) -> Response<StubBody> {
    let mut response = Response::new(whole(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response
}

fn problem(status: StatusCode, detail: &str) -> Response<StubBody> {
    let body = serde_json::json!({ "title": status.canonical_reason(), "status": status.as_u16(), "detail": detail });
    let mut response = json(status, body.to_string().into());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    response
}

/// 200 with JSON of an announced length, whatever of it comes.
fn announced(length: u64, chunks: impl Stream<Item = Bytes> + Send + 'static) -> Response<StubBody> {
    let mut response = Response::new(streamed(chunks));
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response.headers_mut().insert(CONTENT_LENGTH, length.into());
    response
}

fn whole(body: Bytes) -> StubBody {
    Full::new(body).boxed_unsync()
}

fn streamed(chunks: impl Stream<Item = Bytes> + Send + 'static) -> StubBody {
    StreamBody::new(chunks.map(|chunk| Ok(Frame::data(chunk)))).boxed_unsync()
}

/// The length of the answer, and its first half.
fn half(service: &str, body: &[u8]) -> (u64, Bytes) {
    let answer = answer(service, body);
    (answer.len() as u64, answer.slice(..answer.len() / 2))
}

/// No chunk, ever; calls the function whenever it is asked for one, and holds what that holds.
fn never(mut asked: impl FnMut() + Send + 'static) -> impl Stream<Item = Bytes> + Send + 'static {
    stream::once(poll_fn(move |_| {
        asked();
        Poll::Pending
    }))
}

const PADDING: u64 = (BEFORE.len() + AFTER.len()) as u64;
const BEFORE: &[u8] = b"{\"padding\":\"";
const AFTER: &[u8] = b"\"}";

/// A JSON object of so many bytes, in chunks, so that a large one takes no memory.
fn padded(bytes: u64) -> impl Stream<Item = Bytes> + Send + 'static {
    const CHUNK: &[u8] = &[b'x'; 16 * 1_024];
    let mut left = bytes.saturating_sub(PADDING);
    let padding = std::iter::from_fn(move || {
        let next = usize::try_from(left).unwrap_or(usize::MAX).min(CHUNK.len());
        left -= next as u64;
        (next > 0).then(|| Bytes::from_static(&CHUNK[..next]))
    });
    let before = std::iter::once(Bytes::from_static(BEFORE));
    stream::iter(before.chain(padding).chain(std::iter::once(Bytes::from_static(AFTER))))
}

/// Binds a listener; the error names the service and the address.
pub(super) async fn bind(service: &str, listen: std::net::SocketAddr) -> io::Result<TcpListener> {
    let bound = TcpListener::bind(listen).await;
    bound.map_err(|error| io::Error::new(error.kind(), format!("the stub of {service} cannot listen on {listen}: {error}")))
}
