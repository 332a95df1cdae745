//! What a call waits for at its breaker, by what Redis does: it is to be the same.
//!
//! Two threads make calls of four services, as fast as they can; one of the services trips, and is closed by an order, twenty times a second, so that
//! there is always something to store. Redis is a process of the bench's own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fusebox::machine::breaker::{Automatic, Verdict};
use fusebox::pipeline::breakers::{Breakers, Order};
use fusebox::pipeline::ports::Clock;

use super::server::Own;
use super::world::{Bare, Sharing, breakers, config};
use super::{median, runs};

/// How long each is measured, in each run.
const SPAN: Duration = Duration::from_secs(2);

const SHARES: [f64; 3] = [0.5, 0.99, 0.999];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Redis {
    None,
    There,
    Frozen,
    Dead,
}

/// How many calls took so many nanoseconds; the last counts all that took longer.
type Histogram = Vec<u64>;

const LONGEST: usize = 1 << 16;

fn calls(breakers: &Breakers<Bare>, clock: &impl Clock, ending: &AtomicBool) -> Histogram {
    let mut histogram = vec![0; LONGEST + 1];
    let mut service = 0;
    while !ending.load(Ordering::Relaxed) {
        service = (service + 1) % 4;
        let now = clock.now();
        let began = Instant::now();
        if let Ok(admission) = breakers.admit(service, now) {
            admission.settle(Verdict::Success, Duration::from_millis(1), now);
        }
        let took = usize::try_from(began.elapsed().as_nanos()).unwrap_or(LONGEST);
        histogram[took.min(LONGEST)] += 1;
    }
    histogram
}

/// The figures of [`SHARES`], and calls that took longer than [`LONGEST`] nanoseconds, of a million.
fn figures(histogram: &[u64]) -> [f64; 4] {
    let all: u64 = histogram.iter().sum();
    let at = |share: f64| {
        let (mut seen, wanted) = (0, (all as f64 * share) as u64);
        histogram.iter().position(|count| (seen += count, seen > wanted).1).unwrap_or(LONGEST) as f64
    };
    [at(SHARES[0]), at(SHARES[1]), at(SHARES[2]), histogram[LONGEST] as f64 * 1e6 / all as f64]
}

fn run(state: Redis) -> [f64; 4] {
    let mut own = Own::start();
    let config = config(&own.url(), &format!("bench-{:x}", super::kafka::micros_now()), "fail_max = 1");
    let (breakers, announced, clock) = breakers(&config, None);
    let sharing = (state != Redis::None).then(|| Sharing::start(&config, "bench", (&breakers, announced, clock), |store| store));
    match state {
        Redis::None | Redis::There => {}
        Redis::Frozen => own.freeze(),
        Redis::Dead => own.kill(),
    }
    let ending = AtomicBool::new(false);
    let breakers: &Arc<Breakers<Bare>> = &breakers;
    std::thread::scope(|scope| {
        let threads = [(); 2].map(|()| scope.spawn(|| calls(breakers, &clock, &ending)));
        let began = Instant::now();
        while began.elapsed() < SPAN {
            std::thread::sleep(Duration::from_millis(50));
            if let Ok(admission) = breakers.admit(0, clock.now()) {
                admission.settle(Verdict::Failure { retry_after: None }, Duration::ZERO, clock.now());
            }
            breakers.order(0, Order::Reset(Automatic::Closed), "bench", "again");
        }
        ending.store(true, Ordering::Relaxed);
        let [mut one, other] = threads.map(|thread| thread.join().expect("it ends"));
        one.iter_mut().zip(other).for_each(|(one, other)| *one += other);
        let expect = state == Redis::There;
        assert!(sharing.is_none_or(|sharing| sharing.is_up() == expect), "Redis is not as it was to be: {state:?}");
        figures(&one)
    })
}

pub fn measure() {
    let states = [("no sharing", Redis::None), ("Redis there", Redis::There), ("Redis frozen", Redis::Frozen), ("Redis dead", Redis::Dead)];
    let mut all = vec![Vec::new(); states.len()];
    // In turn, so that what else the machine does meets all of them.
    for _ in 0..runs() {
        for ((_, state), figures) in states.iter().zip(&mut all) {
            figures.push(run(*state));
        }
    }
    println!("admit and settle, two threads, the clock's own reading included; ns, medians of {}", runs());
    for ((name, _), figures) in states.iter().zip(&all) {
        let of = |at: usize| median(figures.iter().map(|figures| figures[at]).collect());
        println!("{name:<14} p50 {:>6.0} p99 {:>6.0} p99.9 {:>6.0}; {:.1} of a million above 65 µs", of(0), of(1), of(2), of(3));
    }
    println!();
}
