//! The smallest world that a loop's parts can be tested in: time that stands until it is waited for, chance that always rolls the same, a witness that
//! keeps what it is told, a store in memory that can be taken away.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::time::Instant;

use super::facts::Fact;
use super::ports::{
    Call, CallError, Caller, Chance, Clock, EvidenceStore, Heard, HistoryPage, Kept, LeaseStore, LeaseWish, Leasing, Publisher, QueueFull,
    Reply, Saved, SavedTuning, Store, StoreError, Telling, Token, Witness, World,
};
use super::tuning::Tuning;
use crate::event::{Record, UnixMillis};
use crate::machine::breaker::{Held, Snapshot, Testimony, Told, Transition};
use crate::machine::time::Tick;

pub(crate) struct Small;

impl World for Small {
    type Clock = PausedClock;
    type Chance = Always;
    type Caller = Nobody;
    type Publisher = Nowhere;
    type Witness = Notes;
}

/// Tokio's own time, which stands still in a paused runtime while anything can run.
#[derive(Clone, Copy)]
pub(crate) struct PausedClock(Instant);

impl PausedClock {
    #[expect(clippy::disallowed_methods, reason = "it is tokio's paused time that is read, and no clock")]
    pub(crate) fn new() -> Self {
        Self(Instant::now())
    }
}

impl Clock for PausedClock {
    fn now(&self) -> Tick {
        Tick(0).plus(self.0.elapsed())
    }
    fn wall(&self) -> UnixMillis {
        UnixMillis(1_000_000).plus(self.0.elapsed())
    }
    fn instant(&self, at: Tick) -> Option<Instant> {
        (at != Tick::NEVER).then(|| self.0 + at.since(Tick(0)))
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Always(pub(crate) f64);

impl Chance for Always {
    fn roll(&self) -> f64 {
        self.0
    }
}

pub(crate) struct Nobody;

impl Caller for Nobody {
    async fn call(&self, _call: Call<'_>) -> Result<Reply, CallError> {
        Err(CallError::Connect)
    }
}

pub(crate) struct Nowhere;

impl Publisher for Nowhere {
    fn publish(&self, _record: &Record, _token: Token) -> Result<(), QueueFull> {
        Err(QueueFull)
    }
}

/// What was told, as text.
#[derive(Default)]
pub(crate) struct Notes(pub(crate) Mutex<Vec<String>>);

impl Witness for Notes {
    fn tell(&self, fact: Fact<'_>) {
        self.0.lock().expect("unpoisoned").push(format!("{fact:?}"));
    }
}

/// A store in memory, shared by as many instances as hold it, that can be taken away and brought back.
pub(crate) struct MemoryStore {
    state: Mutex<Stored>,
    changes: broadcast::Sender<Heard>,
    loads: watch::Sender<bool>,
}

#[derive(Default)]
struct Stored {
    away: bool,
    /// How many nodes it has besides the first, and which of them is away.
    more_nodes: usize,
    node_away: Option<usize>,
    /// How long that one takes to say so.
    silence: Duration,
    read_only: bool,
    snapshots: BTreeMap<String, Snapshot>,
    tunings: BTreeMap<String, Tuning>,
    history: Vec<Transition>,
    leases: Vec<Leased>,
    waiting: Option<u64>,
    said: Vec<Said>,
    loads: Vec<usize>,
    delay: Duration,
    questions: usize,
    instances: u64,
}

/// A lease that is held of a service's probes.
struct Leased {
    service: String,
    holder: u64,
    lease: u64,
    deadline: Instant,
}

/// What an instance has said of a service.
struct Said {
    service: String,
    holder: u64,
    testimony: Testimony,
    until: Instant,
}

impl MemoryStore {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), changes: broadcast::Sender::new(4_096), loads: watch::Sender::new(true) })
    }

    pub(crate) fn set_away(&self, away: bool) {
        self.state.lock().expect("unpoisoned").away = away;
    }

    /// Has it so many nodes.
    pub(crate) fn set_nodes(&self, nodes: usize) {
        self.state.lock().expect("unpoisoned").more_nodes = nodes - 1;
    }

    /// Takes one of its nodes away.
    pub(crate) fn set_node_away(&self, node: Option<usize>) {
        self.state.lock().expect("unpoisoned").node_away = node;
    }

    /// Has the one that is away be silent for so long each time that it is asked.
    pub(crate) fn set_silence(&self, silence: Duration) {
        self.state.lock().expect("unpoisoned").silence = silence;
    }

    /// What comes of asking for a service, as far as its node decides.
    async fn node_answers(&self, service: &str) -> Result<(), StoreError> {
        let (away, silence) = {
            let state = self.state.lock().expect("unpoisoned");
            (state.node_away, state.silence)
        };
        if away != Some(self.node(service)) {
            return Ok(());
        }
        tokio::time::sleep(silence).await;
        Err(StoreError("a node is away".to_owned()))
    }

    /// Has it answer questions, and take nothing.
    pub(crate) fn set_read_only(&self, read_only: bool) {
        self.state.lock().expect("unpoisoned").read_only = read_only;
    }

    /// Holds the answers of loads on their way, or lets them go.
    pub(crate) fn hold_loads(&self, hold: bool) {
        self.loads.send_replace(!hold);
    }

    pub(crate) fn snapshot(&self, service: &str) -> Option<Snapshot> {
        self.state.lock().expect("unpoisoned").snapshots.get(service).cloned()
    }

    /// Stores a state of which nobody hears.
    pub(crate) fn put_untold(&self, service: &str, snapshot: &Snapshot) {
        self.state.lock().expect("unpoisoned").snapshots.insert(service.to_owned(), snapshot.clone());
    }

    pub(crate) fn history(&self) -> Vec<Transition> {
        self.state.lock().expect("unpoisoned").history.clone()
    }

    /// Of how many services each load was, since this was last asked.
    pub(crate) fn take_loads(&self) -> Vec<usize> {
        std::mem::take(&mut self.state.lock().expect("unpoisoned").loads)
    }

    /// Has answers of loads take that long.
    pub(crate) fn delay_loads(&self, delay: Duration) {
        self.state.lock().expect("unpoisoned").delay = delay;
    }

    pub(crate) fn empty(&self) {
        let mut state = self.state.lock().expect("unpoisoned");
        state.snapshots.clear();
        state.tunings.clear();
    }

    pub(crate) fn tuning(&self, service: &str) -> Option<Tuning> {
        self.state.lock().expect("unpoisoned").tunings.get(service).cloned()
    }

    fn ask<T>(&self, question: impl FnOnce(&mut Stored) -> T) -> Result<T, StoreError> {
        let mut state = self.state.lock().expect("unpoisoned");
        if state.away { Err(StoreError("away".to_owned())) } else { Ok(question(&mut state)) }
    }

    fn tell<T>(&self, order: impl FnOnce(&mut Stored) -> T) -> Result<T, StoreError> {
        let read_only = self.state.lock().expect("unpoisoned").read_only;
        if read_only { Err(StoreError("read only".to_owned())) } else { self.ask(order) }
    }
}

/// What came of asking for so many, of each.
fn each<T>(all: Result<Vec<T>, StoreError>, count: usize) -> Vec<Result<T, StoreError>> {
    match all {
        Ok(all) => all.into_iter().map(Ok).collect(),
        Err(error) => (0..count).map(|_| Err(error.clone())).collect(),
    }
}

/// A [`MemoryStore`] as one instance sees it: leases are held by somebody.
pub(super) struct Seat {
    store: Arc<MemoryStore>,
    holder: u64,
}

impl MemoryStore {
    pub(super) fn seat(self: &Arc<Self>) -> Arc<Seat> {
        let mut state = self.state.lock().expect("unpoisoned");
        state.instances += 1;
        Arc::new(Seat { store: Arc::clone(self), holder: state.instances })
    }

    /// Leases that are held.
    pub(super) fn leases(&self) -> usize {
        self.state.lock().expect("unpoisoned").leases.len()
    }

    /// Questions for leases, and leases given back, so far.
    pub(super) fn questions(&self) -> usize {
        self.state.lock().expect("unpoisoned").questions
    }
}

impl LeaseStore for Seat {
    #[expect(clippy::disallowed_methods, reason = "it is tokio's paused time that is read, and no clock")]
    async fn lease(&self, service: &str, wish: LeaseWish) -> Result<Leasing, StoreError> {
        let now = Instant::now();
        let holder = self.holder;
        self.store.ask(|state| {
            state.questions += 1;
            state.leases.retain(|leased| leased.deadline > now);
            let stored = state.snapshots.get(service);
            if stored.is_none_or(|stored| stored.generation != wish.generation || stored.held != Held::HalfOpen) {
                return Leasing::Stale;
            }
            let deadline = now + wish.duration;
            if state.waiting.is_some_and(|waiting| waiting != holder) && !wish.urgent {
                return Leasing::Full { free_in: None };
            }
            let leased = state.leases.iter_mut().find(|leased| leased.holder == holder && leased.lease == wish.lease);
            if let Some(leased) = leased.filter(|leased| leased.service == service) {
                leased.deadline = deadline;
                return Leasing::Granted;
            }
            let mut deadlines = state.leases.iter().filter(|leased| leased.service == service).map(|leased| leased.deadline);
            if deadlines.clone().count() >= wish.permits as usize {
                if wish.urgent {
                    state.waiting.get_or_insert(holder);
                }
                return Leasing::Full { free_in: deadlines.by_ref().min().map(|deadline| deadline - now) };
            }
            state.waiting.take_if(|waiting| *waiting == holder);
            state.leases.push(Leased { service: service.to_owned(), holder, lease: wish.lease, deadline });
            Leasing::Granted
        })
    }

    async fn give_back(&self, service: &str, leases: &[u64]) -> Result<(), StoreError> {
        let holder = self.holder;
        self.store.ask(|state| {
            state.questions += 1;
            state.leases.retain(|leased| leased.service != service || leased.holder != holder || !leases.contains(&leased.lease));
        })
    }
}

impl EvidenceStore for Seat {
    #[expect(clippy::disallowed_methods, reason = "it is tokio's paused time that is read, and no clock")]
    async fn tell(&self, tellings: &[Telling]) -> Vec<Result<Vec<Told>, StoreError>> {
        let now = Instant::now();
        let holder = self.holder;
        let told = self.store.ask(|state| {
            state.questions += tellings.len();
            state.said.retain(|said| said.until > now);
            let tell = |Telling { service, testimony, lasts }: &Telling| {
                state.said.retain(|said| said.holder != holder || said.service != *service);
                let others = state.said.iter().filter(|said| said.service == *service && said.testimony.generation == testimony.generation);
                let others = others.map(|said| Told { instance: said.holder.to_string(), testimony: said.testimony.clone() }).collect();
                if !testimony.is_empty() {
                    let (service, testimony) = (service.clone(), testimony.clone());
                    state.said.push(Said { service, holder, testimony, until: now + *lasts });
                }
                others
            };
            tellings.iter().map(tell).collect::<Vec<_>>()
        });
        each(told, tellings.len())
    }
}

impl Store for MemoryStore {
    async fn load(&self, services: &[String]) -> Vec<Result<Kept, StoreError>> {
        let delay = self.state.lock().expect("unpoisoned").delay;
        let loaded: Result<Vec<_>, _> = self.ask(|state| {
            let kept = |service| Kept { state: state.snapshots.get(service).cloned(), tuning: state.tunings.get(service).cloned() };
            state.loads.push(services.len());
            services.iter().map(kept).collect()
        });
        let each = each(loaded, services.len()).into_iter().zip(services);
        let loaded = join_all(each.map(async |(kept, service)| self.node_answers(service).await.and(kept))).await;
        tokio::time::sleep(delay).await;
        // The store keeps the sender.
        let _ = self.loads.subscribe().wait_for(|go| *go).await;
        loaded
    }

    /// By the number that its name ends in.
    fn node(&self, service: &str) -> usize {
        let number = service.rsplit('-').next().and_then(|number| number.parse().ok()).unwrap_or(0);
        number % (self.state.lock().expect("unpoisoned").more_nodes + 1)
    }

    async fn save(&self, service: &str, snapshot: &Snapshot, transition: Option<&Transition>) -> Result<Saved, StoreError> {
        self.node_answers(service).await?;
        let saved = self.tell(|state| match state.snapshots.get(service) {
            Some(stored) if stored.generation >= snapshot.generation => Saved::Superseded(stored.clone()),
            _ => {
                state.snapshots.insert(service.to_owned(), snapshot.clone());
                state.history.extend(transition.cloned());
                Saved::Stored
            }
        })?;
        if saved == Saved::Stored {
            // Nobody may be watching.
            let _ = self.changes.send(Heard::Changed { service: service.to_owned(), snapshot: snapshot.clone() });
        }
        Ok(saved)
    }

    async fn note(&self, _service: &str, transition: &Transition) -> Result<(), StoreError> {
        self.ask(|state| {
            if !state.history.contains(transition) {
                state.history.push(transition.clone());
            }
        })
    }

    async fn save_tuning(&self, service: &str, tuning: &Tuning, over: u64) -> Result<SavedTuning, StoreError> {
        let saved = self.tell(|state| {
            let stored = state.tunings.get(service);
            if stored.map_or(0, |stored| stored.revision) != over {
                return SavedTuning::Superseded(stored.cloned());
            }
            state.tunings.insert(service.to_owned(), tuning.clone());
            SavedTuning::Stored
        })?;
        if saved == SavedTuning::Stored {
            // Nobody may be watching.
            let _ = self.changes.send(Heard::Tuned { service: service.to_owned(), tuning: tuning.clone() });
        }
        Ok(saved)
    }

    async fn history(&self, _service: &str, _cursor: Option<&str>, _limit: usize) -> Result<HistoryPage, StoreError> {
        Ok(HistoryPage::default())
    }

    fn watch(&self) -> mpsc::Receiver<Heard> {
        let (sender, receiver) = mpsc::channel(4_096);
        let mut changes = self.changes.subscribe();
        tokio::spawn(async move {
            while let Ok(heard) = changes.recv().await {
                if sender.send(heard).await.is_err() {
                    return;
                }
            }
        });
        receiver
    }
}
