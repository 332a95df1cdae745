//! Topics that Fusebox writes to take nothing for a while, or only what is small, while events flow.

use std::time::{Duration, Instant};

use fusebox::edge::embedded::stub::Act;

use crate::chance::length;
use crate::cluster::{self, BROKERS};
use crate::oracle::Seen;
use crate::trial::{self, MAX_IN_FLIGHT, Plan, Trial};

/// Every record is older than that when it arrives: the broker refuses them all, one by one, and whoever publishes must do so again. (A
/// `min.insync.replicas` of more than a topic has replicas would refuse nothing: brokers weigh the smaller of the two.)
pub const NOTHING: (&str, &str) = ("message.timestamp.before.max.ms", "0");

/// Smaller than any outcome.
const SMALL: (&str, &str) = ("max.message.bytes", "150");

fn refuse(trial: &mut Trial<'_>) {
    let world = trial.world;
    let topic = trial.chance.pick(&[&world.outcomes, &world.outcomes, &world.retries, &world.dead_letters]).clone();
    // Dead letters are where all ends that fits nowhere else: too small for them is too small for good.
    let takes = if trial.chance.percent(60) || topic != world.outcomes { NOTHING } else { SMALL };
    trial.fleet.say(&format!("{topic} has {} = {}", takes.0, takes.1));
    world.set(&topic, &[takes]);
    trial.wait(500, 6_000);
    world.set(&topic, &[]);
    trial.fleet.say(&format!("{topic} takes everything"));
}

fn run(plan: &Plan<'_>, length: Duration) -> Seen {
    trial::run(plan, |trial| {
        let from = Instant::now();
        while from.elapsed() < length {
            trial.wait(500, 3_000);
            refuse(trial);
            if trial.chance.percent(30) {
                trial.audit();
            }
        }
    })
}

#[test]
#[ignore = "minutes: make chaos"]
fn topics_refuse_for_a_while() {
    let plan = Plan { name: "refused", ..Plan::default() };
    let seen = run(&plan, length(Duration::from_secs(60)));
    assert_eq!(seen.called_again, 0, "nothing runs again because it cannot be written down: {seen}");
}

/// A coordinator that goes is back before a session ends; a killed member is given up soon all the same.
const SESSION: &str = "[kafka.properties]\n\"session.timeout.ms\" = \"8000\"\n\"heartbeat.interval.ms\" = \"500\"";

/// Parking wants all brokers, everything else two: with one away nothing can be parked, and whoever is killed meanwhile has parked nothing.
#[test]
#[ignore = "minutes: make chaos"]
fn parking_waits_for_replicas_while_instances_are_killed() {
    // What was in flight, and what came while the group waited for the killed one.
    let repeats_each = MAX_IN_FLIGHT + 8 * 100 / 3;
    let plan = Plan { name: "unparkable", config: SESSION.to_owned(), repeats_each, ..Plan::default() };
    let seen = trial::run(&plan, |trial| {
        let world = trial.world;
        world.stub("notifier").set(Act::Flaky { share: 0.6 });
        let from = Instant::now();
        while from.elapsed() < length(Duration::from_secs(90)) {
            world.set(&world.retries, &[("min.insync.replicas", "3")]);
            let id = 1 + trial.chance.below(BROKERS);
            trial.fleet.say(&format!("broker {id} is stopped: nothing can be parked"));
            cluster::stop(id);
            // An instance may take it for lost that its coordinator moves.
            trial.allowed.losses += plan.instances;
            trial.wait(1_000, 2_000);
            let parked = world.count(&world.retries);
            // What fails meanwhile stays in flight, until nothing more may be.
            trial.wait(2_000, 4_000);
            trial.audit();
            assert_eq!(world.count(&world.retries), parked, "with two replicas nothing is taken");
            let place = trial.chance.pick(&trial.fleet.running());
            trial.fleet.kill(place);
            trial.allowed.kills += 1;
            trial.fleet.join(place);
            trial.wait(1_000, 4_000);
            trial.audit();
            cluster::start(id, &world.topics());
            trial.fleet.say(&format!("broker {id} is back"));
            trial.wait(4_000, 8_000);
        }
        world.stub("notifier").set(Act::Flaky { share: 0.15 });
    });
    assert!(seen.parked > 0, "{seen}");
}
