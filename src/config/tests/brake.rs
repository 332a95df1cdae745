//! `[dead_letters.brake]`.

use std::time::Duration;

use super::World;
use crate::machine::brake::{Rule, Settings};

#[test]
fn it_is_off_unless_a_threshold_is_given() {
    assert_eq!(World::new().loaded().config.dead_letters.brake, None);
    assert_eq!(World::file("[dead_letters.brake]\nwindow = 50\nhold = \"1s\"").loaded().config.dead_letters.brake, None);
    for (toml, rules, hold) in [
        ("run = 50", vec![Rule::run(50)], 10),
        ("share = 0.5", vec![Rule::share(0.5, 1_000)], 10),
        ("share = 0.25\nwindow = 200\nhold = \"30s\"", vec![Rule::share(0.25, 200)], 30),
        ("run = 7\nshare = 1.0\nwindow = 9", vec![Rule::run(7), Rule::share(1.0, 9)], 10),
    ] {
        let config = World::file(&format!("[dead_letters.brake]\n{toml}")).loaded().config;
        assert_eq!(config.dead_letters.brake, Some(Settings { rules, hold: Duration::from_secs(hold) }), "{toml}");
    }
}

#[test]
fn what_would_be_held_leaves_room_for_the_rest() {
    for (toml, fault) in [
        (
            "run = 2501",
            "a.toml:2: dead_letters.brake.run: 2501 bad records would be held, which is more than a quarter of `processing.max_in_flight`, 10000",
        ),
        (
            "share = 0.5\nwindow = 6000",
            "a.toml:2: dead_letters.brake.share: 3000 bad records would be held, which is more than a quarter of `processing.max_in_flight`, 10000",
        ),
        ("run = 0", "a.toml:2: dead_letters.brake.run: 0 is out of range: 1 to 100000"),
        ("share = 1.5", "a.toml:2: dead_letters.brake.share: 1.5 is out of range: 0.001 to 1"),
    ] {
        assert_eq!(World::file(&format!("[dead_letters.brake]\n{toml}")).faults(), fault);
    }
}
