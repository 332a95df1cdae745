//! What is shown of candidates: a table, JSON, and a line of time each.

use std::fmt::Write as _;

use serde_json::{Value as Json, json};

use super::super::table::table;
use super::super::{Common, Failure, Output, print as put, print_json};
use super::Tried;
use crate::config::breaker_table;
use crate::event::UnixMillis;
use crate::machine::breaker::StateName;
use crate::machine::simulation::run::{Cost, Run};
use crate::machine::simulation::truth::{Call, Period};
use crate::machine::time::Tick;

/// Columns of a line of time.
const SLOTS: u64 = 96;

/// Bad periods that the table names; JSON has them all.
const NAMED: usize = 10;

/// Prints what was tried.
pub(super) fn print(common: &Common, tried: &[Tried], cost: Cost, timeline: bool) -> Result<(), Failure> {
    if common.output == Output::Json {
        return print_json(&json!({ "services": tried.iter().map(|tried| as_json(tried, cost)).collect::<Vec<_>>() }));
    }
    let mut text = String::new();
    for (number, tried) in tried.iter().enumerate() {
        let Tried { service, calls, bad, candidates } = tried;
        let blank = if number > 0 { "\n" } else { "" };
        let failed = calls.iter().filter(|call| call.failed()).count();
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{blank}{service}: {} calls, {failed} failed; bad {}\n", calls.len(), stretches(bad));
        let rows: Vec<_> = candidates.iter().map(|(candidate, run)| row(&candidate.name, run, cost)).collect();
        text.push_str(&table(HEADINGS, &rows));
        for (candidate, run) in candidates {
            let trips: Vec<String> = trips(run).map(clock).collect();
            if !trips.is_empty() {
                let _ = writeln!(text, "{}: opened at {}", candidate.name, trips.join(", "));
            }
        }
        if timeline {
            text.push_str(&lines_of_time(tried));
        }
    }
    put(&text)
}

const HEADINGS: [&str; 10] =
    ["CANDIDATE", "TRIPS", "REFUSED WELL", "REFUSED BAD", "BAD ADMITTED", "PROBES", "DETECT", "RECOVER", "MISSED", "COST"];

fn row(name: &str, run: &Run, cost: Cost) -> [String; 10] {
    let score = &run.score;
    let seconds = |mean: Option<f64>, longest: Option<f64>| match (mean, longest) {
        (Some(mean), Some(longest)) if (longest - mean).abs() > 0.05 => format!("{mean:.1} s (max {longest:.1})"),
        (Some(mean), _) => format!("{mean:.1} s"),
        (None, _) => "-".to_owned(),
    };
    [
        name.to_owned(),
        score.trips.to_string(),
        score.refused_while_healthy.to_string(),
        score.refused_while_bad.to_string(),
        score.bad_admitted.to_string(),
        score.probes.to_string(),
        seconds(score.mean_time_to_detect, score.longest_time_to_detect),
        seconds(score.mean_time_to_recover, score.longest_time_to_recover),
        format!("{} of {}", score.missed, score.bad_periods),
        format!("{:.0}", cost.of(score)),
    ]
}

fn as_json(tried: &Tried, cost: Cost) -> Json {
    let candidates: Vec<Json> = tried
        .candidates
        .iter()
        .map(|(candidate, run)| {
            json!({
                "name": candidate.name,
                "breaker": breaker_table(&candidate.settings),
                "cost": cost.of(&run.score),
                "score": run.score,
                "tripped_at": trips(run).map(time).collect::<Vec<_>>(),
                "states": run.states.iter().map(|(at, state)| json!({ "at": time(*at), "state": state })).collect::<Vec<_>>(),
            })
        })
        .collect();
    let bad: Vec<Json> = tried.bad.iter().map(|period| json!({ "from": time(period.from), "to": time(period.to) })).collect();
    json!({ "service": tried.service, "calls": tried.calls.len(), "bad": bad, "candidates": candidates })
}

fn trips(run: &Run) -> impl Iterator<Item = Tick> {
    run.states.iter().filter(|(_, state)| *state == StateName::Open).map(|(at, _)| *at)
}

/// A time as RFC 3339.
fn time(at: Tick) -> String {
    UnixMillis(i64::try_from(at.0).unwrap_or(i64::MAX)).to_rfc3339()
}

/// Its clock alone.
pub(super) fn clock(at: Tick) -> String {
    let text = time(at);
    text.get(11..19).unwrap_or(&text).to_owned()
}

fn stretches(bad: &[Period]) -> String {
    match bad {
        [] => "never".to_owned(),
        _ => {
            let named: Vec<_> = bad.iter().take(NAMED).map(|period| format!("{} to {}", clock(period.from), clock(period.to))).collect();
            let more = bad.len() - named.len();
            named.join(", ") + &if more > 0 { format!(", and {more} more") } else { String::new() }
        }
    }
}

/// What a slot of time shows of a candidate: the state that it was longest in, or, closed, whether it refused anything.
fn lines_of_time(tried: &Tried) -> String {
    let Some((from, to)) = span(&tried.calls) else { return String::new() };
    let slot = (to.0 - from.0 + 1).div_ceil(SLOTS);
    let starts = || (0..SLOTS).map(|number| from.0 + number * slot).take_while(|start| *start <= to.0);
    let width = tried.candidates.iter().map(|(candidate, _)| candidate.name.chars().count()).max().unwrap_or(0).max("failing".len());
    let mut text = String::from("\n");
    let truth: String = starts()
        .map(|start| if tried.bad.iter().any(|period| period.from.0 < start + slot && period.to.0 > start) { '!' } else { '.' })
        .collect();
    let _ = writeln!(text, "{:<width$}  {truth}", "failing");
    for (candidate, run) in &tried.candidates {
        let line: String = starts().map(|start| letter(run, start, start + slot)).collect();
        let _ = writeln!(text, "{:<width$}  {line}", candidate.name);
    }
    let _ = writeln!(
        text,
        "{:<width$}  {} to {}, a column {:.1} s; . closed  ~ closed, refusing some  # open  ? half-open  ! failing",
        "",
        clock(from),
        clock(to),
        slot as f64 / 1_000.0
    );
    text
}

fn letter(run: &Run, from: u64, to: u64) -> char {
    let mut longest = (0, StateName::Closed);
    for (place, (at, state)) in run.states.iter().enumerate() {
        let ends = run.states.get(place + 1).map_or(u64::MAX, |next| next.0.0);
        let within = ends.min(to).saturating_sub(at.0.max(from));
        if within > longest.0 {
            longest = (within, *state);
        }
    }
    match longest.1 {
        StateName::Open | StateName::ForcedOpen => '#',
        StateName::HalfOpen => '?',
        _ if run.refusals.iter().any(|at| (from..to).contains(&at.0)) => '~',
        _ => '.',
    }
}

/// From the first call's beginning to the last one's end.
pub(super) fn span(calls: &[Call]) -> Option<(Tick, Tick)> {
    Some((calls.first()?.at, calls.iter().map(Call::ended).max()?))
}
