use proptest::prelude::*;

use super::*;
use crate::event::{Partition, Topic};

fn at(partition: i32, offset: i64) -> Source {
    Source { topic: Topic::from("retry"), partition: Partition(partition), offset: Offset(offset) }
}

fn card(goes: u64, size: usize) -> Card<u64> {
    Card { goes: Tick(goes), size, kept: goes }
}

fn places(runs: &[Run]) -> Vec<Source> {
    let places = |run: &Run| run.offsets.iter().map(|offset| at(run.partition.partition.0, offset.0)).collect::<Vec<_>>();
    runs.iter().flat_map(places).collect()
}

const MANY: Room = Room { records: 1_000, bytes: 1 << 20 };

#[test]
fn the_levels_of_budgets() {
    let levels = |records, bytes| {
        let levels = Levels(Room { records, bytes });
        let (ceiling, floor) = (levels.ceiling(), levels.floor());
        ((ceiling.records, ceiling.bytes), (floor.records, floor.bytes))
    };
    assert_eq!(levels(4_000, 20_000_000), ((2_000, 10_000_000), (1_500, 7_500_000)));
    assert_eq!(levels(40, 1_000), ((20, 500), (15, 375)));
    assert_eq!(levels(3, 10), ((1, 5), (0, 4)));
    assert_eq!(levels(1, 1), ((1, 1), (0, 0)), "the smallest has a place for one");
}

#[test]
fn what_goes_soon_is_asked_for_with_its_neighbours_in_one_go() {
    let mut shelf = Shelf::default();
    for (offset, goes) in [(5, 1_000), (9, 2_500), (600, 1_500), (6, 90_000), (7, 1_200)] {
        shelf.put(at(0, offset), card(goes, 10));
    }
    let now = Tick(500);
    assert_eq!((shelf.wanted(now).next(), shelf.next(now)), (Some(Tick(1_000)), Some(Tick(88_000))));
    let runs = shelf.ask(now, MANY, true, false);
    let offsets: Vec<Vec<i64>> = runs.iter().map(|run| run.offsets.iter().map(|offset| offset.0).collect()).collect();
    assert_eq!(offsets, [vec![5, 7, 9], vec![600]]);
    assert_eq!((shelf.wanted(now).next(), shelf.next(now), shelf.len()), (None, None, 5), "one question at a time");
    assert!(shelf.ask(now, MANY, true, false).is_empty());
    assert_eq!(shelf.take(&at(0, 7)).map(|card| card.kept), Some(1_200));
    assert!(shelf.take(&at(0, 7)).is_none() && shelf.take(&at(0, 6)).is_none(), "once, and only what was asked for");
    shelf.end(now, |_| false, 0.0);
    assert_eq!((shelf.wanted(now).next(), shelf.len()), (Some(Tick(1_000)), 4), "what did not come is wanted still");
}

#[test]
fn a_partition_that_is_silent_holds_up_no_other_and_is_asked_again_ever_later() {
    let mut shelf = Shelf::default();
    shelf.put(at(0, 1), card(0, 10));
    shelf.put(at(1, 1), card(0, 10));
    let (mut now, mut waits) = (Tick(0), Vec::new());
    for _ in 0..8 {
        assert!(places(&shelf.ask(now, MANY, true, false)).contains(&at(0, 1)));
        shelf.end(now, |partition| partition.partition == Partition(0), 1.0);
        assert_eq!(places(&shelf.ask(now, MANY, true, false)), [at(1, 1)]);
        shelf.end(now, |_| false, 1.0);
        let next = shelf.next(now).expect("it is asked again");
        waits.push(next.since(now).as_millis());
        now = next;
    }
    assert_eq!(waits, [100, 200, 400, 800, 1_600, 2_000, 2_000, 2_000]);
    shelf.ask(now, MANY, true, false);
    assert!(shelf.take(&at(0, 1)).is_some());
    shelf.put(at(0, 1), card(0, 10));
    shelf.end(now, |_| false, 1.0);
    assert_eq!(shelf.ask(now, MANY, true, false).len(), 2, "it has answered");
}

#[test]
fn what_was_called_back_has_a_part_of_the_room_and_all_of_it_where_nothing_goes() {
    let shelf = || {
        let mut shelf = Shelf::default();
        for offset in 0..100 {
            shelf.put(at(0, offset), card(if offset < 50 { 0 } else { 1_000_000 }, 10));
        }
        shelf.call(|source, _| source.offset.0 >= 50);
        shelf
    };
    let room = Room { records: 8, bytes: 1_000 };
    let asked = |goes| places(&shelf().ask(Tick(0), room, goes, false)).iter().map(|place| place.offset.0).collect::<Vec<_>>();
    assert_eq!(asked(true), [0, 1, 2, 3, 4, 5, 50, 51]);
    assert_eq!(asked(false), (50..58).collect::<Vec<_>>());
    let mut shelf = shelf();
    shelf.ask(Tick(0), room, false, false);
    shelf.end(Tick(0), |_| false, 0.0);
    assert!(shelf.wants_called(Tick(0)), "until it has come");
}

#[test]
fn one_that_is_larger_than_the_room_comes_alone() {
    let mut shelf = Shelf::default();
    shelf.put(at(0, 1), card(0, 5_000));
    shelf.put(at(0, 2), card(1, 1));
    let room = Room { records: 4, bytes: 100 };
    assert!(shelf.ask(Tick(0), room, true, false).is_empty(), "it is not overtaken for its size");
    assert_eq!(places(&shelf.ask(Tick(0), room, true, true)), [at(0, 1)]);
}

#[test]
fn what_leaves_is_gone_wherever_it_was() {
    let mut shelf = Shelf::default();
    for (partition, goes) in [(0, 0), (0, 1_000_000), (0, 2_000_000), (1, 0)] {
        shelf.put(at(partition, i64::try_from(goes).expect("small")), card(goes, 1));
    }
    shelf.call(|source, _| source.offset.0 == 1_000_000);
    shelf.ask(Tick(0), Room { records: 1, bytes: 100 }, true, false);
    let gone = shelf.remove(|partition| partition.partition == Partition(0));
    let mut gone: Vec<i64> = gone.iter().map(|(source, _)| source.offset.0).collect();
    gone.sort_unstable();
    assert_eq!((gone, shelf.len()), (vec![0, 1_000_000, 2_000_000], 1));
    assert!(shelf.take(&at(0, 0)).is_none(), "an answer that comes late is nobody's");
}

#[derive(Debug, Clone)]
enum Deed {
    Put { partition: i32, offset: i64, goes: u64, size: usize },
    Call { below: i64 },
    Ask { records: usize, bytes: usize, goes: bool },
    Take { every: usize },
    Pass(u64),
    Remove(i32),
}

fn deeds() -> impl Strategy<Value = Vec<Deed>> {
    let deed = prop_oneof![
        6 => (0i32..3, 0i64..2_000, 0u64..20_000, 1usize..100).prop_map(|(partition, offset, goes, size)| Deed::Put { partition, offset, goes, size }),
        1 => (0i64..2_000).prop_map(|below| Deed::Call { below }),
        3 => (0usize..12, 0usize..600, any::<bool>()).prop_map(|(records, bytes, goes)| Deed::Ask { records, bytes, goes }),
        3 => (1usize..4).prop_map(|every| Deed::Take { every }),
        3 => (0u64..3_000).prop_map(Deed::Pass),
        1 => (0i32..3).prop_map(Deed::Remove),
    ];
    prop::collection::vec(deed, 0..120)
}

proptest! {
    /// Against a plain list: nothing is lost or there twice; what is asked for was wanted, fits, and is the soonest there was.
    #[test]
    fn it_keeps_what_a_list_would(deeds in deeds()) {
        let mut shelf = Shelf::default();
        // Place, when it goes, size, called back, asked for.
        let mut list: Vec<(Source, u64, usize, bool, bool)> = Vec::new();
        let mut now = 0;
        for deed in deeds {
            match deed {
                Deed::Put { partition, offset, goes, size } => {
                    let source = at(partition, offset);
                    if list.iter().any(|(known, ..)| *known == source) { continue; }
                    shelf.put(source.clone(), card(goes, size));
                    list.push((source, goes, size, false, false));
                }
                Deed::Call { below } => {
                    shelf.call(|source, _| source.offset.0 < below);
                    for one in list.iter_mut().filter(|(source, ..)| source.offset.0 < below) { one.3 = true; }
                }
                Deed::Ask { records, bytes, goes } => {
                    let busy = list.iter().any(|(.., asked)| *asked);
                    let first = list.iter().filter(|(_, goes, _, called, _)| !called && *goes <= now + millis(AHEAD)).map(|(_, goes, ..)| *goes).min();
                    prop_assert_eq!(shelf.wanted(Tick(now)).next().map(|tick| tick.0), first.filter(|_| !busy));
                    let asked = places(&shelf.ask(Tick(now), Room { records, bytes }, goes, false));
                    prop_assert!(!busy || asked.is_empty());
                    prop_assert!(asked.len() <= records);
                    prop_assert!(asked.is_sorted());
                    for one in list.iter_mut().filter(|(source, ..)| asked.contains(source)) {
                        prop_assert!(one.3 || one.1 <= now + millis(AHEAD), "{one:?} was not wanted at {now}");
                        one.4 = true;
                    }
                    let all: usize = list.iter().filter(|(.., asked)| *asked).map(|(_, _, size, ..)| size).sum();
                    prop_assert!(busy || all <= bytes);
                    let last = list.iter().filter(|(.., called, asked)| *asked && !*called).map(|(_, goes, ..)| *goes).max();
                    let left = list.iter().filter(|(.., called, asked)| !*asked && !*called).map(|(_, goes, ..)| *goes).min();
                    prop_assert!(busy || last.is_none_or(|last| left.is_none_or(|left| last <= left)), "the soonest first");
                }
                Deed::Take { every } => {
                    let asked: Vec<Source> = list.iter().filter(|(.., asked)| *asked).map(|(source, ..)| source.clone()).collect();
                    for source in asked.iter().step_by(every) {
                        let known = list.iter().position(|(known, ..)| known == source).expect("asked for");
                        let (_, goes, size, ..) = list.remove(known);
                        let card = shelf.take(source).expect("it was asked for");
                        prop_assert_eq!((card.goes.0, card.size, card.kept), (goes, size, goes));
                    }
                    shelf.end(Tick(now), |_| false, 0.5);
                    list.iter_mut().for_each(|one| one.4 = false);
                }
                Deed::Pass(millis) => now += millis,
                Deed::Remove(partition) => {
                    let gone = shelf.remove(|of| of.partition == Partition(partition));
                    let expected = list.iter().filter(|(source, ..)| source.partition == Partition(partition));
                    let mut expected: Vec<_> = expected.map(|(source, goes, ..)| (source.clone(), *goes)).collect();
                    let mut gone: Vec<_> = gone.into_iter().map(|(source, card)| (source, card.goes.0)).collect();
                    expected.sort();
                    gone.sort();
                    prop_assert_eq!(gone, expected);
                    list.retain(|(source, ..)| source.partition != Partition(partition));
                }
            }
            prop_assert_eq!(shelf.len(), list.len());
            prop_assert_eq!(shelf.iter().count(), list.len());
            if list.iter().all(|(.., asked)| !asked) {
                // It says when it wants something, so that nobody must look.
                let later = list.iter().filter(|(_, goes, _, called, _)| !called && *goes > now + millis(AHEAD)).map(|(_, goes, ..)| goes - millis(AHEAD)).min();
                prop_assert_eq!(shelf.next(Tick(now)).map(|tick| tick.0), later);
            }
        }
    }
}
