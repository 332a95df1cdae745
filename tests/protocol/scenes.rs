//! The fleets that are looked at, and what is left out of the protocol to see that something tells.
//!
//! Each scene is looked at to its end: every order of everything that its budget lets happen.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use fusebox::machine::breaker::{Automatic, LockKind, PolicySettings, Settings};
use stateright::{Checker, HasDiscoveries, Model};

use super::fleet::{Budget, Mutant, Order, Rules, Start};
use super::machine::Machines;

const TIMEOUT: Duration = Duration::from_millis(1_000);

fn threads() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from)
}

fn rules(budget: Budget) -> Rules {
    let policy = PolicySettings::Consecutive { fail_max: 1.try_into().expect("not zero") };
    // A call's timeout and a second, as the config's reader has it.
    let settings = Settings::new(policy, Duration::from_millis(1_000), TIMEOUT + Duration::from_secs(1));
    Rules {
        machines: Machines::new(settings),
        timeout: TIMEOUT,
        instances: 2,
        budget,
        start: Start::Fresh,
        lag: 0,
        fails: true,
        orders: Vec::new(),
        mutant: Mutant::None,
        waits: 0,
        prompt: false,
        settled: Mutex::default(),
    }
}

fn half_open(budget: Budget) -> Rules {
    Rules { start: Start::HalfOpen, prompt: true, ..rules(budget) }
}

/// Probes, and clocks that do not go alike, by up to the second that a deadline leaves.
fn probes() -> Rules {
    Rules { lag: 2, ..half_open(Budget { time: 4, calls: 2, leases: 2, ..Budget::default() }) }
}

/// Answers that come so late that a lease is over before it is heard of.
fn late_leases() -> Rules {
    Rules { waits: 1, fails: false, ..half_open(Budget { time: 6, calls: 2, leases: 2, ..Budget::default() }) }
}

/// Probes of instances that die, and start again.
fn crashed_probes() -> Rules {
    half_open(Budget { time: 1, calls: 2, leases: 2, crashes: 1, ..Budget::default() })
}

/// Probes while the store is away and comes back.
fn lonely_probes() -> Rules {
    half_open(Budget { time: 2, calls: 2, leases: 2, polls: 1, outages: 1, ..Budget::default() })
}

/// Everything that breakers decide by themselves, with crashes and a store that goes away.
fn decisions() -> Rules {
    rules(Budget { time: 2, calls: 2, polls: 1, crashes: 1, outages: 1, ..Budget::default() })
}

/// The same with answers that take their time, or are lost though the store has done what was asked.
fn slow_store() -> Rules {
    Rules { waits: 2, ..rules(Budget { time: 2, calls: 2, polls: 1, losses: 1, ..Budget::default() }) }
}

/// Orders at instances that have not heard of each other's.
fn orders() -> Rules {
    let orders = vec![Order::Lock(LockKind::ForcedOpen), Order::Release, Order::Reset(Automatic::Closed)];
    Rules { orders, ..rules(Budget { calls: 1, polls: 1, orders: 2, outages: 1, ..Budget::default() }) }
}

/// A lock against more orders than it counts.
fn many_orders() -> Rules {
    let orders = vec![Order::Lock(LockKind::ForcedOpen), Order::Reset(Automatic::Closed)];
    Rules { orders, ..rules(Budget { polls: 1, orders: 3, ..Budget::default() }) }
}

/// Locks that end by themselves.
fn ending_locks() -> Rules {
    let orders = vec![Order::LockFor(LockKind::ForcedOpen)];
    Rules { orders, lag: 1, ..rules(Budget { time: 3, calls: 1, polls: 1, orders: 1, ..Budget::default() }) }
}

/// A store that loses everything.
fn emptied() -> Rules {
    rules(Budget { time: 2, calls: 2, polls: 1, flushes: 1, crashes: 1, ..Budget::default() })
}

type Scene = (&'static str, fn() -> Rules);

const SCENES: [Scene; 10] = [
    ("crashed probes", crashed_probes),
    ("lonely probes", lonely_probes),
    ("decisions", decisions),
    ("slow store", slow_store),
    ("orders", orders),
    ("many orders", many_orders),
    ("ending locks", ending_locks),
    ("emptied", emptied),
    ("probes", probes),
    ("late leases", late_leases),
];

/// What takes minutes.
const DEEP: [Scene; 6] = [
    ("slower store", || Rules {
        waits: 2,
        ..rules(Budget { time: 1, calls: 2, polls: 1, losses: 1, crashes: 1, outages: 1, ..Budget::default() })
    }),
    ("orders and a slow store", || {
        let orders = vec![Order::Lock(LockKind::ForcedOpen), Order::Release];
        Rules { orders, waits: 2, ..rules(Budget { calls: 1, polls: 1, orders: 2, losses: 1, ..Budget::default() }) }
    }),
    ("probes of two at once", || with_permits(Rules { lag: 1, ..half_open(Budget { time: 3, calls: 3, leases: 3, ..Budget::default() }) })),
    ("probes of three instances", || Rules { instances: 3, ..half_open(Budget { time: 2, calls: 3, leases: 3, ..Budget::default() }) }),
    ("decisions of three instances", || Rules {
        instances: 3,
        ..rules(Budget { time: 2, calls: 2, polls: 1, outages: 1, ..Budget::default() })
    }),
    ("more decisions", || rules(Budget { time: 3, calls: 3, polls: 1, crashes: 1, outages: 1, ..Budget::default() })),
];

fn with_permits(rules: Rules) -> Rules {
    let settings = Settings { permits: 2, success_threshold: 2, ..rules.machines.settings().clone() };
    Rules { machines: Machines::new(settings), ..rules }
}

fn hold(name: &str, rules: Rules) {
    let from = Instant::now();
    let checker = rules.checker().threads(threads()).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let (states, depth) = (checker.unique_state_count(), checker.max_depth());
    println!("{name}: {states} states, to depth {depth}, {} steps, in {:.1?}", checker.state_count(), from.elapsed());
    let broken: Vec<String> = checker
        .discoveries()
        .into_iter()
        .map(|(property, path)| format!("{property}: {:#?}\n{:#?}", path.clone().into_actions(), path.last_state()))
        .collect();
    assert!(broken.is_empty(), "{name}:\n{}", broken.join("\n"));
    assert!(states > 1_000, "{name} says little: {states} states");
}

#[test]
fn every_fleet_keeps_to_the_protocol() {
    for (name, rules) in SCENES {
        hold(name, rules());
    }
}

#[test]
#[ignore = "takes minutes: cargo test --test protocol -- --ignored --nocapture"]
fn every_larger_fleet_keeps_to_the_protocol() {
    for (name, rules) in DEEP {
        hold(name, rules());
    }
}

#[test]
fn what_is_left_out_is_told() {
    use Mutant as M;
    let few = "at most `permits` probes are in flight";
    let closes = "the fleet closes when the service works";
    let agrees = "the fleet comes to agree";
    let back = "generations never go back";
    let lock = "a lock stands until it ends or is released";
    let cases: [(Mutant, fn() -> Rules, &str); 12] = [
        (M::NoFence, decisions, back),
        (M::NoDeadline, crashed_probes, closes),
        (M::NoCount, probes, few),
        (M::PublishesFirst, decisions, "what is published is stored"),
        (M::ReleasesInPlace, orders, closes),
        (M::CountsFromTheAnswer, late_leases, few),
        (M::NoReserve, probes, few),
        (M::GivesBackEarly, probes, few),
        (M::HearsBeforeItSaves, many_orders, lock),
        (M::StandsByNothing, many_orders, lock),
        (M::PutsNothingBack, emptied, agrees),
        (M::KeepsItsName, crashed_probes, few),
    ];
    for (mutant, rules, property) in cases {
        let from = Instant::now();
        let told = HasDiscoveries::AnyOf(BTreeSet::from([property]));
        let checker = Rules { mutant, ..rules() }.checker().threads(threads()).finish_when(told).spawn_bfs().join();
        let steps = checker.discovery(property).map(|path| path.into_actions().len());
        println!("{mutant:?}: {property}: {steps:?} steps, {} states, {:.1?}", checker.unique_state_count(), from.elapsed());
        assert!(steps.is_some(), "{mutant:?} breaks nothing: {:?}", checker.discoveries().keys());
    }
}
