//! Which runs are made, and how their figures are told.

use std::time::Duration;

use super::kafka::Load;
use super::scene::{Figures, MIB, Scene, Worker};
use super::stub;

const THREE: &[&str] = &["rag", "rulegen", "notifier"];

fn engine(stages: &'static [&'static str]) -> Worker {
    Worker::Engine { stages, ordering: "key", config: String::new() }
}

pub fn scene(worker: Worker, events: u64) -> Scene {
    let load = Load { events, keys: 1_000, rate: None, text: 420 };
    Scene { worker, load, partitions: 6, concurrency: 256, service_concurrency: 256, stub: stub::serve(Duration::ZERO) }
}

pub fn tell(name: &str, figures: Figures) {
    println!(
        "{name:<44} {:>9.0} events/s {:>8.1} µs CPU an event {:>7.1} MiB peak",
        figures.events_per_second,
        figures.cpu_us_per_event,
        figures.peak_resident as f64 / MIB as f64
    );
}

pub fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

pub fn runs() -> usize {
    std::env::var("BENCH_RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(3)
}

/// The engine beside its floors, in turn, so that what else the machine does meets all of them.
pub fn ratios(only: Option<&str>) {
    for (word, name, floor, worker, events) in [
        ("plain", "without calls", Worker::FloorPublish, engine(&[]), 300_000),
        ("calls", "with three HTTP calls", Worker::FloorHttp { calls: 3 }, engine(THREE), 50_000),
    ] {
        if only.is_some_and(|only| only != word) {
            continue;
        }
        let (mut floors, mut engines) = (Vec::new(), Vec::new());
        for _ in 0..runs() {
            let figures = scene(floor.clone(), events).throughput();
            tell(&format!("floor, {name}"), figures);
            floors.push(figures.cpu_us_per_event);
            let figures = scene(worker.clone(), events).throughput();
            tell(&format!("engine, {name}"), figures);
            engines.push(figures.cpu_us_per_event);
        }
        let ratio = median(engines.iter().zip(&floors).map(|(engine, floor)| engine / floor).collect());
        println!("{name}: {:.1} µs over {:.1} µs; ratio {ratio:.2}\n", median(engines), median(floors));
    }
}

/// How long an event takes, at a rate that leaves the machine time to breathe.
pub fn latencies() {
    for (name, worker) in [("floor", Worker::FloorHttp { calls: 3 }), ("engine", engine(THREE))] {
        let load = Load { events: 20_000, keys: 1_000, rate: Some(2_000), text: 420 };
        let all = Scene { load, ..scene(worker, 0) }.latencies();
        let at = |share: f64| all[((all.len() - 1) as f64 * share) as usize] as f64 / 1_000.0;
        println!(
            "{name}, three calls, 2,000 events/s: from publish to outcome p50 {:.1} ms, p99 {:.1} ms, most {:.1} ms",
            at(0.5),
            at(0.99),
            at(1.0)
        );
    }
}

/// What is resident at most with the shipped settings, a backlog that never ends, and events of two sizes.
pub fn memory() {
    for (name, events, text) in [("1 KiB", 60_000, 420), ("32 KiB", 8_000, 32_000)] {
        let load = Load { events, keys: 1_000, rate: None, text };
        let shipped = Scene { load, service_concurrency: 64, ..scene(engine(THREE), events) };
        tell(&format!("as shipped (bound 64 MiB), events of {name}"), shipped.throughput());
    }
}

/// What an event costs, by one size at a time.
pub fn curves() {
    let events = 30_000;
    for keys in [10, 1_000, 100_000] {
        let base = scene(engine(THREE), events);
        let figures = Scene { load: Load { keys, ..base.load }, ..base }.throughput();
        tell(&format!("{keys} keys"), figures);
    }
    for partitions in [1, 16, 256] {
        let figures = Scene { partitions, ..scene(engine(THREE), events) }.throughput();
        tell(&format!("{partitions} partitions"), figures);
    }
    // As many connections as calls: what those cost the kernel and the caches, the floor pays too. One call, or they would be more than a process
    // may usually open.
    for concurrency in [100, 1_000, 10_000] {
        for (name, worker) in [("floor", Worker::FloorHttp { calls: 1 }), ("engine", engine(&["rag"]))] {
            let load = Load { events, keys: 100_000, rate: None, text: 420 };
            let figures = Scene { concurrency, service_concurrency: concurrency, load, ..scene(worker, events) }.throughput();
            tell(&format!("{concurrency} calls in flight, {name}, one call"), figures);
        }
    }
}

/// 10,000 events of 0 to 5 ms, one partition, 100 at once, by number of keys and order.
pub fn table() {
    let stub = stub::serve(Duration::from_millis(5));
    println!("10,000 events of 0 to 5 ms of a service's time, one partition, 100 at once: seconds from the first outcomes to the last");
    for ordering in ["partition", "key", "unordered"] {
        let keys_of: &[u64] = if ordering == "key" { &[1, 10, 100, 1_000, 10_000] } else { &[1_000] };
        for keys in keys_of {
            let worker = Worker::Engine { stages: &["rag"], ordering, config: String::new() };
            let load = Load { events: 10_000, keys: *keys, rate: None, text: 420 };
            let figures = Scene { worker, load, partitions: 1, concurrency: 100, service_concurrency: 100, stub }.throughput();
            let scaled = figures.wall.as_secs_f64() * 10.0 / 9.0;
            println!("{ordering:<10} {keys:>6} keys {scaled:>7.2} s {:>9.0} events/s", figures.events_per_second);
        }
    }
}
