//! What parking costs beside publishing alone, and how fast what is parked is drained beside as many live calls of the same service.
//!
//! An event that is parked leaves two records, its outcome and its call, so beside the floor that publishes one there is a floor that publishes
//! both. Rates of calls are counted by the stub, for live and drained ones alike.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::kafka::{self, Load, Outcomes};
use super::measured::Measured;
use super::report::{median, runs, scene, tell};
use super::scene::{Figures, OUTCOME_PARTITIONS, Scene, Stage, Worker, engine, floor};
use super::stub;

const NOTIFIER: &[&str] = &["notifier"];

/// Nobody listens there: the first calls fail, the breaker opens, and every event from then on is parked without a call.
const NOBODY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);

/// Stays open for longer than a run takes.
const OPEN: [&str; 4] = ["--set", "services.notifier.breaker.fail_max=1", "--set", "services.notifier.breaker.recovery_timeout=\"1d\""];

/// Who writes what.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Writer {
    /// The floor: an outcome.
    Outcome,
    /// The floor: an outcome and a parked call.
    Both,
    /// The engine, without calls: an outcome.
    Engine,
    /// The engine, an open breaker: an outcome and a parked call.
    Parking,
}

const EVENTS: u64 = 200_000;

fn write(writer: Writer) -> (Figures, Scene, Stage) {
    let worker = Worker::Engine { stages: NOTIFIER, ordering: "key", config: String::new() };
    let scene = Scene { stub: NOBODY, ..scene(worker, EVENTS) };
    let stage = Stage::set(&scene);
    kafka::publish(&stage.events, scene.partitions, scene.load);
    let command = match writer {
        Writer::Outcome => floor(&["publish", &stage.group, &stage.events, &stage.outcomes]),
        Writer::Both => floor(&["park", &stage.group, &stage.events, &stage.outcomes, &stage.retries]),
        Writer::Engine => with(engine(&scene, &stage, &[], "key", ""), &["--role", "processor"]),
        Writer::Parking => with(engine(&scene, &stage, NOTIFIER, "key", ""), &[&["--role", "processor"], &OPEN[..]].concat()),
    };
    (scene.measure(&stage, &Measured::start(command)), scene, stage)
}

fn with(mut command: std::process::Command, arguments: &[&str]) -> std::process::Command {
    command.args(arguments);
    command
}

/// Parking beside the floors and beside the engine without calls, in turn.
pub fn parking() {
    let mut costs: [Vec<f64>; 4] = Default::default();
    for _ in 0..runs() {
        for (writer, name, costs) in [
            (Writer::Outcome, "floor, an outcome"),
            (Writer::Both, "floor, an outcome and a parked call"),
            (Writer::Engine, "engine, without calls"),
            (Writer::Parking, "engine, every call parked"),
        ]
        .into_iter()
        .zip(&mut costs)
        .map(|((writer, name), costs)| (writer, name, costs))
        {
            let (figures, _, stage) = write(writer);
            stage.strike();
            tell(name, figures);
            costs.push(figures.cpu_us_per_event);
        }
    }
    let [outcome, both, engine, parking] = &costs;
    let ratio = |over: &[f64]| median(parking.iter().zip(over).map(|(parking, over)| parking / over).collect());
    println!(
        "parking: {:.1} µs; {:.2} times the engine without calls, {:.2} times the floor that writes the same, {:.2} times the floor that writes an outcome\n",
        median(parking.clone()),
        ratio(engine),
        ratio(both),
        ratio(outcome)
    );
}

/// How many calls are made a second, and what one costs, between the first tenth of them and the last.
fn calls(process: &Measured, answered: &AtomicU64, count: u64) -> Figures {
    let until = |count: u64| {
        let began = kafka::micros_now();
        while answered.load(Ordering::Relaxed) < count {
            assert!(kafka::micros_now() - began < 120_000_000, "{} of {count} calls in two minutes", answered.load(Ordering::Relaxed));
            std::thread::sleep(Duration::from_millis(2));
        }
    };
    let warm = count / 10;
    until(warm);
    let (from, cpu) = (kafka::micros_now(), process.cpu());
    until(count);
    let (wall, cpu) = (Duration::from_micros(kafka::micros_now() - from), process.cpu() - cpu);
    let measured = (count - warm) as f64;
    Figures {
        events_per_second: measured / wall.as_secs_f64(),
        cpu_us_per_event: cpu.as_secs_f64() * 1e6 / measured,
        peak_resident: process.peak_resident(),
        wall,
    }
}

/// Live calls of the notifier, and as many parked ones, with the same number at once.
pub fn draining() {
    for (name, work, concurrency, count) in
        [("answers at once", Duration::ZERO, 64, 100_000), ("takes 0 to 20 ms", Duration::from_millis(20), 64, 60_000)]
    {
        let (mut rates, mut costs) = (Vec::new(), Vec::new());
        for _ in 0..runs() {
            let live = live(work, concurrency, count);
            tell(&format!("live, the service {name}"), live);
            let drained = drained(work, concurrency, count);
            tell(&format!("drained, the service {name}"), drained);
            rates.push(drained.events_per_second / live.events_per_second);
            costs.push(drained.cpu_us_per_event / live.cpu_us_per_event);
        }
        println!("the service {name}: drained at {:.2} of the live rate, {:.2} times the CPU\n", median(rates), median(costs));
    }
}

fn notifying(concurrency: usize, count: u64, stub: SocketAddr) -> Scene {
    let worker = Worker::Engine { stages: NOTIFIER, ordering: "key", config: String::new() };
    let load = Load { events: count, ..scene(worker.clone(), count).load };
    Scene { load, service_concurrency: concurrency, stub, ..scene(worker, count) }
}

fn live(work: Duration, concurrency: usize, count: u64) -> Figures {
    let (stub, answered) = stub::serve_counted(work);
    let scene = notifying(concurrency, count, stub);
    let stage = Stage::set(&scene);
    kafka::publish(&stage.events, scene.partitions, scene.load);
    let process = Measured::start(with(engine(&scene, &stage, NOTIFIER, "key", ""), &["--role", "processor"]));
    let figures = calls(&process, &answered, count);
    drop(process);
    stage.strike();
    figures
}

fn drained(work: Duration, concurrency: usize, count: u64) -> Figures {
    let closed = notifying(concurrency, count, NOBODY);
    let stage = Stage::set(&closed);
    kafka::publish(&stage.events, closed.partitions, closed.load);
    let parker = with(engine(&closed, &stage, NOTIFIER, "key", ""), &[&["--role", "processor"], &OPEN[..]].concat());
    let parker = Measured::start(parker);
    let mut outcomes = Outcomes::of(&stage.outcomes, OUTCOME_PARTITIONS);
    outcomes.until(count, |_| ());
    drop(parker);
    let (stub, answered) = stub::serve_counted(work);
    let open = Scene { stub, ..closed };
    let drain = format!("services.notifier.retry.drain_concurrency={concurrency}");
    // Breakers of its own: that of who has parked is open.
    let prefix = format!("redis.prefix={}-drain", stage.group);
    let process = with(engine(&open, &stage, NOTIFIER, "key", ""), &["--role", "retry", "--set", &drain, "--set", &prefix]);
    let process = Measured::start(process);
    let figures = calls(&process, &answered, count);
    drop(process);
    stage.strike();
    figures
}
