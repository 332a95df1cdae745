//! One service's connections: kept while they are fit for another call, opened when none is.
//!
//! A connection is lent to one call at a time and comes back only if the whole reply was read; a call that is dropped takes its connection
//! with it. At most as many are kept as calls may run at once, the one used last goes out first, and what has not been used for [`IDLE`]
//! is closed.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::connect::HttpConnector;
use tower_service::Service as _;

use crate::machine::time::Tick;
use crate::pipeline::ports::Clock;

/// How long an unused connection is kept: shorter than the five seconds after which uvicorn and Node.js close theirs, the shortest of the
/// usual servers, so that it is this side that closes and no request meets a closing connection.
const IDLE: Duration = Duration::from_secs(4);

/// A connection, as one who may send on it.
pub(super) type Sender = SendRequest<Full<Bytes>>;

/// The connections of one service.
#[derive(Debug)]
pub(super) struct Pool<C> {
    connector: HttpsConnector<HttpConnector>,
    /// Scheme, host and port.
    destination: Uri,
    most: usize,
    clock: C,
    idle: Arc<Mutex<Idle>>,
}

/// Connections without a call, the one used last at the back.
#[derive(Debug, Default)]
struct Idle {
    connections: VecDeque<(Sender, Tick)>,
    /// Somebody will close what stays unused.
    watched: bool,
}

/// No connection, or it ended before a status line came.
pub(super) type NoReply = Box<dyn std::error::Error + Send + Sync>;

impl<C: Clock> Pool<C> {
    /// A pool that keeps at most so many connections. Connects to nobody yet.
    pub(super) fn new(connector: HttpsConnector<HttpConnector>, destination: Uri, most: usize, clock: C) -> Self {
        Self { connector, destination, most, clock, idle: Arc::default() }
    }

    /// Sends a request and waits for the head of its reply. The connection is to be given back when the reply's body was read.
    ///
    /// A kept connection may have been closed by the service since. If it gives the request back unsent, another takes it; once a byte
    /// may have left, the call fails, since the service may have acted on it.
    pub(super) async fn send(&self, mut request: Request<Full<Bytes>>) -> Result<(Response<Incoming>, Sender), NoReply> {
        loop {
            let (mut sender, is_kept) = match self.kept().await {
                Some(sender) => (sender, true),
                // Apart, because connecting is rare and its state is large: every call would carry it.
                None => (Box::pin(self.connect()).await?, false),
            };
            match sender.try_send_request(request).await {
                Ok(response) => return Ok((response, sender)),
                Err(mut error) => match error.take_message() {
                    Some(unsent) if is_kept => request = unsent,
                    Some(_) | None => return Err(error.into_error().into()),
                },
            }
        }
    }

    /// Takes a connection back, after a reply that was read to its end.
    pub(super) fn give_back(&self, sender: Sender) {
        if sender.is_closed() {
            return;
        }
        let now = self.clock.now();
        let mut idle = lock(&self.idle);
        if idle.connections.len() < self.most {
            idle.connections.push_back((sender, now));
        }
        if !idle.watched {
            idle.watched = true;
            tokio::spawn(close_unused(Arc::downgrade(&self.idle), self.clock.clone()));
        }
    }

    /// The connection used last that can be used again.
    async fn kept(&self) -> Option<Sender> {
        match self.ready() {
            Ok(found) => found,
            Err(Busy) => {
                // One has just come back and its task has yet to notice, which on another thread takes a moment: opening one more would
                // cost more.
                tokio::task::yield_now().await;
                self.ready().ok().flatten()
            }
        }
    }

    /// The one used last, or, if that is not ready yet, the one that has had most time to become so. Looking at all between them would cost
    /// each call of a burst as much as the burst is large.
    fn ready(&self) -> Result<Option<Sender>, Busy> {
        let connections = &mut lock(&self.idle).connections;
        loop {
            match connections.back() {
                None => return Ok(None),
                Some((sender, _)) if sender.is_ready() => return Ok(connections.pop_back().map(|(sender, _)| sender)),
                Some((sender, _)) if sender.is_closed() => drop(connections.pop_back()),
                Some(_) => break,
            }
        }
        loop {
            match connections.front() {
                Some((sender, _)) if sender.is_ready() => return Ok(connections.pop_front().map(|(sender, _)| sender)),
                Some((sender, _)) if sender.is_closed() => drop(connections.pop_front()),
                Some(_) | None => return Err(Busy),
            }
        }
    }

    async fn connect(&self) -> Result<Sender, NoReply> {
        let mut connector = self.connector.clone();
        poll_fn(|cx| connector.poll_ready(cx)).await?;
        let stream = connector.call(self.destination.clone()).await?;
        let (sender, connection) = http1::handshake(stream).await?;
        // It ends when its sender is dropped or the service closes it; what went wrong is told to the call that waits.
        tokio::spawn(connection);
        Ok(sender)
    }
}

/// There are connections, but none that could take a request just now.
struct Busy;

/// Closes connections as they become [`IDLE`] old, until there are none or the pool is gone.
async fn close_unused<C: Clock>(idle: Weak<Mutex<Idle>>, clock: C) {
    loop {
        let next = {
            let Some(idle) = idle.upgrade() else { return };
            let mut idle = lock(&idle);
            let now = clock.now();
            while idle.connections.front().is_some_and(|(_, since)| since.plus(IDLE) <= now) {
                idle.connections.pop_front();
            }
            match idle.connections.front() {
                Some((_, since)) => since.plus(IDLE),
                None => {
                    idle.watched = false;
                    return;
                }
            }
        };
        clock.sleep_until(next).await;
    }
}

fn lock(idle: &Mutex<Idle>) -> MutexGuard<'_, Idle> {
    // Nothing panics with the lock held, and a list of connections is whole at any time.
    idle.lock().unwrap_or_else(PoisonError::into_inner)
}
