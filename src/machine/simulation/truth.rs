//! When a recorded service was really bad, by the calls alone and whatever any breaker made of them.
//!
//! The rule: time is cut into slots; a slot is bad if at least a share of the calls that began in it failed. One that is not, but in which
//! no call went well either (there is none, or only ignored ones), is as the one before it. Bad slots in a row are one bad period: it begins
//! when the first failing call of the first of them *ended*, for nobody can know before, and ends when the first good call after the last
//! failing one of the last of them began. What was over before anybody could know is no period.

use std::time::Duration;

use crate::machine::breaker::Verdict;
use crate::machine::time::Tick;

/// A recorded call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// When it began.
    pub at: Tick,
    /// How long it took.
    pub took: Duration,
    /// What it said of its service.
    pub verdict: Verdict,
}

impl Call {
    /// When it ended.
    pub fn ended(&self) -> Tick {
        self.at.plus(self.took)
    }

    /// Whether it failed.
    pub fn failed(&self) -> bool {
        matches!(self.verdict, Verdict::Failure { .. })
    }

    /// Whether it went well, slow or not.
    pub fn went_well(&self) -> bool {
        matches!(self.verdict, Verdict::Success | Verdict::Slow)
    }
}

/// What counts as bad.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rule {
    /// A slot's length; at least a millisecond.
    pub slot: Duration,
    /// The share of failed calls, above 0 up to 1, that makes a slot bad.
    pub share: f64,
}

/// A stretch of time in which a service was bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Period {
    /// From when.
    pub from: Tick,
    /// Until when; the end of the trace if it did not get well.
    pub to: Tick,
}

/// The bad periods of these calls, which are sorted by when they began; each ends before the next begins.
pub fn bad_periods(calls: &[Call], rule: Rule) -> Vec<Period> {
    let slot = u64::try_from(rule.slot.as_millis()).unwrap_or(u64::MAX).max(1);
    let mut periods = Vec::new();
    let mut bad: Option<(Tick, usize)> = None;
    let mut begin = 0;
    while begin < calls.len() {
        let number = calls[begin].at.0 / slot;
        let end = begin + calls[begin..].partition_point(|call| call.at.0 / slot == number);
        let failed: Vec<usize> = (begin..end).filter(|place| calls[*place].failed()).collect();
        #[expect(clippy::cast_precision_loss, reason = "a share")]
        let is_bad = !failed.is_empty() && failed.len() as f64 >= rule.share * (end - begin) as f64;
        match (&mut bad, is_bad) {
            (None, true) => bad = Some((first_end(calls, &failed), failed[failed.len() - 1])),
            (Some((_, last)), true) => *last = failed[failed.len() - 1],
            (Some((_, last)), false) if !calls[begin..end].iter().any(Call::went_well) => {
                *last = failed.last().copied().unwrap_or(*last);
            }
            (Some((from, last)), false) => {
                periods.push(Period { from: *from, to: first_good_after(calls, *last) });
                bad = None;
            }
            (None, false) => {}
        }
        begin = end;
    }
    if let Some((from, last)) = bad {
        periods.push(Period { from, to: first_good_after(calls, last) });
    }
    periods.retain(|period| period.from < period.to);
    periods
}

fn first_end(calls: &[Call], failed: &[usize]) -> Tick {
    failed.iter().map(|place| calls[*place].ended()).min().unwrap_or_default()
}

fn first_good_after(calls: &[Call], last: usize) -> Tick {
    let good = calls[last..].iter().find(|call| call.went_well());
    good.map_or_else(|| calls.iter().map(Call::ended).max().unwrap_or_default(), |call| call.at)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A call a second: `.` good, `x` failed, `-` ignored, a blank is none.
    fn calls(text: &str) -> Vec<Call> {
        let verdict = |letter| match letter {
            '.' => Some(Verdict::Success),
            'x' => Some(Verdict::Failure { retry_after: None }),
            '-' => Some(Verdict::Ignored),
            _ => None,
        };
        let call =
            |(second, letter)| Some(Call { at: Tick(second as u64 * 1_000), took: Duration::from_millis(100), verdict: verdict(letter)? });
        text.chars().enumerate().filter_map(call).collect()
    }

    #[test]
    fn periods_by_slots() {
        let rule = Rule { slot: Duration::from_secs(5), share: 0.5 };
        for (text, expected) in [
            ("..........", vec![]),
            ("..x.......", vec![]),
            ("..xxx.....", vec![(2_100, 5_000)]),
            (".....xxxxxxxxxx.....", vec![(5_100, 15_000)]),
            // A good call now and then does not end it; a slot without calls is as the one before.
            ("....xxx.xx     x.xx.....", vec![(5_100, 19_000)]),
            (".....xx---.....", vec![]),
            // Nor does a slot that says nothing good end it.
            (".....xxxxx-----xxxxx.....", vec![(5_100, 20_000)]),
            (".....xxxxxx----xxxxx.....", vec![(5_100, 20_000)]),
            (".....xxxxx-----.....xxxxx", vec![(5_100, 15_000), (20_100, 24_100)]),
            ("-----.....", vec![]),
            ("xxxxx", vec![(100, 4_100)]),
            ("", vec![]),
        ] {
            let periods: Vec<_> = bad_periods(&calls(text), rule).into_iter().map(|period| (period.from.0, period.to.0)).collect();
            assert_eq!(periods, expected, "{text}");
        }
    }

    #[test]
    fn what_is_over_before_it_can_be_known_is_no_period() {
        let rule = Rule { slot: Duration::from_secs(5), share: 0.5 };
        let mut calls = calls(".....xxxxx.....xxxxx.....");
        for hung in &mut calls[5..10] {
            hung.took = Duration::from_secs(60);
        }
        assert_eq!(bad_periods(&calls, rule), [Period { from: Tick(15_100), to: Tick(20_000) }]);
    }
}
