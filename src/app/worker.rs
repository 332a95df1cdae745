//! The thread that the loops run on, with all that they call services with.
//!
//! One thread, because nothing in a loop waits for the processor while another could use it: handing tasks and wake-ups from core to core
//! costs a call more than it saves. Apart from the API's, so that probes are answered while the loops are busy, or stuck.

use std::io;

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;

/// The thread. Dropped, it ends, and whatever still runs on it is dropped; nobody waits for it, since a loop that is stuck would never let
/// it end.
pub(super) struct Worker {
    runtime: Handle,
    end: CancellationToken,
}

impl Worker {
    /// Starts it.
    ///
    /// # Errors
    /// No thread, or nothing to wait for sockets with, is to be had.
    pub(super) fn start() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let (handle, end) = (runtime.handle().clone(), CancellationToken::new());
        let ended = end.clone();
        std::thread::Builder::new().name("loops".into()).spawn(move || {
            runtime.block_on(ended.cancelled());
            // What hangs in a client's thread is waited for by nobody.
            runtime.shutdown_background();
        })?;
        Ok(Self { runtime: handle, end })
    }

    /// Runs a loop on it.
    pub(super) fn spawn<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> tokio::task::JoinHandle<T> {
        self.runtime.spawn(work)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.end.cancel();
    }
}
