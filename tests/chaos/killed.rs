//! One of three instances is killed every one to three seconds and started again, while events flow.

use std::time::{Duration, Instant};

use crate::chance::length;
use crate::oracle::Seen;
use crate::trial::{self, MAX_IN_FLIGHT, Plan, Trial};

/// Sessions that end soon, so that the group gives a killed member up before the next one is killed.
const CONFIG: &str = "[kafka.properties]\n\"session.timeout.ms\" = \"2000\"\n\"heartbeat.interval.ms\" = \"300\"";

/// What a killed instance had in flight, and its share of what came in a session's two seconds: for so long the group waits for the one that
/// was killed before, and commits, which go to the coordinator behind the request to join, wait with it.
const fn repeats(rate: usize, instances: usize) -> usize {
    MAX_IN_FLIGHT + 2 * rate / instances
}

fn kill(trial: &mut Trial<'_>) {
    let place = trial.chance.pick(&trial.fleet.running());
    trial.fleet.kill(place);
    trial.allowed.kills += 1;
    trial.fleet.join(place);
}

fn run(plan: &Plan<'_>, length: Duration) -> Seen {
    trial::run(plan, |trial| {
        let from = Instant::now();
        while from.elapsed() < length {
            trial.wait(1_000, 3_000);
            kill(trial);
            if trial.chance.percent(20) {
                trial.audit();
            }
        }
    })
}

#[test]
fn killed_again_and_again_in_short() {
    let plan = Plan { name: "killed", config: CONFIG.to_owned(), rate: 60, repeats_each: repeats(60, 3), ..Plan::default() };
    run(&plan, Duration::from_secs(12));
}

#[test]
#[ignore = "minutes: make chaos"]
fn killed_again_and_again() {
    let plan = Plan { name: "killed-long", config: CONFIG.to_owned(), repeats_each: repeats(100, 3), ..Plan::default() };
    run(&plan, length(Duration::from_secs(60)));
}
