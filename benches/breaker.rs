//! What asking a breaker costs, beside the least that anything shared can cost: an atomic's increment, and a mutex's.
//!
//! `cargo bench --bench breaker`; the table at the end is the summary. A "call" is admit and settle together. With two threads the
//! figure is what one thread waits for one of its calls while the other does the same. On a machine that does other work too the
//! least of the samples is the one to believe with one thread; with two it may be a sample in which they missed each other.

use std::hint::black_box;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use criterion::Criterion;
use fusebox::machine::breaker::{Automatic, PolicySettings, Settings, SharedBreaker, Verdict};
use fusebox::machine::time::Tick;

const NOW: Tick = Tick(1_000);
const FAILURE: Verdict = Verdict::Failure { retry_after: None };

fn breaker(state: Automatic) -> SharedBreaker {
    // No streak of the bench's failures is long enough to trip.
    let policy = PolicySettings::Consecutive { fail_max: NonZeroU32::MAX };
    let settings = Settings::new(policy, Duration::from_secs(60), Duration::from_secs(16));
    let breaker = SharedBreaker::new(settings, NOW);
    breaker.with(|breaker| breaker.reset_to(state, "bench", "to measure it", NOW, || 0.0));
    breaker
}

fn call(breaker: &SharedBreaker, verdict: Verdict) {
    if let (Ok(permit), _) = black_box(breaker).admit(black_box(NOW), || 0.0) {
        black_box(breaker.settle(permit, black_box(verdict), Duration::ZERO, NOW, || 0.0));
    }
}

fn refused(breaker: &SharedBreaker) {
    let refused = black_box(breaker).admit(black_box(NOW), || 0.0).0.is_err();
    assert!(black_box(refused), "the bench measures refusals");
}

/// Criterion's measurements, and what the summary says of each.
struct Bench {
    criterion: Criterion,
    rows: Vec<Row>,
}

struct Row {
    name: &'static str,
    threads: usize,
    least_nanos: f64,
    median_nanos: f64,
}

impl Bench {
    fn measure(&mut self, name: &'static str, threads: usize, operation: impl Fn() + Sync) {
        let mut samples: Vec<f64> = Vec::new();
        self.criterion.bench_function(&format!("{name}/{threads}"), |bencher| {
            bencher.iter_custom(|iterations| {
                let took = run(threads, iterations, &operation);
                samples.push(took.as_secs_f64() * 1e9 / iterations as f64);
                took
            });
        });
        // The first samples are the warm-up's, of few iterations each.
        samples.drain(..samples.len() / 2);
        samples.sort_unstable_by(f64::total_cmp);
        if let (Some(least), Some(median)) = (samples.first(), samples.get(samples.len() / 2)) {
            self.rows.push(Row { name, threads, least_nanos: *least, median_nanos: *median });
        }
    }

    fn summary(&self) {
        println!("\n{:<32} {:>7} {:>9} {:>9} {:>11} {:>11}", "one operation", "threads", "least ns", "median ns", "× fetch_add", "× mutex");
        for Row { name, threads, least_nanos, median_nanos } in &self.rows {
            let over = |floor: &str| {
                let floor = self.rows.iter().find(|row| row.name == floor && row.threads == *threads);
                floor.map_or_else(|| "-".to_owned(), |floor| format!("{:.2}", median_nanos / floor.median_nanos))
            };
            println!("{name:<32} {threads:>7} {least_nanos:>9.2} {median_nanos:>9.2} {:>11} {:>11}", over(FETCH_ADD), over(MUTEX));
        }
    }
}

/// How long `iterations` take in each of so many threads at once: until the last has done, from when all were there.
fn run(threads: usize, iterations: u64, operation: &(impl Fn() + Sync)) -> Duration {
    let repeat = || {
        let began = Instant::now();
        for _ in 0..iterations {
            operation();
        }
        began.elapsed()
    };
    if threads == 1 {
        return repeat();
    }
    let barrier = Barrier::new(threads);
    thread::scope(|scope| {
        let running: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    barrier.wait();
                    repeat()
                })
            })
            .collect();
        running.into_iter().filter_map(|thread| thread.join().ok()).max().unwrap_or_default()
    })
}

const FETCH_ADD: &str = "floor: AtomicU64::fetch_add";
const MUTEX: &str = "floor: Mutex<u64> += 1";

fn main() {
    let criterion = Criterion::default()
        .without_plots()
        .sample_size(100)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(1_000))
        .configure_from_args();
    let mut bench = Bench { criterion, rows: Vec::new() };
    let atomic = AtomicU64::new(0);
    let mutex = Mutex::new(0u64);
    for threads in [1, 2] {
        bench.measure(FETCH_ADD, threads, || {
            black_box(black_box(&atomic).fetch_add(1, Ordering::Relaxed));
        });
        bench.measure(MUTEX, threads, || {
            if let Ok(mut count) = black_box(&mutex).lock() {
                *count += 1;
            }
        });
        let closed = breaker(Automatic::Closed);
        bench.measure("closed: call, success", threads, || call(&closed, Verdict::Success));
        bench.measure("closed: call, failure", threads, || call(&closed, FAILURE));
        let open = breaker(Automatic::Open);
        bench.measure("open: refused", threads, || refused(&open));
        let probing = breaker(Automatic::HalfOpen);
        bench.measure("half-open: probe, ignored", threads, || call(&probing, Verdict::Ignored));
        let full = breaker(Automatic::HalfOpen);
        // Its only place is taken, by a probe that never comes back.
        let _ = full.admit(NOW, || 0.0);
        bench.measure("half-open: refused", threads, || refused(&full));
    }
    bench.criterion.final_summary();
    bench.summary();
}
