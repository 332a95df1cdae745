//! Every state under every operation, one cell each.

use super::*;

/// `.` nothing · `ok` admitted · `no` refused · `late` dropped · `>state` a transition to it, with its cause. A verdict is on a call
/// that this very state admitted; where it admits none, on one from before.
///
/// `streak`: closed, one failure short of a trip. `over`: its time has run out, and nobody has asked yet. `short`: half-open, one of
/// two successes short of closing, the one probe that is of use under way. `full`: half-open, no place left.
const AUTOMATIC: &str = "
              closed          streak          open            open over            half_open       short            full
admit         ok              ok              no              >half_open:timer ok  ok              no               no
success       .               .               late            late                 .               >closed:recover  .
slow          .               .               late            late                 .               >closed:recover  .
failure       .               >open:policy    late            late                 >open:probe     >open:probe      >open:probe
ignored       .               .               late            late                 .               .                .
old success   late            late            late            late                 late            late             late
old failure   late            late            late            late                 late            late             late
abandon       .               .               .               .                    .               .                .
advance       .               .               .               >half_open:timer     .               .                .
force open    >forced_open    >forced_open    >forced_open    >forced_open         >forced_open    >forced_open     >forced_open
force closed  >forced_closed  >forced_closed  >forced_closed  >forced_closed       >forced_closed  >forced_closed   >forced_closed
metrics only  >metrics_only   >metrics_only   >metrics_only   >metrics_only        >metrics_only   >metrics_only    >metrics_only
release       .               .               .               .                    .               .                .
to closed     >closed         >closed         >closed         >closed              >closed         >closed          >closed
to open       >open           >open           >open           >open                >open           >open            >open
to half_open  >half_open      >half_open      >half_open      >half_open           >half_open      >half_open       >half_open
adopt older   .               .               .               .                    .               .                .
adopt equal   .               .               .               .                    .               .                .
adopt newer   >open:adopt     >open:adopt     >open:adopt     >open:adopt          >open:adopt     >open:adopt      >open:adopt
yield older   .               .               .               .                    .               .                .
yield same    .               .               .               .                    .               .                .
yield open    >open:adopt     >open:adopt     .               .                    >open:adopt     >open:adopt      >open:adopt
yield locked  >metrics:adopt  >metrics:adopt  >metrics:adopt  >metrics:adopt       >metrics:adopt  >metrics:adopt   >metrics:adopt
yield newer   >open:adopt     >open:adopt     >open:adopt     >open:adopt          >open:adopt     >open:adopt      >open:adopt
stand by      >open:adopt     >open:adopt     >open:adopt     >open:adopt          >open:adopt     >open:adopt      >open:adopt
";

/// The same under a lock.
const LOCKED: &str = "
              forced_open         forced_open over       forced_closed    metrics_only     metrics over
admit         no                  >half_open:expired ok  ok               ok               >closed:expired ok
success       late                late                   .                .                .
slow          late                late                   .                .                .
failure       late                late                   .                .                .
ignored       late                late                   .                .                .
old success   late                late                   late             late             late
old failure   late                late                   late             late             late
abandon       .                   .                      .                .                .
advance       .                   >half_open:expired     .                .                >closed:expired
force open    >forced_open        >forced_open           >forced_open     >forced_open     >forced_open
force closed  >forced_closed      >forced_closed         >forced_closed   >forced_closed   >forced_closed
metrics only  >metrics_only       >metrics_only          >metrics_only    >metrics_only    >metrics_only
release       >half_open:release  >half_open:release     >closed:release  >closed:release  >closed:release
to closed     >closed             >closed                >closed          >closed          >closed
to open       >open               >open                  >open            >open            >open
to half_open  >half_open          >half_open             >half_open       >half_open       >half_open
adopt older   .                   .                      .                .                .
adopt equal   .                   .                      .                .                .
adopt newer   >open:adopt         >open:adopt            >open:adopt      >open:adopt      >open:adopt
yield older   .                   .                      .                .                .
yield same    .                   .                      .                .                .
yield open    >open:adopt         >open:adopt            >open:adopt      >open:adopt      >open:adopt
yield locked  >metrics:adopt      >metrics:adopt         >metrics:adopt   >metrics:adopt   >metrics:adopt
yield newer   >open:adopt         >open:adopt            >open:adopt      >open:adopt      >open:adopt
stand by      >forced_open        >open:adopt            >forced_closed   >metrics_only    >open:adopt
";

/// The tick at which every operation is tried.
const NOW: u64 = 1_000;

/// A breaker in a state, with a permit that this state gave, where it gives any, and one from an earlier life.
fn in_state(name: &str) -> (Breaker, Option<Permit>, Permit) {
    let (permits, success_threshold) = if name == "full" { (1, 2) } else { (4, 2) };
    let mut breaker = Breaker::new(Settings { permits, success_threshold, ..settings() }, Tick(0));
    let old = admitted(&mut breaker, 0);
    breaker.reset_to(Automatic::Closed, "ann", "so that there is a life before", Tick(0), || 0.0);
    let tripped_at = if name == "open over" { NOW - 100 } else { NOW - 1 };
    match name {
        "closed" => {}
        "streak" => {
            for _ in 0..2 {
                let permit = admitted(&mut breaker, NOW);
                settle(&mut breaker, permit, FAILURE, NOW);
            }
        }
        "open" | "open over" => trip(&mut breaker, tripped_at),
        "half_open" | "short" | "full" => {
            trip(&mut breaker, NOW - 100);
            breaker.advance(Tick(NOW));
            if name == "short" {
                let probe = admitted(&mut breaker, NOW);
                settle(&mut breaker, probe, Verdict::Success, NOW);
            }
        }
        "forced_open" => drop(breaker.lock(lock(LockKind::ForcedOpen, None), Tick(NOW - 1))),
        "forced_open over" => drop(breaker.lock(lock(LockKind::ForcedOpen, Some(NOW)), Tick(NOW - 1))),
        "forced_closed" => drop(breaker.lock(lock(LockKind::ForcedClosed, None), Tick(NOW - 1))),
        "metrics_only" => drop(breaker.lock(lock(LockKind::MetricsOnly, None), Tick(NOW - 1))),
        "metrics over" => drop(breaker.lock(lock(LockKind::MetricsOnly, Some(NOW)), Tick(NOW - 1))),
        other => panic!("no state is called {other}"),
    }
    // Asked a tick earlier, so that the asking does not leave what is over.
    let permit = if name == "half_open" || name == "short" || name == "full" { Tick(NOW) } else { Tick(NOW - 1) };
    let permit = breaker.admit(permit, || 0.0).0.ok();
    (breaker, permit, old)
}

fn shown(transition: Option<&Transition>) -> String {
    let Some(transition) = transition else { return ".".to_owned() };
    let cause = match transition.cause {
        Cause::Forced => return format!(">{}", transition.to.as_str()),
        Cause::Policy => "policy",
        Cause::Fleet => "fleet",
        Cause::Timer => "timer",
        Cause::ProbeFailed => "probe",
        Cause::ProbesTooLong => "too long",
        Cause::Recovered => "recover",
        Cause::Tuned => "tuned",
        Cause::Released => "release",
        Cause::LockExpired => "expired",
        Cause::Adopted => "adopt",
        Cause::Restored => "restore",
    };
    let to = if transition.to == StateName::MetricsOnly { "metrics" } else { transition.to.as_str() };
    format!(">{to}:{cause}")
}

fn under(operation: &str, state: &str) -> String {
    let (mut breaker, permit, old) = in_state(state);
    let now = Tick(NOW);
    let generation = breaker.generation().0;
    let open = |generation| snapshot(generation, Held::Open { until: Tick(NOW + 5) });
    let settled = |breaker: &mut Breaker, permit, verdict| {
        let settled = settle(breaker, permit, verdict, NOW);
        if settled.late { "late".to_owned() } else { shown(settled.transition.as_deref()) }
    };
    let forced = |breaker: &mut Breaker, kind| shown(Some(&breaker.lock(lock(kind, None), now)));
    let reset = |breaker: &mut Breaker, to| shown(Some(&breaker.reset_to(to, "ann", "drill", now, || 0.0)));
    match operation {
        "admit" => {
            let (answer, transition) = breaker.admit(now, || 0.0);
            let answer = if answer.is_ok() { "ok" } else { "no" };
            transition.map_or(answer.to_owned(), |transition| format!("{} {answer}", shown(Some(&transition))))
        }
        "success" => settled(&mut breaker, permit.unwrap_or(old), Verdict::Success),
        "slow" => settled(&mut breaker, permit.unwrap_or(old), Verdict::Slow),
        "failure" => settled(&mut breaker, permit.unwrap_or(old), FAILURE),
        "ignored" => settled(&mut breaker, permit.unwrap_or(old), Verdict::Ignored),
        "old success" => settled(&mut breaker, old, Verdict::Success),
        "old failure" => settled(&mut breaker, old, FAILURE),
        "abandon" => {
            let before = (breaker.snapshot(), breaker.counts(now));
            breaker.abandon(permit.unwrap_or(old), now);
            assert_eq!((breaker.snapshot(), breaker.counts(now), breaker.probes_in_flight(now)), (before.0, before.1, 0), "{state}");
            ".".to_owned()
        }
        "advance" => shown(breaker.advance(now).as_ref()),
        "force open" => forced(&mut breaker, LockKind::ForcedOpen),
        "force closed" => forced(&mut breaker, LockKind::ForcedClosed),
        "metrics only" => forced(&mut breaker, LockKind::MetricsOnly),
        "release" => shown(breaker.release("bob", "over", now).as_ref()),
        "to closed" => reset(&mut breaker, Automatic::Closed),
        "to open" => reset(&mut breaker, Automatic::Open),
        "to half_open" => reset(&mut breaker, Automatic::HalfOpen),
        "adopt older" => shown(breaker.adopt(&open(generation - 1), Cause::Adopted, now).as_ref()),
        "adopt equal" => shown(breaker.adopt(&open(generation), Cause::Adopted, now).as_ref()),
        "adopt newer" => shown(breaker.adopt(&open(generation + 1), Cause::Adopted, now).as_ref()),
        "yield older" => shown(breaker.yield_to(&open(generation - 1), now).as_ref()),
        "yield same" => shown(breaker.yield_to(&breaker.snapshot(), now).as_ref()),
        "yield open" => shown(breaker.yield_to(&open(generation), now).as_ref()),
        "yield locked" => {
            let theirs = Lock { actor: "bob".to_owned(), ..lock(LockKind::MetricsOnly, None) };
            shown(breaker.yield_to(&snapshot(generation, Held::Locked(theirs)), now).as_ref())
        }
        "yield newer" => shown(breaker.yield_to(&open(generation + 1), now).as_ref()),
        "stand by" => shown(breaker.stand_by(&open(generation + 1), now).as_ref()),
        other => panic!("no operation is called {other}"),
    }
}

/// A line's cells: parted by two spaces or at the columns where the heading's begin.
fn cells<'a>(heading: &str, line: &'a str) -> Vec<&'a str> {
    let mut starts = vec![0];
    let gaps = heading.as_bytes().windows(3).enumerate().filter(|(_, at)| at[0] == b' ' && at[1] == b' ' && at[2] != b' ');
    starts.extend(gaps.map(|(start, _)| start + 2));
    starts.push(line.len());
    starts.windows(2).map(|at| line[at[0].min(line.len())..at[1].min(line.len())].trim()).collect()
}

fn check(table: &str, states: usize) {
    let mut lines = table.lines().skip(1);
    let heading = lines.next().expect("the states");
    let names = cells(heading, heading);
    assert_eq!(names.len(), states + 1, "{names:?}");
    let mut wrong = Vec::new();
    let mut operations = 0;
    for line in lines {
        operations += 1;
        let row = cells(heading, line);
        for (state, expected) in names.iter().zip(&row).skip(1) {
            let seen = under(row[0], state);
            if seen != *expected {
                wrong.push(format!("{} in {state}: {seen}, not {expected}", row[0]));
            }
        }
    }
    assert_eq!(operations, 25);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_state_under_every_operation() {
    check(AUTOMATIC, 7);
    check(LOCKED, 5);
}

/// What goes with a transition: who, why, when, and the figures of a trip.
#[test]
fn a_transition_tells_its_story() {
    let mut breaker = Breaker::new(settings(), Tick(0));
    for _ in 0..2 {
        let permit = admitted(&mut breaker, 5);
        settle(&mut breaker, permit, FAILURE, 5);
    }
    let permit = admitted(&mut breaker, 5);
    let transition = settle(&mut breaker, permit, FAILURE, 6).transition.expect("the third failure trips");
    let counts = Counts { calls: 3, failures: 3, slow: 0, consecutive_failures: 3 };
    assert_eq!((transition.at, transition.counts, transition.actor), (Tick(6), counts, None));
    let forced = breaker.lock(lock(LockKind::ForcedOpen, None), Tick(7));
    assert_eq!((forced.actor.as_deref(), forced.reason.as_deref(), forced.at), (Some("ann"), Some("drill"), Tick(7)));
    let released = breaker.release("bob", "over", Tick(8)).expect("there is a lock");
    assert_eq!((released.actor.as_deref(), released.reason.as_deref(), released.at), (Some("bob"), Some("over"), Tick(8)));
}

/// What a locked breaker records: forced closed nothing, metrics only everything, and neither trips.
#[test]
fn locks_that_admit_never_trip() {
    for (kind, recorded) in [(LockKind::ForcedClosed, 0), (LockKind::MetricsOnly, 10)] {
        let mut breaker = Breaker::new(settings(), Tick(0));
        breaker.lock(lock(kind, None), Tick(0));
        for _ in 0..10 {
            let permit = admitted(&mut breaker, 1);
            assert_eq!(settle(&mut breaker, permit, FAILURE, 1), Settled { late: false, transition: None });
        }
        assert_eq!(breaker.counts(Tick(1)).failures, recorded, "{kind:?}");
        breaker.release("ann", "over", Tick(2));
        assert_eq!((breaker.state_name(), breaker.counts(Tick(2)).failures), (StateName::Closed, 0), "it starts afresh");
    }
}

/// How many probes go at once: the permitted ones, but no more than successes are wanting.
#[test]
fn places_while_half_open() {
    for (permits, success_threshold, successes, places) in [
        (1, 1, 0, 1),
        (5, 1, 0, 1),
        (1, 5, 0, 1),
        (3, 5, 0, 3),
        (3, 5, 3, 2),
        (3, 5, 4, 1),
        (0, 5, 0, 1),
        (5, 0, 0, 1),
        (u32::MAX, 4, 1, 3),
    ] {
        let mut breaker = Breaker::new(Settings { permits, success_threshold, ..settings() }, Tick(0));
        breaker.reset_to(Automatic::HalfOpen, "ann", "drill", Tick(0), || 0.0);
        for _ in 0..successes {
            let probe = admitted(&mut breaker, 0);
            settle(&mut breaker, probe, Verdict::Success, 0);
        }
        let probes: Vec<_> = std::iter::from_fn(|| breaker.admit(Tick(0), || 0.0).0.ok()).collect();
        assert_eq!(probes.len(), places, "permits {permits}, threshold {success_threshold}, successes {successes}");
    }
}
