//! Runs seeds on all cores, and says of a failing one how it is run again.
//!
//! A world has a thread, a runtime and a clock of its own, so that it is the same beside others as alone. A world that spins without its time
//! going on would never end by itself: it is given up by the machine's clock, and named as well.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::oracle::Report;

/// How long no world may come to its end. The dearest takes a tenth of a second.
const SPINNING: Duration = Duration::from_secs(120);

thread_local! {
    /// What went wrong first in this thread's world. The program catches a panic that an event meets, and a task's is heard late: what the world
    /// ends with may be no more than what follows.
    static FIRST_PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

fn listen() {
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        FIRST_PANIC.with_borrow_mut(|first| _ = first.get_or_insert_with(|| info.to_string()));
        before(info);
    }));
}

/// What has become of a seed.
enum Told {
    Begun,
    Passed(BTreeMap<&'static str, u64>),
    Failed(String),
}

/// Runs each seed, until one has failed. Gives what happened in all of them.
pub fn run_all(seeds: Range<u64>, run: fn(u64) -> Report) -> BTreeMap<&'static str, u64> {
    listen();
    let (next, failing) = (Arc::new(AtomicU64::new(seeds.start)), Arc::new(AtomicBool::new(false)));
    let (tell, told) = mpsc::channel();
    let cores = thread::available_parallelism().map_or(1, usize::from);
    for core in 0..cores {
        let (next, failing, tell, end) = (Arc::clone(&next), Arc::clone(&failing), tell.clone(), seeds.end);
        let work = move || {
            while !failing.load(Relaxed) {
                let seed = next.fetch_add(1, Relaxed);
                if seed >= end {
                    return;
                }
                let told = |told| drop(tell.send((seed, told)));
                told(Told::Begun);
                let ran = catch_unwind(AssertUnwindSafe(|| run(seed)));
                told(match (FIRST_PANIC.take(), ran) {
                    (None, Ok(report)) => Told::Passed(report.counts),
                    (first, _) => {
                        failing.store(true, Relaxed);
                        Told::Failed(first.unwrap_or_else(|| "it panicked without a word".to_owned()))
                    }
                });
            }
        };
        thread::Builder::new().name(format!("worlds-{core}")).spawn(work).expect("a thread");
    }
    drop(tell);

    let mut totals = BTreeMap::new();
    let (mut under_way, mut failed) = (Vec::new(), BTreeMap::new());
    loop {
        match told.recv_timeout(SPINNING) {
            Ok((seed, Told::Begun)) => under_way.push(seed),
            Ok((seed, ended)) => {
                under_way.retain(|other| *other != seed);
                match ended {
                    Told::Failed(why) => drop(failed.insert(seed, why)),
                    Told::Passed(counts) => counts.into_iter().for_each(|(what, count)| *totals.entry(what).or_default() += count),
                    Told::Begun => {}
                }
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                failed.extend(under_way.iter().map(|seed| (*seed, "it spins: its time does not go on".to_owned())));
                break;
            }
        }
    }
    let failed: Vec<String> = failed.iter().map(|(seed, why)| format!("seed {seed} fails: {why}\nagain: {}", again(*seed))).collect();
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
    totals
}

/// The command that runs a seed again.
pub fn again(seed: u64) -> String {
    format!("SIM_FIRST={seed} SIM_SEEDS=1 cargo test --locked --test sim")
}
