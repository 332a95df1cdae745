//! Instances stop and join, again and again, over 32 partitions, under each protocol of a group. Every stop is clean: nothing is repeated.

use crate::trial::{self, Plan, Trial};

/// Clean stops in a long form.
const STOPS: usize = 16;

/// One protocol, as config and as flags of the instance in a place.
struct Protocol {
    name: &'static str,
    config: &'static str,
    /// Members have names that outlive them, so that only the same member takes up what one has left.
    is_static: bool,
}

const PROTOCOLS: [Protocol; 5] = [
    Protocol { name: "cooperative", config: "", is_static: false },
    Protocol { name: "eager", config: "\"partition.assignment.strategy\" = \"range,roundrobin\"", is_static: false },
    Protocol { name: "consumer", config: "\"group.protocol\" = \"consumer\"", is_static: false },
    Protocol { name: "static", config: "", is_static: true },
    Protocol { name: "consumer-static", config: "\"group.protocol\" = \"consumer\"", is_static: true },
];

/// One or two stop; others join before, meanwhile or after.
fn turn(trial: &mut Trial<'_>, protocol: &Protocol) -> usize {
    let running = trial.fleet.running();
    let leaving = trial.chance.pick(&running);
    trial.wait(0, 1_500);
    match trial.chance.below(if protocol.is_static { 2 } else { 4 }) {
        // Another place is taken while this one is given up.
        2 => {
            let place = trial.fleet.empty().first().copied().unwrap_or_else(|| trial.fleet.another_place());
            trial.fleet.join(place);
            trial.fleet.stop(leaving);
        }
        // Two go at once.
        3 if running.len() > 2 => {
            let other = trial.chance.pick(&running.iter().copied().filter(|place| *place != leaving).collect::<Vec<_>>());
            trial.fleet.stop_together(&[leaving, other]);
            trial.fleet.join(leaving);
            trial.fleet.join(other);
            return 2;
        }
        // Away for a moment, or for none.
        kind => {
            trial.fleet.stop(leaving);
            if kind == 1 {
                trial.wait(0, 3_000);
                trial.audit();
            }
            trial.fleet.join(leaving);
        }
    }
    1
}

fn run(protocol: &Protocol, stops: usize, rate: usize, name: &str) {
    let config = format!("[kafka.properties]\n{}", protocol.config);
    let flags = |place: usize| {
        let name = format!("kafka.properties.group.instance.id=place-{place}");
        if protocol.is_static { vec!["--set".to_owned(), name] } else { Vec::new() }
    };
    let plan = Plan { name, partitions: 32, rate, config, flags: &flags, ..Plan::default() };
    let seen = trial::run(&plan, |trial| {
        let mut stopped = 0;
        while stopped < stops {
            stopped += turn(trial, protocol);
        }
        trial.wait(0, 1_000);
    });
    assert_eq!((seen.repeated, seen.called_again), (0, 0), "every stop was clean: {seen}");
}

#[track_caller]
fn long(name: &str) {
    let protocol = PROTOCOLS.iter().find(|protocol| protocol.name == name).expect("one of them");
    run(protocol, STOPS, 100, &format!("rebalance-{name}"));
}

#[test]
fn a_few_stops_and_joins_repeat_nothing() {
    run(&PROTOCOLS[0], 3, 60, "rebalance");
}

#[test]
#[ignore = "minutes: make chaos"]
fn stops_and_joins_cooperative() {
    long("cooperative");
}

#[test]
#[ignore = "minutes: make chaos"]
fn stops_and_joins_eager() {
    long("eager");
}

#[test]
#[ignore = "minutes: make chaos"]
fn stops_and_joins_consumer() {
    long("consumer");
}

#[test]
#[ignore = "minutes: make chaos"]
fn stops_and_joins_static() {
    long("static");
}

#[test]
#[ignore = "minutes: make chaos"]
fn stops_and_joins_consumer_static() {
    long("consumer-static");
}
