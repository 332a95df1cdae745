//! One instance under a steady load, with faults from time to time, for as long as one likes: nothing that it holds may drift.
//!
//! The run is three equal parts, each of the same whole cycles of faults. The first warms up. For everything that is sampled, the median of
//! the last part may be above that of the second by no more than a tolerance ([`MEASURES`]): what leaks grows with every cycle, what is only
//! large stays. Medians, because faults make peaks, and a peak that falls on one side of a border is no drift.

use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

use fusebox::edge::embedded::stub::Act;
use http::StatusCode;

use crate::chance::{Chance, length};
use crate::harness::{Instance, World, until};
use crate::refused::NOTHING;
use crate::stream::Stream;

/// Events a second: what a debug build does with ease on half a core.
const RATE: usize = 40;

/// How often everything is sampled.
const EVERY: Duration = Duration::from_secs(1);

/// The length of a cycle of faults, about.
const CYCLE: Duration = Duration::from_secs(30);

/// Faults in a cycle, each followed by as long a calm.
const FAULTS: u32 = 6;

/// Rows of the table.
const ROWS: usize = 36;

/// What is sampled: its name, and by how much its median may grow, as a share and beyond that.
const MEASURES: [(&str, f64, f64); 6] = [
    // An allocator keeps a little more after each peak, less each time.
    ("memory, KiB", 0.05, 2_048.0),
    // Connections to services come and go: a cycle's faults close some of them.
    ("open files", 0.0, 8.0),
    ("threads", 0.0, 1.0),
    // Behind by what arrives between two commits, more during a fault.
    ("lag, records", 0.2, 40.0),
    ("in flight, records", 0.2, 20.0),
    ("in flight, bytes", 0.2, 40_960.0),
];

type Sample = [f64; MEASURES.len()];

/// What the kernel knows of the process, what Kafka knows of the group, and, since nobody else can know it, what it says is in flight.
fn sample(world: &World, instance: &Instance) -> Sample {
    let process = format!("/proc/{}", instance.pid());
    let status = std::fs::read_to_string(format!("{process}/status")).expect("it runs, on Linux");
    let line = |name: &str| {
        let value = status.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok());
        value.unwrap_or_else(|| panic!("no {name} in {status}"))
    };
    let files = std::fs::read_dir(format!("{process}/fd")).expect("its files can be listed").count();
    let committed: i64 = world.committed().values().filter_map(|committed| committed.offset).sum();
    // Published after this was read counts for nothing; before it, so that it is never negative.
    let published = i64::try_from(world.count(&world.events)).expect("few");
    let metrics = instance.get("/metrics").body;
    let of_metric = |name: &str| -> f64 {
        let lines = metrics.lines().filter(|line| line.split([' ', '{']).next() == Some(name));
        lines.map(|line| line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok()).expect("a number")).sum()
    };
    let count = |number: usize| f64::from(u32::try_from(number).expect("few"));
    let lag = count(usize::try_from(published - committed).expect("no commit is above the end"));
    [line("VmRSS:"), count(files), line("Threads:"), lag, of_metric("fusebox_in_flight"), of_metric("fusebox_in_flight_bytes")]
}

fn median(samples: &[Sample], measure: usize) -> f64 {
    let mut values: Vec<f64> = samples.iter().map(|sample| sample[measure]).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// What has drifted from the second to the last part, in words.
fn drifts(samples: &[Sample]) -> Vec<String> {
    let third = samples.len() / 3;
    let (second, last) = (&samples[third..2 * third], &samples[2 * third..]);
    let measures = MEASURES.iter().enumerate().filter_map(|(measure, (name, share, beyond))| {
        let (before, after) = (median(second, measure), median(last, measure));
        let most = before * (1.0 + share) + beyond;
        println!("{name:>20}: median {before:.0} in the second third, {after:.0} in the last; at most {most:.0}");
        (after > most).then(|| format!("{name}: {before:.0}, then {after:.0}, which is more than {most:.0}"))
    });
    measures.collect()
}

/// Begins or ends one of a cycle's faults.
fn fault(world: &World, number: u32, begins: bool) {
    let behave = |service: &str, act: Act| world.stub(service).set(if begins { act } else { Act::Slow { ms: 5 } });
    match number {
        0 => behave("rag", Act::fail(StatusCode::SERVICE_UNAVAILABLE)),
        1 => behave("rulegen", Act::Slow { ms: 700 }),
        2 => behave("vms", Act::Hang),
        3 => behave("notifier", Act::fail(StatusCode::BAD_GATEWAY)),
        4 => behave("rag", Act::Reset),
        _ => world.set(&world.outcomes, if begins { &[NOTHING] } else { &[] }),
    }
}

/// Rows of the table, as far apart as the run is long.
fn show(samples: &[Sample], interval: Duration) {
    let names: Vec<String> = MEASURES.iter().map(|(name, ..)| format!("{name:>20}")).collect();
    println!("{:>8} {}", "second", names.join(" "));
    for (index, sample) in samples.iter().enumerate().step_by(samples.len().div_ceil(ROWS).max(1)) {
        let values: Vec<String> = sample.iter().map(|value| format!("{value:>20.0}")).collect();
        println!("{:>8.0} {}", f64::from(u32::try_from(index).expect("few")) * interval.as_secs_f64(), values.join(" "));
    }
}

#[test]
#[ignore = "minutes to hours: make soak"]
fn nothing_drifts() {
    let length = length(Duration::from_secs(180));
    let third = length / 3;
    let cycles = u32::try_from((third.as_secs() / CYCLE.as_secs()).max(1)).expect("few");
    let step = third / cycles / (2 * FAULTS);
    let chance = Chance::new();
    println!("soak: CHAOS_SEED={}, {length:?}: three times {cycles} cycles of {FAULTS} faults, {step:?} each", chance.seed());
    let world = World::new("soak").config("[services.vms]\ntimeout = \"1s\"").start();
    for number in 0..FAULTS {
        fault(&world, number, false);
    }
    let mut instance = world.run();
    let stop = AtomicBool::new(false);
    let (samples, published) = thread::scope(|scope| {
        let stream = Stream::start(scope, &world, chance.fork(), RATE, &stop);
        let (from, mut samples, mut steps) = (Instant::now(), Vec::new(), 0);
        let mut next_sample = from;
        while from.elapsed() < length {
            while from.elapsed() >= step * steps {
                fault(&world, steps / 2 % FAULTS, steps % 2 == 0);
                steps += 1;
                // What the stubs remember is not what is watched here.
                for service in ["rag", "rulegen", "notifier", "vms"] {
                    world.stub(service).clear();
                }
            }
            samples.push(sample(&world, &instance));
            next_sample += EVERY;
            thread::sleep(next_sample.saturating_duration_since(Instant::now()));
        }
        (samples, stream.stop().len())
    });
    for number in 0..FAULTS {
        fault(&world, number, false);
    }
    show(&samples, length / u32::try_from(samples.len()).expect("few"));
    until("everything is finished and committed", || world.is_committed());
    assert_eq!(instance.stop(), 0, "{}", instance.log());
    assert_eq!(world.count(&world.outcomes), published, "one outcome each");
    let drifts = drifts(&samples);
    assert!(drifts.is_empty(), "{drifts:#?}");
}

#[test]
fn what_grows_with_every_cycle_is_a_drift_and_a_peak_is_none() {
    let sample = |number: u32, memory: f64| [memory, 20.0, 12.0, if number.is_multiple_of(7) { 900.0 } else { 4.0 }, 2.0, 100.0];
    let flat: Vec<Sample> = (0..180).map(|number| sample(number, 40_000.0)).collect();
    assert_eq!(drifts(&flat), Vec::<String>::new());
    let leaks: Vec<Sample> = (0..180).map(|number| sample(number, 40_000.0 + 100.0 * f64::from(number))).collect();
    assert_eq!(drifts(&leaks).len(), 1);
}
