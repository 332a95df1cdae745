//! Brokers die one at a time, out of three, while events flow. A record has two replicas before it counts, so nothing may be missing.

use std::time::{Duration, Instant};

use crate::chance::length;
use crate::cluster::{self, BROKERS};
use crate::trial::{self, Plan};

/// A coordinator is back after a few seconds: no member need lose its partitions for that.
const CONFIG: &str = "[kafka.properties]\n\"session.timeout.ms\" = \"30000\"";

#[test]
#[ignore = "minutes: make chaos"]
fn brokers_die_one_at_a_time() {
    let plan = Plan { name: "brokers", config: CONFIG.to_owned(), ..Plan::default() };
    let seen = trial::run(&plan, |trial| {
        let from = Instant::now();
        while from.elapsed() < length(Duration::from_secs(90)) {
            trial.wait(1_000, 4_000);
            let id = 1 + trial.chance.below(BROKERS);
            let kills = trial.chance.percent(75);
            trial.fleet.say(&format!("broker {id} is {}", if kills { "killed" } else { "stopped" }));
            if kills {
                cluster::kill(id)
            } else {
                cluster::stop(id)
            }
            trial.wait(0, 8_000);
            cluster::start(id, &trial.world.topics());
            trial.fleet.say(&format!("broker {id} is back"));
        }
    });
    assert_eq!(seen.repeated, 0, "no instance lost a partition: {seen}");
}
