//! A TCP forwarder: connections to one loopback address go on to another.

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;

/// Forwards every connection, until the handle is dropped. A connection lives in a task of its own, and ends with either side.
pub(super) fn forward(listener: TcpListener, to: String) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((from, _)) => {
                        connections.spawn(connect(from, to.clone()));
                    }
                    // Out of file descriptors, most likely: one is free again when a connection ends.
                    Err(error) => {
                        tracing::warn!(%error, "the embedded Kafka cannot take a connection");
                        connections.join_next().await;
                        tokio::task::yield_now().await;
                    }
                },
                Some(_) = connections.join_next() => {}
            }
        }
    }))
}

async fn connect(mut from: TcpStream, to: String) {
    // Kafka's requests are small and wait for each other: Nagle's algorithm would add 40 ms to each.
    let _ = from.set_nodelay(true);
    let Ok(mut onward) = TcpStream::connect(&to).await else { return };
    let _ = onward.set_nodelay(true);
    // Either side's going is how a connection ends.
    let _ = copy_bidirectional(&mut from, &mut onward).await;
}
