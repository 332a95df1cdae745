//! Topics that Fusebox writes to take nothing for a while, or only what is small, while events flow.

use std::time::{Duration, Instant};

use crate::chance::length;
use crate::oracle::Seen;
use crate::trial::{self, Plan, Trial};

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
