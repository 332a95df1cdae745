use super::*;
use proptest::prelude::*;

fn offsets(numbers: impl IntoIterator<Item = i64>) -> Vec<Offset> {
    numbers.into_iter().map(Offset).collect()
}

/// Writes and reads it, and holds the text to what is true.
fn check(next: Offset, unfinished: &[Offset], last: Offset) -> String {
    let text = Progress::new(next, unfinished.to_vec(), Some(last)).encode(next, MAX_BYTES);
    let read = Progress::decode(next, &text).expect("its own");
    for offset in (next.0..=last.0).map(Offset) {
        assert_eq!(read.has_finished(offset), unfinished.binary_search(&offset).is_err(), "{offset}");
    }
    text
}

#[test]
fn little_is_said_where_little_is_known() {
    let text = |progress: Progress, next| progress.encode(Offset(next), MAX_BYTES);
    assert_eq!(text(Progress::default(), 0), "");
    assert_eq!(text(Progress::new(Offset(0), Vec::new(), Some(Offset(9))), 10), "");
    assert_eq!(text(Progress::new(Offset(0), offsets([10, 11]), Some(Offset(11))), 10), "", "nothing above has finished");
    assert_eq!(Progress::new(Offset(0), Vec::new(), Some(Offset(9))).encode(Offset(0), 9), "", "no room for anything");
}

#[test]
fn a_record_that_is_stuck_costs_a_few_bytes_however_many_finish_behind_it() {
    let text = Progress::new(Offset(0), offsets([100]), Some(Offset(50_000_100))).encode(Offset(100), MAX_BYTES);
    assert!(text.len() < 20, "{text}");
    let progress = Progress::decode(Offset(100), &text).expect("its own");
    assert!(!progress.has_finished(Offset(100)) && progress.has_finished(Offset(101)) && progress.has_finished(Offset(50_000_100)));
    assert!(!progress.has_finished(Offset(50_000_101)));
    assert!(!progress.has_finished(Offset(99)), "below the commit lies another log");
}

/// The forms that patterns get, and their sizes. docs/decisions.md has them too.
#[test]
fn patterns_that_occur_are_short() {
    let mut state = 7u64;
    let mut one_in = move |most: u64| {
        // A generator of Lehmer's: what is measured must be the same everywhere.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33).is_multiple_of(most)
    };
    let stuck_and = |rest: Vec<i64>| offsets(std::iter::once(0).chain(rest));
    for (pattern, last, unfinished, form, size) in [
        ("one record is stuck, 100,000 behind it have finished", 100_000, offsets([0]), 'r', 15),
        ("5,000 wait behind 5,000 that have finished behind a stuck one", 9_999, stuck_and((5_000..9_998).collect()), 'B', 45),
        ("every other one of 10,000", 9_999, offsets((0..9_999).step_by(2)), 'B', 40),
        ("half of a window of 10,000", 9_999, stuck_and((1..9_999).filter(|_| one_in(2)).collect()), 'b', 1_676),
        ("a tenth of a window of 10,000", 9_999, stuck_and((1..9_999).filter(|_| one_in(10)).collect()), 'R', 853),
        ("a fiftieth of a window of 10,000", 9_999, stuck_and((1..9_999).filter(|_| one_in(50)).collect()), 'r', 285),
        ("an eighth of a window of 24,000", 23_999, stuck_and((1..23_999).filter(|_| one_in(8)).collect()), 'R', 2_323),
        ("5 slow keys of 100, their records in turn", 9_999, offsets((0..9_999).filter(|at| at % 100 < 5)), 'R', 43),
        ("5 slow keys of 100, their records at random", 9_999, stuck_and((1..9_999).filter(|_| one_in(20)).collect()), 'R', 537),
    ] {
        let text = check(Offset(0), &unfinished, Offset(last));
        assert_eq!((text.as_bytes()[VERSION.len()] as char, text.len()), (form, size), "{pattern}");
    }
}

#[test]
fn what_earlier_forms_say_is_read() {
    let plain = [("fusebox1rBQMC", [5, 8], 10), ("fusebox1b3wA", [5, 8], 7)];
    for (text, unfinished, last) in plain {
        let progress = Progress::decode(Offset(0), text).expect("its own");
        for offset in 0..=last {
            assert_eq!(progress.has_finished(Offset(offset)), !unfinished.contains(&offset), "{text}: {offset}");
        }
        assert!(!progress.has_finished(Offset(last + 1)), "{text}");
    }
}

#[test]
fn what_is_not_ours_is_no_progress() {
    for text in ["x", "fusebox2rAAA", "fusebox1xAAA", "{\"offset\":3}", "fusebox"] {
        assert_eq!(Progress::decode(Offset(0), text), Err(Unknown::Foreign), "{text}");
    }
    for text in
        ["fusebox1", "fusebox1r", "fusebox1r!!", "fusebox1r____________", "fusebox1rAAAA", "fusebox1R", "fusebox1B", "fusebox1R____"]
    {
        assert_eq!(Progress::decode(Offset(0), text), Err(Unknown::Damaged), "{text}");
    }
    let long = format!("fusebox1b{}", "A".repeat(MAX_BYTES));
    assert_eq!(Progress::decode(Offset(0), &long), Err(Unknown::Damaged));
}

/// 16 KiB of text can deflate a thousandfold.
#[test]
fn a_hostile_text_does_not_grow_without_bound() {
    for (bytes, form) in [(64 << 20, 'B'), (64 << 20, 'R'), (MAX_PLAIN + 1, 'B')] {
        let payload = compress_to_vec(&vec![0x55; bytes], 10);
        let text = format!("{VERSION}{form}{}", BASE64.encode(payload));
        assert_eq!(Progress::decode(Offset(0), &text), Err(Unknown::Damaged), "{bytes} bytes as {form}");
    }
    let largest = format!("{VERSION}B{}", BASE64.encode(compress_to_vec(&vec![0x55; MAX_PLAIN], 10)));
    assert!(Progress::decode(Offset(0), &largest).is_ok_and(|progress| progress.unfinished.len() < MAX_PLAIN * 8));
}

#[test]
fn the_last_offset_of_all_is_written_too() {
    let last = Offset(i64::MAX);
    let text = Progress::new(Offset(0), offsets([0, 7, i64::MAX - 1]), Some(last)).encode(Offset(0), MAX_BYTES);
    let read = Progress::decode(Offset(0), &text).expect("its own");
    assert!(read.has_finished(last) && !read.has_finished(Offset(i64::MAX - 1)) && read.has_finished(Offset(1 << 40)));
}

proptest! {
    /// What is read is what was written; where not all of it fits, less is known, and never more.
    #[test]
    fn is_read_as_it_was_written(
        next in 0i64..1 << 60,
        gaps in prop::collection::vec((0u8..100, 1i64..2_000), 1..6_000),
        unfinished_share in 0u8..100,
        dense: bool,
        max_bytes in prop_oneof![Just(MAX_BYTES), 9usize..600],
    ) {
        let (mut unfinished, mut finished, mut at) = (Vec::new(), Vec::new(), next);
        for (roll, gap) in gaps {
            if roll >= unfinished_share { finished.push(Offset(at)) } else { unfinished.push(Offset(at)) }
            at += if dense { 1 } else { gap };
        }
        let last = unfinished.iter().chain(&finished).max().copied();
        let written = Progress::new(Offset(next), unfinished.clone(), last);
        let text = written.encode(Offset(next), max_bytes);
        prop_assert!(text.len() <= max_bytes, "{} bytes", text.len());
        let read = Progress::decode(Offset(next), &text).expect("its own");
        for offset in &unfinished {
            prop_assert!(!read.has_finished(*offset), "{offset} has not finished");
        }
        let known = finished.iter().filter(|offset| read.has_finished(**offset)).count();
        let plain = last.map_or(0, |last| forms::distances_size(Offset(next), &unfinished, last).min(bits_size(Offset(next), last)));
        if plain <= capacity(max_bytes) {
            prop_assert_eq!(known, finished.len(), "all of it fits as it is");
        }
    }

    /// A form that fits goes on fitting, whatever finishes: what the hold on a partition rests on.
    #[test]
    fn what_fits_goes_on_fitting(gaps in prop::collection::vec(1i64..70_000, 1..200), order in prop::collection::vec(any::<prop::sample::Index>(), 0..200)) {
        let mut at = 0;
        let mut unfinished = offsets(gaps.into_iter().map(|gap| { at += gap; at }));
        let (first, last) = (unfinished[0], Offset(at));
        let mut before = (forms::distances_size(first, &unfinished, last), bits_size(first, last));
        for index in order {
            if unfinished.len() == 1 { break; }
            unfinished.remove(index.index(unfinished.len()));
            let next = unfinished[0];
            let now = (forms::distances_size(next, &unfinished, last), bits_size(next, last));
            prop_assert!(now.0 <= before.0 && now.1 <= before.1, "{now:?} after {before:?}");
            before = now;
        }
    }

    #[test]
    fn whatever_stands_there_is_read_or_refused(
        next: i64,
        text in "(fusebox1[rbRB])?[A-Za-z0-9_-]{0,80}",
        bytes in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let _ = Progress::decode(Offset(next), &text);
        for form in ['r', 'b', 'R', 'B'] {
            let _ = Progress::decode(Offset(next), &format!("fusebox1{form}{}", BASE64.encode(&bytes)));
        }
        for form in ['R', 'B'] {
            let _ = Progress::decode(Offset(next), &format!("fusebox1{form}{}", BASE64.encode(compress_to_vec(&bytes, 6))));
        }
    }
}

#[test]
fn what_has_finished_is_counted_from_anywhere() {
    let progress = Progress::new(Offset(10), vec![Offset(10), Offset(13)], Some(Offset(15)));
    for (from, expected) in [(0, 4), (10, 4), (11, 4), (12, 3), (13, 2), (14, 2), (15, 1), (16, 0)] {
        let one_by_one = (from.max(10)..20).filter(|offset| progress.has_finished(Offset(*offset))).count() as u64;
        assert_eq!((progress.finished_from(Offset(from)), one_by_one), (expected, expected), "{from}");
    }
    assert_eq!(Progress::default().finished_from(Offset(0)), 0);
}
