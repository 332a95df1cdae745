//! One of three instances is killed every one to three seconds and started again, while events flow.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::chance::length;
use crate::harness::World;
use crate::harness::calls::keep_order;
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

/// The notifier heard of the events of each key in their order.
fn in_order(world: &World) {
    let mut keys: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut events = world.read(&world.events);
    events.sort_unstable_by_key(|event| (event.partition, event.offset));
    for event in events {
        let json = event.json();
        if json["recipients"].as_array().is_some_and(|recipients| !recipients.is_empty()) {
            let text = |field: &str| json[field].as_str().expect("text").to_owned();
            keys.entry(text("camera_id")).or_default().push(text("id"));
        }
    }
    assert!(keys.values().any(|ids| ids.len() > 5), "few events notify");
    keep_order(&keys, &world.calls("notifier"));
    let behind = world.read(&world.retries).iter().filter(|record| record.header("fusebox-reason") == "behind").count();
    assert!(behind > 0, "nothing ever went behind what is parked");
}

#[test]
#[ignore = "minutes: make chaos"]
fn killed_again_and_again_a_key_keeps_its_order() {
    let retry = "[services.notifier.retry]\norder = \"key\"\nmax = \"2s\"\nmax_attempts = 1000\n";
    let config = format!("{retry}{CONFIG}");
    let plan = Plan { name: "killed-order", config, repeats_each: repeats(100, 3), check: &in_order, ..Plan::default() };
    run(&plan, length(Duration::from_secs(60)));
}
