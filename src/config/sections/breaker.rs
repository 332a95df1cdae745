//! `[services.NAME.breaker]`: how a breaker comes back; when it opens says its policy.

use std::time::Duration;

use super::{DAY, MILLISECOND, policy};
use crate::config::reader::Section;
use crate::config::shape::{Number, Time, Whole, Word};
use crate::machine::breaker::{Scope, Settings};

/// What a call may take beyond its time limit before its probe's place is given to another: the time to cancel it.
const LEASE_MARGIN: Duration = Duration::from_secs(1);

/// What a `breaker` table holds; `timeout` is the service's.
pub(in crate::config) fn read(section: &Section<'_>, timeout: Option<Duration>) -> Option<Settings> {
    let times = || Time::between(MILLISECOND, 7 * DAY);
    let policy = policy::read(section);
    let recovery_timeout = section.or("recovery_timeout", "60s", times(), "How long it stays open before it lets a probe through.");
    let backoff_multiplier = section.or(
        "backoff_multiplier",
        1.0,
        Number(1.0..=100.0),
        "What the open time is multiplied by with each further trip before it closes again.",
    );
    let longest = section.or(
        "recovery_timeout_max",
        "10m",
        times(),
        "The longest open time, by back-off or by a service's `Retry-After`. A longer `recovery_timeout` raises the default.",
    );
    let jitter = section.or(
        "jitter",
        0.0,
        Number(0.0..=1.0),
        "The share by which chance may lengthen the open time, so that instances do not probe in step.",
    );
    let permits =
        section.or("permits", 1, Whole(1..=10_000_u32), "Probes in flight at once while half-open, in the whole fleet if it has a Redis.");
    let success_threshold =
        section.or("success_threshold", 1, Whole(1..=10_000_u32), "Successful probes that close it, where each probe decides.");
    let half_open_failure_rate = section.optional(
        "half_open_failure_rate",
        Number(0.0001..=1.0),
        "The share of failed probes that opens it again, where `permits` probes are weighed together. Unless given, each decides.",
    );
    let half_open_timeout = section.optional(
        "half_open_timeout",
        times(),
        "The longest it stays half-open before it opens again. Unless given, as long as it takes.",
    );
    let ramp = section.or(
        "ramp",
        "0s",
        Time::between(Duration::ZERO, DAY),
        "How long after recovery the admitted share of calls takes to rise to all of them.",
    );
    let ignore_first = section.or("ignore_first", 0, Whole(0..=1_000_000_u32), "Verdicts of a new process that are not weighed.");
    let evidence = section.or(
        "evidence",
        "instance",
        Word(&[("instance", Scope::Instance), ("fleet", Scope::Fleet)]),
        "Whose verdicts open it: each instance's own, or also the sum of all instances' that share a Redis.",
    );
    let quorum = section.or(
        "quorum",
        1,
        Whole(1..=10_000_u32),
        "Instances that must see failures before the fleet's breaker opens; with fewer only theirs do.",
    );
    let recovery_timeout_max = match (recovery_timeout, longest) {
        (Some(usual), Some(longest)) if usual > longest => {
            if section.layer("recovery_timeout_max").is_some() {
                let (usual, longest) = (humantime::format_duration(usual), humantime::format_duration(longest));
                section.at_odds(
                    &["recovery_timeout_max", "recovery_timeout"],
                    format!("`recovery_timeout`, {usual}, must not be longer than `recovery_timeout_max`, {longest}"),
                );
            }
            Some(usual)
        }
        (_, longest) => longest,
    };
    Some(Settings {
        policy: policy?,
        recovery_timeout: recovery_timeout?,
        backoff_multiplier: backoff_multiplier?,
        recovery_timeout_max: recovery_timeout_max?,
        jitter: jitter?,
        permits: permits?,
        success_threshold: success_threshold?,
        half_open_failure_rate: half_open_failure_rate?,
        half_open_timeout: half_open_timeout?,
        ramp: ramp?,
        ignore_first: ignore_first?,
        evidence: evidence?,
        quorum: quorum?,
        lease: timeout? + LEASE_MARGIN,
    })
}
