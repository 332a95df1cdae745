//! The breakers of all services, and who must know when one changes: the witness, the [`super::keeper`], the drain.

mod evidence;
mod probes;
mod tuned;
mod view;

pub use probes::Probes;
pub use view::View;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Notify, broadcast, mpsc};

use super::facts::Fact;
use super::ports::{Chance, Clock, HistoryEntry, Witness, World};
use super::tuning::Standing;
use crate::machine::breaker::{
    Automatic, Breaker, Cause, Generation, Lock, Permit, Refusal, Settings, SharedBreaker, Snapshot, StateName, Transition, Verdict,
};
use crate::machine::time::Tick;

/// The breakers of all services.
pub struct Breakers<W: World> {
    entries: Vec<Entry>,
    clock: W::Clock,
    chance: W::Chance,
    witness: Arc<W::Witness>,
    instance: String,
    announcements: mpsc::UnboundedSender<Announcement>,
    changes: broadcast::Sender<()>,
    probes: Notify,
    told: Notify,
}

/// A service, and how its breaker is to work.
#[derive(Debug, Clone)]
pub struct Subject {
    /// Its name.
    pub service: String,
    /// What its breaker is told to do.
    pub settings: Settings,
    /// What goes while it is half-open.
    pub probes: Probes,
}

impl From<(String, Settings)> for Subject {
    fn from((service, settings): (String, Settings)) -> Self {
        Self { service, settings, probes: Probes::Calls }
    }
}

#[derive(Debug)]
struct Entry {
    service: String,
    breaker: SharedBreaker,
    probes: Probes,
    wanted: probes::Wanted,
    news: evidence::News,
    remembered: Mutex<VecDeque<HistoryEntry>>,
    configured: Arc<Settings>,
    /// Taken before the breaker, so that settings and their revision are seen together.
    standing: Mutex<Standing>,
}

/// What a call is told while the probes are health checks. When the next one goes is not the breaker's to know.
const RESERVED: Refusal = Refusal { state: StateName::HalfOpen, until: None };

impl Entry {
    /// A call's refusal where the breaker would make it a probe, and probes are health checks: half-open, or about to be.
    fn reserved(&self, now: Tick) -> Option<Refusal> {
        if self.probes == Probes::Calls {
            return None;
        }
        match self.breaker.state_name() {
            StateName::Open | StateName::HalfOpen if self.breaker.refusal(now).is_none() => Some(RESERVED),
            _ => None,
        }
    }
}

/// A change of state that was decided here, for the store.
#[derive(Debug, Clone)]
pub struct Announcement {
    /// The service.
    pub service: usize,
    /// The state after it, as the fleet is to know it.
    pub snapshot: Snapshot,
    /// The change.
    pub transition: Transition,
}

/// Changes of breakers, from when it was made on. Those who wait are woken in the order in which they came, so that a seeded world is the
/// same each time.
#[derive(Debug)]
pub struct Changes(broadcast::Receiver<()>);

impl Changes {
    /// Waits for a change that was not told here yet; several at once may be told as one. Never comes once the breakers are gone.
    pub async fn changed(&mut self) {
        if let Err(broadcast::error::RecvError::Closed) = self.0.recv().await {
            std::future::pending::<()>().await;
        }
    }
}

/// What somebody asks of a breaker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Put this lock on.
    Lock(Lock),
    /// Go to this automatic state.
    Reset(Automatic),
    /// Take the lock off.
    Release,
}

impl<W: World> Breakers<W> {
    /// Closed breakers for these services. Changes that are decided here arrive on the receiver, for the [`super::keeper`].
    pub fn new(
        services: impl IntoIterator<Item = impl Into<Subject>>,
        clock: W::Clock,
        chance: W::Chance,
        witness: Arc<W::Witness>,
        instance: String,
    ) -> (Arc<Self>, mpsc::UnboundedReceiver<Announcement>) {
        let now = clock.now();
        let mut distinct = Vec::new();
        let entries = services
            .into_iter()
            .map(Into::into)
            .map(|Subject { service, settings, probes }| {
                let configured = tuned::shared(&mut distinct, settings);
                Entry {
                    service,
                    probes,
                    wanted: probes::Wanted::default(),
                    news: evidence::News::default(),
                    breaker: SharedBreaker::new(Arc::clone(&configured), now),
                    remembered: Mutex::new(VecDeque::new()),
                    configured,
                    standing: Mutex::default(),
                }
            })
            .collect();
        let (announcements, receiver) = mpsc::unbounded_channel();
        let changes = broadcast::Sender::new(1);
        (
            Arc::new(Self {
                entries,
                clock,
                chance,
                witness,
                instance,
                announcements,
                changes,
                probes: Notify::new(),
                told: Notify::new(),
            }),
            receiver,
        )
    }

    /// How many there are: services are indices below this.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The services' names, by index.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|entry| entry.service.as_str())
    }

    /// The index of a service.
    pub fn find(&self, service: &str) -> Option<usize> {
        self.entries.iter().position(|entry| entry.service == service)
    }

    /// Asks whether a call may go. A refusal is told to the witness.
    ///
    /// # Errors
    /// The breaker's no.
    pub fn admit(&self, service: usize, now: Tick) -> Result<Admission<'_, W>, Refusal> {
        let entry = &self.entries[service];
        let answer = match entry.reserved(now) {
            Some(refusal) => Err(refusal),
            None => self.ask(service, now),
        };
        // It may have become half-open since that was looked at; what is dropped here gives its place back.
        let answer =
            answer.and_then(|admission| if entry.probes == Probes::Checks && admission.is_probe() { Err(RESERVED) } else { Ok(admission) });
        if let Err(refusal) = &answer {
            self.note_want(service, Probes::Calls, refusal);
            self.witness.tell(Fact::Refused { service });
        }
        answer
    }

    /// Asks whether a health check may go, which changes nothing for calls but that it may take a probe's place. A refusal is told to nobody.
    ///
    /// # Errors
    /// The breaker's no.
    pub fn admit_check(&self, service: usize, now: Tick) -> Result<Admission<'_, W>, Refusal> {
        let answer = match self.entries[service].breaker.refusal(now) {
            Some(refusal) => Err(refusal),
            None => self.ask(service, now),
        };
        if let Err(refusal) = &answer {
            self.note_want(service, Probes::Checks, refusal);
        }
        answer
    }

    fn ask(&self, service: usize, now: Tick) -> Result<Admission<'_, W>, Refusal> {
        let filed = |breaker: &Breaker, transition: &Transition| self.file(service, breaker, transition);
        let (answer, transition) = self.entries[service].breaker.admit_and(now, || self.chance.roll(), filed);
        self.announce(service, transition.as_deref());
        let permit = answer?;
        if permit.is_probe() {
            self.probes.notify_one();
        }
        Ok(Admission { breakers: self, service, permit: Some(permit) })
    }

    /// Whether a call would be refused now, as far as is known without asking. It changes nothing and is not counted.
    pub fn refuses(&self, service: usize) -> bool {
        self.refuses_at(service, self.clock.now())
    }

    /// The same for who has read the clock already.
    pub fn refuses_at(&self, service: usize, now: Tick) -> bool {
        let entry = &self.entries[service];
        if entry.reserved(now).is_some() {
            return true;
        }
        let refusal = entry.breaker.refusal(now);
        if let Some(refusal) = &refusal {
            self.note_want(service, Probes::Calls, refusal);
        }
        refusal.is_some()
    }

    /// The state's name.
    pub fn state(&self, service: usize) -> StateName {
        self.entries[service].breaker.state_name()
    }

    /// When a refused call makes sense again, where that is known.
    pub fn retry_at(&self, service: usize) -> Option<Tick> {
        self.entries[service].breaker.refusal(self.clock.now()).and_then(|refusal| refusal.until)
    }

    /// What is to be stored.
    pub fn snapshot(&self, service: usize) -> Snapshot {
        self.entries[service].breaker.with(|breaker| breaker.snapshot())
    }

    /// Does what somebody asks. `None` if there was nothing to do: a release without a lock.
    pub fn order(&self, service: usize, order: Order, actor: &str, reason: &str) -> Option<Transition> {
        let now = self.clock.now();
        self.change(service, |breaker| match order {
            Order::Lock(lock) => Some(breaker.lock(lock, now)),
            Order::Reset(state) => Some(breaker.reset_to(state, actor, reason, now, || self.chance.roll())),
            Order::Release => breaker.release(actor, reason, now),
        })
    }

    /// Takes over what is stored or was heard, if it is newer. This and the next two do nothing once the breaker has left the generation
    /// `known`: its announcement of that is under way, and meets what is stored when it arrives there.
    pub fn adopt(&self, service: usize, known: Generation, snapshot: &Snapshot, cause: Cause) {
        let now = self.clock.now();
        self.change_from(service, known, |breaker| breaker.adopt(snapshot, cause, now));
    }

    /// Takes over what was stored first, when two instances decided at once.
    pub fn yield_to(&self, service: usize, known: Generation, snapshot: &Snapshot) {
        let now = self.clock.now();
        self.change_from(service, known, |breaker| breaker.yield_to(snapshot, now));
    }

    /// The same for a state that was announced and found `stored` in its place: a lock is put on again above it.
    pub fn stand_by(&self, service: usize, known: Generation, stored: &Snapshot) {
        let now = self.clock.now();
        self.change_from(service, known, |breaker| breaker.stand_by(stored, now));
    }

    /// Leaves states that have run out, gives up probes whose leases have ended, and says when the next one will.
    pub fn advance(&self) -> Option<Tick> {
        let now = self.clock.now();
        let mut next: Option<Tick> = None;
        // Most are closed, which has no end.
        for service in (0..self.entries.len()).filter(|service| self.state(*service) != StateName::Closed) {
            let mut given_up = false;
            let mut deadline = None;
            self.change(service, |breaker| {
                let transition = breaker.advance(now);
                given_up = breaker.give_up(now);
                deadline = breaker.next_deadline();
                transition
            });
            if given_up {
                self.tell_changed();
            }
            next = [next, deadline].into_iter().flatten().min();
        }
        next
    }

    /// Tells whenever a refused call may be worth asking again: with each change of state, and with each probe that comes back
    /// or is given up.
    pub fn changes(&self) -> Changes {
        Changes(self.changes.subscribe())
    }

    fn tell_changed(&self) {
        // An error says that nobody waits.
        let _ = self.changes.send(());
    }

    /// Returns once a probe has gone out since the last return: its lease is a deadline that [`Breakers::advance`] did not know of. For
    /// one task.
    pub async fn probe_sent(&self) {
        self.probes.notified().await;
    }

    fn change_from(&self, service: usize, known: Generation, change: impl FnOnce(&mut Breaker) -> Option<Transition>) {
        self.change(service, |breaker| if breaker.generation() == known { change(breaker) } else { None });
    }

    fn change(&self, service: usize, change: impl FnOnce(&mut Breaker) -> Option<Transition>) -> Option<Transition> {
        let transition = self.entries[service].breaker.with(|breaker| {
            let transition = change(breaker)?;
            self.file(service, breaker, &transition);
            Some(transition)
        });
        self.announce(service, transition.as_ref());
        transition
    }

    /// Done while the breaker is held: announced later, a transition could come with the state of the one after it, or behind that one,
    /// and would then be missing in the history.
    fn file(&self, service: usize, breaker: &Breaker, transition: &Transition) {
        self.remember(service, transition);
        if !transition.cause.is_foreign() {
            // Nobody listens only once the keeper has ended, with the process.
            drop(self.announcements.send(Announcement { service, snapshot: breaker.snapshot(), transition: transition.clone() }));
        }
    }

    fn announce(&self, service: usize, transition: Option<&Transition>) {
        let Some(transition) = transition else { return };
        self.witness.tell(Fact::Transition { service, transition });
        self.tell_changed();
    }

    fn settle(&self, service: usize, permit: Permit, verdict: Verdict, took: Duration, now: Tick) -> bool {
        let probe = permit.is_probe();
        let filed = |breaker: &Breaker, transition: &Transition| self.file(service, breaker, transition);
        let roll = || self.chance.roll();
        let settled = self.entries[service].breaker.settle_and(permit, verdict, took, now, roll, filed);
        self.note_verdict(service, verdict, probe);
        if settled.late {
            self.witness.tell(Fact::Late { service });
        }
        if settled.transition.is_none() && probe {
            self.tell_changed();
        }
        self.announce(service, settled.transition.as_deref());
        !settled.late
    }
}

/// An admitted call. Dropped without a verdict, it says nothing of the service and gives its permit back.
pub struct Admission<'a, W: World> {
    breakers: &'a Breakers<W>,
    service: usize,
    permit: Option<Permit>,
}

impl<W: World> Admission<'_, W> {
    /// Whether it holds a probe's place.
    pub fn is_probe(&self) -> bool {
        self.permit.as_ref().is_some_and(Permit::is_probe)
    }

    /// Reports the call's verdict. False if it came too late to count.
    pub fn settle(mut self, verdict: Verdict, took: Duration, now: Tick) -> bool {
        self.permit.take().is_some_and(|permit| self.breakers.settle(self.service, permit, verdict, took, now))
    }
}

impl<W: World> Drop for Admission<'_, W> {
    fn drop(&mut self) {
        if let Some(permit) = self.permit.take() {
            let probe = permit.is_probe();
            self.breakers.entries[self.service].breaker.abandon(permit, self.breakers.clock.now());
            if probe {
                self.breakers.tell_changed();
            }
        }
    }
}
