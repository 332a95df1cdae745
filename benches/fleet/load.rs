//! Calls at a steady rate: what they ask of Redis, and what sharing takes of the process's CPU.
//!
//! Each figure is of a process that makes nothing but calls: of four healthy services, one call in a hundred failing, or of
//! three of them and one that always fails, so that it is open, and probed every second.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use fusebox::machine::breaker::Verdict;
use fusebox::pipeline::ports::Clock as _;

use super::kafka::Load;
use super::scene::{Scene, Worker};
use super::server::{Onlooker, Work, url};
use super::world::{Cpu, Sharing, breakers, config};
use super::{median, runs, stub};

/// The argument that makes this program the process that is measured.
pub const WORD: &str = "calls-of";

/// How long calls are made.
const SPAN: Duration = Duration::from_secs(8);

/// Before that, for everything to be there.
const WARM: Duration = Duration::from_secs(1);

/// Calls are made by the hundred or so: each waking costs more than they.
const TICK: Duration = Duration::from_millis(10);

/// At the end, for the onlooker to look before it is over.
const REST: Duration = Duration::from_millis(500);

/// What a process of calls is to do.
#[derive(Debug, Clone, Copy)]
struct Calls {
    shared: bool,
    /// A second.
    rate: u64,
    /// Whether one of the services always fails.
    down: bool,
}

/// What it has spent while the calls were made.
struct Spent {
    /// Milliseconds of CPU a second.
    cpu: f64,
    /// Of them, in the threads in which sharing runs.
    sharing: f64,
    redis: Work,
}

impl Calls {
    /// Runs it as a process of its own.
    fn measure(self) -> Spent {
        let prefix = format!("bench-{:x}", super::kafka::micros_now());
        let mut onlooker = Onlooker::of(&url());
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args([WORD, &prefix, &self.shared.to_string(), &self.rate.to_string(), &self.down.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        std::thread::sleep(WARM);
        let before = onlooker.done();
        std::thread::sleep(SPAN);
        let redis = onlooker.done().since(&before);
        let mut text = String::new();
        std::io::Read::read_to_string(&mut child.stdout.take().expect("a pipe"), &mut text).expect("it speaks");
        assert!(child.wait().expect("it ends").success(), "the calls were not made");
        onlooker.clear(&prefix);
        let mut figures =
            text.split_whitespace().map(|nanos| nanos.parse::<f64>().expect("nanoseconds") / 1e6 / (SPAN + REST).as_secs_f64());
        let mut next = || figures.next().expect("two figures");
        Spent { cpu: next(), sharing: next(), redis }
    }
}

/// `calls-of PREFIX SHARED RATE DOWN`: makes the calls, and says what CPU they and their sharing took.
pub fn run(arguments: &[&str]) {
    let [prefix, shared, rate, down] = arguments else { panic!("{WORD} PREFIX SHARED RATE DOWN") };
    let (rate, down): (u64, bool) = (rate.parse().expect("a number"), *down == "true");
    let config = config(&url(), prefix, "recovery_timeout = \"1s\"");
    let (breakers, announced, clock) = breakers(&config, None);
    let sharing = (*shared == "true").then(|| Sharing::start(&config, "bench", (&breakers, announced, clock), |store| store));
    let began = Instant::now();
    let mut from = Cpu::so_far();
    let mut made = 0_u64;
    for tick in 0.. {
        let due = TICK * tick;
        if due >= WARM + SPAN + REST {
            break;
        }
        if due == WARM {
            from = Cpu::so_far();
        }
        std::thread::sleep(due.saturating_sub(began.elapsed()));
        let now = clock.now();
        for _ in 0..rate * TICK.as_millis() as u64 / 1_000 {
            made += 1;
            let service = (made % 4) as usize;
            let fails = down && service == 3 || made.is_multiple_of(100);
            if let Ok(admission) = breakers.admit(service, now) {
                let verdict = if fails { Verdict::Failure { retry_after: None } } else { Verdict::Success };
                admission.settle(verdict, Duration::from_millis(1), now);
            }
        }
    }
    let to = Cpu::so_far();
    println!("{} {}", (to.all - from.all).as_nanos(), (to.sharing - from.sharing).as_nanos());
    assert!(sharing.is_none_or(|sharing| sharing.is_up()), "Redis has not answered");
}

const MANNERS: [(&str, bool); 2] = [("all healthy", false), ("one of four down", true)];

/// What Redis is asked for 1,000 calls, at two rates.
pub fn commands() {
    println!("commands of one instance, four services, poll every 2 s; with those that scripts run in parentheses");
    for (name, down) in MANNERS {
        for rate in [2_000, 10_000] {
            let all: Vec<Work> = (0..runs()).map(|_| Calls { shared: true, rate, down }.measure().redis).collect();
            let a_second = |count: fn(&Work) -> u64| median(all.iter().map(|work| count(work) as f64 / SPAN.as_secs_f64()).collect());
            let (sent, inner) = (a_second(|work| work.commands), a_second(|work| work.with_inner));
            let of_calls = |a_second: f64| a_second * 1_000.0 / rate as f64;
            println!(
                "{name:<18} {rate:>6} calls/s {sent:>7.1} ({inner:.1}) a second {:>7.2} ({:.2}) for 1,000 calls",
                of_calls(sent),
                of_calls(inner)
            );
        }
    }
    println!();
}

/// What sharing takes of the CPU that a processor takes for 10,000 calls a second.
///
/// Beside a whole processor's CPU, which moves by a tenth from run to run, what sharing takes is not to be seen. So it is measured where nothing else
/// is: in the threads in which it runs and nothing else does, and as the difference of two processes that make the same calls, one of which
/// shares its breakers. The processor's is measured by itself.
pub fn cpu() {
    let mut shares = Vec::new();
    for (name, down) in MANNERS {
        let spent = |shared| Calls { shared, rate: 10_000, down }.measure();
        let pairs: Vec<(Spent, Spent)> = (0..runs()).map(|_| (spent(true), spent(false))).collect();
        let of = |figure: fn(&(Spent, Spent)) -> f64| median(pairs.iter().map(figure).collect());
        let sharing = of(|(with, _)| with.sharing);
        println!(
            "{name:<18} 10,000 calls/s: {sharing:.2} ms CPU a second in what shares; all of the process {:.2}, {:.2} without sharing, {:.2} more",
            of(|(with, _)| with.cpu),
            of(|(_, without)| without.cpu),
            of(|(with, without)| with.cpu - without.cpu)
        );
        shares.push((name, sharing));
    }
    let engine = || {
        let worker = Worker::Engine { stages: &["rag", "rulegen", "notifier"], ordering: "key", config: String::new() };
        let load = Load { events: 30_000, keys: 1_000, rate: None, text: 420 };
        let stub = stub::serve(Duration::ZERO);
        let scene = Scene { worker, load, partitions: 6, concurrency: 256, service_concurrency: 256, stub };
        scene.throughput().cpu_us_per_event
    };
    let event = median((0..runs()).map(|_| engine()).collect());
    let processor = event / 3.0 * 10.0;
    println!("the processor: {event:.1} µs CPU an event of three calls, so {processor:.0} ms CPU a second for 10,000 calls");
    for (name, more) in shares {
        println!("{name:<18} sharing is {:.2} % of it", 100.0 * more / (processor + more));
    }
    println!();
}
