//! `[services.NAME.health]`: whether and how a service is asked for its health.

use std::time::Duration;

use http::Uri;

use super::services::{UrlPath, join};
use super::{HOUR, MILLISECOND};
use crate::config::checked::Health;
use crate::config::reader::Section;
use crate::config::shape::{Flag, Time};

/// The longest that an answer may take unless said otherwise, where the service's calls may take as long.
const TIMEOUT: Duration = Duration::from_secs(2);

/// What a `health` table holds; `Some(None)`: the service is not asked. `url` and `timeout` are the service's.
pub(super) fn read(section: &Section<'_>, url: Option<&Uri>, timeout: Option<Duration>) -> Option<Option<Health>> {
    let path = section.optional("path", UrlPath, "What is asked for with GET; 2xx is healthy. Unless given, the service is not asked.");
    if path == Some(None) && !section.is_describing() {
        for name in ["interval", "timeout", "probe"] {
            section.skip(name);
            if section.layer(name).is_some() {
                section.fault(name, "has no effect without `path`: the service is not asked");
            }
        }
        return Some(None);
    }
    let interval = section.or("interval", "5s", Time::between(10 * MILLISECOND, HOUR), "From one question to the next.");
    let usual = timeout.map_or(TIMEOUT, |timeout| timeout.min(TIMEOUT));
    let longest = section.or(
        "timeout",
        humantime::format_duration(usual).to_string(),
        Time::between(MILLISECOND, HOUR),
        "The longest that an answer may take, at most the service's `timeout`; a shorter one of these moves the default.",
    );
    let probe = section.or(
        "probe",
        true,
        Flag,
        "Whether health checks, and not calls, are what goes while the breaker is half-open. If not, their answers are only shown.",
    );
    if let (Some(longest), Some(timeout)) = (longest, timeout)
        && longest > timeout
    {
        let (longest, timeout) = (humantime::format_duration(longest), humantime::format_duration(timeout));
        section.fault("timeout", format!("{longest} is longer than the service's own `timeout`, {timeout}"));
    }
    let path = path??;
    let Some(uri) = join(url?, &path) else { return section.report("path", "does not make a URL together with `url`") };
    Some(Some(Health { uri, interval: interval?, timeout: longest?, probe: probe? }))
}
