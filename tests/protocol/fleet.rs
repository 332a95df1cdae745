//! A fleet as a model: instances, the store, messages on their way, clocks that do not go alike, and what may happen to each.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use fusebox::machine::breaker::{Automatic, Cause, LockKind, StateName};
use fusebox::machine::time::Tick;
use stateright::{Model, Property};

use super::instance::{Around, Call, Keeping, Process, Reply};
use super::machine::{Machines, Moved, Op};
use super::settle::{self, Settled};
use super::shared::Shared;
use super::store::{Keys, Slot, State, Without, is_lock};

/// How far time goes at once, ms.
pub const STEP: u64 = 500;

/// What is left out of the protocol, to see that something tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mutant {
    None,
    /// The store takes any state, of an older generation too.
    NoFence,
    /// A lease has no deadline.
    NoDeadline,
    /// The store does not count leases.
    NoCount,
    /// A state is published before it is stored.
    PublishesFirst,
    /// A lock is released within its generation.
    ReleasesInPlace,
    /// A lease is used for so long from its answer, not from its question.
    CountsFromTheAnswer,
    /// A deadline leaves no time until the probe starts.
    NoReserve,
    /// A lease is given back though its call is out.
    GivesBackEarly,
    /// News are taken up before what was decided here is stored.
    HearsBeforeItSaves,
    /// A lock gives way to what was stored first.
    StandsByNothing,
    /// What the store has lost stays lost.
    PutsNothingBack,
    /// A restarted process has the name of the one before it.
    KeepsItsName,
}

/// How often something may happen yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Budget {
    pub time: u8,
    pub calls: u8,
    pub leases: u8,
    pub polls: u8,
    pub orders: u8,
    pub crashes: u8,
    pub outages: u8,
    pub flushes: u8,
    /// Answers of the store that do not arrive.
    pub losses: u8,
}

/// How a fleet begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Nothing was ever stored.
    Fresh,
    /// Every breaker is half-open, and that is stored.
    HalfOpen,
}

/// What a fleet goes by.
#[derive(Debug)]
pub struct Rules {
    pub machines: Machines,
    pub timeout: Duration,
    pub instances: u8,
    pub budget: Budget,
    pub start: Start,
    /// How many steps the first host's clock may be behind. The others' are like it.
    pub lag: u8,
    /// Whether a call may fail. Its time may be over in any case.
    pub fails: bool,
    /// Which orders there are.
    pub orders: Vec<Order>,
    pub mutant: Mutant,
    /// For how many hosts anything may happen between a question to the store and its answer. To the others it is there at once.
    pub waits: u8,
    /// Whether what is decided is stored at once, and what is of no more use given back at once.
    pub prompt: bool,
    /// What is known of how fleets come to rest.
    pub settled: Mutex<HashMap<u64, Settled>>,
}

/// An operator's order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Order {
    Lock(LockKind),
    /// One that ends by itself, after two steps.
    LockFor(LockKind),
    Release,
    Reset(Automatic),
}

impl Rules {
    pub fn without(&self) -> Without {
        Without {
            fence: self.mutant == Mutant::NoFence,
            deadline: self.mutant == Mutant::NoDeadline,
            count: self.mutant == Mutant::NoCount,
            revision: false,
        }
    }

    fn permits(&self) -> usize {
        self.machines.settings().permits as usize
    }
}

/// The store.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Redis {
    pub now: i64,
    pub keys: Shared<Keys>,
    pub away: bool,
}

/// What is known of the way here that no instance knows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Ghost {
    /// A property that a step has broken.
    pub fault: Option<&'static str>,
    /// The store was emptied.
    pub flushed: bool,
    /// A probe went without a lease.
    pub alone: bool,
    /// A lock was released, has ended, or was reset by somebody who had heard of it.
    pub unlocked: bool,
    /// A lock was given.
    pub locked: bool,
    /// Orders that were given.
    pub orders: u8,
    /// Nobody may know of it any more: an instance died, or the store was emptied.
    pub forgotten: bool,
}

impl Ghost {
    pub fn fault(&mut self, property: &'static str) {
        self.fault.get_or_insert(property);
    }

    /// A breaker has changed its state.
    pub fn moved(&mut self, moved: &Moved) {
        if moved.generation < moved.before {
            self.fault("generations never go back");
        }
        self.unlocked |= moved.cause == Cause::LockExpired;
        let leaves = is_lock(moved.from.as_str()) && !is_lock(moved.to.as_str());
        if leaves && !self.unlocked {
            self.fault("a lock stands until it ends or is released");
        }
    }

    /// The store has taken a state.
    pub fn stored(&mut self, before: Option<&State>, after: &State) {
        let Some(before) = before else { return };
        if after.generation < before.generation {
            self.fault("generations never go back");
        }
        if is_lock(&before.state) && !is_lock(&after.state) && !self.unlocked {
            // Two orders in a row of somebody who has not heard of it go over it.
            self.unlocked = self.orders > 2;
            if !self.unlocked {
                self.fault("a lock stands until it ends or is released");
            }
        }
    }
}

/// A machine with a clock, and the process on it, if it runs.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Host {
    pub lag: u8,
    pub lives: u8,
    pub process: Option<Shared<Process>>,
    /// What a process that died has left at the service.
    pub orphans: Vec<Call>,
}

/// A state of the fleet.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Fleet {
    pub redis: Redis,
    pub hosts: Vec<Host>,
    pub left: Budget,
    pub ghost: Ghost,
}

/// What can happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Time goes on, but for the clock of one host.
    Time(Option<u8>),
    /// That clock catches up.
    CatchUp(u8),
    Call(u8),
    Answer(u8, u8, bool),
    Poll(u8),
    Keep(u8),
    Hear(u8, u8),
    Ask(u8),
    Renew(u8, u64),
    HearLease(u8),
    GiveBack(u8),
    /// The keeper's answer does not arrive, or the lease taker's.
    LoseReply(u8),
    LoseLease(u8),
    Order(u8, Order),
    Crash(u8),
    Restart(u8),
    Away,
    Back,
    Flush,
}

const NAMES: [[&str; 2]; 3] = [["a", "a2"], ["b", "b2"], ["c", "c2"]];

impl Fleet {
    /// The host's own time. No two hosts' clocks have an origin in common.
    pub fn clock(&self, host: u8) -> Tick {
        let now = u64::try_from(self.redis.now).expect("past its origin");
        Tick(now + 10_000 * (u64::from(host) + 1) - STEP * u64::from(self.hosts[usize::from(host)].lag))
    }

    /// Lets a process do something; what it publishes reaches the others' inboxes.
    pub fn with(&mut self, rules: &Rules, host: u8, step: impl FnOnce(&mut Process, &mut Around<'_>)) {
        let now = self.clock(host);
        let Some(process) = &mut self.hosts[usize::from(host)].process else { return };
        let mut around = Around { rules, redis: &mut self.redis, ghost: &mut self.ghost, now, said: Vec::new() };
        process.change(|process| step(process, &mut around));
        let said = around.said;
        if said.is_empty() {
            return;
        }
        let stored = self.redis.keys.state(self.redis.now).unwrap_or(None);
        if said.iter().any(|said| stored.as_ref().is_none_or(|stored| (stored.generation, &stored.state) != (said.generation, &said.state)))
        {
            self.ghost.fault("what is published is stored");
        }
        for (other, there) in self.hosts.iter_mut().enumerate() {
            let Some(process) = there.process.as_mut().filter(|_| other != usize::from(host)) else { continue };
            process.change(|process| {
                process.inbox.extend(said.iter().cloned());
                // What is behind is lost: the poll finds it.
                let over = process.inbox.len().saturating_sub(2);
                process.inbox.drain(..over);
            });
        }
    }

    pub fn start(&mut self, rules: &Rules, host: u8) {
        let lives = &mut self.hosts[usize::from(host)].lives;
        let life = if rules.mutant == Mutant::KeepsItsName { 0 } else { usize::from(*lives).min(1) };
        *lives += 1;
        let now = self.clock(host);
        let around = Around { rules, redis: &mut self.redis, ghost: &mut self.ghost, now, said: Vec::new() };
        let process = Process::new(NAMES[usize::from(host)][life], &around);
        self.hosts[usize::from(host)].process = Some(Shared::new(process));
        // What is stored is taken up before the first call.
        self.with(rules, host, |process, around| process.poll(around, Cause::Restored));
        self.finish(rules, host);
    }

    /// Lets the keeper go on until it waits for news.
    pub fn finish(&mut self, rules: &Rules, host: u8) {
        while self.hosts[usize::from(host)].process.as_ref().is_some_and(|process| process.keeps()) {
            self.with(rules, host, |process, around| process.keep(around));
        }
    }

    /// A host's clock has gone on.
    pub fn pass(&mut self, rules: &Rules, host: u8) {
        let now = self.clock(host);
        self.hosts[usize::from(host)].orphans.retain(|call| call.began.plus(rules.timeout) > now);
        self.with(rules, host, |process, around| process.pass(around));
    }

    /// Time goes on by a step.
    pub fn time(&mut self, rules: &Rules, lags: Option<u8>) {
        self.redis.now += i64::try_from(STEP).expect("short");
        for host in 0..rules.instances {
            if lags == Some(host) {
                self.hosts[usize::from(host)].lag += 1;
            } else {
                self.pass(rules, host);
            }
        }
    }

    pub fn order(&mut self, rules: &Rules, host: u8, order: Order) {
        let mutant = rules.mutant;
        let actor = NAMES[usize::from(host)][0];
        self.with(rules, host, |process, around| {
            let expires_at = around.now.plus(Duration::from_millis(2 * STEP));
            around.ghost.unlocked |= process.is_locked() && matches!(order, Order::Release | Order::Reset(_));
            around.ghost.orders += 1;
            around.ghost.locked |= matches!(order, Order::Lock(_) | Order::LockFor(_));
            process.order(
                around,
                &match order {
                    Order::Lock(kind) => Op::Lock(kind, None, actor),
                    Order::LockFor(kind) => Op::Lock(kind, Some(expires_at), actor),
                    Order::Reset(to) => Op::Reset(to),
                    Order::Release if mutant == Mutant::ReleasesInPlace => Op::YieldTo(State {
                        generation: process.generation().0,
                        state: StateName::Closed.as_str().to_owned(),
                        trips: 0,
                        age: 0,
                        retry_in: None,
                        expires_in: None,
                        actor: String::new(),
                        reason: String::new(),
                    }),
                    Order::Release => Op::Release,
                },
            );
        });
    }

    fn probes(&self) -> impl Iterator<Item = &Call> {
        self.hosts
            .iter()
            .flat_map(|host| host.orphans.iter().chain(host.process.iter().flat_map(|process| process.calls.iter())))
            .filter(|call| call.probe)
    }

    fn answer_at_once(&mut self, rules: &Rules) {
        for host in rules.waits..rules.instances {
            while self.hosts[usize::from(host)].process.as_ref().is_some_and(|process| process.keeping != Keeping::Idle) {
                self.with(rules, host, |process, around| process.keep(around));
            }
            if self.hosts[usize::from(host)].process.as_ref().is_some_and(|process| process.asking.is_some()) {
                self.with(rules, host, |process, around| process.hear_lease(around));
            }
        }
    }

    fn catch_up_at_once(&mut self, rules: &Rules) {
        for host in 0..rules.instances {
            self.finish(rules, host);
            if self.hosts[usize::from(host)].process.as_ref().is_some_and(|process| process.has_idle_leases(rules)) {
                self.with(rules, host, |process, around| process.give_back(around));
            }
        }
    }

    fn flush(&mut self) {
        self.redis.keys = Shared::default();
        self.ghost.flushed = true;
        self.ghost.forgotten = true;
    }
}

impl Model for Rules {
    type State = Fleet;
    type Action = Action;

    fn init_states(&self) -> Vec<Fleet> {
        let host = Host { lag: 0, lives: 0, process: None, orphans: Vec::new() };
        let redis = Redis { now: 100_000, keys: Shared::default(), away: false };
        let hosts = vec![host; usize::from(self.instances)];
        let mut fleet = Fleet { redis, hosts, left: self.budget, ghost: Ghost::default() };
        for host in 0..self.instances {
            fleet.start(self, host);
        }
        if self.start == Start::HalfOpen {
            fleet.with(self, 0, |process, around| {
                process.call(around);
                process.answer(around, 0, false);
            });
            fleet.finish(self, 0);
            for _ in 0..3 {
                fleet.time(self, None);
            }
            for host in 0..self.instances {
                fleet.finish(self, host);
                fleet.with(self, host, |process, around| process.poll(around, Cause::Adopted));
                fleet.finish(self, host);
                fleet.with(self, host, |process, _| process.inbox.clear());
            }
        }
        vec![fleet]
    }

    fn actions(&self, fleet: &Fleet, actions: &mut Vec<Action>) {
        if fleet.ghost.fault.is_some() {
            return;
        }
        let left = fleet.left;
        for (host, there) in (0..).zip(&fleet.hosts) {
            if there.lag > 0 {
                actions.push(Action::CatchUp(host));
            }
            let Some(process) = &there.process else {
                if left.time > 0 || left.calls > 0 {
                    actions.push(Action::Restart(host));
                }
                continue;
            };
            self.of_process(fleet, host, process, actions);
        }
        if left.time > 0 {
            actions.push(Action::Time(None));
            if fleet.hosts[0].lag < self.lag {
                actions.push(Action::Time(Some(0)));
            }
        }
        if fleet.redis.away {
            actions.push(Action::Back);
        } else if left.outages > 0 {
            actions.push(Action::Away);
        }
        if left.flushes > 0 && !fleet.redis.away && fleet.redis.keys.breaker != Slot::None {
            actions.push(Action::Flush);
        }
    }

    fn next_state(&self, fleet: &Fleet, action: Action) -> Option<Fleet> {
        let mut next = fleet.clone();
        let left = &mut next.left;
        match action {
            Action::Time(_) => left.time -= 1,
            Action::Call(_) => left.calls -= 1,
            Action::Ask(_) | Action::Renew(..) => left.leases -= 1,
            Action::Poll(_) => left.polls -= 1,
            Action::Order(..) => left.orders -= 1,
            Action::Crash(_) => left.crashes -= 1,
            Action::Away => left.outages -= 1,
            Action::Flush => left.flushes -= 1,
            Action::LoseReply(_) | Action::LoseLease(_) => left.losses -= 1,
            _ => {}
        }
        match action {
            Action::Time(lags) => next.time(self, lags),
            Action::CatchUp(host) => {
                next.hosts[usize::from(host)].lag -= 1;
                next.pass(self, host);
            }
            Action::Call(host) => next.with(self, host, |process, around| process.call(around)),
            Action::Answer(host, number, works) => next.with(self, host, |process, around| process.answer(around, number, works)),
            Action::Poll(host) => next.with(self, host, |process, around| process.poll(around, Cause::Adopted)),
            Action::Keep(host) => next.with(self, host, |process, around| process.keep(around)),
            Action::Hear(host, message) => next.with(self, host, |process, around| process.hear(around, message.into())),
            Action::Ask(host) => next.with(self, host, |process, around| process.ask(around, None)),
            Action::Renew(host, lease) => next.with(self, host, |process, around| process.ask(around, Some(lease))),
            Action::HearLease(host) => next.with(self, host, |process, around| process.hear_lease(around)),
            Action::GiveBack(host) => next.with(self, host, |process, around| process.give_back(around)),
            Action::LoseReply(host) => next.with(self, host, |process, _| process.lose_reply()),
            Action::LoseLease(host) => next.with(self, host, |process, _| process.lose_lease()),
            Action::Order(host, order) => next.order(self, host, order),
            Action::Crash(host) => {
                next.ghost.forgotten = true;
                let there = &mut next.hosts[usize::from(host)];
                there.orphans.extend(there.process.take().into_iter().flat_map(|process| process.calls.clone()));
            }
            Action::Restart(host) => next.start(self, host),
            Action::Away => next.redis.away = true,
            Action::Back => next.redis.away = false,
            Action::Flush => next.flush(),
        }
        next.answer_at_once(self);
        if self.prompt {
            next.catch_up_at_once(self);
        }
        (next != *fleet).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("at most `permits` probes are in flight", |rules: &Self, fleet: &Fleet| {
                // Leases that the store has lost are none; a probe without one is counted where it is.
                fleet.ghost.flushed || fleet.probes().filter(|call| call.leased || !fleet.ghost.alone).count() <= rules.permits()
            }),
            Property::always("no instance has more than `permits` probes of one life in flight", |rules: &Self, fleet: &Fleet| {
                fleet.hosts.iter().filter_map(|host| host.process.as_ref()).all(|process| {
                    let of_one_life = |stay| process.calls.iter().filter(|call| call.probe && call.stay == stay).count();
                    process.calls.iter().all(|call| of_one_life(call.stay) <= rules.permits())
                })
            }),
            Property::always("a probe goes with a lease, where the store answers", holds::<0>),
            Property::always("no late verdict decides", holds::<1>),
            Property::always("generations never go back", holds::<2>),
            Property::always("a lock stands until it ends or is released", holds::<3>),
            Property::always("what is published is stored", holds::<4>),
            Property::always("the fleet comes to agree", |rules: &Self, fleet: &Fleet| settle::settles(rules, fleet).agrees),
            Property::always("the fleet closes when the service works", |rules: &Self, fleet: &Fleet| settle::settles(rules, fleet).closes),
        ]
    }
}

const FAULTS: [&str; 5] = [
    "a probe goes with a lease, where the store answers",
    "no late verdict decides",
    "generations never go back",
    "a lock stands until it ends or is released",
    "what is published is stored",
];

fn holds<const FAULT: usize>(_: &Rules, fleet: &Fleet) -> bool {
    fleet.ghost.fault != Some(FAULTS[FAULT])
}

impl Rules {
    fn of_process(&self, fleet: &Fleet, host: u8, process: &Process, actions: &mut Vec<Action>) {
        let left = fleet.left;
        if left.calls > 0 && process.calls.len() < 2 {
            actions.push(Action::Call(host));
        }
        for call in &process.calls {
            actions
                .extend([true, false].map(|works| Action::Answer(host, call.number, works)).into_iter().take(1 + usize::from(self.fails)));
        }
        if process.keeps() {
            actions.push(Action::Keep(host));
        }
        if process.keeping == Keeping::Idle {
            if left.polls > 0 {
                actions.push(Action::Poll(host));
            }
            actions.extend((0..).zip(&process.inbox).map(|(message, _)| Action::Hear(host, message)));
        } else if left.losses > 0 && process.has_reply() {
            actions.push(Action::LoseReply(host));
        }
        if process.has_idle_leases(self) {
            actions.push(Action::GiveBack(host));
        }
        if left.leases > 0 {
            if process.may_ask(self) {
                actions.push(Action::Ask(host));
            }
            actions.extend(process.due_leases(fleet.clock(host)).into_iter().map(|lease| Action::Renew(host, lease)));
        }
        if let Some(asking) = &process.asking {
            actions.push(Action::HearLease(host));
            if left.losses > 0 && asking.reply != Reply::Lost {
                actions.push(Action::LoseLease(host));
            }
        }
        if left.orders > 0 {
            let fits = |order: &&Order| process.is_locked() || **order != Order::Release;
            actions.extend(self.orders.iter().filter(fits).map(|order| Action::Order(host, *order)));
        }
        if left.crashes > 0 {
            actions.push(Action::Crash(host));
        }
    }
}
