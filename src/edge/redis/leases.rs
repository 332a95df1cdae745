//! Leases on probes in Redis: a sorted set for each service, its members `<instance>:<lease>`, its scores deadlines on Redis' clock.
//!
//! | key | type | holds |
//! |---|---|---|
//! | `<prefix>:{<service>}:probes` | sorted set | each lease with its deadline; gone with the last of them |
//! | `<prefix>:{<service>}:waiting` | string, 2 s | the instance that was refused one while a call waited there; others let theirs go |
//!
//! Guarantees: granting is one script, so no two instances get the last one; it looks whether the stored breaker is half-open in the life that
//! the lease is for; a lease that nobody gives back is over at its deadline, whoever's clock says what.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use redis::Script;

use super::{RedisStore, unreadable};
use crate::machine::time::Tick;
use crate::pipeline::ports::{Clock, LeaseStore, LeaseWish, Leasing, StoreError};

/// How long Redis remembers who waits.
const REMEMBERED: Duration = Duration::from_secs(2);

/// The script that grants.
pub(super) fn script() -> Script {
    Script::new(concat!(include_str!("scripts/state.lua"), include_str!("scripts/lease.lua")))
}

/// Questions for leases that fail while all else is answered, which would show nowhere. That Redis is away, the poll finds out, and says so.
#[derive(Debug, Default)]
pub(super) struct Failing(Mutex<Option<Since>>);

#[derive(Debug)]
struct Since {
    first: Tick,
    told: bool,
}

impl Failing {
    /// Notes that one has failed now. Whether that is to be told: once, when the first that did is longer ago than `poll`.
    fn is_news(&self, now: Tick, poll: Duration) -> bool {
        let mut failing = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let since = failing.get_or_insert(Since { first: now, told: false });
        let news = !since.told && now.since(since.first) > poll;
        since.told |= news;
        news
    }

    /// Notes that one has not failed, or that something else has.
    pub(super) fn end(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl<C: Clock> RedisStore<C> {
    fn member(&self, lease: u64) -> String {
        format!("{}:{lease}", self.instance)
    }
}

impl<C: Clock> LeaseStore for RedisStore<C> {
    async fn lease(&self, service: &str, wish: LeaseWish) -> Result<Leasing, StoreError> {
        let mut call = self.lease.key(self.keys.breaker(service));
        call.key(self.keys.probes(service))
            .key(self.keys.waiting(service))
            .arg(wish.generation.0)
            .arg(wish.permits)
            .arg(self.member(wish.lease))
            .arg(millis(wish.duration))
            .arg(&self.instance)
            .arg(if wish.urgent { "1" } else { "" })
            .arg(millis(REMEMBERED));
        let reply: Result<Vec<String>, StoreError> =
            self.link.run(|mut connection| async move { call.invoke_async(&mut connection).await }).await;
        if let Err(StoreError(error)) = &reply {
            if self.leases_failing.is_news(self.clock.now(), self.heartbeat + 2 * self.timeout) {
                tracing::warn!(service, error, "no leases on probes: until Redis grants them each instance has `permits` of its own");
            }
        } else {
            self.leases_failing.end();
        }
        let reply = reply?;
        match reply.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
            ["granted"] => Ok(Leasing::Granted),
            ["stale"] => Ok(Leasing::Stale),
            ["full", free_in] => Ok(Leasing::Full { free_in: free_in.parse().ok().map(Duration::from_millis) }),
            _ => Err(unreadable()),
        }
    }

    async fn give_back(&self, service: &str, leases: &[u64]) -> Result<(), StoreError> {
        if leases.is_empty() {
            return Ok(());
        }
        let mut query = redis::cmd("ZREM");
        query.arg(self.keys.probes(service));
        for lease in leases {
            query.arg(self.member(*lease));
        }
        self.link.run(|mut connection| async move { query.query_async::<i64>(&mut connection).await }).await.map(|_| ())
    }
}

/// A span that Redis' clock has room for.
fn millis(span: Duration) -> u64 {
    const CENTURY: u64 = 100 * 366 * 24 * 3_600_000;
    u64::try_from(span.as_millis()).unwrap_or(CENTURY).min(CENTURY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_alone_is_told_once() {
        const POLL: Duration = Duration::from_secs(3);
        let failing = Failing::default();
        let at = |ms: u64| failing.is_news(Tick(0).plus(Duration::from_millis(ms)), POLL);
        assert_eq!([0, 1_000, 3_000, 3_001, 3_002, 60_000].map(at), [false, false, false, true, false, false]);
        failing.end();
        assert_eq!([61_000, 64_000, 64_001].map(at), [false, false, true]);
    }
}
