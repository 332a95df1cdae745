//! What sharing breakers through Redis costs: commands, CPU, and what a call waits for.
//!
//! Breakers, keeper, leases and timers are the program's own, over its own store and a real Redis; the calls are a loop that asks and settles. What
//! a call costs beside that is in no figure but the last of `cpu`, for which the whole program is run. CPU is what the kernel has counted.
//!
//! ```sh
//! scripts/services exec -- cargo bench --bench fleet                # all of them, about three minutes
//! scripts/services exec -- cargo bench --bench fleet -- commands    # Redis' commands for 1,000 calls, at two rates
//! scripts/services exec -- cargo bench --bench fleet -- cpu         # the share of the processor's CPU
//! scripts/services exec -- cargo bench --bench fleet -- many        # 10,000 services: a sweep, a poll, all of them trip
//! scripts/services exec -- cargo bench --bench fleet -- latency     # a call, with Redis there, frozen and dead
//! ```
//!
//! `BENCH_RUNS` is how often each is measured; medians are told. `BENCH_BREAKER` is added to each service's `breaker` table, a line of TOML.

#[path = "../engine/kafka.rs"]
mod kafka;
mod latency;
mod load;
mod many;
#[path = "../engine/measured.rs"]
mod measured;
#[expect(dead_code, reason = "the engine's bench needs more of it")]
#[path = "../engine/scene.rs"]
mod scene;
mod server;
#[path = "../engine/stub.rs"]
mod stub;
mod world;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.split_first() {
        Some((&load::WORD, rest)) => load::run(rest),
        Some((&"commands", _)) => load::commands(),
        Some((&"cpu", _)) => load::cpu(),
        Some((&"many", _)) => many::measure(),
        Some((&"latency", _)) => latency::measure(),
        None => {
            load::commands();
            load::cpu();
            many::measure();
            latency::measure();
        }
        Some((word, _)) => {
            eprintln!("no such figure: {word}; there are commands, cpu, many, latency; all of them without a word");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

fn runs() -> usize {
    std::env::var("BENCH_RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(3)
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}
