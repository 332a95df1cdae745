//! Redis: where breakers are shared and survive a restart. Implements [`Store`].
//!
//! Guarantees:
//! - Opening waits for nothing and fails only for a config that can never work. With Redis away or frozen every operation fails within
//!   the config's `timeout`; nothing is queued for it meanwhile.
//! - A save is one script, fenced by generation: of two savers of one generation exactly one stores.
//! - Times are compared on Redis' clock alone; hosts need not agree on theirs.
//! - A change of settings is stored only over the revision that it was laid over: of two over one revision exactly one stores.
//! - What is stored in another layout, or damaged, counts as absent, with a warning, and may be saved over.
//! - No key outside `<prefix>:`; the keys of one service share a hash tag. No error names an address or a credential.
//!
//! | key | type | holds |
//! |---|---|---|
//! | `<prefix>:{<service>}:breaker` | hash | `layout`, `generation`, `state`, `trips`, `since`, `instance`; `retry_at` while open; `lock_actor`, `lock_reason`, `lock_expires_at` while locked; once they were changed, `settings` (a `breaker` table as JSON; empty: the configured ones), `settings_revision`, `settings_actor`, `settings_reason`, `settings_instance`, `settings_at` |
//! | `<prefix>:{<service>}:history` | stream, capped | `at`, `from`, `to`, `cause`, `generation`, `instance`, `actor`, `reason`, `counts`, `fleet` |
//! | `<prefix>:{<service>}:alone` | stream, capped | the same of what was one instance's alone, with `alone` and `note`: [`history`] |
//! | `<prefix>:{<service>}:probes`, `:waiting` | sorted set, string | leases on probes, and who waits for one: [`leases`] |
//! | `<prefix>:{<service>}:window` | hash | what instances say of the service: [`evidence`] |
//! | `<prefix>:transitions:<database>` | channel | a state, or a change of settings, as JSON; its times as what is left of them |
//! | `<prefix>:layout` | string | the version that `migrate` wrote |
//!
//! Times in keys are unix milliseconds of Redis' clock. What it leaves to others: when to save, and what to do when it fails.

mod address;
mod evidence;
mod failing;
mod failure;
mod history;
mod keys;
mod layout;
mod leases;
mod link;
mod load;
mod nodes;
mod servers;
mod tunings;
mod watch;
mod wire;

pub use address::ConfigError;
pub use layout::RedisLayout;

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use futures_util::future::try_join_all;
use redis::streams::StreamRangeReply;
use redis::{Script, ScriptInvocation};
use tokio::sync::mpsc;

use crate::config;
use crate::machine::breaker::{Snapshot, Transition};
use crate::pipeline::ports::{Clock, Heard, HistoryPage, Kept, Saved, SavedTuning, Store, StoreError};
use crate::pipeline::tuning::Tuning;
use failing::Failing;
use keys::Keys;
use link::Link;
use servers::Servers;
use tunings::TuningWire;
use wire::Wire;

/// How often a subscription asks whether the server is there, at most; a shorter poll of the states is the config's wish for more.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// Breakers in Redis.
#[derive(Debug)]
pub struct RedisStore<C> {
    servers: Servers,
    link: Link,
    keys: Keys,
    instance: String,
    clock: C,
    timeout: Duration,
    poll_interval: Duration,
    kept: usize,
    load: Script,
    /// Whether one script may read several services' keys.
    together: AtomicBool,
    save: Script,
    save_settings: Script,
    lease: Script,
    evidence: Script,
    note: Script,
    leases_failing: Failing,
    evidence_failing: Failing,
}

/// Whether this config names a Redis that can be connected to, without doing so.
///
/// # Errors
/// As [`RedisStore::open`].
pub fn check(config: &config::Redis) -> Result<(), ConfigError> {
    address::servers(config).map(|_| ())
}

impl<C: Clock> RedisStore<C> {
    /// Begins to connect, in the background, and returns at once. `instance` names this process among all of its fleet: what is
    /// published in its name is not heard by its own [`Store::watch`]. Called within a tokio runtime.
    ///
    /// # Errors
    /// The URL cannot be read or asks for what is not supported; a certificate's file cannot be read.
    pub fn open(config: &config::Redis, instance: String, clock: C) -> Result<Self, ConfigError> {
        let servers = address::servers(config)?;
        let database = servers.database();
        let together = AtomicBool::new(!servers.is_cluster());
        Ok(Self {
            link: Link::new(servers.clone(), config.timeout),
            servers,
            keys: Keys::new(&config.prefix, database),
            instance,
            clock,
            timeout: config.timeout,
            poll_interval: config.poll_interval,
            kept: config.history.get(),
            load: load::script(),
            save: Script::new(concat!(include_str!("scripts/state.lua"), include_str!("scripts/save.lua"))),
            save_settings: Script::new(concat!(
                include_str!("scripts/state.lua"),
                include_str!("scripts/settings.lua"),
                include_str!("scripts/save_settings.lua")
            )),
            together,
            lease: leases::script(),
            evidence: evidence::script(),
            note: Script::new(concat!(include_str!("scripts/state.lua"), include_str!("scripts/note.lua"))),
            leases_failing: Failing::default(),
            evidence_failing: Failing::default(),
        })
    }

    /// Whether Redis answered when it was last asked. Asks nothing.
    pub fn is_up(&self) -> bool {
        self.link.is_up()
    }

    /// Notes that a question of this kind has failed now of a service; whether that is to be told, since all else is answered. Within that time a poll
    /// has stored what it had to, and read, on which a store that is away leaves it a time limit each.
    fn fails_alone(&self, kind: &Failing, service: &str) -> bool {
        kind.is_news(self.node(service), self.clock.now(), self.poll_interval + 2 * self.timeout)
    }

    /// Notes that what everything needs has failed of a service: no kind of question fails alone there.
    fn all_fails(&self, service: &str) {
        for kind in [&self.leases_failing, &self.evidence_failing] {
            kind.all_fails(self.node(service));
        }
    }

    /// What a script answers that stores.
    async fn stored(&self, service: &str, call: ScriptInvocation<'_>) -> Result<Vec<Vec<u8>>, StoreError> {
        let reply = self.link.run(|mut connection| async move { call.invoke_async(&mut connection).await }).await;
        reply.inspect_err(|_| self.all_fails(service))
    }

    /// What a script says of a change of settings.
    fn tuning(&self, reply: &[Vec<u8>]) -> Result<Tuning, StoreError> {
        tunings::from_reply(reply, self.clock.wall()).ok_or_else(unreadable)
    }

    fn state(&self, state: &[Vec<u8>]) -> Result<Snapshot, StoreError> {
        Wire::from_reply(state).and_then(|wire| wire.snapshot(self.clock.now())).ok_or_else(unreadable)
    }
}

impl<C: Clock> Store for RedisStore<C> {
    async fn load(&self, services: &[String]) -> Vec<Result<Kept, StoreError>> {
        let read = self.read(services).await;
        for (service, _) in services.iter().zip(&read).filter(|(_, kept)| kept.is_err()) {
            self.all_fails(service);
        }
        read
    }

    fn node(&self, service: &str) -> usize {
        self.servers.node(&self.keys.breaker(service))
    }

    async fn save(&self, service: &str, snapshot: &Snapshot, transition: Option<&Transition>) -> Result<Saved, StoreError> {
        if snapshot.generation.0 > wire::MAX_NUMBER {
            return Err(StoreError("the breaker's generation has more digits than are stored".to_owned()));
        }
        let now = self.clock.now();
        let wire = Wire::of(snapshot, &self.instance, now);
        let message = serde_json::to_string(&watch::Message::new(service, wire.clone()))
            .map_err(|_| StoreError("the breaker's state cannot be written".to_owned()))?;
        let fields = state_fields(&wire);

        let mut call = self.save.key(self.keys.breaker(service));
        call.key(self.keys.history(service))
            .arg(wire.generation)
            .arg(wire.age_ms)
            .arg(or_empty(wire.retry_in_ms))
            .arg(or_empty(wire.lock_expires_in_ms))
            .arg(self.keys.transitions())
            .arg(message)
            .arg(self.kept)
            .arg(or_empty(transition.map(|transition| wire::span(now.since(transition.at)))))
            .arg(fields.len())
            .arg(fields);
        if let Some(transition) = transition {
            call.arg(history::fields(transition, &self.instance));
        }
        match self.stored(service, call).await?.split_first() {
            Some((word, state)) if word == b"superseded" => self.state(state).map(Saved::Superseded),
            Some((word, untold)) if word == b"stored" => {
                warn_if_untold(service, untold);
                Ok(Saved::Stored)
            }
            _ => Err(unreadable()),
        }
    }

    async fn note(&self, service: &str, transition: &Transition) -> Result<(), StoreError> {
        let ago = wire::span(self.clock.now().since(transition.at));
        let mut call = self.note.key(self.keys.notes(service));
        call.arg(history::NOTES).arg(ago).arg(history::note(transition, &self.instance));
        self.link.run(|mut connection| async move { call.invoke_async::<i64>(&mut connection).await }).await.map(|_| ())
    }

    async fn save_tuning(&self, service: &str, tuning: &Tuning, over: u64) -> Result<SavedTuning, StoreError> {
        if tuning.revision > wire::MAX_NUMBER {
            return Err(StoreError("the settings' revision has more digits than are stored".to_owned()));
        }
        let unwritable = || StoreError("the breaker's settings cannot be written".to_owned());
        let wire = TuningWire::of(tuning, self.clock.wall()).ok_or_else(unwritable)?;
        let message = serde_json::to_string(&watch::Message::of_tuning(service, wire.clone())).map_err(|_| unwritable())?;
        let mut call = self.save_settings.key(self.keys.breaker(service));
        call.arg(over)
            .arg(wire.revision)
            .arg(wire.text())
            .arg(wire.actor)
            .arg(wire.reason)
            .arg(wire.instance)
            .arg(wire.age_ms)
            .arg(self.keys.transitions())
            .arg(message);
        match self.stored(service, call).await?.split_first() {
            Some((word, [])) if word == b"superseded" => Ok(SavedTuning::Superseded(None)),
            Some((word, stored)) if word == b"superseded" => self.tuning(stored).map(|stored| SavedTuning::Superseded(Some(stored))),
            Some((word, untold)) if word == b"stored" => {
                warn_if_untold(service, untold);
                Ok(SavedTuning::Stored)
            }
            _ => Err(unreadable()),
        }
    }

    async fn history(&self, service: &str, cursor: Option<&str>, limit: usize) -> Result<HistoryPage, StoreError> {
        if cursor.is_some_and(|cursor| !history::is_cursor(cursor)) {
            return Err(StoreError("the cursor is not one that a page of this history gave".to_owned()));
        }
        let limit = limit.min(history::MAX_PAGE);
        if limit == 0 {
            return Ok(HistoryPage::default());
        }
        let newest = cursor.map_or_else(|| "+".to_owned(), |cursor| format!("({cursor}"));
        // One more than is asked for tells whether a next page exists.
        let queries = [self.keys.history(service), self.keys.notes(service)].map(|key| {
            let mut query = redis::cmd("XREVRANGE");
            query.arg(key).arg(&newest).arg("-").arg("COUNT").arg(limit + 1);
            query
        });
        let found: Vec<StreamRangeReply> = self
            .link
            .run(|connection| {
                try_join_all(queries.into_iter().map(|query| {
                    let mut connection = connection.clone();
                    async move { query.query_async(&mut connection).await }
                }))
            })
            .await?;
        let [changes, notes] = <[_; 2]>::try_from(found).map_err(|_| unreadable())?;
        let (found, next) = history::page(changes.ids, notes.ids, limit);
        let mut entries = Vec::with_capacity(found.len());
        for kept in &found {
            match history::entry(&kept.map) {
                Some(entry) => entries.push(entry),
                None => tracing::warn!(service, entry = kept.id, "an entry of the breaker's history cannot be read; it is left out"),
            }
        }
        Ok(HistoryPage { entries, next })
    }

    fn watch(&self) -> mpsc::Receiver<Heard> {
        watch::Watch {
            servers: self.servers.clone(),
            keys: self.keys.clone(),
            instance: self.instance.clone(),
            clock: self.clock.clone(),
            timeout: self.timeout,
            heartbeat: self.poll_interval.clamp(Duration::from_millis(100), HEARTBEAT),
        }
        .spawn()
    }
}

/// The hash's fields that are no times, names and values in turn.
fn state_fields(wire: &Wire) -> Vec<String> {
    let mut fields = Vec::with_capacity(10);
    let mut put = |name: &str, value: &str| fields.extend([name.to_owned(), value.to_owned()]);
    put("state", wire.state.as_str());
    put("trips", &wire.trips.to_string());
    put("instance", &wire.instance);
    if let (Some(actor), Some(reason)) = (&wire.lock_actor, &wire.lock_reason) {
        put("lock_actor", actor);
        put("lock_reason", reason);
    }
    fields
}

fn warn_if_untold(service: &str, why: &[Vec<u8>]) {
    if why.first().is_some_and(|why| !why.is_empty()) {
        tracing::warn!(service, "the Redis user may not publish the breaker's state; other instances find it only when they poll");
    }
}

fn or_empty(ms: Option<i64>) -> String {
    ms.map(|ms| ms.to_string()).unwrap_or_default()
}

fn unreadable() -> StoreError {
    StoreError("Redis gave an answer that cannot be read".to_owned())
}
