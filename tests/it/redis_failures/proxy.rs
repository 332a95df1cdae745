//! Between an instance and Redis: a way that can be slow, or lead nowhere.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::harness::RUNTIME;

/// A delay that does not end.
const NOWHERE: u64 = u64::MAX;

/// A TCP proxy. It works until it is dropped; connections that were made end with either side.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    delay_ms: Arc<AtomicU64>,
    accepted: Arc<AtomicU64>,
    server: JoinHandle<()>,
}

impl Proxy {
    /// One that leads to this port of the loopback, without delay.
    pub fn to(port: u16) -> Self {
        let listener = RUNTIME.block_on(TcpListener::bind(("127.0.0.1", 0))).expect("a free port");
        let own = listener.local_addr().expect("bound").port();
        let delay_ms = Arc::new(AtomicU64::new(0));
        let delay = Arc::clone(&delay_ms);
        let accepted = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&accepted);
        let server = RUNTIME.spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                let delay = Arc::clone(&delay);
                tokio::spawn(async move {
                    let Ok(far) = TcpStream::connect(("127.0.0.1", port)).await else { return };
                    let ((from_near, to_near), (from_far, to_far)) = (near.into_split(), far.into_split());
                    // One way that ends takes the other with it.
                    tokio::select! {
                        () = pass(from_near, to_far, &delay) => {}
                        () = pass(from_far, to_near, &delay) => {}
                    }
                });
            }
        });
        Self { port: own, delay_ms, accepted, server }
    }

    /// The URL of the Redis behind it.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    /// How many connections there have been.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// What comes from now on, either way, takes this long.
    pub fn delay(&self, delay: Duration) {
        self.delay_ms.store(u64::try_from(delay.as_millis()).expect("short"), Ordering::Relaxed);
    }

    /// What comes from now on is passed on at once.
    pub fn pass(&self) {
        self.delay(Duration::ZERO);
    }

    /// What comes from now on is not passed on, and no connection ends.
    pub fn swallow(&self) {
        self.delay_ms.store(NOWHERE, Ordering::Relaxed);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// What comes is read at once, so that a delay is one for each byte and not a bound on how many pass.
async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, delay_ms: &AtomicU64) {
    let (sender, mut under_way) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    let read = async move {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(read @ 1..) = from.read(&mut buffer).await {
            let delay = delay_ms.load(Ordering::Relaxed);
            if delay != NOWHERE && sender.send((Instant::now() + Duration::from_millis(delay), buffer[..read].to_vec())).is_err() {
                return;
            }
        }
    };
    let write = async move {
        while let Some((due, bytes)) = under_way.recv().await {
            tokio::time::sleep_until(due).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = read => {}
        () = write => {}
    }
}
