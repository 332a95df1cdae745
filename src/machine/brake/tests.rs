use proptest::prelude::*;

use super::*;

const HOLD: Duration = Duration::from_secs(10);

fn settings(rules: &[Rule]) -> Settings {
    Settings { rules: rules.to_vec(), hold: HOLD }
}

/// What a partition's records came to: those that were given up, in order, those held, and the one that tripped.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    given_up: Vec<i64>,
    held: Vec<i64>,
    tripped_at: Option<i64>,
}

/// Reads records from an offset on, at one moment, until one trips; `true`: a bad one.
fn read(brake: &mut Brake<i64>, records: &[(i64, bool)], settings: &Settings) -> Seen {
    let mut seen = Seen::default();
    for (offset, bad) in records {
        if !bad {
            seen.given_up.extend(brake.good(Offset(*offset), settings));
            continue;
        }
        let (free, bad) = brake.bad(Offset(*offset), *offset, Tick(0), settings);
        seen.given_up.extend(free);
        match bad {
            Bad::Passes(record) => seen.given_up.push(record),
            Bad::Held => {}
            Bad::Trips(_, held) => {
                (seen.held, seen.tripped_at) = (held, Some(*offset));
                return seen;
            }
        }
    }
    seen.held = brake.take_held();
    seen
}

fn written(records: &str) -> Vec<(i64, bool)> {
    (0..).zip(records.chars().map(|record| record == 'x')).collect()
}

#[test]
fn it_trips_at_the_record_that_is_one_too_many() {
    let run = settings(&[Rule::run(3)]);
    let share = settings(&[Rule::share(0.5, 6)]);
    let both = settings(&[Rule::run(3), Rule::share(0.5, 10)]);
    let one = settings(&[Rule::run(1)]);
    for (name, rules, records, given_up, held, tripped_at) in [
        ("single bad ones", &run, "..x..x.x.xx.", vec![2, 5, 7, 9, 10], vec![], None),
        ("three in a row", &run, "..x..xxxx", vec![2], vec![5, 6, 7], Some(7)),
        ("two at the end are not known yet", &run, ".xx", vec![], vec![1, 2], None),
        ("at once", &one, "..x", vec![], vec![2], Some(2)),
        ("three of six", &share, "..x.x.x", vec![], vec![2, 4, 6], Some(6)),
        ("three of seven", &share, "x.x....x..x...", vec![0, 2, 7], vec![10], None),
        ("what is not read yet counts as good", &share, "xx", vec![], vec![0, 1], None),
        ("by either: the run", &both, "x....x....xxx", vec![0], vec![5, 10, 11, 12], Some(12)),
        ("by either: the share", &both, "xx.xx.x", vec![], vec![0, 1, 3, 4, 6], Some(6)),
    ] {
        let seen = read(&mut Brake::default(), &written(records), rules);
        assert_eq!(seen, Seen { given_up, held, tripped_at }, "{name}");
    }
}

#[test]
fn a_share_is_of_the_window_and_at_least_one() {
    for (share, window, bad, good) in [(0.5, 1_000, 500, 500), (0.01, 700, 7, 693), (1.0, 20, 20, 0), (0.5, 5, 3, 2), (0.001, 10, 1, 9)] {
        let rule = Rule::share(share, window);
        assert_eq!((rule.bad(), rule.good()), (bad, good), "{share} of {window}");
    }
}

#[test]
fn what_is_held_for_long_is_let_go_and_counts() {
    let settings = settings(&[Rule::run(3)]);
    let mut brake = Brake::default();
    assert_eq!(brake.bad(Offset(0), 0, Tick(0), &settings), (vec![], Bad::Held));
    assert_eq!(brake.bad(Offset(1), 1, Tick(5_000), &settings), (vec![], Bad::Held));
    assert_eq!(brake.next_due(&settings), Some(Tick(10_000)));
    assert_eq!(brake.due(Tick(9_999), &settings), [] as [i32; 0]);
    assert_eq!(brake.due(Tick(10_000), &settings), [0]);
    assert_eq!(brake.next_due(&settings), Some(Tick(15_000)));
    assert_eq!(brake.bad(Offset(2), 2, Tick(60_000), &settings), (vec![], Bad::Trips(Rule::run(3), vec![1, 2])));
}

#[test]
fn where_bad_ones_come_slowly_a_next_life_gives_up_fewer_than_trip() {
    let settings = settings(&[Rule::run(3)]);
    let (mut given_up, mut first) = (0, 0_i64);
    for life in 1..5 {
        let mut brake = Brake::default();
        let tripped_at = (first..).find(|offset: &i64| {
            let now = Tick(offset.cast_unsigned() * 60_000);
            given_up += brake.due(now, &settings).len();
            matches!(brake.bad(Offset(*offset), *offset, now, &settings), (_, Bad::Trips(_, held)) if held == [*offset])
        });
        // The one that tripped is the next life's first.
        first = tripped_at.expect("it trips");
        assert_eq!((first, given_up), (2 * life, 2 * life as usize));
    }
}

#[test]
fn released_it_gives_up_what_may_be_and_begins_anew_behind_it() {
    let settings = settings(&[Rule::run(3)]);
    let mut brake = Brake::released(Offset(6));
    let seen = read(&mut brake, &written("xxxx.xxxx.xxx"), &settings);
    let expected = Seen { given_up: vec![0, 1, 2, 3, 5, 6, 7, 8], held: vec![10, 11, 12], tripped_at: Some(12) };
    assert_eq!(seen, expected);
    let mut brake = Brake::<i64>::released(Offset(6));
    assert!(!brake.is_at_rest());
    assert_eq!(brake.good(Offset(9), &settings), [] as [i64; 0]);
    assert!(brake.is_at_rest(), "a good record behind it ends it too");
}

fn rules() -> impl Strategy<Value = Vec<Rule>> {
    let rule = prop_oneof![
        (1usize..6).prop_map(Rule::run),
        ((1u32..=10), 1usize..12).prop_map(|(tenths, n)| Rule::share(f64::from(tenths) / 10.0, n))
    ];
    prop::collection::vec(rule, 1..3)
}

/// Offsets that rise with holes, and which records are bad.
fn records() -> impl Strategy<Value = Vec<(i64, bool)>> {
    prop::collection::vec((1i64..4, prop::bool::weighted(0.4)), 0..60).prop_map(|steps| {
        let mut offset = 0;
        steps
            .into_iter()
            .map(|(step, bad)| {
                offset += step;
                (offset, bad)
            })
            .collect()
    })
}

/// The first record with which some window of a rule's size has as many bad ones as it takes.
fn reference(records: &[(i64, bool)], rules: &[Rule]) -> Option<i64> {
    (0..records.len()).find_map(|last| {
        let trips = rules.iter().any(|rule| {
            let size = rule.bad() + rule.good() as usize;
            let first = (last + 1).saturating_sub(size);
            records[first..=last].iter().filter(|(_, bad)| *bad).count() >= rule.bad()
        });
        trips.then_some(records[last].0)
    })
}

proptest! {
    #[test]
    fn it_trips_where_a_window_has_too_many_and_nowhere_else(records in records(), rules in rules()) {
        let seen = read(&mut Brake::default(), &records, &settings(&rules));
        prop_assert_eq!(seen.tripped_at, reference(&records, &rules));
        // Each bad record up to there is given up or held, in order, and the ones that tripped are all held.
        let bad: Vec<i64> =
            records.iter().filter(|(offset, bad)| *bad && seen.tripped_at.is_none_or(|at| *offset <= at)).map(|(offset, _)| *offset).collect();
        let all: Vec<i64> = seen.given_up.iter().chain(&seen.held).copied().collect();
        prop_assert_eq!(all, bad);
        if seen.tripped_at.is_some() {
            prop_assert!(seen.held.len() >= rules.iter().map(|rule| rule.bad()).min().unwrap_or(0));
        }
    }

    /// Whatever of the good ones had finished: whoever has the partition next begins with what is held, knows the others as finished, and stops at
    /// the same record, with nothing given up.
    #[test]
    fn the_next_life_stops_at_the_same_record(records in records(), rules in rules(), finished in prop::collection::vec(any::<bool>(), 60)) {
        let settings = settings(&rules);
        let seen = read(&mut Brake::default(), &records, &settings);
        let Some(at) = seen.tripped_at else { return Ok(()) };
        let mut next = Brake::default();
        let mut known = Vec::new();
        for ((offset, bad), finished) in records.iter().zip(&finished).filter(|((offset, _), _)| *offset <= at) {
            if *bad && !seen.held.contains(offset) || *offset < seen.held[0] {
                continue;
            }
            if !bad && *finished {
                next.skip(Offset(*offset));
            } else {
                known.push((*offset, *bad));
            }
        }
        let again = read(&mut next, &known, &settings);
        prop_assert_eq!(again, Seen { given_up: vec![], held: seen.held, tripped_at: Some(at) });
    }

    #[test]
    fn it_holds_and_remembers_no_more_than_trips(records in records(), rules in rules()) {
        let settings = settings(&rules);
        let most = rules.iter().map(|rule| rule.bad()).max().unwrap_or(0);
        let mut brake = Brake::default();
        for (offset, bad) in records {
            if bad {
                if let (_, Bad::Trips(..)) = brake.bad(Offset(offset), (), Tick(0), &settings) {
                    break;
                }
            } else {
                brake.good(Offset(offset), &settings);
            }
            prop_assert!(brake.held() < most && brake.counted.len() < most);
        }
    }
}
