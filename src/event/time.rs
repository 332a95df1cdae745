//! Wall-clock time as it travels in headers, envelopes and outcomes.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnixMillis(pub i64);

impl UnixMillis {
    /// This instant as RFC 3339 in UTC with milliseconds (`2026-11-03T21:04:05.678Z`); instants that no calendar
    /// holds are clamped to the nearest that one does.
    pub fn to_rfc3339(self) -> String {
        let clamped =
            jiff::Timestamp::from_millisecond(self.0).unwrap_or(if self.0 < 0 { jiff::Timestamp::MIN } else { jiff::Timestamp::MAX });
        format!("{clamped:.3}")
    }

    /// Reads RFC 3339 (`2026-11-03T21:04:05Z`, with any fraction and any offset).
    pub fn from_rfc3339(text: &str) -> Option<Self> {
        // jiff also reads forms that RFC 3339 does not have, and that services stumble over: no separators, no seconds, a
        // bracketed zone, an offset without its colon.
        let (date, clock) = (text.get(..10)?, text.get(11..19)?);
        let shape = |text: &str, shape: &str| {
            text.len() == shape.len() && text.bytes().zip(shape.bytes()).all(|(c, s)| if s == b'0' { c.is_ascii_digit() } else { c == s })
        };
        let rest = text.get(19..)?;
        let zone = rest.trim_start_matches(|c: char| c == '.' || c.is_ascii_digit());
        let is_zone = matches!(zone, "Z" | "z") || shape(zone, "+00:00") || shape(zone, "-00:00");
        if !shape(date, "0000-00-00") || !shape(clock, "00:00:00") || !is_zone {
            return None;
        }
        text.parse::<jiff::Timestamp>().ok().map(|at| Self(at.as_millisecond()))
    }

    /// This instant and `duration` later, saturating.
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)))
    }

    /// That long before.
    pub fn minus(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)))
    }

    /// How long after `earlier` this instant is; zero if it is not later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc3339_both_ways() {
        for (text, millis) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2026-11-03T21:04:05.678Z", 1_793_739_845_678),
            ("2026-11-03T22:04:05.678+01:00", 1_793_739_845_678),
            ("2026-11-03t21:04:05.678999z", 1_793_739_845_678),
            ("2026-11-03 21:04:05.678Z", 1_793_739_845_678),
            ("2026-11-03T15:34:05.678-05:30", 1_793_739_845_678),
        ] {
            assert_eq!(UnixMillis::from_rfc3339(text), Some(UnixMillis(millis)), "{text}");
        }
        assert_eq!(UnixMillis(1_793_739_845_678).to_rfc3339(), "2026-11-03T21:04:05.678Z");
        assert_eq!(UnixMillis(0).to_rfc3339(), "1970-01-01T00:00:00.000Z");
        assert!(UnixMillis(i64::MAX).to_rfc3339().starts_with("9999-12-30"));
    }

    #[test]
    fn what_is_not_rfc3339_is_refused() {
        for text in [
            "",
            "yesterday",
            "2026-11-03",
            "2026-13-03T00:00:00Z",
            "2026-11-03T21:04:05",
            "1793739845678",
            "20261103T210405Z",
            "2026-11-03T21:04Z",
            "2026-11-03T21:04:05+0100",
            "2026-11-03T21:04:05+01",
            "2026-11-03T21:04:05+01:00[Europe/Paris]",
            "+002026-11-03T21:04:05Z",
            "2026-11-03T21:04:05.Z",
            "2026-11-03T21:04:05.1.2Z",
            "é026-11-03T21:04:05Z",
            "2026-11-03T21:04:05Z ",
        ] {
            assert_eq!(UnixMillis::from_rfc3339(text), None, "{text}");
        }
    }
}
