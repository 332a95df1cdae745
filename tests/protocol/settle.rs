//! What becomes of a fleet once nothing goes wrong any more: the store is back, and every instance polls it.

use std::hash::{DefaultHasher, Hash, Hasher};

use fusebox::machine::breaker::{Cause, StateName};

use super::fleet::{Budget, Fleet, Order, Rules, STEP};
use super::instance::Process;

/// Rounds of polls, at most: one to hear of the highest generation, one to store a lock above it, one to hear of that.
const POLLS: u32 = 3;

/// What becomes of a fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settled {
    /// Everybody and the store come to the same state, be the messages that are under way heard or lost; to a lock, if one stands.
    pub agrees: bool,
    /// Everybody closes, and with them the store, in a bounded time once the service works, nothing is locked and every instance runs.
    pub closes: bool,
}

/// What becomes of this one. It depends on nothing that may happen yet.
pub fn settles(rules: &Rules, fleet: &Fleet) -> Settled {
    let mut fleet = fleet.clone();
    fleet.left = Budget::default();
    remembered(rules, (&fleet, true), || {
        let mut deaf = fleet.clone();
        come_to_rest(rules, &mut deaf, false);
        let mut all = fleet.clone();
        let agrees = agree(&deaf) && {
            come_to_rest(rules, &mut all, true);
            agree(&all)
        };
        // Much comes to rest alike.
        let closes = remembered(rules, (&deaf, false), || Settled { agrees, closes: closes(rules, deaf.clone()) }).closes;
        Settled { agrees, closes }
    })
}

fn remembered(rules: &Rules, what: impl Hash, find: impl FnOnce() -> Settled) -> Settled {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    let key = hasher.finish();
    if let Some(known) = rules.settled.lock().expect("whole").get(&key) {
        return *known;
    }
    let found = find();
    rules.settled.lock().expect("whole").insert(key, found);
    found
}

fn closes(rules: &Rules, mut fleet: Fleet) -> bool {
    for host in 0..rules.instances {
        fleet.hosts[usize::from(host)].lag = 0;
        if fleet.hosts[usize::from(host)].process.is_none() {
            fleet.start(rules, host);
        }
        fleet.with(rules, host, |process, around| {
            while let Some(number) = process.calls.first().map(|call| call.number) {
                process.answer(around, number, true);
            }
        });
        if fleet.hosts[usize::from(host)].process.as_ref().is_some_and(|process| process.is_locked()) {
            fleet.ghost.unlocked = true;
            fleet.order(rules, host, Order::Release);
        }
        poll(rules, &mut fleet, host);
    }
    // The longest open time, the longest lease, and what of patience comes between.
    let longest = rules.machines.settings().recovery_timeout + rules.machines.settings().lease;
    let rounds = u64::try_from(longest.as_millis()).expect("short") / STEP + 12;
    for _ in 0..rounds {
        for host in 0..rules.instances {
            probe(rules, &mut fleet, host);
            poll(rules, &mut fleet, host);
        }
        if processes(&fleet).all(|process| process.node.snapshot.held.name() == StateName::Closed) && agree(&fleet) {
            return true;
        }
        fleet.time(rules, None);
    }
    false
}

fn processes(fleet: &Fleet) -> impl Iterator<Item = &Process> {
    fleet.hosts.iter().filter_map(|host| host.process.as_deref())
}

fn poll(rules: &Rules, fleet: &mut Fleet, host: u8) {
    fleet.finish(rules, host);
    fleet.with(rules, host, |process, around| process.poll(around, Cause::Adopted));
    fleet.finish(rules, host);
}

/// A lease is taken if there is a use for one; a call comes and works.
fn probe(rules: &Rules, fleet: &mut Fleet, host: u8) {
    fleet.with(rules, host, |process, around| {
        if process.has_idle_leases(around.rules) {
            process.give_back(around);
        }
        if process.may_ask(around.rules) {
            process.ask(around, None);
            process.hear_lease(around);
        }
        process.call(around);
        if let Some(number) = process.calls.first().map(|call| call.number) {
            process.answer(around, number, true);
        }
    });
}

fn come_to_rest(rules: &Rules, fleet: &mut Fleet, heard: bool) {
    fleet.redis.away = false;
    for host in 0..rules.instances {
        fleet.with(rules, host, |process, around| process.hear_lease(around));
        fleet.finish(rules, host);
        while heard && fleet.hosts[usize::from(host)].process.as_ref().is_some_and(|process| !process.inbox.is_empty()) {
            fleet.with(rules, host, |process, around| process.hear(around, 0));
            fleet.finish(rules, host);
        }
    }
    for _ in 0..POLLS {
        let before = fleet.clone();
        for host in 0..rules.instances {
            poll(rules, fleet, host);
            fleet.with(rules, host, |process, _| process.inbox.clear());
        }
        if *fleet == before {
            return;
        }
    }
}

/// Whether all are in one state; in a lock, if one stands.
fn agree(fleet: &Fleet) -> bool {
    let mut states = processes(fleet).map(|process| (process.generation().0, process.node.snapshot.held.name().as_str()));
    let stored = fleet.redis.keys.state(fleet.redis.now).unwrap_or(None);
    // A breaker that has never changed is what the absence of a state means.
    let stored = stored.as_ref().map_or((0, "closed"), |stored| (stored.generation, stored.state.as_str()));
    let stands = fleet.ghost.locked && !fleet.ghost.unlocked && !fleet.ghost.forgotten;
    states.all(|state| state == stored) && (!stands || processes(fleet).all(Process::is_locked))
}
