//! The twin of the scripts against the scripts themselves, through the program's own operations: histories from seeds, with damaged hashes, keys
//! of other types and of other layouts among them. After every operation the reply and the keys agree.
//!
//! Redis' clock is real. It is read before and after each operation; the twin must agree at one of the milliseconds between.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::num::NonZeroUsize;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fusebox::config;
use fusebox::edge::redis::RedisStore;
use fusebox::event::UnixMillis;
use fusebox::machine::breaker::{
    Cause, Counts, Generation, Held, Lock, LockKind, PolicySettings, Settings, Snapshot, StateName, Testimony, Transition,
};
use fusebox::machine::time::Tick;
use fusebox::pipeline::ports::{Clock, EvidenceStore, Kept, LeaseStore, LeaseWish, Leasing, Saved, SavedTuning, Store, Telling};
use fusebox::pipeline::tuning::{Chosen, Tuning};

use super::chance::Chance;
use super::store::{Answer, Ask, Change, Expiring, Hash, Keys, Save, Slot, State, Without};
use super::wire;

const NOW: Tick = Tick(1_000_000);

/// Histories and the operations of each.
const HISTORIES: u64 = 12;
const OPERATIONS: usize = 600;

/// A clock that stands still: times come back moved by Redis' clock alone.
#[derive(Debug, Clone)]
struct Still;

impl Clock for Still {
    fn now(&self) -> Tick {
        NOW
    }
    fn wall(&self) -> UnixMillis {
        UnixMillis(0)
    }
    fn instant(&self, _at: Tick) -> Option<tokio::time::Instant> {
        None
    }
}

struct Redis {
    own: Option<Child>,
    url: String,
}

impl Redis {
    fn new() -> Self {
        if let Ok(url) = std::env::var("REDIS_URL") {
            return Self { own: None, url };
        }
        let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port();
        let own = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        let from = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(from.elapsed() < Duration::from_secs(20), "redis-server does not come up");
            std::thread::sleep(Duration::from_millis(5));
        }
        Self { own: Some(own), url: format!("redis://127.0.0.1:{port}/0") }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        if let Some(child) = &mut self.own {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// All keys of a service at one moment of Redis' clock.
const LOOK: &str = r"
local time = redis.call('TIME')
local seen = { string.format('%.0f', tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)) }
for i, key in ipairs(KEYS) do
  local kind, value = redis.call('TYPE', key).ok, {}
  if kind == 'hash' then value = redis.call('HGETALL', key)
  elseif kind == 'zset' then value = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')
  elseif kind == 'string' then value = { redis.call('GET', key) }
  elseif kind == 'stream' then
    if string.match(key, ':alone$') then
      for _, entry in ipairs(redis.call('XRANGE', key, '-', '+')) do value[#value + 1] = cjson.encode(entry[2]) end
    else
      value = { tostring(redis.call('XLEN', key)) }
      local last = redis.call('XREVRANGE', key, '+', '-', 'COUNT', 1)[1]
      for _, word in ipairs(last and last[2] or {}) do value[#value + 1] = word end
    end
  end
  seen[#seen + 1] = { kind, string.format('%.0f', redis.call('PEXPIRETIME', key)), value }
end
return seen";

fn pairs(words: &[String]) -> Hash {
    words.chunks(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect()
}

/// One service's keys in a real Redis, and the twin's.
struct World {
    raw: redis::Connection,
    prefix: String,
    stores: Vec<RedisStore<Still>>,
    twin: Keys,
    granted: usize,
    damaged: usize,
    /// Notes that were there, and others.
    noted: [usize; 2],
    heard: usize,
}

type Seen = (i64, Vec<(String, String, Vec<String>)>);

impl World {
    fn new(redis: &Redis, prefix: String) -> Self {
        let config = config::Redis {
            url: redis.url.as_str().into(),
            sentinels: None,
            prefix: prefix.clone(),
            timeout: Duration::from_secs(20),
            poll_interval: Duration::from_secs(1),
            history: NonZeroUsize::new(1_000_000).expect("not zero"),
            ca: None,
            identity: None,
        };
        let open = |instance: &str| RedisStore::open(&config, instance.to_owned(), Still).expect("a config that can work");
        let raw = redis::Client::open(redis.url.as_str()).and_then(|client| client.get_connection()).expect("Redis is there");
        Self {
            raw,
            prefix,
            stores: ["a", "b", "c"].map(open).into(),
            twin: Keys::default(),
            granted: 0,
            damaged: 0,
            noted: [0; 2],
            heard: 0,
        }
    }

    fn key(&self, what: &str) -> String {
        format!("{}:{{rag}}:{what}", self.prefix)
    }

    fn time(&mut self) -> i64 {
        let (seconds, micros): (i64, i64) = redis::cmd("TIME").query(&mut self.raw).expect("a time");
        seconds * 1_000 + micros / 1_000
    }

    fn look(&mut self) -> (i64, Keys) {
        let script = redis::Script::new(LOOK);
        let mut call = script.prepare_invoke();
        for what in ["breaker", "probes", "waiting", "history", "alone", "window"] {
            call.key(self.key(what));
        }
        let seen: redis::Value = call.invoke(&mut self.raw).expect("looked");
        let redis::Value::Array(mut parts) = seen else { panic!("{seen:?}") };
        let keys: Vec<(String, String, Vec<String>)> =
            parts.drain(1..).map(|part| redis::FromRedisValue::from_redis_value(part).expect("a key")).collect();
        let now: String = redis::FromRedisValue::from_redis_value(parts.remove(0)).expect("a time");
        let (now, keys): Seen = (now.parse().expect("a time"), keys);
        let [breaker, probes, waiting, history, notes, window] = keys.as_slice() else { panic!("six keys") };
        let expiring = |text: &str| text.parse().ok().filter(|at| *at >= 0);
        let slot = |key: &(String, String, Vec<String>), kind: &str| match key.0.as_str() {
            "none" => Slot::None,
            other if other == kind => Slot::Of(()),
            _ => Slot::Other,
        };
        fn with<T>(slot: &Slot<()>, value: impl FnOnce() -> T) -> Slot<T> {
            match slot {
                Slot::None => Slot::None,
                Slot::Other => Slot::Other,
                Slot::Of(()) => Slot::Of(value()),
            }
        }
        let keys = Keys {
            breaker: with(&slot(breaker, "hash"), || pairs(&breaker.2)),
            probes: with(&slot(probes, "zset"), || Expiring {
                value: pairs(&probes.2).into_iter().map(|(lease, at)| (lease, at.parse().expect("a deadline"))).collect::<BTreeMap<_, _>>(),
                expires_at: expiring(&probes.1),
            }),
            waiting: with(&slot(waiting, "string"), || Expiring { value: waiting.2[0].clone(), expires_at: expiring(&waiting.1) }),
            history: with(&slot(history, "stream"), || (history.2[0].parse().expect("a number"), pairs(&history.2[1..]))),
            notes: with(&slot(notes, "stream"), || {
                let words = |text: &String| pairs(&serde_json::from_str::<Vec<String>>(text).expect("an entry"));
                notes.2.iter().map(words).collect()
            }),
            window: with(&slot(window, "hash"), || Expiring { value: pairs(&window.2), expires_at: expiring(&window.1) }),
        };
        (now, keys)
    }

    /// Whether at some moment between `before` and now the twin does the same, and leaves the same keys.
    fn agrees<R: PartialEq + std::fmt::Debug>(
        &mut self,
        before: i64,
        what: &dyn std::fmt::Debug,
        reply: &R,
        twin: impl Fn(&mut Keys, i64) -> R,
    ) {
        let after = self.time();
        // A key whose time is over by now may have gone a millisecond before: in Redis 7.0 a script's TIME is not the time that keys go by.
        let (looked, mut keys) = self.look();
        keys.expire(looked + 1);
        let mut tried = Vec::new();
        for now in before..=after {
            let mut ours = self.twin.clone();
            ours.expire(now);
            let answer = twin(&mut ours, now);
            // Of the same cause, what is said as a span ends by a clock that went on meanwhile.
            if let (Slot::Of(Expiring { expires_at: Some(ours), .. }), Slot::Of(Expiring { expires_at: Some(theirs), .. })) =
                (&mut ours.waiting, &keys.waiting)
                && (*ours..=*ours + after - now).contains(theirs)
            {
                *ours = *theirs;
            }
            let left = ours.clone();
            ours.expire(looked + 1);
            if answer == *reply && ours == keys {
                self.twin = left;
                return;
            }
            tried.push((now, answer, ours));
        }
        panic!("{what:?}\nover {:#?}\nanswered {reply:?}\nand left {keys:#?}\nthe twin: {:#?}", self.twin, tried.last());
    }

    async fn save(&mut self, chance: &mut Chance) {
        let by = chance.of(&[0, 1, 2]);
        let sent = any_snapshot(chance);
        let transition = chance.one_in(2).then(|| any_transition(chance, sent.generation));
        let save = Save {
            state: wire::state_of(&sent, NOW),
            instance: ["a", "b", "c"][by].to_owned(),
            transition: transition.as_ref().map(|transition| (5_000, kept(transition, ["a", "b", "c"][by]))),
        };
        let before = self.time();
        let reply = self.stores[by].save("rag", &sent, transition.as_ref()).await;
        self.agrees(before, &("save", &save), &reply, |keys, now| {
            Ok(match keys.save(now, &save, Without::default()) {
                None => Saved::Stored,
                Some(stored) => Saved::Superseded(wire::snapshot_of(&stored, NOW)),
            })
        });
    }

    async fn load(&mut self) {
        let before = self.time();
        let reply = self.stores[0].load(&["rag".to_owned()]).await;
        self.agrees(before, &"load", &reply, |keys, now| {
            let state = keys.state(now).unwrap_or(None).map(|state| wire::snapshot_of(&state, NOW));
            vec![Ok(Kept { state, tuning: keys.change(now).map(|change| tuning_of(&change)) })]
        });
    }

    async fn lease(&mut self, chance: &mut Chance) {
        let by = chance.of(&[0, 1, 2]);
        let stored = self.twin.state(0).ok().flatten().map_or(0, |state| state.generation);
        let wish = LeaseWish {
            lease: chance.below(3),
            generation: Generation(if chance.one_in(6) { chance.below(5) } else { stored }),
            permits: chance.of(&[1, 2, 4]),
            duration: Duration::from_millis(chance.of(&[0, 1, 3, 10, 60_000, 60_001])),
            urgent: chance.one_in(2),
        };
        let ask = Ask {
            generation: wish.generation.0,
            permits: wish.permits,
            lease: wish.lease,
            duration: i64::try_from(wish.duration.as_millis()).expect("short"),
            instance: ["a", "b", "c"][by].to_owned(),
            urgent: wish.urgent,
        };
        let before = self.time();
        let reply = self.stores[by].lease("rag", wish).await;
        self.granted += usize::from(reply == Ok(Leasing::Granted));
        self.agrees(before, &ask, &reply, |keys, now| {
            Ok(match keys.lease(now, &ask, Without::default()) {
                Answer::Granted => Leasing::Granted,
                Answer::Stale => Leasing::Stale,
                Answer::Full { free_in } => {
                    Leasing::Full { free_in: free_in.and_then(|span| u64::try_from(span).ok()).map(Duration::from_millis) }
                }
            })
        });
    }

    async fn give_back(&mut self, chance: &mut Chance) {
        let by = chance.of(&[0, 1, 2]);
        let leases = chance.of(&[vec![0], vec![0, 1], vec![2], vec![]]);
        let before = self.time();
        let reply = self.stores[by].give_back("rag", &leases).await.is_ok();
        self.agrees(before, &("give back", by, &leases), &reply, |keys, now| keys.give_back(now, ["a", "b", "c"][by], &leases));
    }

    async fn save_settings(&mut self, chance: &mut Chance) {
        let by = chance.of(&[0, 1, 2]);
        let stored = self.twin.change(0).map_or(0, |change| change.revision);
        let over = if chance.one_in(4) { chance.below(4) } else { stored };
        // More digits than are stored: the program does not ask for it.
        if over > 999_999_999_999_000 {
            return;
        }
        let tuning = Tuning {
            revision: over + 1 + chance.below(2),
            chosen: if chance.one_in(3) { Chosen::Configured } else { Chosen::Given(Arc::new(settings(1 + chance.below(9)))) },
            actor: chance.of(&["ann", "λ"]).to_owned(),
            reason: chance.of(&["", "why \"not\""]).to_owned(),
            at: UnixMillis(-i64::try_from(chance.below(3_000)).expect("short")),
            instance: ["a", "b", "c"][by].to_owned(),
        };
        let change = change_of(&tuning);
        let before = self.time();
        let reply = self.stores[by].save_tuning("rag", &tuning, over).await;
        self.agrees(before, &("save settings", &change, over), &reply, |keys, now| {
            Ok(match keys.save_change(now, &change, over, Without::default()) {
                None => SavedTuning::Stored,
                Some(stored) => SavedTuning::Superseded(stored.as_ref().map(tuning_of)),
            })
        });
    }

    async fn note(&mut self, chance: &mut Chance) {
        let by = chance.of(&[0, 1, 2]);
        let instance = ["a", "b", "c"][by];
        // Some of them were noted before.
        let at = Tick(NOW.0 - chance.below(40));
        let transition = Transition { alone: true, at, counts: Counts::default(), ..any_transition(chance, Generation(7)) };
        let mut fields = kept(&transition, instance);
        fields.insert("alone".to_owned(), "1".to_owned());
        fields.insert("note".to_owned(), format!("{instance} {} closed open", at.0));
        let before = self.time();
        let reply = self.stores[by].note("rag", &transition).await;
        let age = i64::try_from(NOW.since(at).as_millis()).expect("short");
        let noted = self.twin.clone().note(before, age, &fields);
        self.noted[usize::from(noted)] += 1;
        self.agrees(before, &("note", &fields), &reply, |keys, now| {
            keys.note(now, age, &fields);
            Ok(())
        });
    }

    async fn tell(&mut self, chance: &mut Chance) {
        let by = chance.of(&[0, 1, 2]);
        let counts = |chance: &mut Chance| Counts {
            calls: chance.below(3),
            failures: chance.below(2),
            slow: 0,
            consecutive_failures: chance.below(2),
        };
        let testimony = Testimony {
            generation: Generation(chance.of(&[3, 3, 3, 4, 999_999_999_999_999])),
            alone: chance.one_in(3),
            kind: chance.below(3),
            figures: (0..1 + chance.below(2)).map(|_| counts(chance)).collect(),
            retry_after: chance.one_in(4).then(|| Duration::from_millis(chance.below(9_000))),
        };
        let lasts = Duration::from_millis(chance.of(&[0, 1, 5, 60_000, 60_000, 60_001]));
        let telling = wire::tell_of(&testimony, lasts, ["a", "b", "c"][by]);
        let generation = testimony.generation;
        let before = self.time();
        let reply = self.stores[by].tell(&[Telling { service: "rag".to_owned(), testimony, lasts }]).await.remove(0);
        let reply = reply.map(|mut heard| {
            heard.sort_by(|one, other| one.instance.cmp(&other.instance));
            heard
        });
        self.heard += reply.iter().map(Vec::len).sum::<usize>();
        self.agrees(before, &telling, &reply, |keys, now| Ok(wire::told_of(keys.tell(now, &telling, Without::default()), generation)));
    }

    /// Somebody else's hand, or a version that is not ours.
    fn damage(&mut self, chance: &mut Chance) {
        self.damaged += 1;
        let mut command = redis::Cmd::new();
        match chance.below(13) {
            0..5 => {
                let field = chance.of(&[
                    "layout",
                    "generation",
                    "state",
                    "trips",
                    "since",
                    "retry_at",
                    "lock_expires_at",
                    "lock_actor",
                    "lock_reason",
                    "settings_revision",
                    "settings",
                    "settings_at",
                    "mood",
                ]);
                let value =
                    chance.of(&["", "2", "-1", "1.5", "0x10", "1e400", "nan", "999999999999999", "1000000000000000", "half_open", "[]"]);
                if chance.one_in(3) {
                    command.arg("HDEL").arg(self.key("breaker")).arg(field);
                } else {
                    if matches!(self.twin.breaker, Slot::Other) {
                        return;
                    }
                    command.arg("HSET").arg(self.key("breaker")).arg(field).arg(value);
                }
            }
            5 => {
                let what = chance.of(&["breaker", "probes", "waiting", "history", "alone", "window"]);
                command.arg("DEL").arg(self.key(what));
            }
            6 | 7 => {
                let (command, what) = (&mut command, chance.of(&["breaker", "probes", "history", "alone", "window"]));
                command.arg("SET").arg(self.key(what)).arg("a string");
            }
            8..11 if !matches!(self.twin.window, Slot::Other) => {
                let said = chance.of(&[
                    "",
                    "3",
                    "3 9",
                    "3 9 ",
                    "x 9999999999999 1 1 1/1/1/1",
                    "3 0x10 1 1 1/1/1/1",
                    "3 1 1 1 1/1/1/1",
                    "3 99999999999999 1 1 1/1/1/1",
                    "3 99999999999999 2 1 1/1/1/1",
                    "3 99999999999999 0 1 1/1/1",
                    "4 99999999999999 what",
                    "3 999999999999999 0 x 1/1/1/1",
                    "3 99999999999999 1 1 1/1/1/-1",
                    "3 1000000000000000 1 1 1/1/1/1",
                ]);
                let instance = chance.of(&["a", "b", "c", "d", "λ"]);
                command.arg("HSET").arg(self.key("window")).arg(instance).arg(said);
            }
            11 => {
                command.arg("PEXPIRE").arg(self.key("window")).arg(chance.of(&[1, 50]));
            }
            8..11 => {
                let _: () = redis::cmd("DEL").arg(self.key("waiting")).query(&mut self.raw).expect("gone");
                command.arg("RPUSH").arg(self.key("waiting")).arg("a list");
            }
            _ => {
                command.arg("PEXPIRE").arg(self.key("waiting")).arg(1);
            }
        }
        // What it may not touch stays.
        let _: redis::RedisResult<redis::Value> = command.query(&mut self.raw);
        self.twin = self.look().1;
    }
}

fn any_snapshot(chance: &mut Chance) -> Snapshot {
    let time = |chance: &mut Chance| Tick(NOW.0 + chance.below(4_000) - 1_000);
    let held = match chance.below(7) {
        0 => Held::Closed,
        1 => Held::Open { until: time(chance) },
        2..5 => Held::HalfOpen,
        _ => Held::Locked(Lock {
            kind: chance.of(&[LockKind::ForcedOpen, LockKind::ForcedClosed, LockKind::MetricsOnly]),
            actor: chance.of(&["ann", "λ"]).to_owned(),
            reason: chance.of(&["", "a \"deploy\""]).to_owned(),
            expires_at: chance.one_in(2).then(|| time(chance)),
        }),
    };
    let generation = Generation(chance.of(&[0, 1, 2, 3, 4, 99_999_999, 100_000_000, 999_999_999_999_999]));
    Snapshot { generation, held, trips: chance.of(&[0, 1, 7, u32::MAX]), since: chance.of(&[Tick(0), NOW, Tick(NOW.0 + 9), Tick(990_000)]) }
}

fn any_transition(chance: &mut Chance, generation: Generation) -> Transition {
    Transition {
        from: StateName::Closed,
        to: StateName::Open,
        cause: Cause::Policy,
        generation,
        at: Tick(NOW.0 - 5_000),
        counts: Counts { calls: chance.below(9), failures: 3, slow: 1, consecutive_failures: 2 },
        actor: chance.one_in(2).then(|| "ann".to_owned()),
        reason: chance.one_in(2).then(|| "why".to_owned()),
        alone: false,
        fleet: None,
    }
}

/// What a history's entry says beside its time.
fn kept(transition: &Transition, instance: &str) -> Hash {
    let mut fields = Hash::new();
    let mut put = |name: &str, value: String| fields.insert(name.to_owned(), value);
    put("from", "closed".to_owned());
    put("to", "open".to_owned());
    put("cause", "policy".to_owned());
    put("generation", transition.generation.0.to_string());
    put("instance", instance.to_owned());
    put("counts", serde_json::to_string(&transition.counts).expect("four numbers"));
    for (name, value) in [("actor", &transition.actor), ("reason", &transition.reason)] {
        if let Some(value) = value {
            put(name, value.clone());
        }
    }
    fields
}

fn settings(fail_max: u64) -> Settings {
    let fail_max = u32::try_from(fail_max).ok().and_then(|number| number.try_into().ok()).expect("not zero");
    config::read_breaker(
        config::breaker_table(&Settings::new(PolicySettings::Consecutive { fail_max }, Duration::from_millis(1_500), Duration::ZERO)),
        Duration::ZERO,
    )
    .expect("its own form")
}

fn change_of(tuning: &Tuning) -> Change {
    let settings = match &tuning.chosen {
        Chosen::Given(settings) => serde_json::Value::from(config::breaker_table(settings)).to_string(),
        Chosen::Configured | Chosen::Unreadable(_) => String::new(),
    };
    let Tuning { revision, actor, reason, at, instance, .. } = tuning.clone();
    Change { revision, settings, actor, reason, instance, age: -at.0 }
}

/// What a reply is read as: the text of the settings is the config's to read, and is tested there.
fn tuning_of(change: &Change) -> Tuning {
    let Change { revision, settings, actor, reason, instance, age } = change.clone();
    let table: Result<serde_json::Map<String, serde_json::Value>, _> = serde_json::from_str(&settings);
    let chosen = match table {
        _ if settings.is_empty() => Chosen::Configured,
        Ok(table) => Chosen::Given(Arc::new(config::read_breaker(table, Duration::ZERO).expect("no damage makes an object"))),
        Err(_) => Chosen::Unreadable("it is no JSON object".to_owned()),
    };
    Tuning { revision, chosen, actor, reason, at: UnixMillis(-age.max(0)), instance }
}

#[tokio::test]
async fn the_twin_does_what_the_scripts_do() {
    let redis = Redis::new();
    let (mut granted, mut damaged, mut again, mut heard) = (0, 0, 0, 0);
    for seed in 0..HISTORIES {
        let mut chance = Chance(seed);
        let mut world = World::new(&redis, format!("protocol-{}-{seed}", std::process::id()));
        for _ in 0..OPERATIONS {
            match chance.below(29) {
                0..5 => world.save(&mut chance).await,
                5 => world.load().await,
                6..13 => world.lease(&mut chance).await,
                13 | 14 => world.give_back(&mut chance).await,
                15 => world.load().await,
                16 | 17 => world.save_settings(&mut chance).await,
                18 | 19 => world.damage(&mut chance),
                20..23 => world.note(&mut chance).await,
                23..28 => world.tell(&mut chance).await,
                _ => tokio::time::sleep(Duration::from_millis(chance.below(4))).await,
            }
        }
        (granted, damaged) = (granted + world.granted, damaged + world.damaged);
        (again, heard) = (again + world.noted[0], heard + world.heard);
    }
    assert!(granted > 100 && damaged > 50, "the histories say something: {granted} leases, {damaged} times damaged");
    assert!(again > 40 && heard > 200, "{again} notes twice, {heard} times heard of another");
}

#[test]
fn a_state_is_no_state_of_the_twin_that_lost_a_field() {
    let save = Save {
        state: wire::state_of(&Snapshot { generation: Generation(1), held: Held::HalfOpen, trips: 0, since: NOW }, NOW),
        instance: "a".into(),
        transition: None,
    };
    let mut keys = Keys::default();
    assert_eq!(keys.save(5, &save, Without::default()), None);
    assert!(matches!(keys.state(5), Ok(Some(State { generation: 1, .. }))));
    let Slot::Of(hash) = &mut keys.breaker else { panic!("saved") };
    hash.remove("since");
    assert!(keys.state(5).is_err());
}
