use proptest::prelude::*;

use super::*;

fn partition(number: i32) -> TopicPartition {
    TopicPartition { topic: Topic::from(if number < 2 { "a" } else { "b" }), partition: Partition(number) }
}

/// Partitions with records: offset, time, and whether it has finished.
type Log = Vec<(i64, i64, bool)>;

fn progress(log: &Log) -> Progress {
    let last = log.iter().filter(|(.., finished)| *finished).map(|(offset, ..)| Offset(*offset)).max();
    let unfinished = log.iter().filter(|(.., finished)| !finished).map(|(offset, ..)| Offset(*offset));
    Progress::new(Offset(0), unfinished.filter(|offset| last.is_some_and(|last| *offset < last)).collect(), last)
}

/// Makes a page; `meant` says which are on it, `most` how many are fetched of each partition at once.
fn page(logs: &[Log], from: Option<&Cursor>, room: usize, most: usize, meant: impl Fn(i64) -> bool) -> (Vec<(i32, i64)>, Cursor) {
    let mut merge = Merge::new(room);
    for (number, log) in (0..).zip(logs) {
        let at = partition(number);
        let end = Offset(log.last().map_or(0, |(offset, ..)| offset + 1));
        let place = from.map_or(Some((Offset(0), end)), |cursor| cursor.place(&at));
        if let Some((next, end)) = place {
            merge.add(at, next, end, progress(log));
        }
    }
    let mut items = Vec::new();
    for topic in merge.topics() {
        loop {
            let unread: Vec<_> = merge.unread(&topic).collect();
            if unread.is_empty() {
                break;
            }
            for (partition, next) in unread {
                let at = TopicPartition { topic: topic.clone(), partition };
                let log = &logs[usize::try_from(partition.0).expect("few")];
                let mut came = log.iter().filter(|(offset, ..)| *offset >= next.0).take(most).peekable();
                if came.peek().is_none() {
                    merge.ended(&at);
                }
                for (offset, time, _) in came {
                    merge.came(&at, Offset(*offset), UnixMillis(*time), || meant(*offset).then_some((partition.0, *offset)));
                }
            }
        }
    }
    while items.len() < room {
        let Some(item) = merge.take(false) else { break };
        items.push(item);
    }
    (items, merge.cursor())
}

fn logs() -> impl Strategy<Value = Vec<Log>> {
    let record = (1..4i64, 0..3i64, prop::bool::weighted(0.3));
    let log = prop::collection::vec(record, 0..30).prop_map(|steps| {
        let (mut offset, mut time) = (-1, 0);
        let step = |(hole, later, finished): (i64, i64, bool)| {
            offset += hole;
            time += later;
            (offset, time, finished)
        };
        steps.into_iter().map(step).collect()
    });
    prop::collection::vec(log, 1..5)
}

proptest! {
    #[test]
    fn all_pages_together_are_what_is_unfinished_in_order(logs in logs(), room in 1..9usize, most in 1..5usize, every in 1..4i64) {
        let meant = |offset: i64| offset % every == 0;
        let mut expected = Vec::new();
        for (number, log) in (0i32..).zip(&logs) {
            expected.extend(log.iter().filter(|(offset, _, finished)| !finished && meant(*offset)).map(|(offset, time, _)| (*time, number, *offset)));
        }
        expected.sort_unstable();
        let (mut found, mut cursor) = (Vec::new(), None);
        for _ in 0..200 {
            let (items, next) = page(&logs, cursor.as_ref(), room, most, meant);
            prop_assert!(items.len() <= room);
            found.extend(items);
            if next.is_empty() {
                cursor = None;
                break;
            }
            prop_assert_eq!(Cursor::from_text(&next.to_text()), Some(next.clone()));
            cursor = Some(next);
        }
        prop_assert!(cursor.is_none(), "it ends");
        prop_assert_eq!(found, expected.into_iter().map(|(_, number, offset)| (number, offset)).collect::<Vec<_>>());
    }

    #[test]
    fn what_finishes_meanwhile_is_left_out_and_nothing_else(logs in logs(), room in 1..6usize, gone in any::<u64>()) {
        let mut now = logs.clone();
        let (first, mut cursor) = page(&logs, None, room, 3, |_| true);
        for (index, record) in now.iter_mut().flatten().enumerate() {
            record.2 |= gone >> (index % 64) & 1 == 1;
        }
        let mut rest = Vec::new();
        while !cursor.is_empty() {
            let (items, next) = page(&now, Some(&cursor), room, 3, |_| true);
            rest.extend(items);
            cursor = next;
        }
        for (number, log) in (0i32..).zip(&now) {
            for (offset, _, finished) in log {
                let times = first.iter().chain(&rest).filter(|found| **found == (number, *offset)).count();
                prop_assert!(times <= 1);
                prop_assert!(times == 1 || *finished, "partition {} offset {}", number, offset);
            }
        }
        prop_assert!(rest.iter().all(|found| !first.contains(found)));
    }
}

#[test]
fn what_is_no_cursor_is_refused() {
    let text = |json: &str| BASE64.encode(json);
    assert!(Cursor::from_text(&text(r#"{"t":{"0":[3,9]}}"#)).is_some());
    for wrong in ["%", "e30=", &text("[]"), &text(r#"{"t":{"0":[9,3]}}"#), &text(r#"{"t":{"0":[-1,3]}}"#), &text(r#"{"t":{"x":[1,3]}}"#)] {
        assert_eq!(Cursor::from_text(wrong), None, "{wrong}");
    }
    assert_eq!(Cursor::from_text(&"A".repeat(LONGEST + 1)), None);
}

#[test]
fn a_partition_that_says_nothing_is_not_waited_for_in_a_hurry() {
    let mut merge = Merge::new(5);
    merge.add(partition(0), Offset(0), Offset(9), Progress::default());
    merge.add(partition(1), Offset(0), Offset(9), Progress::default());
    merge.came(&partition(0), Offset(0), UnixMillis(5), || Some(0));
    assert_eq!(merge.take(false), None);
    assert_eq!(merge.take(true), Some(0));
    assert_eq!(merge.cursor().place(&partition(1)), Some((Offset(0), Offset(9))), "the next page begins there");
    assert_eq!(merge.cursor().place(&partition(0)), Some((Offset(1), Offset(9))));
}
