//! Each way in which Redis fails, and one course for all of them: a fleet runs under load, Redis fails, a service fails and comes back
//! meanwhile, operators give orders meanwhile, Redis returns. No call waits for any of it and none is refused because of it, each instance
//! decides by itself, says so once, and in the end all instances and Redis agree ([`course`]; the failures: [`failures`]).
//!
//! Failures of one kind share a fleet. The table in docs/operations.md has all of them.

mod course;
mod failures;
mod orders;
mod proxy;
mod start;

use course::Fleet;
use failures::{FORGETFUL, GONE, REFUSING, SILENT, Seen};

#[test]
fn a_redis_that_is_gone() {
    Fleet::start("redis-gone", "instance").lives_through(GONE);
}

#[test]
fn a_redis_that_forgets() {
    Fleet::start("redis-forgets", "fleet").lives_through(FORGETFUL);
}

#[test]
fn a_redis_that_is_silent_or_slow() {
    Fleet::start("redis-silent", "fleet").lives_through(SILENT);
}

#[test]
fn a_redis_that_refuses() {
    Fleet::start("redis-refuses", "instance").lives_through(REFUSING);
}

#[test]
fn the_handbook_has_every_failure_and_what_is_seen_of_it() {
    let handbook = include_str!("../../../docs/operations.md");
    let (_, section) = handbook.split_once("\n### When Redis fails\n").expect("a section");
    let rows: Vec<Vec<&str>> = section
        .lines()
        .skip_while(|line| !line.starts_with("|---"))
        .skip(1)
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.split('|').map(str::trim).collect())
        .collect();
    let failures: Vec<_> = [GONE, FORGETFUL, SILENT, REFUSING].into_iter().flatten().collect();
    let mut before = "";
    for row in &rows {
        let seen = if row[2] == "the same" { before } else { row[2] };
        before = seen;
        let failure = failures.iter().find(|failure| failure.name == row[1]).unwrap_or_else(|| panic!("no test of {row:?}"));
        match failure.seen {
            Seen::Nothing => assert_eq!(seen, "nothing", "{row:?}"),
            Seen::Briefly => assert!(seen.starts_with("nothing, or"), "{row:?}"),
            Seen::Away(reasons) => {
                let told = |reason: &str| seen.contains(&reason.replace("1s 500ms", "…"));
                assert!(reasons.iter().any(|reason| told(reason)), "{row:?}: {reasons:?}");
            }
        }
    }
    assert_eq!(rows.len(), failures.len());
}
