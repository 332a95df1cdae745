//! Where Redis is: one server, the one that sentinels call the master, or a cluster; and a connection to any of them.
//!
//! Guarantees:
//! - Sentinels are asked each time that a connection is made, and so are the nodes of a cluster: the one that answered last first, the next as well
//!   when it is silent for its share of the time; the next attempt begins behind those that were silent. So after a failover the next attempt goes to the new master. One that has become a replica
//!   refuses writes, which ends the connection.
//! - A cluster is one connection too: [`nodes`](super::nodes) says what holds of it.
//! - No error names a server.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use redis::aio::{ConnectionLike, MultiplexedConnection, PubSub};
use redis::sentinel::SentinelClient;
use redis::{AsyncConnectionConfig, Client, Cmd, ErrorKind, Pipeline, RedisFuture, RedisResult, Value};
use tokio::sync::Mutex;

use super::failure;
use super::nodes::{Cluster, Nodes, Stand};

/// Commands in flight at once. A breaker's keeper has a handful; a bound keeps a burst from filling memory before the first timeout.
const IN_FLIGHT: usize = 256;

/// Where Redis is.
#[derive(Clone)]
pub(super) enum Servers {
    /// One server.
    One(Box<Client>),
    /// Whichever the sentinels name.
    Sentinels {
        /// One for each.
        clients: Arc<[Mutex<SentinelClient>]>,
        /// The one that answered last is asked first.
        first: Arc<AtomicUsize>,
        database: i64,
    },
    /// All nodes of a cluster.
    Cluster(Arc<Cluster>),
}

/// A connection for commands; clones share it.
#[derive(Clone)]
pub(super) enum Connection {
    One(MultiplexedConnection),
    Cluster(Nodes),
}

impl std::fmt::Debug for Servers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // What is in it may hold a password.
        f.write_str(match self {
            Self::One(_) => "One",
            Self::Sentinels { .. } => "Sentinels",
            Self::Cluster(_) => "Cluster",
        })
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Connection")
    }
}

impl Servers {
    /// The database that is used.
    pub(super) fn database(&self) -> i64 {
        match self {
            Self::One(client) => client.get_connection_info().redis_settings().db(),
            Self::Sentinels { database, .. } => *database,
            Self::Cluster(_) => 0,
        }
    }

    /// Whether they are a cluster, in which services lie apart.
    pub(super) fn is_cluster(&self) -> bool {
        matches!(self, Self::Cluster(_))
    }

    /// The number of the node that is thought to have a key.
    pub(super) fn node(&self, key: &str) -> usize {
        match self {
            Self::One(_) | Self::Sentinels { .. } => 0,
            Self::Cluster(cluster) => cluster.number_of(key).unwrap_or(usize::MAX),
        }
    }

    /// Makes a connection, on which something was answered. It is bounded by whoever waits for it, and so are its commands.
    pub(super) async fn connect(&self, timeout: Duration) -> RedisResult<Connection> {
        match self {
            Self::One(client) => one(client).await.map(Connection::One),
            Self::Sentinels { clients, first, .. } => one(&master(clients, first, timeout).await?).await.map(Connection::One),
            Self::Cluster(cluster) => Arc::clone(cluster).connect(timeout).await.map(Connection::Cluster),
        }
    }

    /// Makes a connection that is subscribed to a channel; in a cluster with where it stands.
    pub(super) async fn subscribe(&self, channel: &str, timeout: Duration) -> RedisResult<(PubSub, Option<Stand>)> {
        let mut subscription = match self {
            Self::One(client) => client.get_async_pubsub().await?,
            Self::Sentinels { clients, first, .. } => master(clients, first, timeout).await?.get_async_pubsub().await?,
            Self::Cluster(cluster) => {
                let (subscription, stand) = Arc::clone(cluster).subscribe(channel, timeout).await?;
                return Ok((subscription, Some(stand)));
            }
        };
        subscription.subscribe(channel).await?;
        Ok((subscription, None))
    }
}

/// The master, as the first sentinel says that answers.
async fn master(sentinels: &[Mutex<SentinelClient>], first: &AtomicUsize, timeout: Duration) -> RedisResult<Client> {
    let ask = async |place: usize| {
        let mut sentinel = sentinels[place].lock().await;
        // Asked for itself before it is asked for the master, whose credentials are others.
        sentinel.async_get_sentinel_client().await.map_err(failure::of_sentinel)?;
        sentinel.async_get_client().await.map(Answer::Whole)
    };
    first_answer(sentinels.len(), first, timeout, ask).await.map(|(_, master)| master)
}

/// What one of several answers.
pub(super) enum Answer<T> {
    /// What is asked for.
    Whole(T),
    /// What will do where no other has better.
    Poor(T),
}

/// Asks several the same, beginning with the one that answered last. Each has a share of the time before the next is asked as well, or less if it
/// fails or has a poor answer; the first whole one counts, else the first poor one. Whose answer it is comes with it.
pub(super) async fn first_answer<T, F: Future<Output = RedisResult<Answer<T>>>>(
    count: usize,
    first: &AtomicUsize,
    timeout: Duration,
    ask: impl Fn(usize) -> F,
) -> RedisResult<(usize, T)> {
    // One share more than there are: the last one has its own before the time is over.
    let share = timeout / u32::try_from(count + 1).unwrap_or(u32::MAX);
    let from = first.load(Ordering::Relaxed);
    let (mut poor, mut failure) = (None, None);
    let mut asked = FuturesUnordered::new();
    let mut places = (0..count).map(|place| (from + place) % count);
    let (place, answer) = loop {
        let next = places.next();
        if let Some(place) = next {
            // Whoever gives this attempt up begins the next behind those that were silent.
            first.store(place, Ordering::Relaxed);
            let answer = ask(place);
            asked.push(async move { (place, answer.await) });
        }
        match (tokio::time::timeout(share, asked.next()).await, next) {
            (Ok(Some((place, Ok(Answer::Whole(answer))))), _) => break (place, answer),
            (Ok(Some((place, Ok(Answer::Poor(answer))))), _) => poor = poor.or(Some((place, answer))),
            (Ok(Some((_, Err(error)))), _) => failure = Some(error),
            (Ok(None), _) => {
                let none = || failure.unwrap_or_else(|| std::io::Error::from(std::io::ErrorKind::TimedOut).into());
                break poor.ok_or_else(none)?;
            }
            (Err(_elapsed), Some(_)) => {}
            (Err(_elapsed), None) => {
                if let Some(poor) = poor.take() {
                    break poor;
                }
            }
        }
    };
    first.store(place, Ordering::Relaxed);
    Ok((place, answer))
}

/// A connection to one server, which has answered on it: a frozen one's kernel accepts connections all the same.
pub(super) async fn one(client: &Client) -> RedisResult<MultiplexedConnection> {
    // The bounds are set outside, over several commands at once.
    let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None).set_concurrency_limit(IN_FLIGHT);
    let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
    redis::cmd("PING").exec_async(&mut connection).await?;
    Ok(connection)
}

impl Connection {
    /// Whether it leads to several servers, of which some may serve while another does not.
    pub(super) fn is_to_several(&self) -> bool {
        matches!(self, Self::Cluster(_))
    }

    /// Notes that it does not serve as it should: what it was told of the servers may be wrong.
    pub(super) fn doubt(&self) {
        if let Self::Cluster(nodes) = self {
            nodes.doubt();
        }
    }
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::One(connection) => connection.req_packed_command(cmd),
            Self::Cluster(nodes) => Box::pin(nodes.ask(cmd)),
        }
    }

    fn req_packed_commands<'a>(&'a mut self, pipeline: &'a Pipeline, offset: usize, count: usize) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::One(connection) => connection.req_packed_commands(pipeline, offset, count),
            // Its commands may be of several nodes.
            Self::Cluster(_) => Box::pin(async { Err((ErrorKind::Client, "no pipelines in a cluster").into()) }),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::One(connection) => connection.get_db(),
            Self::Cluster(_) => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    /// What each does when it is asked: after so many milliseconds it answers, poorly where it is said so, or fails.
    type Ways = [Option<(u64, Result<Answer<()>, ()>)>; 3];

    /// Asks them within a second; gives whose answer counts, after how many milliseconds, and who is asked first from now on.
    async fn asked(from: usize, ways: &Ways) -> (Result<usize, bool>, u128, usize) {
        let (first, bound, begun) = (AtomicUsize::new(from), Duration::from_secs(1), Instant::now());
        let ask = async |place: usize| {
            let Some((after, answer)) = &ways[place] else { return std::future::pending().await };
            tokio::time::sleep(Duration::from_millis(*after)).await;
            match answer {
                Ok(Answer::Whole(())) => Ok(Answer::Whole(())),
                Ok(Answer::Poor(())) => Ok(Answer::Poor(())),
                Err(()) => Err((ErrorKind::Client, "told to fail").into()),
            }
        };
        let answer = tokio::time::timeout(bound, first_answer(ways.len(), &first, bound, ask)).await;
        let answer = answer.map_err(|_| true).and_then(|answer| answer.map(|(place, ())| place).map_err(|_| false));
        (answer, begun.elapsed().as_millis(), first.load(Ordering::Relaxed) % ways.len())
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_whole_answer_counts_and_the_next_time_begins_there() {
        let whole = |after| Some((after, Ok(Answer::Whole(()))));
        let poor = |after| Some((after, Ok(Answer::Poor(()))));
        let fails = |after| Some((after, Err(())));
        for (from, ways, expect) in [
            (0, [whole(0), whole(0), whole(0)], (Ok(0), 0, 0)),
            (2, [whole(0), whole(0), whole(0)], (Ok(2), 0, 2)),
            // A share is a quarter of the second.
            (0, [None, whole(0), whole(0)], (Ok(1), 250, 1)),
            (0, [None, None, whole(0)], (Ok(2), 500, 2)),
            (0, [fails(0), None, whole(0)], (Ok(2), 250, 2)),
            (0, [whole(300), None, None], (Ok(0), 300, 0)),
            (0, [fails(0), fails(0), fails(0)], (Err(false), 0, 2)),
            // What is poor is taken where no other has better in its time.
            (0, [poor(0), poor(0), whole(100)], (Ok(2), 100, 2)),
            (0, [poor(0), poor(0), poor(0)], (Ok(0), 0, 0)),
            (1, [poor(0), fails(0), poor(0)], (Ok(2), 0, 2)),
            (0, [poor(0), fails(0), None], (Ok(0), 500, 0)),
            (0, [None, None, poor(0)], (Ok(2), 750, 2)),
            // Who was asked last had the least time, and is asked first the next time.
            (0, [None, None, whole(600)], (Err(true), 1_000, 2)),
            (2, [whole(600), None, None], (Ok(0), 850, 0)),
        ] {
            assert_eq!(asked(from, &ways).await, expect, "from {from}");
        }
    }
}
