//! `Retry-After` (RFC 9110, 10.2.3): seconds, or an HTTP-date in any of its three forms.

use std::time::Duration;

use http::HeaderValue;

use crate::edge::clock::wall_of;
use crate::event::UnixMillis;

/// The longest wait that is believed: later than any breaker or retry schedule reaches, and far from where adding it would overflow.
const LONGEST: Duration = Duration::from_secs(366 * 86_400);

/// How long from `now` the service asks to be left alone, at most 366 days; a date that is past asks for none. `None` if the value is
/// neither seconds nor a date: a header that cannot be read is as good as none.
pub(super) fn parse(value: &HeaderValue, now: impl FnOnce() -> UnixMillis) -> Option<Duration> {
    let text = value.to_str().ok()?.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than fit are seconds all the same.
        let seconds = text.parse().unwrap_or(u64::MAX);
        return Some(Duration::from_secs(seconds).min(LONGEST));
    }
    let at = httpdate::parse_http_date(text).ok()?;
    Some(wall_of(at).since(now()).min(LONGEST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form() {
        // 1994-11-06T08:49:30Z
        let now = || UnixMillis(784_111_770_000);
        let seconds = |n| Some(Duration::from_secs(n));
        for (text, expect) in [
            ("120", seconds(120)),
            ("0", seconds(0)),
            (" 7 ", seconds(7)),
            ("007", seconds(7)),
            ("99999999999999999999999999", Some(LONGEST)),
            ("18446744073709551615", Some(LONGEST)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", seconds(7)),
            ("Sunday, 06-Nov-94 08:49:37 GMT", seconds(7)),
            ("Sun Nov  6 08:49:37 1994", seconds(7)),
            ("Sun, 06 Nov 1994 08:49:30 GMT", seconds(0)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", seconds(0)),
            ("Fri, 31 Dec 9999 23:59:59 GMT", Some(LONGEST)),
            ("", None),
            ("-1", None),
            ("+1", None),
            ("1.5", None),
            ("5s", None),
            ("soon", None),
            ("Sun, 06 Nov 1994 08:49:37 CET", None),
            ("Sun, 99 Nov 1994 08:49:37 GMT", None),
        ] {
            let value = HeaderValue::from_str(text).unwrap();
            assert_eq!(parse(&value, now), expect, "{text:?}");
        }
        assert_eq!(parse(&HeaderValue::from_bytes(b"\xff").unwrap(), now), None);
    }
}
