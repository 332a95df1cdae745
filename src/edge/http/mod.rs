//! Services over HTTP/1.1: one call in, one reply out.
//!
//! A call ends in a status with its body, whole, cut off or too large, or in [`CallError::Connect`] when no status line came. It sets no
//! time limit, follows no redirect, asks no proxy and sends nothing twice: limits, verdicts and second tries are the guard's. Dropping a
//! call that waits for its reply closes its connection, since the late reply could be taken for the next call's.
//!
//! A connection that a service closed while it was idle is the one case where a request goes out on another connection: only if the first
//! gives it back unsent. That leaves a race (the service closes while the request is on its way), which ends in
//! [`CallError::Connect`], and which closing idle connections before the usual servers do makes rare.

mod body;
mod headers;
mod pool;
mod retry_after;
mod setup;

use bytes::Bytes;
use http::header::RETRY_AFTER;
use http::{HeaderMap, Method, Request, Uri};
use http_body_util::Full;

use crate::config::Service;
use crate::event::Headers;
use crate::pipeline::ports::{Body, Call, CallError, Caller, Clock, HealthCheck, Reply};

use pool::Pool;
pub use setup::HttpSetupError;

/// Calls the services of a config.
#[derive(Debug)]
pub struct HttpCaller<C> {
    services: Vec<Target<C>>,
    clock: C,
}

/// One service, ready to be called. Each has its own pool: a service that holds its connections takes none from another.
#[derive(Debug)]
struct Target<C> {
    name: String,
    pool: Pool<C>,
    method: Method,
    /// Path and query: what the request line has.
    path: Uri,
    headers: HeaderMap,
    /// Whether somebody reads the replies' headers.
    keeps_headers: bool,
    /// What asks it for its health; `None`: nobody does.
    health: Option<Health>,
    max_reply_bytes: usize,
}

/// What a question for a service's health has, beside GET.
#[derive(Debug)]
struct Health {
    path: Uri,
    headers: HeaderMap,
}

impl<C: Clock> HttpCaller<C> {
    /// A caller of these services, which a [`Call`] names by index. Reads certificate files, connects to nobody. The clock is asked how far
    /// away the date of a `Retry-After` is, and how long a connection was idle.
    ///
    /// # Errors
    /// The first service that cannot be called as configured: a file that cannot be read or holds something else, a URL or header that
    /// cannot be sent.
    pub fn new(services: &[Service], clock: C) -> Result<Self, HttpSetupError> {
        let services = services.iter().map(|service| Target::new(service, clock.clone())).collect::<Result<_, _>>()?;
        Ok(Self { services, clock })
    }
}

impl<C: Clock> Target<C> {
    fn new(service: &Service, clock: C) -> Result<Self, HttpSetupError> {
        let uri = &service.endpoint.uri;
        let connector = setup::connector(service)?;
        let fixed = headers::fixed(service, uri)?;
        let health = service.health.as_ref().map(|health| Health { path: path_of(&health.uri), headers: headers::without_body(&fixed) });
        Ok(Self {
            name: service.name.clone(),
            pool: Pool::new(connector, uri.clone(), service.concurrency.get(), clock),
            method: service.endpoint.method.clone(),
            headers: fixed,
            keeps_headers: service.rules.read_headers(),
            path: path_of(uri),
            health,
            max_reply_bytes: service.max_reply_bytes.get(),
        })
    }

    fn request(&self, call: &Call<'_>) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(call.body.clone()));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.path.clone();
        *request.headers_mut() = headers::of_call(&self.headers, call);
        request
    }
}

/// Path and query of a URL, as the request line has them.
fn path_of(uri: &Uri) -> Uri {
    uri.path_and_query().cloned().map_or_else(Uri::default, Uri::from)
}

impl<C: Clock> HttpCaller<C> {
    async fn send(&self, target: &Target<C>, request: Request<Full<Bytes>>) -> Result<Reply, CallError> {
        let (response, connection) = target.pool.send(request).await.map_err(|error| {
            // The error's own text names no address; its sources, which may, are left out.
            tracing::debug!(service = target.name, %error, "a call got no reply");
            CallError::Connect
        })?;
        let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| retry_after::parse(value, || self.clock.wall()));
        let headers = if target.keeps_headers { headers::of_reply(response.headers()) } else { Headers::new() };
        let status = response.status().as_u16();
        let body = body::read(response.into_body(), target.max_reply_bytes).await;
        if let Body::Whole(_) = body {
            target.pool.give_back(connection);
        }
        Ok(Reply { status, retry_after, headers, body })
    }
}

impl<C: Clock> Caller for HttpCaller<C> {
    async fn call(&self, call: Call<'_>) -> Result<Reply, CallError> {
        // A caller and the indices it is asked by come from one config.
        let target = &self.services[call.service];
        self.send(target, target.request(&call)).await
    }
}

impl<C: Clock> HealthCheck for HttpCaller<C> {
    async fn check(&self, service: usize) -> Result<Reply, CallError> {
        let target = &self.services[service];
        // Nobody asks where the config does not say what to ask for.
        let Some(health) = &target.health else { return Err(CallError::Connect) };
        let mut request = Request::new(Full::default());
        *request.uri_mut() = health.path.clone();
        *request.headers_mut() = health.headers.clone();
        self.send(target, request).await
    }
}
