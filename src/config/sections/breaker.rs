//! `[services.NAME.breaker]`: when it opens, and how it comes back.

use std::num::NonZeroU32;
use std::time::Duration;

use super::{DAY, MILLISECOND};
use crate::config::reader::Section;
use crate::config::shape::{Number, Time, Whole, Word};
use crate::machine::breaker::{PolicySettings, Settings};

/// What a call may take beyond its time limit before its probe's place is given to another: the time to cancel it.
const LEASE_MARGIN: Duration = Duration::from_secs(1);

/// The policies that exist.
#[derive(Debug, Clone, Copy)]
enum Policy {
    Consecutive,
}

/// What a `breaker` table holds; `timeout` is the service's.
pub(super) fn read(section: &Section<'_>, timeout: Option<Duration>) -> Option<Settings> {
    let times = || Time::between(MILLISECOND, 7 * DAY);
    let policy =
        section.or("policy", "consecutive", Word(&[("consecutive", Policy::Consecutive)]), "When it opens: after failures in a row.");
    let fail_max = section.or("fail_max", 5, Whole(1..=1_000_000_u32), "Failures in a row that open it.");
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
    let permits = section.or("permits", 1, Whole(1..=10_000_u32), "Probes in flight at once while half-open.");
    let success_threshold = section.or("success_threshold", 1, Whole(1..=10_000_u32), "Successful probes that close it.");
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
        policy: match policy? {
            Policy::Consecutive => PolicySettings::Consecutive { fail_max: NonZeroU32::new(fail_max?)? },
        },
        recovery_timeout: recovery_timeout?,
        backoff_multiplier: backoff_multiplier?,
        recovery_timeout_max: recovery_timeout_max?,
        jitter: jitter?,
        permits: permits?,
        success_threshold: success_threshold?,
        lease: timeout? + LEASE_MARGIN,
    })
}
