//! One instance of a fleet: the program's own breaker, and what its keeper and its lease taker do, step by step, as `pipeline::keeper` and
//! `pipeline::leases` do it. Where those wait for the store, anything may happen in between. What they do after a while is done here at any time.

use std::sync::Arc;
use std::time::Duration;

use fusebox::machine::breaker::{Cause, Generation, Held, RESERVE};
use fusebox::machine::time::Tick;

use super::fleet::{Ghost, Mutant, Redis, Rules};
use super::machine::{Moved, Node, Op, Outcome};
use super::store::{Answer, Ask, Save, State};
use super::wire::{later, state_of};

/// A call that is out.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Call {
    pub number: u8,
    pub began: Tick,
    /// The stay in which it was admitted: of those of its process, this one.
    pub stay: u8,
    pub probe: bool,
    pub leased: bool,
}

/// A state as it was at a time of this process.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Decided {
    pub state: State,
    pub at: Tick,
}

impl Decided {
    /// As it is now.
    fn now(self, now: Tick) -> State {
        later(self.state, now.since(self.at))
    }
}

/// What a question has come to: the store did it, and may not have been heard.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Reply<T> {
    Heard(T),
    Lost,
}

/// What the keeper does once everything is stored that was decided here.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Then {
    Nothing,
    Adopt { known: Generation, heard: Decided },
    Compare { known: Decided, stored: Option<Decided>, cause: Cause },
}

/// Where the keeper is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Keeping {
    Idle,
    Loaded { reply: Reply<Option<State>>, cause: Cause },
    Saving { reply: Reply<Option<State>>, then: Box<Then> },
    PuttingBack { known: Generation, reply: Reply<Option<State>> },
}

/// A question for a lease that is out.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Asking {
    pub id: u64,
    pub generation: Generation,
    pub use_by: Tick,
    pub renews: bool,
    pub reply: Reply<Answer>,
}

/// A running process.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Process {
    pub name: &'static str,
    pub node: Arc<Node>,
    pub stay: u8,
    pub calls: Vec<Call>,
    pub unsaved: Vec<Decided>,
    pub keeping: Keeping,
    pub up: bool,
    pub inbox: Vec<State>,
    pub held: Vec<u64>,
    pub next_id: u64,
    pub asking: Option<Asking>,
    pub wanted: bool,
    /// Whether its probes need no lease: nothing says that the store grants any.
    pub alone: bool,
}

/// What a step of an instance may touch.
pub struct Around<'a> {
    pub rules: &'a Rules,
    pub redis: &'a mut Redis,
    pub ghost: &'a mut Ghost,
    pub now: Tick,
    /// What it has published.
    pub said: Vec<State>,
}

impl Process {
    pub fn new(name: &'static str, around: &Around<'_>) -> Self {
        Self {
            name,
            node: around.rules.machines.begin(around.now),
            stay: 0,
            calls: Vec::new(),
            unsaved: Vec::new(),
            keeping: Keeping::Idle,
            up: false,
            inbox: Vec::new(),
            held: Vec::new(),
            next_id: 0,
            asking: None,
            wanted: false,
            alone: true,
        }
    }

    pub fn is_locked(&self) -> bool {
        matches!(self.node.snapshot.held, Held::Locked(_))
    }

    pub fn generation(&self) -> Generation {
        self.node.snapshot.generation
    }

    fn apply(&mut self, around: &mut Around<'_>, op: &Op) -> Outcome {
        let (node, outcome) = around.rules.machines.step(&self.node, op, around.now);
        self.node = node;
        if let Some(moved) = outcome.moved {
            self.note(around, &moved);
        }
        outcome
    }

    /// The same, if the breaker is still in that generation.
    fn apply_from(&mut self, around: &mut Around<'_>, known: Generation, op: &Op) {
        if self.generation() == known {
            self.apply(around, op);
        }
    }

    fn note(&mut self, around: &mut Around<'_>, moved: &Moved) {
        self.stay += 1;
        self.alone = !self.up;
        around.ghost.moved(moved);
        if !moved.cause.is_foreign() {
            self.unsaved.push(self.known(around.now));
        }
    }

    // Calls.

    pub fn call(&mut self, around: &mut Around<'_>) {
        let number = (0..).find(|number| self.calls.iter().all(|call| call.number != *number)).expect("a number");
        let outcome = self.apply(around, &Op::Admit(number));
        if outcome.done {
            if outcome.probe && !outcome.leased && !self.alone {
                around.ghost.fault("a probe goes with a lease, where the store answers");
            }
            around.ghost.alone |= outcome.probe && !outcome.leased;
            self.calls.push(Call { number, began: around.now, stay: self.stay, probe: outcome.probe, leased: outcome.leased });
        } else {
            self.wanted |= self.node.tenure.terms.is_some();
        }
    }

    pub fn answer(&mut self, around: &mut Around<'_>, number: u8, works: bool) {
        let place = self.calls.iter().position(|call| call.number == number).expect("a call that is out");
        let call = self.calls.remove(place);
        let late = call.stay != self.stay;
        let outcome = self.apply(around, &Op::Settle(number, works));
        if late && (outcome.done || outcome.moved.is_some()) {
            around.ghost.fault("no late verdict decides");
        }
    }

    /// Time has passed: calls are cut off, states are left, patience is over.
    pub fn pass(&mut self, around: &mut Around<'_>) {
        let over: Vec<u8> =
            self.calls.iter().filter(|call| call.began.plus(around.rules.timeout) <= around.now).map(|call| call.number).collect();
        for number in over {
            self.answer(around, number, false);
        }
        // No probe is out for longer than its lease here: what is given up is the wait for the fleet's leases.
        self.alone |= self.apply(around, &Op::Advance).done;
    }

    // The keeper.

    /// `noted`: whether the store answers is news where it changes.
    fn noted(&mut self, around: &mut Around<'_>, up: bool) {
        if self.up != up {
            self.up = up;
            self.apply(around, &Op::Share(up));
            self.alone = !up;
        }
    }

    /// Whether the keeper has something to go on with by itself.
    pub fn keeps(&self) -> bool {
        self.keeping != Keeping::Idle || (self.up && !self.unsaved.is_empty())
    }

    /// `reconcile`, begun: the store is read.
    pub fn poll(&mut self, around: &mut Around<'_>, cause: Cause) {
        let reply = if around.redis.away { Reply::Lost } else { Reply::Heard(around.redis.keys.state(around.redis.now).unwrap_or(None)) };
        self.keeping = Keeping::Loaded { reply, cause };
    }

    /// `hear`.
    pub fn hear(&mut self, around: &mut Around<'_>, message: usize) {
        let heard = self.inbox.remove(message);
        let known = self.generation();
        if around.rules.mutant == Mutant::HearsBeforeItSaves {
            self.apply_from(around, known, &Op::Adopt(heard, Cause::Adopted));
        } else {
            let heard = Decided { state: heard, at: around.now };
            self.catch_up(around, Then::Adopt { known, heard });
        }
    }

    /// The keeper's next step, to where it waits for the store again.
    pub fn keep(&mut self, around: &mut Around<'_>) {
        match std::mem::replace(&mut self.keeping, Keeping::Idle) {
            Keeping::Idle => self.catch_up(around, Then::Nothing),
            Keeping::Loaded { reply: Reply::Lost, .. } => self.noted(around, false),
            Keeping::Loaded { reply: Reply::Heard(stored), cause } => {
                self.noted(around, true);
                let stored = stored.map(|state| Decided { state, at: around.now });
                let known = self.known(around.now);
                self.catch_up(around, Then::Compare { known, stored, cause });
            }
            Keeping::Saving { reply: Reply::Lost, .. } => self.noted(around, false),
            Keeping::Saving { reply: Reply::Heard(found), then } => {
                self.noted(around, true);
                let saved = self.unsaved.remove(0);
                if let Some(found) = found {
                    let known = Generation(saved.state.generation);
                    let op = if around.rules.mutant == Mutant::StandsByNothing { Op::YieldTo(found) } else { Op::StandBy(found) };
                    self.apply_from(around, known, &op);
                }
                self.catch_up(around, *then);
            }
            Keeping::PuttingBack { reply: Reply::Lost, .. } => self.noted(around, false),
            Keeping::PuttingBack { known, reply: Reply::Heard(found) } => {
                self.noted(around, true);
                if let Some(found) = found {
                    self.apply_from(around, known, &Op::YieldTo(found));
                }
            }
        }
    }

    fn catch_up(&mut self, around: &mut Around<'_>, then: Then) {
        if let Some(first) = self.unsaved.first().cloned() {
            let reply = self.save(around, first.now(around.now));
            self.keeping = Keeping::Saving { reply, then: Box::new(then) };
            return;
        }
        match then {
            Then::Nothing => {}
            Then::Adopt { known, heard } => {
                let heard = heard.now(around.now);
                self.apply_from(around, known, &Op::Adopt(heard, Cause::Adopted));
            }
            Then::Compare { known, stored, cause } => {
                let generation = Generation(known.state.generation);
                match stored.map(|stored| stored.now(around.now)) {
                    Some(stored) if stored.generation > generation.0 => self.apply_from(around, generation, &Op::Adopt(stored, cause)),
                    Some(stored) if stored.generation == generation.0 => self.apply_from(around, generation, &Op::YieldTo(stored)),
                    None if generation == Generation::default() => {}
                    Some(_) | None if around.rules.mutant == Mutant::PutsNothingBack => {}
                    Some(_) | None => {
                        let reply = self.save(around, known.now(around.now));
                        self.keeping = Keeping::PuttingBack { known: generation, reply };
                    }
                }
            }
        }
    }

    fn known(&self, now: Tick) -> Decided {
        Decided { state: state_of(&self.node.snapshot, now), at: now }
    }

    fn save(&self, around: &mut Around<'_>, state: State) -> Reply<Option<State>> {
        if around.rules.mutant == Mutant::PublishesFirst {
            around.said.push(state.clone());
        }
        if around.redis.away {
            return Reply::Lost;
        }
        let save = Save { state: state.clone(), instance: self.name.to_owned(), transition: None };
        let redis = &mut *around.redis;
        let before = redis.keys.state(redis.now).unwrap_or(None);
        let found = redis.keys.change(|keys| keys.save(redis.now, &save, around.rules.without()));
        if found.is_none() {
            around.ghost.stored(before.as_ref(), &state);
            around.said.push(state);
        }
        Reply::Heard(found)
    }

    // The lease taker.

    fn idle_leases(&self, rules: &Rules) -> Vec<u64> {
        let tenure = &self.node.tenure;
        let unused = |id: &u64| tenure.unused.iter().any(|lease| lease.id == *id);
        let of_use = |id: &u64| if rules.mutant == Mutant::GivesBackEarly { unused(id) } else { tenure.has(*id) };
        self.held.iter().copied().filter(|id| !of_use(id)).collect()
    }

    /// Whether it has leases that are of no more use.
    pub fn has_idle_leases(&self, rules: &Rules) -> bool {
        self.asking.is_none() && self.up && !self.idle_leases(rules).is_empty()
    }

    pub fn give_back(&mut self, around: &mut Around<'_>) {
        let idle = self.idle_leases(around.rules);
        self.held.retain(|id| !idle.contains(id));
        if around.redis.away {
            self.do_without_leases(around);
        } else {
            let now = around.redis.now;
            around.redis.keys.change(|keys| keys.give_back(now, self.name, &idle));
        }
    }

    /// Whether it may ask for a lease.
    pub fn may_ask(&self, rules: &Rules) -> bool {
        let tenure = &self.node.tenure;
        self.asking.is_none()
            && self.up
            && self.idle_leases(rules).is_empty()
            && tenure.terms.is_some_and(|terms| tenure.unused.len() + tenure.used.len() < terms.places)
    }

    /// The leases that it may ask for again.
    pub fn due_leases(&self, now: Tick) -> Vec<u64> {
        if self.asking.is_some() || !self.up || self.node.tenure.terms.is_none() {
            return Vec::new();
        }
        // As soon as half of its time is over; the program waits a little longer.
        let due = |use_by: Tick| use_by.0 - u64::try_from(RESERVE.as_millis()).expect("short") / 2 <= now.0;
        self.node.tenure.unused.iter().filter(|lease| due(lease.use_by)).map(|lease| lease.id).collect()
    }

    pub fn ask(&mut self, around: &mut Around<'_>, renews: Option<u64>) {
        let terms = self.node.tenure.terms.expect("it is half-open");
        let id = renews.unwrap_or(self.next_id);
        let urgent = renews.is_none() && std::mem::take(&mut self.wanted);
        if renews.is_none() {
            self.next_id += 1;
            self.held.push(id);
        }
        let reserve = if around.rules.mutant == Mutant::NoReserve { Duration::ZERO } else { RESERVE };
        let ask = Ask {
            generation: terms.generation.0,
            permits: terms.permits,
            lease: id,
            duration: i64::try_from((reserve + terms.lease).as_millis()).expect("short"),
            instance: self.name.to_owned(),
            urgent,
        };
        let reply = if around.redis.away {
            Reply::Lost
        } else {
            let now = around.redis.now;
            Reply::Heard(around.redis.keys.change(|keys| keys.lease(now, &ask, around.rules.without())))
        };
        let use_by = around.now.plus(RESERVE);
        self.asking = Some(Asking { id, generation: terms.generation, use_by, renews: renews.is_some(), reply });
    }

    /// Hears what came of it.
    pub fn hear_lease(&mut self, around: &mut Around<'_>) {
        let Some(Asking { id, generation, use_by, renews, reply }) = self.asking.take() else { return };
        match reply {
            Reply::Lost => return self.do_without_leases(around),
            Reply::Heard(Answer::Granted) => {
                let use_by = if around.rules.mutant == Mutant::CountsFromTheAnswer { around.now.plus(RESERVE) } else { use_by };
                self.alone &= !self.apply(around, &Op::Grant(generation, id, use_by)).done;
                return;
            }
            Reply::Heard(Answer::Full { .. }) => {
                self.apply(around, &Op::KeepToLeases(generation));
                self.alone &= generation != self.generation();
            }
            Reply::Heard(Answer::Stale) => {}
        }
        if renews {
            self.apply(around, &Op::Revoke(id));
        }
        if !self.node.tenure.has(id) {
            self.held.retain(|held| *held != id);
        }
    }

    fn do_without_leases(&mut self, around: &mut Around<'_>) {
        self.apply(around, &Op::DoWithoutLeases);
        self.alone = true;
    }
}

impl Process {
    /// Somebody orders something.
    pub fn order(&mut self, around: &mut Around<'_>, op: &Op) {
        let outcome = self.apply(around, op);
        // A mutant's order, which is none of the program's.
        if outcome.moved.is_some_and(|moved| moved.cause.is_foreign()) {
            self.unsaved.push(self.known(around.now));
        }
    }

    /// Whether the keeper has been answered, and has not heard it.
    pub fn has_reply(&self) -> bool {
        match &self.keeping {
            Keeping::Idle => false,
            Keeping::Loaded { reply, .. } => *reply != Reply::Lost,
            Keeping::Saving { reply, .. } | Keeping::PuttingBack { reply, .. } => *reply != Reply::Lost,
        }
    }

    /// It never hears it.
    pub fn lose_reply(&mut self) {
        match &mut self.keeping {
            Keeping::Idle => {}
            Keeping::Loaded { reply, .. } => *reply = Reply::Lost,
            Keeping::Saving { reply, .. } | Keeping::PuttingBack { reply, .. } => *reply = Reply::Lost,
        }
    }

    pub fn lose_lease(&mut self) {
        if let Some(asking) = &mut self.asking {
            asking.reply = Reply::Lost;
        }
    }
}
