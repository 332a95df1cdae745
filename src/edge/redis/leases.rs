//! Leases on probes in Redis: a sorted set for each service, its members `<instance>:<lease>`, its scores deadlines on Redis' clock.
//!
//! | key | type | holds |
//! |---|---|---|
//! | `<prefix>:{<service>}:probes` | sorted set | each lease with its deadline; gone with the last of them |
//! | `<prefix>:{<service>}:waiting` | string, 2 s | the instance that was refused one while a call waited there; others let theirs go |
//!
//! Guarantees: granting is one script, so no two instances get the last one; it looks whether the stored breaker is half-open in the life that
//! the lease is for; a lease that nobody gives back is over at its deadline, whoever's clock says what.

use std::time::Duration;

use redis::Script;

use super::{RedisStore, unreadable};
use crate::pipeline::ports::{Clock, LeaseStore, LeaseWish, Leasing, Store, StoreError};

/// How long Redis remembers who waits.
const REMEMBERED: Duration = Duration::from_secs(2);

/// The script that grants.
pub(super) fn script() -> Script {
    Script::new(concat!(include_str!("scripts/state.lua"), include_str!("scripts/lease.lua")))
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
            if self.fails_alone(&self.leases_failing, service) {
                tracing::warn!(service, error, "no leases on probes: until Redis grants them each instance has `permits` of its own");
            }
        } else if self.leases_failing.end(self.node(service)) {
            tracing::info!(service, "Redis grants leases on probes again");
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
