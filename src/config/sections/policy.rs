//! When a breaker opens: the policy of a `breaker` table, or of one table of its `any`.
//!
//! The keys that it takes depend on the policy, as a fallback's on its kind: what belongs to another one is left aside if an earlier layer
//! wrote it, and a fault if not. Defaults of rates are resilience4j's.

use std::num::NonZeroU32;
use std::time::Duration;

use serde_json::{Value as Json, json};

use super::{DAY, HOUR, MILLISECOND, MINUTE, SECOND};
use crate::config::faults::listed;
use crate::config::reader::Section;
use crate::config::shape::{Number, Problem, Shape, Time, Whole, Word, wrong};
use crate::config::tree::Written;
use crate::machine::breaker::{AdaptiveSettings, Over, PolicySettings, Rates, Trip};

/// The policies that exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Policy {
    Consecutive,
    Count,
    Time,
    Expression,
    Adaptive,
}

impl Policy {
    const ALL: [(&str, Self); 5] = [
        ("consecutive", Self::Consecutive),
        ("count", Self::Count),
        ("time", Self::Time),
        ("expression", Self::Expression),
        ("adaptive", Self::Adaptive),
    ];

    fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, policy)| *policy == self).map_or("", |(name, _)| name)
    }
}

/// The keys that only some policies take.
const KEYS: [(&str, &[Policy]); 11] = [
    ("fail_max", &[Policy::Consecutive]),
    ("size", &[Policy::Count, Policy::Expression]),
    ("window", &[Policy::Time, Policy::Expression, Policy::Adaptive]),
    ("minimum_calls", &[Policy::Count, Policy::Time]),
    ("failure_rate", &[Policy::Count, Policy::Time]),
    ("slow_call_rate", &[Policy::Count, Policy::Time]),
    ("slow_call_duration", &[Policy::Count, Policy::Time, Policy::Expression, Policy::Adaptive]),
    ("trip", &[Policy::Expression]),
    ("multiplier", &[Policy::Adaptive]),
    ("trickle", &[Policy::Adaptive]),
    ("patience", &[Policy::Adaptive]),
];

/// What of a table says when a breaker opens.
pub(super) fn read(section: &Section<'_>) -> Option<PolicySettings> {
    let policies =
        section.list("any", "One of several policies, any of which opens it; each with its own keys.", |_, section| one(section));
    if section.layer("any").is_none() {
        return one(section);
    }
    // The list stands instead of a policy. An earlier layer's policy and its keys are left aside.
    for name in ["policy"].into_iter().chain(KEYS.iter().map(|(name, _)| *name)) {
        section.skip(name);
        if section.layer(name).is_some_and(|layer| layer >= section.layer("any").unwrap_or(0)) {
            section.fault(name, "has no effect besides `any`: each of its tables has a policy of its own");
        }
    }
    let policies: Vec<_> = policies?.into_iter().collect::<Option<_>>()?;
    if policies.is_empty() { section.report("any", "has no policy in it") } else { Some(PolicySettings::Any(policies)) }
}

/// One policy.
fn one(section: &Section<'_>) -> Option<PolicySettings> {
    let policy = section.or(
        "policy",
        "consecutive",
        Word(&Policy::ALL),
        "When it opens: after failures in a row; by the share of failed or slow calls among the last ones or those of the last seconds; by an \
         expression; or never, but it refuses a share of the calls.",
    );
    let wanted = |of: &[Policy]| section.is_describing() || policy.is_some_and(|policy| of.contains(&policy));
    for (name, takers) in KEYS {
        if !wanted(takers) {
            leave_aside(name, takers, policy, section);
        }
    }
    let fail_max = wanted(&[Policy::Consecutive])
        .then(|| section.or("fail_max", 5, Whole(1..=1_000_000_u32), "`consecutive`: failures in a row that open it."))
        .flatten();
    let size = wanted(&[Policy::Count, Policy::Expression])
        .then(|| section.or("size", 100, Whole(1..=1_000_000_u32), "`count`, `expression`: calls in the window."))
        .flatten();
    let window = wanted(&[Policy::Time, Policy::Expression, Policy::Adaptive]).then(|| window(section)).flatten();
    let slow = wanted(&[Policy::Count, Policy::Time, Policy::Expression, Policy::Adaptive]).then(|| slow_call_duration(section)).flatten();
    let rates = wanted(&[Policy::Count, Policy::Time]).then(|| rates(section, slow)).flatten();
    let trip = wanted(&[Policy::Expression])
        .then(|| section.optional("trip", TripText, "`expression`: opens it when it holds; CEL over the window's figures."))
        .flatten();
    let adaptive = wanted(&[Policy::Adaptive]).then(|| adaptive(section)).flatten();
    let usual = Duration::from_secs(60);
    Some(match policy? {
        Policy::Consecutive => PolicySettings::Consecutive { fail_max: NonZeroU32::new(fail_max?)? },
        Policy::Count => PolicySettings::Count { size: size?, rates: rates? },
        Policy::Time => PolicySettings::Time { window: window?.unwrap_or(usual), rates: rates? },
        Policy::Expression => {
            let Some(trip) = trip? else { return section.report("trip", "is missing: the expression that opens it") };
            if section.layer("size").is_some() && section.layer("size") == section.layer("window") {
                section.at_odds(&["size", "window"], "`size` and `window` are two windows: an expression is over one");
            }
            let over = match window? {
                Some(_) if section.layer("size") > section.layer("window") => Over::Calls(size?),
                Some(window) => Over::Time(window),
                None => Over::Calls(size?),
            };
            PolicySettings::Expression { trip, over, slow: slow? }
        }
        Policy::Adaptive => {
            let (multiplier, trickle, patience) = adaptive?;
            let window = window?.unwrap_or(Duration::from_secs(30));
            PolicySettings::Adaptive(AdaptiveSettings { window, multiplier, trickle, patience, slow_call_duration: slow? })
        }
    })
}

/// How long a window of time is; `Some(None)`: unless the policy has another idea.
fn window(section: &Section<'_>) -> Option<Option<Duration>> {
    let window = section.optional(
        "window",
        Time::between(SECOND, HOUR),
        "`time`, `adaptive`: how long back calls count, whole seconds; 60 s and 30 s unless given. `expression`: the same, instead of `size`.",
    )?;
    match window {
        Some(window) if window.subsec_nanos() > 0 => section.report("window", "must be whole seconds"),
        window => Some(window),
    }
}

fn slow_call_duration(section: &Section<'_>) -> Option<Duration> {
    section.or(
        "slow_call_duration",
        "60s",
        Time::between(MILLISECOND, HOUR),
        "`count`, `time`, `expression`, `adaptive`: a call that takes longer is slow, whether it fails or not.",
    )
}

fn rates(section: &Section<'_>, slow: Option<Duration>) -> Option<Rates> {
    let minimum_calls = section.or(
        "minimum_calls",
        100,
        Whole(1..=1_000_000_u32),
        "`count`, `time`: calls in the window before its rates mean anything; of `count` no more than `size`.",
    );
    let share = || Number(0.0001..=1.0);
    let failure_rate = section.or("failure_rate", 0.5, share(), "`count`, `time`: the share of failed calls that opens it.");
    let slow_call_rate = section.or("slow_call_rate", 1.0, share(), "`count`, `time`: the share of slow calls that opens it.");
    Some(Rates { minimum_calls: minimum_calls?, failure_rate: failure_rate?, slow_call_rate: slow_call_rate?, slow_call_duration: slow? })
}

/// Of `adaptive` what no other policy takes: the multiplier, the trickle and the patience.
fn adaptive(section: &Section<'_>) -> Option<(f64, Duration, Duration)> {
    let multiplier = section.or(
        "multiplier",
        2.0,
        Number(1.0..=100.0),
        "`adaptive`: how many calls are sent for each that is answered before any is refused.",
    );
    let trickle =
        section.or("trickle", "1s", Time::between(MILLISECOND, DAY), "`adaptive`: the longest without a call that is let through.");
    let patience = section.or(
        "patience",
        "2s",
        Time::between(Duration::ZERO, MINUTE),
        "`adaptive`: how long a call may be out before it counts as not answered; whole seconds, give or take one.",
    );
    Some((multiplier?, trickle?, patience?))
}

/// Leaves a key of another policy aside, or finds fault with it if the layer that chose the policy, or a later one, wrote it.
fn leave_aside(name: &str, takers: &[Policy], policy: Option<Policy>, section: &Section<'_>) {
    section.skip(name);
    if let (Some(policy), Some(layer)) = (policy, section.layer(name))
        && layer >= section.layer("policy").unwrap_or(0)
    {
        let of = listed(takers.iter().map(|taker| taker.name()));
        section.fault(name, format!("has no effect: the policy is {:?}, and this is a key of {of}", policy.name()));
    }
}

/// An expression over a window's figures.
struct TripText;

impl Shape for TripText {
    type Value = Trip;
    fn expected(&self) -> String {
        "a CEL expression".to_owned()
    }
    fn schema(&self) -> Json {
        json!({ "type": "string", "$comment": "CEL over `calls`, `failures`, `slow`, `successes`, `consecutive`, `failure_rate` and `slow_call_rate`" })
    }
    fn read(&self, written: &Written<'_>) -> Result<Trip, Problem> {
        Trip::compile(written.text().ok_or(Problem::Type)?).or_else(|error| wrong(format!("does not compile: {error}")))
    }
}
