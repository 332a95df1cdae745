//! Services that are up, down, slow or hanging for a while each, as the seed says, and a journal of every call.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use fusebox::event::Headers;
use fusebox::pipeline::ports::{Body, Call, CallError, Caller, Reply};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::de::IgnoredAny;
use tokio::time::Instant;

/// How a service is for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    Well,
    Failing,
    Hanging,
    Slow,
    Unreachable,
    Rejecting,
    Babbling,
}

const MOODS: [Mood; 7] = [Mood::Well, Mood::Failing, Mood::Hanging, Mood::Slow, Mood::Unreachable, Mood::Rejecting, Mood::Babbling];

/// One call, as the service saw it.
#[derive(Debug, Clone)]
pub struct Entry {
    pub key: String,
    pub status: Option<u16>,
}

pub struct Services {
    origin: Instant,
    well_from: Duration,
    /// For each service, from when on it is in which mood.
    moods: Vec<BTreeMap<Duration, Mood>>,
    journal: Mutex<Vec<Entry>>,
    delivered: Mutex<BTreeSet<String>>,
    dice: Mutex<StdRng>,
    /// The key whose calls are slow, or hang, and how long those take that do not.
    slow_key: Option<SlowKey>,
    /// Told of each call as it begins and ends.
    observe: Box<dyn Fn(usize, &str, Moment) + Send + Sync>,
}

/// A key whose calls take their time until peace comes, whatever the services' moods.
#[derive(Debug, Clone)]
pub struct SlowKey {
    pub key: String,
    /// `None`: its calls never end.
    pub takes: Option<Duration>,
}

/// Of a call.
pub enum Moment {
    Begins,
    /// With a status, or without.
    Ends(Option<u16>),
}

impl Services {
    pub fn new(
        seed: u64,
        services: usize,
        well_from: Duration,
        slow_key: Option<SlowKey>,
        observe: Box<dyn Fn(usize, &str, Moment) + Send + Sync>,
    ) -> Arc<Self> {
        let mut dice = StdRng::seed_from_u64(seed ^ 0x5e21ce);
        let moods = (0..services)
            .map(|_| {
                let mut moods = BTreeMap::from([(Duration::ZERO, Mood::Well)]);
                let mut at = if slow_key.is_some() { well_from } else { Duration::ZERO };
                loop {
                    at += Duration::from_millis(dice.random_range(200..8_000));
                    if at >= well_from {
                        break;
                    }
                    let mood = if dice.random_bool(0.5) { Mood::Well } else { MOODS[dice.random_range(0..MOODS.len())] };
                    moods.insert(at, mood);
                }
                moods.insert(well_from, Mood::Well);
                moods
            })
            .collect();
        Arc::new(Self {
            origin: Instant::now(),
            moods,
            journal: Mutex::default(),
            delivered: Mutex::default(),
            dice: Mutex::new(dice),
            slow_key,
            well_from,
            observe,
        })
    }

    fn mood(&self, service: usize) -> Mood {
        let now = self.origin.elapsed();
        self.moods[service].range(..=now).next_back().map_or(Mood::Well, |(_, mood)| *mood)
    }

    /// The slow key, if a request is for an event of it, and its time is not over.
    fn slow_key(&self, body: &[u8]) -> Option<&SlowKey> {
        let slow = self.slow_key.as_ref().filter(|_| self.origin.elapsed() < self.well_from)?;
        let named = format!("\"{}\"", slow.key);
        body.windows(named.len()).any(|window| window == named.as_bytes()).then_some(slow)
    }

    /// Whether an event's parked call was answered well.
    pub fn delivered(&self, event_id: &str) -> bool {
        self.delivered.lock().expect("unpoisoned").contains(&format!("{event_id}/notifier"))
    }

    pub fn journal(&self) -> Vec<Entry> {
        self.journal.lock().expect("unpoisoned").clone()
    }
}

/// Marks a call's end, also when the caller drops it.
struct Ending<'a> {
    services: &'a Services,
    entry: usize,
    service: usize,
    key: String,
    status: Option<u16>,
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        // A check has failed: it is to be read, and a second one would end the process.
        if std::thread::panicking() {
            return;
        }
        let mut journal = self.services.journal.lock().expect("unpoisoned");
        journal[self.entry].status = self.status;
        if self.status == Some(200) {
            self.services.delivered.lock().expect("unpoisoned").insert(self.key.clone());
        }
        drop(journal);
        (self.services.observe)(self.service, &self.key, Moment::Ends(self.status));
    }
}

pub struct FakeCaller(pub Arc<Services>);

impl Caller for FakeCaller {
    async fn call(&self, call: Call<'_>) -> Result<Reply, CallError> {
        let services = &*self.0;
        serde_json::from_slice::<IgnoredAny>(&call.body).expect("a request's body is JSON");
        let mood = services.mood(call.service);
        let (entry, took, coin) = {
            let mut journal = services.journal.lock().expect("unpoisoned");
            let mut dice = services.dice.lock().expect("unpoisoned");
            journal.push(Entry { key: call.idempotency_key.to_owned(), status: None });
            (journal.len() - 1, Duration::from_micros(dice.random_range(300..30_000)), dice.random_bool(0.5))
        };
        (services.observe)(call.service, call.idempotency_key, Moment::Begins);
        let mut ending = Ending { services, entry, service: call.service, key: call.idempotency_key.to_owned(), status: None };
        let reply = |status, body: &'static str, retry_after| {
            Ok(Reply { status, retry_after, headers: Headers::new(), body: Body::Whole(Bytes::from_static(body.as_bytes())) })
        };
        match services.slow_key(&call.body) {
            Some(SlowKey { takes: Some(takes), .. }) => tokio::time::sleep(*takes).await,
            Some(SlowKey { takes: None, .. }) => std::future::pending().await,
            None => {}
        }
        match mood {
            Mood::Hanging => std::future::pending().await,
            Mood::Slow => tokio::time::sleep(took * 20).await,
            Mood::Unreachable => return Err(CallError::Connect),
            Mood::Well | Mood::Failing | Mood::Rejecting | Mood::Babbling => tokio::time::sleep(took).await,
        }
        match mood {
            Mood::Failing => {
                ending.status = Some(if coin { 503 } else { 429 });
                reply(if coin { 503 } else { 429 }, "{}", coin.then_some(Duration::from_millis(700)))
            }
            Mood::Rejecting => {
                ending.status = Some(422);
                reply(422, "{}", None)
            }
            Mood::Babbling => {
                ending.status = Some(200);
                reply(200, "<html>", None)
            }
            Mood::Well | Mood::Slow | Mood::Hanging | Mood::Unreachable => {
                ending.status = Some(200);
                reply(200, r#"{"answer":42}"#, None)
            }
        }
    }
}
