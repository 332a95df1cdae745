//! One connection for commands, made and renewed in the background.
//!
//! Guarantees:
//! - Making a link waits for nothing. While Redis is away a command is answered at once with the reason of the last attempt; while an attempt
//!   runs, and while Redis is silent, within the command's timeout.
//! - Nothing is queued for a server that is away, and a connection that left one command unanswered is given up: what would pile up
//!   on it goes with it, and late answers are read by nobody. One to several servers serves on meanwhile, since only one of them may be at
//!   fault, until another takes its place.
//! - Attempts go on for ever, whatever they fail of, with exponential back-off and full jitter.
//!
//! The client's own `ConnectionManager` does not give the last two: it keeps a silent connection, and a refusal that is not an I/O
//! error (`LOADING` after a restart, a password about to be changed) once its tries are used up is its answer for ever.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::ConnectionLike;
use redis::{Cmd, RedisResult, Value};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::failure::{self, Away};
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
    /// It stands; where it is doubted, attempts are made until another takes its place.
    Up { connection: Connection, epoch: u64, doubted: bool },
    /// The last attempt failed.
    Away(Away),
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
            let (connection, epoch) = self.connection().await.map_err(|away| away.describe())?;
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

    /// Sends one command, behind `ASKING` where a cluster's node was named by `ASK`. Whoever lets go of it before it is answered has waited for too
    /// long, and the connection is given up.
    ///
    /// # Errors
    /// As [`Self::run`], in the client's own terms.
    pub(super) async fn ask(&self, cmd: &Cmd, asking: bool) -> RedisResult<Value> {
        let (mut connection, epoch) = self.connection().await.map_err(Away::error)?;
        let mut unanswered = Unanswered { link: self, epoch: Some(epoch) };
        let answer = if asking {
            let mut both = redis::pipe();
            both.cmd("ASKING").add_command(cmd.clone());
            let answers = connection.req_packed_commands(&both, 0, 2).await;
            answers.map(|mut answers| answers.pop().unwrap_or(Value::Nil))
        } else {
            connection.req_packed_command(cmd).await
        };
        let answer = answer.and_then(Value::extract_error);
        if !answer.as_ref().is_err_and(failure::ends_connection) {
            unanswered.epoch = None;
        }
        answer
    }

    /// Whether the connection stood when it was last used.
    pub(super) fn is_up(&self) -> bool {
        matches!(*self.state.borrow(), State::Up { .. })
    }

    async fn connection(&self) -> Result<(Connection, u64), Away> {
        let mut state = self.state.subscribe();
        match state.wait_for(|state| !matches!(state, State::Connecting)).await.as_deref() {
            Ok(State::Up { connection, epoch, .. }) => Ok((connection.clone(), *epoch)),
            Ok(State::Away(why)) => Err(why.clone()),
            Ok(State::Connecting) | Err(_) => Err(Away::Silent(self.timeout)),
        }
    }

    /// Lets a connection go, unless another stands in its place already.
    fn give_up(&self, used: Option<u64>) {
        self.state.send_if_modified(|state| {
            match state {
                State::Up { epoch, .. } if Some(*epoch) != used => return false,
                State::Up { doubted: true, .. } => return false,
                State::Up { connection, doubted, .. } if connection.is_to_several() => {
                    connection.doubt();
                    *doubted = true;
                }
                State::Up { .. } => *state = State::Connecting,
                State::Connecting | State::Away(_) => return false,
            }
            true
        });
    }
}

/// A command that was sent. Dropped with its epoch, it gives the connection up.
struct Unanswered<'a> {
    link: &'a Link,
    epoch: Option<u64>,
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        if self.epoch.is_some() {
            self.link.give_up(self.epoch);
        }
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
    let mut renewals = attempts();
    let mut attempts = attempts();
    let mut epoch = 0;
    loop {
        match attempt(&servers, timeout).await {
            Ok(connection) => {
                attempts.succeeded();
                epoch += 1;
                state.send_replace(State::Up { connection, epoch, doubted: false });
                // The sender is held here too, so this ends by the connection's end alone.
                let is_over = |state: &State| !matches!(state, State::Up { doubted: false, .. });
                if tokio::time::timeout(LONGEST_WAIT, seen.wait_for(is_over)).await.is_err() {
                    renewals.succeeded();
                    drop(seen.wait_for(is_over).await);
                }
                let is_doubted = matches!(*seen.borrow(), State::Up { .. });
                if is_doubted {
                    // A server that stays away gives cause for doubt with every command.
                    tokio::time::sleep(renewals.next_wait()).await;
                }
            }
            Err(away) => {
                tracing::debug!(error = %away.describe(), "no connection to Redis");
                state.send_if_modified(|state| {
                    // What is doubted is of several servers, of which some may serve.
                    let is_away = !matches!(state, State::Up { .. });
                    if is_away {
                        *state = State::Away(away);
                    }
                    is_away
                });
                tokio::time::sleep(attempts.next_wait()).await;
            }
        }
    }
}

/// Connects, within the time for it.
async fn attempt(servers: &Servers, timeout: Duration) -> Result<Connection, Away> {
    let bound = attempt_bound(timeout);
    match tokio::time::timeout(bound, servers.connect(bound)).await {
        Ok(result) => result.map_err(Away::Failed),
        Err(_elapsed) => Err(Away::Silent(bound)),
    }
}
