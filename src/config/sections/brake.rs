//! `[dead_letters.brake]`: when a partition whose records turn bad is stopped.

use std::time::Duration;

use super::{DAY, SECOND};
use crate::config::checked::Processing;
use crate::config::reader::Section;
use crate::config::shape::{Number, Time, Whole};
use crate::machine::brake::{Rule, Settings};

/// What the table holds; `Some(None)`: no partition is ever stopped.
pub(super) fn read(section: &Section<'_>, processing: Option<&Processing>) -> Option<Option<Settings>> {
    let run = section.optional("run", Whole(1..=100_000_u32), "So many bad records in a row stop their partition. Unless given, none do.");
    let share = section.optional(
        "share",
        Number(0.001..=1.0),
        "This share of bad records among `window` in a row stops their partition. Unless given, none does.",
    );
    let window =
        section.required("window", Whole(1..=100_000_u32), "How many records `share` is of. Those that were not read yet count as good.");
    let hold = section.required(
        "hold",
        Time::between(SECOND / 10, DAY),
        "How long a bad record may be held; then it is a dead letter, and counts.",
    );
    let (run, share) = (run?, share?);
    if !section.is_describing() && run.is_none() && share.is_none() {
        return Some(None);
    }
    let (window, hold): (u32, Duration) = (window?, hold?);
    let rules: Vec<Rule> =
        run.map(|run| Rule::run(run as usize)).into_iter().chain(share.map(|share| Rule::share(share, window as usize))).collect();
    let most = rules.iter().map(|rule| rule.bad()).max().unwrap_or(0);
    if let Some(bound) = processing.map(|processing| processing.max_in_flight.get())
        && most > bound / 4
    {
        let keys: &[&str] = if run.is_some_and(|run| run as usize == most) { &["run"] } else { &["share", "window"] };
        section.at_odds(
            keys,
            format!("{most} bad records would be held, which is more than a quarter of `processing.max_in_flight`, {bound}"),
        );
    }
    Some(Some(Settings { rules, hold }))
}
