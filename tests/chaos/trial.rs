//! What every scenario has in common: a world, a fleet, a stream of events, faults for a while, then quiet, then the oracle's word.
//!
//! In every scenario partitions are paused again and again: an instance may have few records in flight, the first service is a little slow
//! each time, the one that only some keys are sent to is very slow or does not answer at all, and the notifier fails now and then, so that
//! calls are parked and drained.

use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

use fusebox::edge::embedded::stub::{Act, Behaviour, Turn};

use crate::chance::Chance;
use crate::fleet::Fleet;
use crate::harness::{World, within};
use crate::oracle::{self, Allowed, Seen};
use crate::stream::{SLOW, Stream};

/// Records that an instance may have read and not finished.
pub const MAX_IN_FLIGHT: usize = 48;

/// The longest that everything may take to be finished and committed once faults have ended.
const QUIET_WITHIN: Duration = Duration::from_secs(180);

/// What a scenario is to be like.
pub struct Plan<'a> {
    /// Its name.
    pub name: &'a str,
    /// Partitions of each topic.
    pub partitions: u32,
    /// Instances at the start.
    pub instances: usize,
    /// Events a second.
    pub rate: usize,
    /// Outcomes that a kill, or a loss of partitions, may repeat.
    pub repeats_each: usize,
    /// Config over that of every scenario.
    pub config: String,
    /// Flags of the instance in this place.
    pub flags: &'a dyn Fn(usize) -> Vec<String>,
    /// Another Redis than that of all.
    pub redis: Option<&'a str>,
    /// What else must hold in the end.
    pub check: &'a dyn Fn(&World),
}

impl Default for Plan<'_> {
    fn default() -> Self {
        Self {
            name: "",
            partitions: 12,
            instances: 3,
            rate: 100,
            repeats_each: MAX_IN_FLIGHT,
            config: String::new(),
            flags: &|_| Vec::new(),
            redis: None,
            check: &|_| {},
        }
    }
}

/// A scenario that runs.
pub struct Trial<'a> {
    /// Its world.
    pub world: &'a World,
    /// Its instances.
    pub fleet: Fleet<'a>,
    /// Its chance.
    pub chance: Chance,
    /// By which repeated outcomes are excused: what was done to instances and partitions so far.
    pub allowed: Allowed,
}

impl Trial<'_> {
    /// Nothing happens for a while.
    pub fn wait(&mut self, least_ms: u64, most_ms: u64) {
        thread::sleep(self.chance.between(least_ms, most_ms));
    }

    /// Checks that no commit has passed a record without an outcome or a dead letter, as of now.
    #[track_caller]
    pub fn audit(&self) {
        let seen = oracle::audit(self.world);
        self.fleet.say(&format!("audit: {seen} records are committed, and all have ended"));
    }
}

/// The config of every scenario.
fn config() -> String {
    format!(
        r#"
[processing]
max_in_flight = {MAX_IN_FLIGHT}
concurrency = 32
[services.rag.fallback]
kind = "default"
body = {{}}
[services.vms]
timeout = "1500ms"
breaker = {{ fail_max = 1000000 }}
[[pipeline]]
service = "rag"
body = "{{ 'camera': event.camera_id }}"
[[pipeline]]
service = "notifier"
when = "size(event.recipients) > 0"
body = "{{ 'camera': event.camera_id }}"
[[pipeline]]
service = "vms"
when = "event.camera_id.startsWith('{SLOW}')"
body = "{{ 'camera': event.camera_id }}"
"#
    )
}

/// Runs a scenario: `disturb` while events flow, until everything is whole again; gives what the oracle has seen.
pub fn run(plan: &Plan<'_>, disturb: impl FnOnce(&mut Trial<'_>)) -> Seen {
    let chance = Chance::new();
    println!("{}: CHAOS_SEED={}", plan.name, chance.seed());
    let world = World::new(plan.name).partitions(plan.partitions).config(&config()).config(&plan.config);
    let world = if let Some(url) = plan.redis { world.redis(url) } else { world }.start();
    world.stub("rag").set(Act::Jitter { min_ms: 0, max_ms: 60 });
    world.stub("notifier").set(Act::Flaky { share: 0.15 });
    // Half of the calls take their time, a few never end: whichever keys they belong to.
    let slow = |ms| Turn { act: Act::Slow { ms }, delay_ms: 0 };
    let steps = (0..10_000).map(|number| if number % 5 == 4 { Turn { act: Act::Hang, delay_ms: 0 } } else { slow(number * 37 % 1_200) });
    world.stub("vms").set(Behaviour { steps: steps.collect(), then: slow(300) });

    let stop = AtomicBool::new(false);
    let (published, mut fleet, allowed) = thread::scope(|scope| {
        let fleet = Fleet::start(&world, plan.instances, plan.flags);
        let stream = Stream::start(scope, &world, chance.fork(), plan.rate, &stop);
        let mut trial = Trial { world: &world, fleet, chance, allowed: Allowed { kills: 0, losses: 0, repeats_each: plan.repeats_each } };
        disturb(&mut trial);
        (stream.stop(), trial.fleet, trial.allowed)
    });
    assert_eq!(fleet.ended(), [], "instances have ended by themselves");
    fleet.say(&format!("quiet, after {} events", published.len()));
    let from = Instant::now();
    within(QUIET_WITHIN, "everything is finished and committed", || world.is_committed().then_some(()));
    let took = from.elapsed();
    fleet.stop_together(&fleet.running());
    let seen = oracle::judge(&world, &published, &allowed);
    (plan.check)(&world);
    println!("{}: {seen}, all committed {:.1} s after the last fault", plan.name, took.as_secs_f64());
    seen
}
