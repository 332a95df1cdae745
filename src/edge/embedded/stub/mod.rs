//! Stub services: HTTP servers that answer as the real ones would, fail in every way that those can, and remember what they were asked.
//!
//! A stub answers every path and method. What it does is a [`Behaviour`], set at any time ([`Stub::set`], or `POST /__stub/behaviour`
//! from another process) and in force for the requests that come after. What it saw is its [`Journal`] (`GET /__stub/journal`,
//! `GET /__stub/counts`), which can be waited for ([`Stub::wait_until`]).

mod answer;
mod behaviour;
mod journal;
mod server;
mod shared;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::task::JoinHandle;

pub use behaviour::{Act, Behaviour, RetryAfter, Turn};
pub use journal::{Counts, Ended, Entry, Journal};

use shared::Shared;

/// How many requests a journal keeps: of a kilobyte each, ten megabytes.
const ENTRIES: usize = 10_000;

/// The services of the shipped config, with the ports that it expects them on.
pub const USUAL: [(&str, u16); 4] = [("rag", 8001), ("rulegen", 8002), ("notifier", 8003), ("vms", 8004)];

/// One stub service. It serves until it is dropped or stopped.
#[derive(Debug)]
pub struct Stub {
    addr: SocketAddr,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

/// How a stub is started.
#[derive(Debug, Clone)]
pub struct Options {
    /// How many requests its journal keeps; counts go on.
    pub journal_entries: usize,
    /// What its chance (jitter, flaky) begins with: the same seed and the same order of requests give the same answers.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { journal_entries: ENTRIES, seed: 0 }
    }
}

/// What was waited for did not come.
#[derive(Debug, thiserror::Error)]
#[error("the stub of {service} did not see within {within:?} what was waited for; it saw {counts:?}")]
pub struct NotSeen {
    service: String,
    within: Duration,
    counts: Box<Counts>,
}

impl Stub {
    /// Starts a stub of this service (`rag`, `rulegen`, `notifier`, `vms`; any other answers `{"ok": true}`). Port 0 takes a free one.
    ///
    /// # Errors
    /// The address cannot be listened on.
    pub async fn start(listen: SocketAddr, service: &str) -> io::Result<Self> {
        Self::start_with(listen, service, &Options::default()).await
    }

    /// Starts a stub with options.
    ///
    /// # Errors
    /// The address cannot be listened on.
    pub async fn start_with(listen: SocketAddr, service: &str, options: &Options) -> io::Result<Self> {
        Self::start_numbered(listen, service, options, Arc::default()).await
    }

    async fn start_numbered(listen: SocketAddr, service: &str, options: &Options, next_seq: Arc<AtomicU64>) -> io::Result<Self> {
        let listener = server::bind(service, listen).await?;
        let addr = listener.local_addr()?;
        let shared = Shared::new(service, options.journal_entries, options.seed, next_seq);
        let server = tokio::spawn(server::serve(listener, Arc::clone(&shared)));
        Ok(Self { addr, shared, server })
    }

    /// The service's name.
    pub fn service(&self) -> &str {
        &self.shared.service
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Its URL without a path.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Sets what it does with the requests that come from now on. Those that wait go on as they were told.
    pub fn set(&self, behaviour: impl Into<Behaviour>) {
        self.shared.set(behaviour.into());
    }

    /// What it does now, all steps included.
    pub fn behaviour(&self) -> Behaviour {
        self.shared.read(|state| state.behaviour.clone())
    }

    /// The last requests, oldest first.
    pub fn journal(&self) -> Vec<Entry> {
        self.shared.read(|state| state.journal.entries.iter().cloned().collect())
    }

    /// All requests, counted.
    pub fn counts(&self) -> Counts {
        self.shared.read(|state| state.journal.counts.clone())
    }

    /// Forgets the requests of the journal; counts go on.
    pub fn clear(&self) {
        self.shared.update(|state| state.journal.entries.clear());
    }

    /// Waits until the journal is as the predicate wants it, which is asked after every change. The predicate must not call the stub.
    ///
    /// # Errors
    /// It was not within that time.
    pub async fn wait_until(&self, within: Duration, mut is_met: impl FnMut(&Journal) -> bool) -> Result<(), NotSeen> {
        let wait = async {
            loop {
                // Listening begins before looking: a change in between is not missed.
                let mut changed = pin!(self.shared.changed.notified());
                changed.as_mut().enable();
                if self.shared.read(|state| is_met(&state.journal)) {
                    return;
                }
                changed.await;
            }
        };
        let waited = tokio::time::timeout(within, wait).await;
        waited.map_err(|_| NotSeen { service: self.service().to_owned(), within, counts: Box::new(self.counts()) })
    }

    /// Has every connection closed in order as soon as it is idle, as a server does whose keep-alive ran out. New ones are taken.
    pub fn close_idle_connections(&self) {
        self.shared.close_idle.send_replace(());
    }

    /// Stops it: the port is free and every connection is gone when this returns.
    pub async fn stop(mut self) {
        self.server.abort();
        // It was aborted: that is all that this can say.
        let _ = (&mut self.server).await;
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Several stubs, whose journals number their requests in one sequence: what was asked first, over all of them.
#[derive(Debug)]
pub struct Stubs {
    stubs: Vec<Stub>,
}

impl Stubs {
    /// Starts these services at these addresses, all or none.
    ///
    /// # Errors
    /// An address cannot be listened on.
    pub async fn start<'a>(services: impl IntoIterator<Item = (&'a str, SocketAddr)>, options: &Options) -> io::Result<Self> {
        let next_seq = Arc::<AtomicU64>::default();
        let mut stubs = Vec::new();
        for (service, listen) in services {
            stubs.push(Stub::start_numbered(listen, service, options, Arc::clone(&next_seq)).await?);
        }
        Ok(Self { stubs })
    }

    /// Starts the four services of the shipped config on the ports that it expects.
    ///
    /// # Errors
    /// A port is taken.
    pub async fn usual() -> io::Result<Self> {
        Self::start(USUAL.map(|(service, port)| (service, (Ipv4Addr::LOCALHOST, port).into())), &Options::default()).await
    }

    /// Starts the four services of the shipped config on free ports.
    ///
    /// # Errors
    /// There are none.
    pub async fn anywhere() -> io::Result<Self> {
        Self::start(USUAL.map(|(service, _)| (service, (Ipv4Addr::LOCALHOST, 0).into())), &Options::default()).await
    }

    /// The stub of a service.
    pub fn get(&self, service: &str) -> Option<&Stub> {
        self.stubs.iter().find(|stub| stub.service() == service)
    }

    /// All of them, in the order in which they were started.
    pub fn iter(&self) -> impl Iterator<Item = &Stub> {
        self.stubs.iter()
    }

    /// The last requests of all, in the order in which they were read.
    pub fn journal(&self) -> Vec<Entry> {
        let mut entries: Vec<Entry> = self.iter().flat_map(Stub::journal).collect();
        entries.sort_by_key(|entry| entry.seq);
        entries
    }
}
