//! Breakers of a fleet, which tell each other what they see.

use proptest::prelude::*;

use super::*;

/// A fleet's breakers, what each said last, and the state that they share.
struct Town {
    breakers: Vec<Breaker>,
    said: Vec<Option<Testimony>>,
    stored: Snapshot,
    now: u64,
}

impl Town {
    fn new(instances: usize, settings: &Settings) -> Self {
        let breaker = |index: usize| {
            let mut breaker = Breaker::new(settings.clone(), Tick(0));
            breaker.join_fleet(format!("i{index}").into());
            breaker
        };
        let breakers = (0..instances).map(breaker).collect();
        Self { breakers, said: vec![None; instances], stored: snapshot(0, Held::Closed), now: 0 }
    }

    /// One call at an instance; whether it was admitted.
    fn call(&mut self, at: usize, verdict: Verdict) -> bool {
        let (permit, began) = self.breakers[at].admit(Tick(self.now), || 0.0);
        self.share(at, began.map(|transition| *transition));
        let Ok(permit) = permit else { return false };
        let settled = settle(&mut self.breakers[at], permit, verdict, self.now);
        self.share(at, settled.transition.map(|transition| *transition));
        true
    }

    fn calls(&mut self, at: usize, verdict: Verdict, times: usize) {
        for _ in 0..times {
            self.call(at, verdict);
        }
    }

    /// An instance tells what it sees, and hears the others.
    fn talk(&mut self, at: usize) -> Option<Transition> {
        let (testimony, _) = self.breakers[at].testimony(Tick(self.now))?;
        let generation = testimony.generation;
        self.said[at] = Some(testimony);
        let told = |(index, said): (usize, &Option<Testimony>)| Some(Told { instance: format!("i{index}"), testimony: said.clone()? });
        let told: Vec<Told> = self.said.iter().enumerate().filter(|(index, _)| *index != at).filter_map(told).collect();
        let transition = self.breakers[at].hear(generation, &told, true, Tick(self.now), || 0.0);
        self.share(at, transition.clone());
        transition
    }

    fn all_talk(&mut self) -> Vec<Transition> {
        (0..self.breakers.len()).filter_map(|at| self.talk(at)).collect()
    }

    /// What is not an instance's alone is stored.
    fn share(&mut self, at: usize, transition: Option<Transition>) {
        let known = self.breakers[at].snapshot();
        if transition.is_some_and(|transition| !transition.alone) && known.generation > self.stored.generation {
            self.stored = known;
        }
    }

    /// Everybody hears of the state that is stored.
    fn spread(&mut self) {
        for breaker in &mut self.breakers {
            breaker.yield_to(&self.stored, Tick(self.now));
        }
    }

    fn states(&self) -> Vec<(StateName, bool)> {
        self.breakers.iter().map(|breaker| (breaker.state_name(), breaker.is_alone())).collect()
    }
}

fn of_fleet(policy: PolicySettings, evidence: Scope, quorum: u32) -> Settings {
    Settings { evidence, quorum, ..by(policy) }
}

const CLOSED: (StateName, bool) = (StateName::Closed, false);
const OPEN: (StateName, bool) = (StateName::Open, false);
const OPEN_ALONE: (StateName, bool) = (StateName::Open, true);

#[test]
fn below_the_quorum_only_who_sees_failures_opens_and_says_so() {
    let mut town = Town::new(3, &of_fleet(consecutive(3), Scope::Instance, 2));
    town.calls(0, FAILURE, 3);
    town.calls(1, Verdict::Success, 9);
    assert!(town.all_talk().is_empty());
    town.spread();
    assert_eq!(town.states(), [OPEN_ALONE, CLOSED, CLOSED]);
    assert_eq!(town.stored.generation, Generation(0), "the fleet's breaker has not changed");
    assert_eq!(town.breakers[0].snapshot(), snapshot(0, Held::Closed), "and that is what it shares");
    assert!(!town.call(0, FAILURE), "it refuses");
    let seen = town.breakers[1].fleet_counts(Tick(0)).expect("heard");
    assert_eq!((seen.failing, seen.alone, seen.failing_instances), (1, 1, ["i0".to_owned()].into()));

    // The second one makes the quorum: then all are open, and none alone.
    town.calls(2, FAILURE, 3);
    assert_eq!(town.states()[2], OPEN_ALONE);
    let transition = town.talk(2).expect("the quorum is reached");
    assert_eq!(
        (transition.cause, transition.from, transition.to, transition.alone),
        (Cause::Fleet, StateName::Open, StateName::Open, false)
    );
    let fleet = transition.fleet.expect("weighed");
    assert_eq!((fleet.failing, fleet.alone, fleet.failing_instances), (2, 2, ["i0".to_owned(), "i2".to_owned()].into()));
    town.spread();
    assert_eq!(town.states(), [OPEN, OPEN, OPEN]);
    assert_eq!(town.stored.generation, Generation(1));
    assert_eq!(town.stored.trips, 1, "alone it tripped for itself");
}

#[test]
fn alone_a_breaker_probes_and_comes_back_by_itself() {
    let mut town = Town::new(2, &of_fleet(consecutive(3), Scope::Instance, 2));
    // Its probes are its own: it has none of the fleet's leases, and needs none.
    town.breakers[0].share_probes(true, Tick(0));
    town.calls(0, FAILURE, 3);
    town.now = 100;
    let permit = admitted(&mut town.breakers[0], town.now);
    assert!(permit.is_probe());
    assert_eq!(town.breakers[0].tenure(Tick(100)).terms, None);
    settle(&mut town.breakers[0], permit, FAILURE, town.now);
    assert_eq!(town.states(), [OPEN_ALONE, CLOSED]);
    town.now = 200;
    assert!(town.call(0, Verdict::Success));
    assert_eq!(town.states(), [CLOSED, CLOSED]);
    assert_eq!(town.breakers[0].generation(), Generation(0));
    assert_eq!(town.stored.generation, Generation(0));
    // A verdict from before says nothing now.
    town.calls(0, FAILURE, 2);
    assert_eq!(town.states(), [CLOSED, CLOSED]);
}

#[test]
fn whatever_the_fleet_does_ends_being_alone() {
    for (order, expect) in [("lock", StateName::ForcedClosed), ("reset", StateName::Closed), ("adopted", StateName::HalfOpen)] {
        let mut town = Town::new(2, &of_fleet(consecutive(3), Scope::Instance, 2));
        town.calls(0, FAILURE, 3);
        let breaker = &mut town.breakers[0];
        match order {
            "lock" => drop(breaker.lock(lock(LockKind::ForcedClosed, None), Tick(1))),
            "reset" => drop(breaker.reset_to(Automatic::Closed, "ann", "drill", Tick(1), || 0.0)),
            _ => drop(breaker.adopt(&snapshot(7, Held::HalfOpen), Cause::Adopted, Tick(1))),
        }
        assert_eq!((breaker.state_name(), breaker.is_alone()), (expect, false), "{order}");
        assert!(breaker.generation() > Generation(0), "{order}");
    }
    // What it knows already is not news: the fleet is closed.
    let mut town = Town::new(2, &of_fleet(consecutive(3), Scope::Instance, 2));
    town.calls(0, FAILURE, 3);
    town.spread();
    assert_eq!(town.states()[0], OPEN_ALONE);
}

#[test]
fn trips_of_a_breaker_that_was_alone_count_for_nothing_after_it() {
    let settings = Settings { backoff_multiplier: 2.0, ..of_fleet(consecutive(1), Scope::Instance, 2) };
    type Deed = fn(&mut Town);
    const LOCK: Deed = |town| drop(town.breakers[0].lock(lock(LockKind::ForcedOpen, None), Tick(town.now)));
    const OPEN: Deed = |town| drop(town.breakers[0].reset_to(Automatic::Open, "ann", "drill", Tick(town.now), || 0.0));
    const HALF_OPEN: Deed = |town| drop(town.breakers[0].reset_to(Automatic::HalfOpen, "ann", "drill", Tick(town.now), || 0.0));
    const QUORUM: Deed = |town| {
        town.call(1, FAILURE);
        town.talk(1);
        town.talk(0).expect("the quorum");
    };
    for (name, deed, expect) in [("lock", LOCK, 0), ("open", OPEN, 1), ("half-open", HALF_OPEN, 0), ("quorum", QUORUM, 1)] {
        let mut town = Town::new(2, &settings);
        // Three trips in a row, each after a longer time.
        for after in [0, 100, 200] {
            town.now += after;
            assert!(town.call(0, FAILURE), "{name}");
        }
        assert_eq!((town.states()[0], town.breakers[0].standing().trips), (OPEN_ALONE, 3), "{name}");
        deed(&mut town);
        assert_eq!((town.breakers[0].is_alone(), town.breakers[0].snapshot().trips), (false, expect), "{name}");
        if let Held::Open { until } = town.breakers[0].snapshot().held {
            assert_eq!(until, Tick(town.now + 100), "{name}: as after a first trip");
        }
    }
}

#[test]
fn the_fleets_figures_are_weighed_together() {
    let three_of_ten = rates(10, 0.3);
    let any = PolicySettings::Any(vec![consecutive(50), count(100, three_of_ten)]);
    for policy in [count(100, three_of_ten), time(10, three_of_ten), any] {
        // None of them has seen ten calls; all together have, and three of them failed.
        let settings = of_fleet(policy.clone(), Scope::Fleet, 1);
        let mut town = Town::new(3, &settings);
        for at in 0..3 {
            town.calls(at, Verdict::Success, 2);
            town.call(at, FAILURE);
        }
        assert!(town.all_talk().is_empty(), "nine calls are too few");
        town.call(1, Verdict::Success);
        let transition = town.talk(1).expect("ten are enough");
        assert_eq!((transition.cause, transition.to), (Cause::Fleet, StateName::Open), "{policy:?}");
        let fleet = transition.fleet.expect("weighed");
        assert_eq!((fleet.failing, fleet.alone), (3, 0));
        if !matches!(policy, PolicySettings::Any(_)) {
            assert_eq!((fleet.counts.calls, fleet.counts.failures), (10, 3));
        }
        town.spread();
        assert_eq!(town.states(), [OPEN; 3]);

        // Each for itself would not.
        let mut town = Town::new(3, &Settings { evidence: Scope::Instance, ..settings });
        for at in 0..3 {
            town.calls(at, Verdict::Success, 2);
            town.call(at, FAILURE);
        }
        town.call(1, Verdict::Success);
        assert!(town.all_talk().is_empty());
        assert_eq!(town.states(), [CLOSED; 3]);
    }
}

#[test]
fn streaks_are_added_up_and_a_success_ends_its_own_alone() {
    let mut town = Town::new(3, &of_fleet(consecutive(5), Scope::Fleet, 1));
    town.calls(0, FAILURE, 2);
    town.calls(1, FAILURE, 2);
    town.calls(2, Verdict::Success, 50);
    assert!(town.all_talk().is_empty(), "four in all");
    town.call(1, Verdict::Success);
    assert!(town.talk(1).is_none());
    town.calls(0, FAILURE, 2);
    assert!(town.all_talk().is_empty(), "four in all: the one that worked again says so");
    town.call(1, FAILURE);
    assert_eq!(town.talk(1).map(|transition| transition.cause), Some(Cause::Fleet));
}

#[test]
fn a_healthy_instance_masks_no_failing_one() {
    for policy in [consecutive(5), count(10, rates(10, 0.5)), time(10, rates(10, 0.5))] {
        let mut town = Town::new(2, &of_fleet(policy.clone(), Scope::Fleet, 1));
        for _ in 0..10 {
            town.calls(1, Verdict::Success, 100);
            town.call(0, FAILURE);
            town.all_talk();
            town.spread();
        }
        assert_eq!(town.states(), [OPEN; 2], "{policy:?}");
    }
}

#[test]
fn figures_of_another_kind_or_generation_are_not_added() {
    let settings = of_fleet(consecutive(5), Scope::Fleet, 1);
    let mut breaker = Breaker::new(settings, Tick(0));
    breaker.join_fleet("here".into());
    call(&mut breaker, FAILURE, 0);
    let streak = Counts { calls: 4, failures: 4, slow: 0, consecutive_failures: 4 };
    let (ours, _) = breaker.testimony(Tick(0)).expect("one of a fleet");
    let told = |testimony| [Told { instance: "there".to_owned(), testimony }];
    for other in [
        Testimony { kind: ours.kind + 1, figures: vec![streak], ..ours.clone() },
        Testimony { figures: vec![streak, streak], ..ours.clone() },
        Testimony { generation: Generation(3), figures: vec![streak], kind: ours.kind, alone: false, retry_after: None },
    ] {
        assert_eq!(breaker.hear(Generation(0), &told(other), true, Tick(0), || 0.0), None);
    }
    let other = Testimony { figures: vec![streak], ..ours };
    assert_eq!(breaker.hear(Generation(1), &told(other.clone()), true, Tick(0), || 0.0), None, "an answer of another life");
    assert!(breaker.hear(Generation(0), &told(other), true, Tick(0), || 0.0).is_some());
}

#[test]
fn a_quorum_of_the_fleets_figures_asks_for_instances_that_see_failures() {
    let mut town = Town::new(3, &of_fleet(count(100, rates(10, 0.3)), Scope::Fleet, 2));
    town.calls(0, FAILURE, 4);
    town.calls(1, Verdict::Success, 6);
    assert!(town.all_talk().is_empty(), "too much for the fleet, but one alone sees it");
    assert_eq!(town.states(), [CLOSED; 3]);
    town.call(2, FAILURE);
    assert!(town.talk(2).is_some());
}

#[test]
fn probes_of_all_instances_close_the_fleets_breaker() {
    let three = Settings { success_threshold: 3, permits: 3, ..settings() };
    let mut town = Town::new(3, &three);
    town.calls(0, FAILURE, 3);
    town.spread();
    town.now = 100;
    // All are half-open at once; one of them has decided so first.
    for at in 0..2 {
        assert!(town.call(at, Verdict::Success));
        town.spread();
    }
    assert!(town.talk(0).is_none() && town.talk(1).is_none(), "two of three");
    assert_eq!(town.states()[..2], [(StateName::HalfOpen, false); 2]);
    assert!(town.call(2, Verdict::Success));
    let transition = town.talk(2).expect("the third");
    assert_eq!((transition.cause, transition.to), (Cause::Recovered, StateName::Closed));
    town.spread();
    assert_eq!(town.states(), [CLOSED; 3]);
}

#[test]
fn a_round_is_the_fleets() {
    let round = Settings { permits: 4, half_open_failure_rate: Some(0.5), ..settings() };
    let mut town = Town::new(2, &round);
    town.calls(0, FAILURE, 3);
    town.spread();
    town.now = 100;
    town.call(0, FAILURE);
    town.call(0, Verdict::Success);
    town.spread();
    assert!(town.talk(0).is_none());
    town.call(1, Verdict::Success);
    town.talk(1);
    assert_eq!(town.breakers[1].tenure(Tick(100)).terms.map(|terms| terms.places), Some(1), "three of four results are in");
    town.call(1, FAILURE);
    assert_eq!(town.states()[1], OPEN, "the fourth decides, two of them failed");
}

#[test]
fn what_the_service_asked_another_instance_for_holds_where_the_round_is_decided() {
    let round = Settings { permits: 2, half_open_failure_rate: Some(0.5), ..settings() };
    let mut town = Town::new(2, &round);
    town.calls(0, FAILURE, 3);
    town.spread();
    town.now = 100;
    assert!(town.call(0, Verdict::Failure { retry_after: Some(Duration::from_secs(5)) }));
    town.spread();
    assert!(town.call(1, Verdict::Success));
    assert!(town.talk(0).is_none());
    let transition = town.talk(1).expect("the second of two results");
    assert_eq!((transition.cause, transition.to), (Cause::ProbeFailed, StateName::Open));
    assert_eq!(town.breakers[1].snapshot().held, Held::Open { until: Tick(5_100) });
    town.spread();
    assert_eq!(town.breakers[0].snapshot().held, Held::Open { until: Tick(5_100) });
}

#[test]
fn without_a_fleet_a_quorum_asks_for_nobody() {
    let mut breaker = Breaker::new(of_fleet(consecutive(3), Scope::Fleet, 5), Tick(0));
    trip(&mut breaker, 0);
    assert_eq!((breaker.state_name(), breaker.is_alone(), breaker.generation()), (StateName::Open, false, Generation(1)));
    assert_eq!(breaker.testimony(Tick(0)), None);
}

#[test]
fn what_the_service_asked_for_stands_when_the_fleet_opens_too() {
    let settings = Settings { recovery_timeout: Duration::from_millis(100), ..of_fleet(consecutive(1), Scope::Instance, 2) };
    let mut town = Town::new(2, &settings);
    town.call(0, Verdict::Failure { retry_after: Some(Duration::from_secs(5)) });
    town.call(1, FAILURE);
    town.talk(1);
    let transition = town.talk(0).expect("both see it");
    assert!(!transition.alone);
    assert_eq!(town.breakers[0].snapshot().held, Held::Open { until: Tick(5_000) });
}

#[derive(Debug, Clone)]
enum Step {
    Calls { at: usize, fails: bool, times: usize },
    Talk { at: usize },
    Spread,
    Wait { ms: u64 },
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..3usize, any::<bool>(), 1..5usize).prop_map(|(at, fails, times)| Step::Calls { at, fails, times }),
        3 => (0..3usize).prop_map(|at| Step::Talk { at }),
        1 => Just(Step::Spread),
        1 => (1..400u64).prop_map(|ms| Step::Wait { ms }),
    ]
}

fn any_settings() -> impl Strategy<Value = Settings> {
    let policy = prop_oneof![
        (1..5u32).prop_map(consecutive),
        (1..8u32, 1..6u32, prop_oneof![Just(0.3), Just(0.5), Just(1.0)]).prop_map(|(size, least, rate)| count(size, rates(least, rate))),
        (1..3u64, 1..6u32).prop_map(|(window, least)| time(window, rates(least, 0.5))),
    ];
    let scope = prop_oneof![Just(Scope::Instance), Just(Scope::Fleet)];
    (policy, scope, 1..4u32, 1..3u32, 1..4u32).prop_map(|(policy, evidence, quorum, permits, success_threshold)| Settings {
        permits,
        success_threshold,
        ..of_fleet(policy, evidence, quorum)
    })
}

proptest! {
    /// Lives in which messages come late: what opens the fleet is a quorum, alone nothing is shared, and all are closed in the end.
    #[test]
    fn random_fleets(settings in any_settings(), steps in prop::collection::vec(any_step(), 1..80)) {
        let quorum = settings.quorum as usize;
        let mut town = Town::new(3, &settings);
        for step in steps {
            match step {
                Step::Calls { at, fails, times } => town.calls(at, if fails { FAILURE } else { Verdict::Success }, times),
                Step::Talk { at } => {
                    let seeing = |town: &Town| {
                        let generation = town.breakers[at].generation();
                        let said = |said: &Testimony| said.generation == generation && said.sees_failures();
                        let others = (0..3).filter(|&other| other != at && town.said[other].as_ref().is_some_and(said)).count();
                        let ours = town.breakers[at].testimony(Tick(town.now)).is_some_and(|(ours, _)| ours.sees_failures());
                        others + usize::from(ours)
                    };
                    let seeing = seeing(&town);
                    if let Some(transition) = town.talk(at) && transition.cause == Cause::Fleet {
                        prop_assert!(seeing >= quorum, "{seeing} of {quorum}");
                        prop_assert!(!transition.alone);
                    }
                }
                Step::Spread => town.spread(),
                Step::Wait { ms } => town.now += ms,
            }
            for breaker in &town.breakers {
                if breaker.is_alone() {
                    prop_assert!(quorum > 1);
                    prop_assert!(matches!(breaker.state_name(), StateName::Open | StateName::HalfOpen));
                    prop_assert_eq!(breaker.snapshot().held, Held::Closed);
                }
                prop_assert!(breaker.generation() <= town.stored.generation);
            }
        }
        // The service works, and everybody is told: back they come.
        for _ in 0..12 {
            town.now += 1_000;
            for at in 0..3 {
                town.calls(at, Verdict::Success, 8);
                town.all_talk();
                town.spread();
            }
        }
        prop_assert_eq!(town.states(), [CLOSED; 3]);
        prop_assert!(town.breakers.iter().all(|breaker| breaker.generation() == town.stored.generation));
    }

    /// One of a fleet that asks for no quorum and adds nothing up decides as it would by itself.
    #[test]
    fn a_fleet_changes_nothing_by_default(settings in any_settings(), steps in prop::collection::vec((any::<bool>(), 0..60u64), 1..200)) {
        let settings = Settings { evidence: Scope::Instance, quorum: 1, ..settings };
        let (mut single, mut one_of_many) = (Breaker::new(settings.clone(), Tick(0)), Breaker::new(settings, Tick(0)));
        one_of_many.join_fleet("here".into());
        let mut now = 0;
        for (fails, ms) in steps {
            now += ms;
            let verdict = if fails { FAILURE } else { Verdict::Success };
            let answers = [&mut single, &mut one_of_many].map(|breaker| {
                let (answer, began) = breaker.admit(Tick(now), || 0.0);
                (answer.map(|permit| settle(breaker, permit, verdict, now)), began)
            });
            prop_assert_eq!(&answers[0], &answers[1]);
            prop_assert_eq!(single.snapshot(), one_of_many.snapshot());
        }
    }
}
