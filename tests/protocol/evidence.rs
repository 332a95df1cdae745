//! Fleets whose breakers weigh what all instances see, and ask for a quorum: two instances or three, whose answers are late or lost, that crash,
//! whose clocks do not go alike, over a store that is away or emptied.

use std::time::Duration;

use fusebox::machine::breaker::{Automatic, PolicySettings, Rates, Scope, Settings};

use super::fleet::{Budget, Mutant, Order, Rules};
use super::machine::Machines;
use super::scenes::{Scene, hold, rules, tells};

/// Two that see failures open the fleet.
fn quorum(budget: Budget) -> Rules {
    let rules = rules(budget);
    let settings = Settings { quorum: 2, ..rules.machines.settings().clone() };
    Rules { machines: Machines::new(settings), prompt: true, ..rules }
}

/// It takes two failures in a row, so that who sees one has not opened yet.
fn two_failures(budget: Budget) -> Rules {
    let rules = quorum(budget);
    let policy = PolicySettings::Consecutive { fail_max: 2.try_into().expect("not zero") };
    let settings = Settings { policy, ..rules.machines.settings().clone() };
    Rules { machines: Machines::new(settings), ..rules }
}

fn witnesses() -> Rules {
    quorum(Budget { time: 3, calls: 3, polls: 1, ..Budget::default() })
}

/// Answers that take their time, or are lost though the store has done what was asked.
fn late_words() -> Rules {
    Rules { waits: 2, ..quorum(Budget { time: 1, calls: 3, polls: 1, losses: 1, ..Budget::default() }) }
}

fn crashed_witnesses() -> Rules {
    quorum(Budget { time: 2, calls: 2, polls: 1, crashes: 1, ..Budget::default() })
}

fn lost_words() -> Rules {
    quorum(Budget { time: 2, calls: 2, polls: 1, flushes: 1, outages: 1, ..Budget::default() })
}

/// A clock that does not go like Redis'.
fn lagging_witnesses() -> Rules {
    Rules { lag: 2, ..quorum(Budget { time: 3, calls: 2, polls: 1, ..Budget::default() }) }
}

fn one_failure_each() -> Rules {
    two_failures(Budget { time: 1, calls: 4, polls: 1, ..Budget::default() })
}

/// Open times so long that nobody's own probe tells it anything new.
fn long_open() -> Rules {
    let rules = quorum(Budget { time: 2, calls: 2, polls: 1, flushes: 1, ..Budget::default() });
    let settings = Settings { recovery_timeout: Duration::from_secs(10), ..rules.machines.settings().clone() };
    Rules { machines: Machines::new(settings), ..rules }
}

/// Somebody begins another life meanwhile.
fn reset() -> Rules {
    let orders = vec![Order::Reset(Automatic::Closed)];
    Rules { orders, ..quorum(Budget { calls: 3, polls: 1, orders: 1, ..Budget::default() }) }
}

/// The third one's figures change with every call, so that it tells of each.
fn three() -> Rules {
    Rules { instances: 3, ..of_count(quorum(Budget { time: 1, calls: 3, polls: 1, ..Budget::default() }), 1, Scope::Instance) }
}

/// All figures are weighed together, and no quorum is asked for.
fn sum() -> Rules {
    let budget = Budget { time: 1, calls: 3, polls: 1, losses: 1, ..Budget::default() };
    Rules { prompt: true, waits: 1, ..of_count(rules(budget), 2, Scope::Fleet) }
}

fn of_count(rules: Rules, minimum_calls: u32, evidence: Scope) -> Rules {
    let rates = Rates { minimum_calls, failure_rate: 0.5, slow_call_rate: 1.0, slow_call_duration: Duration::from_secs(60) };
    let settings = Settings { policy: PolicySettings::Count { size: 100, rates }, evidence, ..rules.machines.settings().clone() };
    Rules { machines: Machines::new(settings), ..rules }
}

const SCENES: [Scene; 10] = [
    ("witnesses", witnesses),
    ("late words", late_words),
    ("crashed witnesses", crashed_witnesses),
    ("lost words", lost_words),
    ("lagging witnesses", lagging_witnesses),
    ("one failure each", one_failure_each),
    ("long open", long_open),
    ("reset", reset),
    ("sum", sum),
    ("three instances", three),
];

/// What takes minutes.
const DEEP: [Scene; 3] = [
    ("three that crash", || Rules { instances: 3, ..quorum(Budget { time: 1, calls: 3, polls: 1, crashes: 1, ..Budget::default() }) }),
    ("three whose words are lost", || {
        let budget = Budget { time: 1, calls: 3, polls: 1, losses: 1, flushes: 1, ..Budget::default() };
        Rules { instances: 3, waits: 1, ..quorum(budget) }
    }),
    ("late words and crashes", || {
        let budget = Budget { time: 2, calls: 3, polls: 1, losses: 1, crashes: 1, ..Budget::default() };
        Rules { waits: 2, lag: 1, ..quorum(budget) }
    }),
];

#[test]
#[ignore = "takes minutes: cargo test --test protocol -- --ignored --nocapture"]
fn every_larger_fleet_opens_by_its_quorum() {
    for (name, rules) in DEEP {
        hold(name, rules());
    }
}

#[test]
fn every_fleet_opens_by_its_quorum() {
    for (name, rules) in SCENES {
        hold(name, rules());
    }
}

#[test]
fn what_is_left_out_of_evidence_is_told() {
    use Mutant as M;
    let below = "below the quorum only who sees failures opens";
    let opens = "a quorum that keeps failing opens everywhere";
    let masks = "healthy instances mask no failing ones";
    let cases: [(Mutant, fn() -> Rules, &str); 6] = [
        (M::SharesWhatIsAlone, witnesses, below),
        (M::LastsAsFiguresDo, witnesses, opens),
        (M::SaysItOnce, long_open, opens),
        (M::WeighsAnyLife, reset, below),
        (M::WipesTheOthers, three, masks),
        (M::HearsItself, witnesses, below),
    ];
    for (mutant, rules, property) in cases {
        tells(mutant, rules(), property);
    }
}
