//! The HTTP API: what operators and their programs ask of a running instance.
//!
//! It reads through the views that [`Api`] is made with and changes breakers through the same orders as everybody else. Errors are
//! `application/problem+json` (RFC 9457); no answer carries a secret or an inner address, and what an event said only dead letters and parked
//! calls that are shown to those who may operate.

mod auth;
mod breakers;
pub mod client;
pub mod dead_letters;
pub mod orders;
pub mod parked;
pub mod partitions;
mod payload;
mod problem;
mod settings;
mod status;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware;
use axum::response::Response;
use axum::routing::{get, patch, post};
use futures_util::future::BoxFuture;
use tokio::net::TcpListener;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::timeout::TimeoutLayer;

pub use auth::{Access, Credential, Permission, digest};
pub use problem::Problem;
pub use status::{Looked, Part, PartState, Readiness, RetryService, RetryStatus};

use crate::pipeline::breakers::Breakers;
use crate::pipeline::keeper::StoreHealth;
use crate::pipeline::ports::{Store, World};

/// The largest body that a request may have: every one that is expected is a few hundred bytes.
const MAX_BODY_BYTES: usize = 64 * 1024;

/// The longest that a request may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What the API shows and changes.
pub struct Api<W: World, S> {
    /// The breakers.
    pub breakers: Arc<Breakers<W>>,
    /// Where their history is kept, if anywhere.
    pub store: Option<Arc<S>>,
    /// Whether that can be asked.
    pub store_health: Arc<StoreHealth>,
    /// Time.
    pub clock: W::Clock,
    /// Unique to the process.
    pub instance: String,
    /// Who may do what.
    pub access: Access,
    /// Whether the process does its work; if not, why.
    pub alive: Box<dyn Fn() -> Result<(), String> + Send + Sync>,
    /// Whether events can be processed.
    pub ready: Box<dyn Fn() -> Readiness + Send + Sync>,
    /// The metrics, as Prometheus reads them.
    pub metrics: Box<dyn Fn() -> String + Send + Sync>,
    /// The backlog.
    pub retry: Box<dyn Fn() -> BoxFuture<'static, RetryStatus> + Send + Sync>,
    /// What is ordered for parked calls.
    pub orders: orders::Ordering,
    /// What was given up.
    pub letters: dead_letters::Letters,
    /// The parked calls themselves.
    pub parked: parked::Reading,
    /// The partitions of the events.
    pub partitions: partitions::Desk,
}

/// One that has these breakers and nothing else: for tests of one part of it.
#[cfg(test)]
impl<W: World, S> Api<W, S> {
    fn of(breakers: Arc<Breakers<W>>, store: Option<Arc<S>>, clock: W::Clock) -> Self {
        Self {
            breakers,
            store,
            store_health: Arc::default(),
            clock,
            instance: "here".to_owned(),
            access: Access { anonymous_reads: true, credentials: Vec::new() },
            alive: Box::new(|| Ok(())),
            ready: Box::new(|| Readiness { status: PartState::Ok, instance: "here".to_owned(), parts: Vec::new() }),
            metrics: Box::new(String::new),
            retry: Box::new(|| Box::pin(async { unreachable!("nobody asks for the backlog") })),
            orders: orders::Ordering::none(),
            letters: dead_letters::Letters::none(),
            parked: parked::Reading::none(),
            partitions: partitions::Desk::none(),
        }
    }
}

/// Routes that an instance serves beside the API's.
pub type Extra = Router;

/// The API's routes.
pub fn router<W: World, S: Store>(api: Arc<Api<W, S>>) -> Router {
    let reading = Router::new()
        .route("/metrics", get(status::metrics))
        .route("/api/v1/circuit-breakers/health", get(breakers::health))
        .route("/api/v1/circuit-breakers/{service}", get(breakers::one))
        .route("/api/v1/circuit-breakers/{service}/history", get(breakers::history))
        .route("/api/v1/partitions", get(partitions::list))
        .route("/api/v1/retry", get(status::retry))
        .route("/api/v1/retry/messages", get(parked::list))
        .route("/api/v1/retry/orders", get(orders::list))
        .route("/api/v1/retry/orders/{id}", get(orders::one))
        .route("/api/v1/dead-letters", get(dead_letters::list))
        .route("/api/v1/dead-letters/redrives", get(dead_letters::redrives))
        .route("/api/v1/dead-letters/redrives/{id}", get(dead_letters::one))
        .layer(middleware::from_fn_with_state(Arc::clone(&api), auth::may_read));
    let changing = Router::new()
        .route("/api/v1/circuit-breakers/{service}/force-state", post(breakers::force_state))
        .route("/api/v1/circuit-breakers/{service}/settings", patch(settings::change).delete(settings::reset))
        .route("/api/v1/partitions/{partition}/release", post(partitions::release))
        .route("/api/v1/retry/release", post(orders::release))
        .route("/api/v1/retry/delay", post(orders::delay))
        .route("/api/v1/retry/discard", post(orders::discard))
        .route("/api/v1/retry/orders/{id}/cancel", post(orders::cancel))
        .route("/api/v1/dead-letters/redrive", post(dead_letters::redrive))
        .route("/api/v1/dead-letters/redrives/{id}/cancel", post(dead_letters::cancel))
        .route("/api/v1/retry/services/{service}/pause", post(orders::pause))
        .route("/api/v1/retry/services/{service}/resume", post(orders::resume))
        // What an event said is not for everybody who may read.
        .route("/api/v1/retry/messages/{topic}/{partition}/{offset}", get(parked::one))
        .layer(middleware::from_fn_with_state(Arc::clone(&api), auth::may_operate));
    Router::new()
        .route("/livez", get(status::livez))
        .route("/readyz", get(status::readyz))
        .merge(reading)
        .merge(changing)
        .fallback(problem::not_found)
        .method_not_allowed_fallback(problem::method_not_allowed)
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(TimeoutLayer::with_status_code(StatusCode::SERVICE_UNAVAILABLE, TIMEOUT))
        .layer(CatchPanicLayer::custom(|_| problem::defect()))
        .layer(middleware::map_response(no_store))
        .with_state(api)
}

/// Makes a change to its end, though nobody may wait for the answer any more: a request's time may be over, its client gone.
async fn to_its_end<T: Send + 'static>(making: impl Future<Output = Result<T, Problem>> + Send + 'static) -> Result<T, Problem> {
    tokio::spawn(making).await.unwrap_or_else(|error| match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(_) => Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the instance is stopping; ask another whether the change was made")),
    })
}

/// Answers say how things are now; nobody may keep them.
async fn no_store(mut response: Response) -> Response {
    response.headers_mut().entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Listens.
///
/// # Errors
/// The address is taken, or is not this machine's.
pub async fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// Serves until `stop` comes, then finishes the requests that are under way.
///
/// # Errors
/// The listener failed for good.
pub async fn serve(listener: TcpListener, router: Router, stop: impl Future<Output = ()> + Send + 'static) -> std::io::Result<()> {
    axum::serve(listener, router).with_graceful_shutdown(stop).await
}
