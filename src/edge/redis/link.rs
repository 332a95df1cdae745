//! One connection for commands, made and renewed in the background.
//!
//! Guarantees:
//! - Making a link waits for nothing. While Redis is away a command is answered at once with the reason of the last attempt; while an attempt
//!   runs, and while Redis is silent, within the command's timeout.
//! - Nothing is queued for a server that is away, and a connection that left one command unanswered is given up: what would pile up
//!   on it goes with it, and late answers are read by nobody.
//! - Attempts go on for ever, whatever they fail of, with exponential back-off and full jitter.
//!
//! The client's own `ConnectionManager` does not give the last two: it keeps a silent connection, and a refusal that is not an I/O
//! error (`LOADING` after a restart, a password about to be changed) once its tries are used up is its answer for ever.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use redis::RedisResult;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::failure;
use super::servers::{Connection, Servers};
use crate::edge::backoff::Attempts;
use crate::pipeline::ports::StoreError;

/// The bound of the first wait between two attempts to connect.
const FIRST_WAIT: Duration = Duration::from_millis(100);

/// The longest wait, so that a Redis that is back is found within the time in which people look.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// A connection that renews itself.
#[derive(Debug)]
pub(super) struct Link {
    state: Arc<watch::Sender<State>>,
    timeout: Duration,
    /// Ends the attempts with the link.
    _keeper: AbortOnDropHandle<()>,
}

#[derive(Debug)]
enum State {
    /// An attempt runs, and none has failed since the link was made or last stood.
    Connecting,
    /// It stands.
    Up { connection: Connection, epoch: u64 },
    /// The last attempt failed.
    Away(StoreError),
}

impl Link {
    /// A link that begins to connect. A command takes at most `timeout`.
    pub(super) fn new(servers: Servers, timeout: Duration) -> Self {
        let state = Arc::new(watch::Sender::new(State::Connecting));
        let keeper = tokio::spawn(keep(servers, Arc::clone(&state), timeout));
        Self { state, timeout, _keeper: AbortOnDropHandle::new(keeper) }
    }

    /// Runs commands over the connection, all of them within the timeout.
    ///
    /// # Errors
    /// Redis is away, silent, or answers with an error.
    pub(super) async fn run<T, F>(&self, commands: impl FnOnce(Connection) -> F) -> Result<T, StoreError>
    where
        F: Future<Output = RedisResult<T>>,
    {
        let mut used = None;
        let answer = tokio::time::timeout(self.timeout, async {
            let (connection, epoch) = self.connection().await?;
            used = Some(epoch);
            Ok(commands(connection).await)
        });
        match answer.await {
            Ok(Ok(Ok(value))) => Ok(value),
            Ok(Ok(Err(error))) => {
                if failure::ends_connection(&error) {
                    self.give_up(used);
                }
                Err(failure::describe(&error))
            }
            Ok(Err(away)) => Err(away),
            Err(_elapsed) => {
                self.give_up(used);
                Err(failure::too_late(self.timeout))
            }
        }
    }

    /// Whether the connection stood when it was last used.
    pub(super) fn is_up(&self) -> bool {
        matches!(*self.state.borrow(), State::Up { .. })
    }

    async fn connection(&self) -> Result<(Connection, u64), StoreError> {
        let mut state = self.state.subscribe();
        match state.wait_for(|state| !matches!(state, State::Connecting)).await.as_deref() {
            Ok(State::Up { connection, epoch }) => Ok((connection.clone(), *epoch)),
            Ok(State::Away(why)) => Err(why.clone()),
            Ok(State::Connecting) | Err(_) => Err(failure::too_late(self.timeout)),
        }
    }

    /// Lets a connection go, unless another stands in its place already.
    fn give_up(&self, used: Option<u64>) {
        self.state.send_if_modified(|state| {
            let is_used = matches!(state, State::Up { epoch, .. } if Some(*epoch) == used);
            if is_used {
                *state = State::Connecting;
            }
            is_used
        });
    }
}

/// The waits between attempts to connect.
pub(super) fn attempts() -> Attempts {
    Attempts::new(FIRST_WAIT, LONGEST_WAIT)
}

/// How long one attempt may take: TCP, TLS and the first answer, so at least a second where a command has less.
pub(super) fn attempt_bound(timeout: Duration) -> Duration {
    timeout.max(Duration::from_secs(1))
}

async fn keep(servers: Servers, state: Arc<watch::Sender<State>>, timeout: Duration) {
    let mut seen = state.subscribe();
    let mut attempts = attempts();
    let mut epoch = 0;
    loop {
        match attempt(&servers, timeout).await {
            Ok(connection) => {
                attempts.succeeded();
                epoch += 1;
                state.send_replace(State::Up { connection, epoch });
                // The sender is held here too, so this ends by the connection's end alone.
                drop(seen.wait_for(|state| !matches!(state, State::Up { .. })).await);
            }
            Err(why) => {
                tracing::debug!(error = %why, "no connection to Redis");
                state.send_replace(State::Away(why));
                tokio::time::sleep(attempts.next_wait()).await;
            }
        }
    }
}

/// Connects and asks for one answer: a frozen server's kernel accepts connections all the same.
async fn attempt(servers: &Servers, timeout: Duration) -> Result<Connection, StoreError> {
    let bound = attempt_bound(timeout);
    let connected = tokio::time::timeout(bound, async {
        let mut connection = servers.connect(bound).await?;
        redis::cmd("PING").exec_async(&mut connection).await?;
        Ok(connection)
    });
    match connected.await {
        Ok(result) => result.map_err(|error| failure::describe(&error)),
        Err(_elapsed) => Err(failure::too_late(bound)),
    }
}
