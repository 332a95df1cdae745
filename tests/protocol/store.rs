//! What the Lua scripts do to the keys of one service, in Rust: keys and Redis' clock in, the reply and the keys after it out.
//!
//! It is the store of the models. [`super::against_redis`] holds it against the scripts themselves.

use std::collections::BTreeMap;

/// Where a key's value would be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub enum Slot<T> {
    /// There is no such key.
    #[default]
    None,
    /// Of the type that is expected.
    Of(T),
    /// Of another one.
    Other,
}

/// A sorted set of leases, or a string, with the time at which the key goes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Expiring<T> {
    pub value: T,
    pub expires_at: Option<i64>,
}

pub type Hash = BTreeMap<String, String>;

/// The keys of one service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Keys {
    pub breaker: Slot<Hash>,
    pub probes: Slot<Expiring<BTreeMap<String, i64>>>,
    pub waiting: Slot<Expiring<String>>,
    /// How many transitions are kept, and the last one but its time.
    pub history: Slot<(usize, Hash)>,
}

/// A state as the scripts answer it: every time a span from now.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    pub generation: u64,
    pub state: String,
    pub trips: u64,
    pub age: i64,
    pub retry_in: Option<i64>,
    pub expires_in: Option<i64>,
    pub actor: String,
    pub reason: String,
}

/// A change of settings as the scripts answer it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Change {
    pub revision: u64,
    pub settings: String,
    pub actor: String,
    pub reason: String,
    pub instance: String,
    pub age: i64,
}

/// What is to be saved: the script's arguments.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Save {
    pub state: State,
    pub instance: String,
    /// How long ago it was, and what is kept of it.
    pub transition: Option<(i64, Hash)>,
}

/// What a lease is asked for with.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Ask {
    pub generation: u64,
    pub permits: u32,
    pub lease: u64,
    pub duration: i64,
    pub instance: String,
    pub urgent: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Answer {
    Granted,
    Full { free_in: Option<i64> },
    Stale,
}

/// What a mended script would not do: each is one line of a script left out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Without {
    /// A save looks at the generation.
    pub fence: bool,
    /// A lease ends at its deadline.
    pub deadline: bool,
    /// There are at most so many leases.
    pub count: bool,
    /// A change of settings looks at the revision.
    pub revision: bool,
}

const LAYOUT: &str = "1";
const REMEMBERED: i64 = 2_000;
const LOCKS: [&str; 3] = ["forced_open", "forced_closed", "metrics_only"];

pub fn is_lock(state: &str) -> bool {
    LOCKS.contains(&state)
}

/// A whole number of at most 15 digits.
fn whole(text: Option<&String>) -> Option<u64> {
    text.filter(|text| !text.is_empty() && text.len() <= 15 && text.bytes().all(|byte| byte.is_ascii_digit()))?.parse().ok()
}

fn whole_time(text: Option<&String>) -> Option<i64> {
    whole(text).and_then(|time| i64::try_from(time).ok())
}

impl<T> Slot<Expiring<T>> {
    fn expire(&mut self, now: i64) {
        if let Self::Of(Expiring { expires_at: Some(at), .. }) = self
            && *at < now
        {
            *self = Self::None;
        }
    }
}

impl Keys {
    /// Redis' own expiry of keys.
    pub fn expire(&mut self, now: i64) {
        self.probes.expire(now);
        self.waiting.expire(now);
    }

    fn hash(&self) -> Option<&Hash> {
        if let Slot::Of(hash) = &self.breaker { Some(hash) } else { None }
    }

    fn write(&mut self) -> &mut Hash {
        if !matches!(self.breaker, Slot::Of(_)) {
            self.breaker = Slot::Of(Hash::new());
        }
        let Slot::Of(hash) = &mut self.breaker else { unreachable!("just made") };
        hash
    }

    /// `state.lua`: the state, nothing, or why what is there is none.
    pub fn state(&self, now: i64) -> Result<Option<State>, &'static str> {
        let hash = match &self.breaker {
            Slot::None => return Ok(None),
            Slot::Other => return Err("it is not a hash"),
            Slot::Of(hash) => hash,
        };
        let get = |name: &str| hash.get(name);
        let names =
            ["layout", "generation", "state", "trips", "since", "retry_at", "lock_expires_at", "lock_actor", "lock_reason", "instance"];
        if names.iter().all(|name| get(name).is_none()) && get("settings_revision").is_some() {
            return Ok(None);
        }
        if get("layout").is_none_or(|layout| layout != LAYOUT) {
            return Err("its layout is not version 1");
        }
        let generation = whole(get("generation")).ok_or("its generation is not a number")?;
        let trips = whole(get("trips")).ok_or("its trips is not a number")?;
        let since = whole_time(get("since")).ok_or("its since is not a time")?;
        let state = get("state").cloned().unwrap_or_default();
        if !["closed", "open", "half_open"].contains(&state.as_str()) && !is_lock(&state) {
            return Err("its state is none that is known");
        }
        let mut read = State {
            generation,
            trips,
            age: now - since,
            retry_in: None,
            expires_in: None,
            actor: String::new(),
            reason: String::new(),
            state,
        };
        if read.state == "open" {
            read.retry_in = Some(whole_time(get("retry_at")).ok_or("it is open and its retry_at is not a time")? - now);
        } else if is_lock(&read.state) {
            let (Some(actor), Some(reason)) = (get("lock_actor"), get("lock_reason")) else {
                return Err("it is locked without actor or reason");
            };
            (read.actor, read.reason) = (actor.clone(), reason.clone());
            if let Some(at) = get("lock_expires_at") {
                read.expires_in = Some(whole_time(Some(at)).ok_or("its lock_expires_at is not a time")? - now);
            }
        }
        Ok(Some(read))
    }

    /// `save.lua`: what was there already, or `None`: it is stored.
    pub fn save(&mut self, now: i64, save: &Save, without: Without) -> Option<State> {
        if let Ok(Some(stored)) = self.state(now)
            && stored.generation >= save.state.generation
            && !without.fence
        {
            return Some(stored);
        }
        if let Some((age, fields)) = &save.transition {
            let kept = if let Slot::Of((kept, _)) = &self.history { *kept } else { 0 };
            let mut fields = fields.clone();
            fields.insert("at".to_owned(), 0.max(now - age).to_string());
            self.history = Slot::Of((kept + 1, fields));
        }
        let State { generation, state, trips, age, retry_in, expires_in, actor, reason } = save.state.clone();
        let locked = is_lock(&state);
        let hash = self.write();
        for name in ["retry_at", "lock_expires_at", "lock_actor", "lock_reason"] {
            hash.remove(name);
        }
        let mut put = |name: &str, value: String| hash.insert(name.to_owned(), value);
        put("layout", LAYOUT.to_owned());
        put("generation", generation.to_string());
        put("since", 0.max(now - age).to_string());
        put("state", state);
        put("trips", trips.to_string());
        put("instance", save.instance.clone());
        if locked {
            put("lock_actor", actor);
            put("lock_reason", reason);
        }
        if let Some(span) = retry_in {
            put("retry_at", (now + span).to_string());
        }
        if let Some(span) = expires_in {
            put("lock_expires_at", (now + span).to_string());
        }
        None
    }

    /// `lease.lua`.
    pub fn lease(&mut self, now: i64, ask: &Ask, without: Without) -> Answer {
        self.expire(now);
        if matches!(self.waiting, Slot::Other) {
            self.waiting = Slot::None;
        }
        let Expiring { value: mut leases, mut expires_at } = match std::mem::take(&mut self.probes) {
            Slot::Of(leases) => leases,
            Slot::None | Slot::Other => Expiring::default(),
        };
        leases.retain(|_, deadline| *deadline > now || without.deadline);
        let stale = self.hash().is_none_or(|hash| {
            let get = |name: &str| hash.get(name);
            get("layout").is_none_or(|layout| layout != LAYOUT)
                || whole(get("generation")) != Some(ask.generation)
                || get("state").is_none_or(|state| state != "half_open")
        });
        let member = format!("{}:{}", ask.instance, ask.lease);
        let waiting = if let Slot::Of(waiting) = &self.waiting { Some(waiting.value.clone()) } else { None };
        let yields = waiting.as_ref().is_some_and(|waiting| *waiting != ask.instance) && !ask.urgent;
        let room = without.count || leases.len() < ask.permits as usize || leases.contains_key(&member);
        let answer = if stale {
            Answer::Stale
        } else if !yields && room {
            leases.insert(member, now + ask.duration);
            expires_at = if without.deadline { None } else { leases.values().max().copied() };
            if waiting.as_ref() == Some(&ask.instance) {
                self.waiting = Slot::None;
            }
            Answer::Granted
        } else {
            if ask.urgent && waiting.as_ref().is_none_or(|waiting| *waiting == ask.instance) {
                self.waiting = Slot::Of(Expiring { value: ask.instance.clone(), expires_at: Some(now + REMEMBERED) });
            }
            Answer::Full { free_in: leases.values().min().map(|first| first - now) }
        };
        // A key that is to go at once goes.
        if !leases.is_empty() && expires_at.is_none_or(|at| at > now) {
            self.probes = Slot::Of(Expiring { value: leases, expires_at });
        }
        answer
    }

    /// `ZREM`. Of another type it is an error: false.
    pub fn give_back(&mut self, now: i64, instance: &str, leases: &[u64]) -> bool {
        self.expire(now);
        if let Slot::Of(held) = &mut self.probes {
            held.value.retain(|member, _| !leases.iter().any(|lease| *member == format!("{instance}:{lease}")));
            if held.value.is_empty() {
                self.probes = Slot::None;
            }
        }
        leases.is_empty() || !matches!(self.probes, Slot::Other)
    }

    /// `load_settings.lua`.
    pub fn change(&self, now: i64) -> Option<Change> {
        let hash = self.hash()?;
        let get = |name: &str| hash.get(name);
        let (revision, at) = (whole(get("settings_revision"))?, whole_time(get("settings_at"))?);
        let text = |name: &str| get(name).cloned().unwrap_or_default();
        get("layout").is_none_or(|layout| layout == LAYOUT).then(|| Change {
            revision,
            settings: text("settings"),
            actor: text("settings_actor"),
            reason: text("settings_reason"),
            instance: text("settings_instance"),
            age: now - at,
        })
    }

    /// `save_settings.lua`: what was there instead, or `None`: it is stored.
    pub fn save_change(&mut self, now: i64, change: &Change, over: u64, without: Without) -> Option<Option<Change>> {
        let stored = self.change(now);
        if stored.as_ref().map_or(0, |stored| stored.revision) != over && !without.revision {
            return Some(stored);
        }
        if self.hash().is_some_and(|hash| hash.get("layout").is_some_and(|layout| layout != LAYOUT)) {
            self.breaker = Slot::None;
        }
        let Change { revision, settings, actor, reason, instance, age } = change.clone();
        let hash = self.write();
        let fields = [
            ("settings_revision", revision.to_string()),
            ("settings", settings),
            ("settings_actor", actor),
            ("settings_reason", reason),
            ("settings_instance", instance),
            ("settings_at", 0.max(now - age).to_string()),
        ];
        hash.extend(fields.map(|(name, value)| (name.to_owned(), value)));
        None
    }
}
