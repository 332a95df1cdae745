//! Seeded worlds: the whole pipeline over a Kafka, services, a clock and a chance that are made from one number, with crashes, rebalances, failing
//! publishes and failing services. What must always be true is checked while it runs and when it has come to rest.
//!
//! `SIM_SEEDS` says how many seeds are run ([`SEEDS`]), `SIM_FIRST` which is the first (0). A failing seed is named, with the command that runs
//! it again, byte for byte.

mod along;
mod bounds;
mod handed;
mod index;
mod instance;
mod kafka;
mod lanes;
mod oracle;
mod refetch;
mod seeds;
mod services;
mod transactions;
mod watch;
mod world;

/// How many seeds are run where `SIM_SEEDS` does not say it.
const SEEDS: u64 = 10_000;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} must be a number, not {text:?}")))
}

fn run(seed: u64) -> oracle::Report {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
    runtime.block_on(world::run(seed))
}

#[test]
fn whatever_happens_nothing_is_lost() {
    let (first, seeds) = (number("SIM_FIRST", 0), number("SIM_SEEDS", SEEDS));
    let totals = seeds::run_all(first..first + seeds, run);
    println!("{seeds} seeds: {totals:?}");
    // A world in which nothing goes wrong shows nothing: each kind of trouble must have come up.
    for what in [
        "events",
        "unreadable",
        "parked",
        "drained",
        "trips",
        "crashes",
        "rebalances",
        "lost partitions",
        "holds",
        "pauses",
        "cut off",
        "failed publishes",
        "dead letters",
        "stopped partitions",
        "read again",
        "too large",
        "clean stops",
        "worlds of lanes",
        "calls behind others",
        "transactions",
        "transactions aborted",
        "transactions left open",
        "transactions not begun",
        "refetched",
        "refetches that failed",
    ] {
        assert!(seeds < 200 || totals.get(what).is_some_and(|count| *count > 0), "no seed had any {what}");
    }
}

#[test]
fn a_seed_is_a_world() {
    for seed in [1, 7, 42] {
        let (one, other) = (run(seed).trace, run(seed).trace);
        let differing = one.lines().zip(other.lines()).position(|(one, other)| one != other);
        if let Some(line) = differing {
            let at = |trace: &str| trace.lines().nth(line).map(str::to_owned);
            panic!("seed {seed} is not the same twice: fact {line} is {:?} or {:?}", at(&one), at(&other));
        }
        assert_eq!(one.len(), other.len(), "seed {seed} is not the same twice");
    }
}
