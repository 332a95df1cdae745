//! What a breaker costs in memory: 100,000 of them, by what the process has resident before and after (Linux), so that the
//! allocator's own share is in it.
//!
//! `cargo bench --bench memory`

use std::hint::black_box;
use std::num::NonZeroU32;
use std::time::Duration;

use fusebox::machine::breaker::{PolicySettings, Settings, SharedBreaker};
use fusebox::machine::time::Tick;

const BREAKERS: usize = 100_000;

/// Resident bytes of this process; `None` where the system does not tell.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let kilobytes = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.trim().strip_suffix("kB")?.trim();
    kilobytes.parse::<u64>().ok().map(|kilobytes| kilobytes * 1_024)
}

fn main() {
    let settings = Settings {
        recovery_timeout_max: Duration::from_secs(60),
        ..Settings::new(PolicySettings::Consecutive { fail_max: NonZeroU32::MIN }, Duration::from_secs(60), Duration::from_secs(16))
    };
    let before = resident();
    let breakers: Vec<_> = (0..BREAKERS).map(|_| Box::new(SharedBreaker::new(settings.clone(), Tick(0)))).collect();
    let after = resident();
    black_box(&breakers);
    println!("size of a shared breaker          {:>6} bytes", size_of::<SharedBreaker>());
    match before.zip(after) {
        Some((before, after)) => {
            println!(
                "resident, for each of {BREAKERS}      {:>6} bytes (policy, box and pointer included)",
                (after - before) / BREAKERS as u64
            );
        }
        None => println!("resident                          not measured: there is no /proc here"),
    }
}
