//! `[services.NAME.adaptive]`: how many of a service's places there are at a time.
//!
//! The keys that it takes depend on the algorithm, as a fallback's on its kind: what belongs to another one is left aside if an earlier layer
//! wrote it, and a fault if not.

use std::time::Duration;

use super::{HOUR, MILLISECOND};
use crate::config::faults::listed;
use crate::config::reader::Section;
use crate::config::shape::{Number, Time, Whole, Word};
use crate::machine::limit::{Law, Settings, aimd, gradient};

/// The algorithms that exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Algorithm {
    Fixed,
    Aimd,
    Gradient,
}

/// The keys that only some algorithms take.
const KEYS: [(&str, &[Algorithm]); 7] = [
    ("minimum", &[Algorithm::Aimd, Algorithm::Gradient]),
    ("initial", &[Algorithm::Aimd, Algorithm::Gradient]),
    ("latency", &[Algorithm::Aimd]),
    ("backoff_ratio", &[Algorithm::Aimd]),
    ("tolerance", &[Algorithm::Gradient]),
    ("smoothing", &[Algorithm::Gradient]),
    ("queue", &[Algorithm::Gradient]),
];

/// Places to begin with unless said otherwise, where the service has as many.
const INITIAL: u32 = 20;

/// What an `adaptive` table holds; `Some(None)`: the number of places is fixed.
pub(super) fn read(section: &Section<'_>, concurrency: Option<u32>, timeout: Option<Duration>) -> Option<Option<Settings>> {
    let algorithm = section.or(
        "algorithm",
        "fixed",
        Word(&[("fixed", Algorithm::Fixed), ("aimd", Algorithm::Aimd), ("gradient", Algorithm::Gradient)]),
        "How many of its `concurrency` places there are at a time: always all, or as many as its answers say it can take.",
    );
    let wanted = |of: Algorithm| algorithm == Some(of) || section.is_describing();
    for (name, takers) in KEYS {
        if !takers.iter().any(|of| wanted(*of)) {
            leave_aside(name, algorithm, section);
        }
    }
    if !wanted(Algorithm::Aimd) && !wanted(Algorithm::Gradient) {
        return algorithm.map(|_| None);
    }
    let minimum = section.or("minimum", 1, Whole(1..=100_000_u32), "Never fewer places than this; at most `concurrency`.");
    let initial = section.or(
        "initial",
        i64::from(INITIAL),
        Whole(1..=100_000_u32),
        "Places to begin with, between `minimum` and `concurrency`; these move the default.",
    );
    let within = |name: &str, places: Option<u32>| match (places, concurrency) {
        (Some(places), Some(all)) if places > all => {
            if section.layer(name).is_some() {
                section.fault(name, format!("{places} is more than the service's `concurrency`, {all}"));
            }
            Some(all)
        }
        (places, _) => places,
    };
    let (minimum, initial) = (within("minimum", minimum), within("initial", initial));
    let initial = match (initial, minimum) {
        (Some(initial), Some(minimum)) if initial < minimum => {
            if section.layer("initial").is_some() {
                section.at_odds(&["initial", "minimum"], format!("`initial`, {initial}, must not be less than `minimum`, {minimum}"));
            }
            Some(minimum)
        }
        (initial, _) => initial,
    };
    let aimd = wanted(Algorithm::Aimd).then(|| aimd(section, timeout)).flatten();
    let gradient = wanted(Algorithm::Gradient).then(|| gradient(section)).flatten();
    let law = match algorithm? {
        Algorithm::Fixed => return Some(None),
        Algorithm::Aimd => Law::Aimd(aimd?),
        Algorithm::Gradient => Law::Gradient(gradient?),
    };
    Some(Some(Settings { law, minimum: minimum? as usize, initial: initial? as usize }))
}

fn aimd(section: &Section<'_>, timeout: Option<Duration>) -> Option<aimd::Settings> {
    let latency = section.optional(
        "latency",
        Time::between(MILLISECOND, HOUR),
        "`aimd`: a call that takes longer is a sign of overload; half of `timeout` unless given.",
    );
    let backoff_ratio = section.or(
        "backoff_ratio",
        0.9,
        Number(0.5..=0.99),
        "`aimd`: what the number of places is multiplied by at a sign of overload, once a round trip.",
    );
    if let (Some(Some(latency)), Some(timeout)) = (latency, timeout)
        && latency > timeout
    {
        let (latency, timeout) = (humantime::format_duration(latency), humantime::format_duration(timeout));
        section.fault("latency", format!("{latency} is longer than the service's `timeout`, {timeout}: no call takes that long"));
    }
    Some(aimd::Settings { latency: latency?.or(timeout.map(|timeout| timeout / 2))?, backoff_ratio: backoff_ratio? })
}

fn gradient(section: &Section<'_>) -> Option<gradient::Settings> {
    let tolerance = section.or(
        "tolerance",
        1.5,
        Number(1.0..=10.0),
        "`gradient`: how many times longer than usual calls may take before the number of places falls.",
    );
    let smoothing = section.or("smoothing", 0.2, Number(0.01..=1.0), "`gradient`: the share of each step that is taken.");
    let queue = section.optional(
        "queue",
        Whole(1..=10_000_u32),
        "`gradient`: calls that may wait inside the service; the square root of the number of places unless given.",
    );
    Some(gradient::Settings { tolerance: tolerance?, smoothing: smoothing?, queue: queue? })
}

/// Leaves a key of another algorithm aside, or finds fault with it if the layer that chose the algorithm, or a later one, wrote it.
fn leave_aside(name: &str, algorithm: Option<Algorithm>, section: &Section<'_>) {
    section.skip(name);
    if let (Some(algorithm), Some(layer)) = (algorithm, section.layer(name))
        && layer >= section.layer("algorithm").unwrap_or(0)
    {
        let takes = KEYS.iter().filter(|(_, takers)| takers.contains(&algorithm)).map(|(name, _)| *name);
        let word = match algorithm {
            Algorithm::Fixed => "has no effect: `algorithm` is \"fixed\", and only \"aimd\" and \"gradient\" look for a number".to_owned(),
            Algorithm::Aimd => format!("has no effect: \"aimd\" takes {}", listed(takes)),
            Algorithm::Gradient => format!("has no effect: \"gradient\" takes {}", listed(takes)),
        };
        section.fault(name, word);
    }
}
