//! What asking a breaker costs: ours, other crates' and a few lines written by hand, in one run, beside the least that anything
//! shared can cost.
//!
//! `cargo bench --bench breaker`, a minute and a half; the table at the end is the summary. An argument measures only the subjects
//! whose names have it in them: `cargo bench --bench breaker -- fusebox`.
//!
//! A "call" is admit and settle together; each thread has its own handle on the same breaker. With two threads the figure is what one
//! thread waits for one of its calls while the other does the same. "100,000 services" are as many breakers, and each call, a success,
//! is with one of them by chance: what a breaker costs whose memory no cache holds. "Bytes each" is what a process has resident more
//! when it has made that many (Linux), its own handles included; each subject has a process for it, which is this program again. On a machine
//! that does other work too the least of the samples is the one to believe with one thread; with two it may be a sample in which they missed
//! each other.

mod floors;
mod memory;
mod ours;
mod rivals;

use std::hint::black_box;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use criterion::Criterion;
use fusebox::machine::breaker::PolicySettings;
use tokio::runtime;

const SERVICES: usize = 100_000;

/// The argument that makes this program the process whose memory is measured; the subject's name follows.
const MEMORY: &str = "memory-of";

/// Something that guards calls. A clone is another handle on the same.
trait Subject: Clone + Send {
    /// Makes a call that succeeds or fails; whether it was admitted.
    fn call(&mut self, succeeds: bool) -> bool;
}

/// The state that a subject is to be measured in. Closed, it is not to trip, however many calls fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    Closed,
    Open,
    HalfOpen,
}

/// Many services, each with a subject of its own.
#[derive(Clone)]
struct Many<S> {
    services: Vec<S>,
    chance: u64,
}

impl<S: Subject> Subject for Many<S> {
    #[inline]
    fn call(&mut self, succeeds: bool) -> bool {
        self.chance = self.chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let service = ((self.chance >> 32) as usize * self.services.len()) >> 32;
        self.services[service].call(succeeds)
    }
}

/// Criterion's measurements, and what the summary says of each.
struct Bench {
    criterion: Criterion,
    only: Vec<String>,
    /// The subject whose memory is to be said, and nothing else.
    memory_of: Option<String>,
    rows: Vec<Row>,
}

/// A subject in one number of threads: for each of [`COLUMNS`] the median and the least of its samples, in nanoseconds.
struct Row {
    name: &'static str,
    threads: usize,
    figures: [Option<Figure>; COLUMNS.len()],
    bytes: Option<u64>,
}

#[derive(Clone, Copy)]
struct Figure {
    median: f64,
    least: f64,
}

const COLUMNS: [&str; 4] = ["success", "failure", "refused", "100,000 services"];

impl Bench {
    /// Measures a subject in everything that a breaker does; `make` makes one anew in a state.
    fn breaker<S: Subject>(&mut self, name: &'static str, make: impl Fn(Start) -> S) {
        let many = || Many { services: (0..SERVICES).map(|_| make(Start::Closed)).collect(), chance: 1 };
        if self.memory_of.as_deref() == Some(name) {
            let before = memory::resident();
            let many = black_box(many());
            memory::say(before, many.services.len());
        }
        self.subject(name, |bench, threads| {
            let success = bench.measure(&format!("{name}: success"), threads, make(Start::Closed), |breaker| admitted(breaker, true));
            let failure = bench.measure(&format!("{name}: failure"), threads, make(Start::Closed), |breaker| admitted(breaker, false));
            let refused = bench.measure(&format!("{name}: refused"), threads, make(Start::Open), |breaker| {
                assert!(!breaker.call(black_box(true)), "the bench measures refusals");
            });
            let many = bench.measure(&format!("{name}: {SERVICES} services"), threads, many(), |many| admitted(many, true));
            [success, failure, refused, many]
        });
    }

    /// Measures one of our policies.
    fn fusebox(&mut self, name: &'static str, policy: PolicySettings) {
        let settings = ours::settings(policy);
        self.breaker(name, |start| ours::Ours::new(&settings, start));
    }

    /// Measures a subject in one thing that it does.
    fn single<S: Subject>(&mut self, name: &'static str, make: impl Fn() -> S, call: impl Fn(&mut S) + Sync) {
        self.subject(name, |bench, threads| [bench.measure(name, threads, make(), &call), None, None, None]);
    }

    fn subject(&mut self, name: &'static str, measure: impl Fn(&mut Self, usize) -> [Option<Figure>; COLUMNS.len()]) {
        if self.memory_of.is_some() || !self.only.is_empty() && !self.only.iter().any(|word| name.contains(word.as_str())) {
            return;
        }
        for threads in [1, 2] {
            let figures = measure(self, threads);
            let bytes = figures[COLUMNS.len() - 1].and_then(|_| memory::of(name));
            self.rows.push(Row { name, threads, figures, bytes });
        }
    }

    fn measure<S: Subject>(&mut self, name: &str, threads: usize, subject: S, call: impl Fn(&mut S) + Sync) -> Option<Figure> {
        let mut handles = vec![subject; threads];
        let mut samples: Vec<f64> = Vec::new();
        self.criterion.bench_function(&format!("{name}/{threads}"), |bencher| {
            bencher.iter_custom(|iterations| {
                let took = run(&mut handles, iterations, &call);
                samples.push(took.as_secs_f64() * 1e9 / iterations as f64);
                took
            });
        });
        // The first samples are the warm-up's, of few iterations each.
        samples.drain(..samples.len() / 2);
        samples.sort_unstable_by(f64::total_cmp);
        Some(Figure { median: *samples.get(samples.len() / 2)?, least: *samples.first()? })
    }

    fn summary(&self) {
        print!("\n{:<40} {:>7}", "ns a call: median (least)", "threads");
        for column in COLUMNS {
            print!(" {column:>18}");
        }
        println!(" {:>10}", "bytes each");
        for Row { name, threads, figures, bytes } in &self.rows {
            print!("{name:<40} {threads:>7}");
            for figure in figures {
                let text = figure.map_or_else(|| "-".to_owned(), |Figure { median, least }| format!("{median:.1} ({least:.1})"));
                print!(" {text:>18}");
            }
            println!(" {:>10}", bytes.map_or_else(|| "-".to_owned(), |bytes| bytes.to_string()));
        }
    }
}

fn admitted<S: Subject>(subject: &mut S, succeeds: bool) {
    assert!(subject.call(black_box(succeeds)), "the bench measures admitted calls");
}

/// How long `iterations` take by each of the handles at once, a thread each: until the last has done, from when all were there.
fn run<S: Send>(handles: &mut [S], iterations: u64, call: &(impl Fn(&mut S) + Sync)) -> Duration {
    let repeat = |handle: &mut S| {
        let began = Instant::now();
        for _ in 0..iterations {
            call(black_box(&mut *handle));
        }
        began.elapsed()
    };
    if let [handle] = handles {
        return repeat(handle);
    }
    let barrier = Barrier::new(handles.len());
    let runtime = runtime::Handle::current();
    thread::scope(|scope| {
        let running: Vec<_> = handles
            .iter_mut()
            .map(|handle| {
                let (barrier, runtime) = (&barrier, &runtime);
                scope.spawn(move || {
                    let _entered = runtime.enter();
                    barrier.wait();
                    repeat(handle)
                })
            })
            .collect();
        running.into_iter().filter_map(|thread| thread.join().ok()).max().unwrap_or_default()
    })
}

fn main() {
    // For the timer by which tower-resilience waits where two threads are refused at once. It sleeps otherwise.
    let runtime = runtime::Builder::new_multi_thread().worker_threads(1).enable_time().build().expect("a runtime");
    let _entered = runtime.enter();
    let criterion = Criterion::default()
        .without_plots()
        .sample_size(50)
        .nresamples(2_000)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(600));
    let mut only: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let memory_of = if only.first().is_some_and(|word| word == MEMORY) { only.pop() } else { None };
    let mut bench = Bench { criterion, only, memory_of, rows: Vec::new() };

    bench.single("floor: AtomicU64::fetch_add", floors::FetchAdd::default, |floor| admitted(floor, true));
    bench.single("floor: Mutex<u64> += 1", floors::Locked::default, |floor| admitted(floor, true));
    bench.single("floor: Instant::now", floors::FetchAdd::default, |_| {
        black_box(Instant::now());
    });
    bench.breaker("by hand: streak in an atomic", floors::Streak::new);
    bench.breaker("by hand: Mutex<ring of 100>", floors::Ring::new);

    bench.fusebox("fusebox: consecutive", ours::consecutive());
    bench.fusebox("fusebox: count", ours::count());
    bench.fusebox("fusebox: time", ours::time());
    bench.fusebox("fusebox: expression", ours::expression());
    bench.fusebox("fusebox: adaptive", ours::adaptive());
    let settings = ours::settings(ours::consecutive());
    bench.breaker("fusebox: consecutive, clock read", |start| ours::Ours::reading_the_clock(&settings, start));
    let half_open = || ours::Ours::new(&settings, Start::HalfOpen);
    bench.single("fusebox: half-open, probe ignored", half_open, |breaker| {
        black_box(breaker.probe());
    });
    bench.single(
        "fusebox: half-open, refused",
        || half_open().occupy(),
        |breaker| {
            assert!(!breaker.call(black_box(true)), "the bench measures refusals");
        },
    );

    bench.breaker("failsafe: consecutive", rivals::failsafe_consecutive);
    bench.breaker("failsafe: success rate", rivals::failsafe_rate);
    bench.breaker("tower-resilience: consecutive", rivals::tower_consecutive);
    bench.breaker("tower-resilience: count", rivals::tower_count);
    bench.breaker("tower-resilience: time, 100 ms", rivals::tower_time);
    if bench.memory_of.is_none() {
        bench.criterion.final_summary();
        bench.summary();
    }
}
