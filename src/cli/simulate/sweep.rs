//! `--sweep`: all combinations of values, and the best of them by the stated cost.

use std::process::ExitCode;
use std::sync::Arc;

use serde_json::{Map, Value as Json, json};

use super::super::table::table;
use super::super::{Common, Done, Failure, Output, print, print_json};
use super::candidates::changed;
use crate::config::breaker_table;
use crate::machine::breaker::Settings;
use crate::machine::simulation::run::{Cost, Score};

/// Combinations that are tried at most.
const MOST: usize = 10_000;

/// Of these, how many are shown.
const SHOWN: usize = 10;

/// Tries all combinations over `base`, and shows the best.
pub(super) fn run(common: &Common, base: &Settings, ranges: &str, cost: Cost, mut try_out: impl FnMut(&Arc<Settings>) -> Score) -> Done {
    let keys = parse(ranges).map_err(Failure::Wrong)?;
    let combinations = keys.iter().try_fold(1_usize, |product, (_, values)| product.checked_mul(values.len())).unwrap_or(usize::MAX);
    if combinations > MOST {
        return Err(Failure::Wrong(format!("--sweep has {combinations} combinations; at most {MOST} are tried, so widen its steps")));
    }
    let mut tried = Vec::with_capacity(combinations);
    for number in 0..combinations {
        let combination = nth(&keys, number);
        let settings = Arc::new(changed(base, &combination, &written(&combination))?);
        let score = try_out(&settings);
        tried.push((cost.of(&score), combination, settings, score));
    }
    // Of two that cost the same the earlier one stays first.
    tried.sort_by(|one, other| one.0.total_cmp(&other.0));
    let shown = &tried[..tried.len().min(SHOWN)];
    let Some((_, _, best, _)) = shown.first() else { return Ok(ExitCode::SUCCESS) };
    match common.output {
        Output::Json => print_json(&json!({
            "combinations": combinations,
            "best": shown.iter().map(|(cost, combination, settings, score)| {
                json!({ "cost": cost, "changed": combination, "breaker": breaker_table(settings), "score": score })
            }).collect::<Vec<_>>(),
        }))?,
        Output::Table => {
            let rows: Vec<_> = shown
                .iter()
                .map(|(cost, combination, _, score)| {
                    [
                        format!("{cost:.0}"),
                        written(combination),
                        score.trips.to_string(),
                        score.refused_while_healthy.to_string(),
                        score.bad_admitted.to_string(),
                        format!("{} of {}", score.missed, score.bad_periods),
                    ]
                })
                .collect();
            print(&format!("{combinations} combinations; the best:\n\n"))?;
            print(&table(["COST", "SETTINGS", "TRIPS", "REFUSED WELL", "BAD ADMITTED", "MISSED"], &rows))?;
            let best = toml::to_string(&breaker_table(best)).map_err(|error| Failure::Failed(error.into()))?;
            print(&format!("\nThe first as a `breaker` table:\n\n{best}"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

type Keys = Vec<(String, Vec<Json>)>;

fn nth(keys: &Keys, mut number: usize) -> Map<String, Json> {
    let mut combination = Map::new();
    for (key, values) in keys {
        combination.insert(key.clone(), values[number % values.len()].clone());
        number /= values.len();
    }
    combination
}

fn written(combination: &Map<String, Json>) -> String {
    combination.iter().map(|(key, value)| format!("{key} = {value}")).collect::<Vec<_>>().join(", ")
}

/// `KEY = RANGE, …`, where a range is `1..10`, `1..10/3`, `10s..1m/10s`, `0.1..0.5/0.1`, or `one|another`.
fn parse(ranges: &str) -> Result<Keys, String> {
    let mut keys = Keys::new();
    for part in ranges.split(',').filter(|part| !part.trim().is_empty()) {
        let (key, range) = part.split_once('=').ok_or_else(|| format!("--sweep {part:?}: write KEY = RANGE, such as fail_max = 2..10"))?;
        let (key, range) = (key.trim(), range.trim());
        if keys.iter().any(|(known, _)| known == key) {
            return Err(format!("--sweep: {key:?} stands there twice"));
        }
        keys.push((key.to_owned(), values(range).map_err(|why| format!("--sweep {key} = {range:?}: {why}"))?));
    }
    if keys.is_empty() { Err("--sweep names no key".to_owned()) } else { Ok(keys) }
}

fn values(range: &str) -> Result<Vec<Json>, String> {
    let Some((from, rest)) = range.split_once("..") else {
        return Ok(range.split('|').map(|word| single(word.trim())).collect());
    };
    let (to, step) = rest.split_once('/').map_or((rest, None), |(to, step)| (to, Some(step)));
    let count = |from: f64, to: f64, step: f64| {
        if step <= 0.0 || from > to {
            return Err("goes nowhere: write FROM..TO or FROM..TO/STEP, upwards".to_owned());
        }
        let count = ((to - from) / step + 1e-9).floor();
        if count < MOST as f64 { Ok(count) } else { Err(format!("has more than {MOST} values")) }
    };
    let number = |text: &str| text.trim().parse::<f64>().ok().filter(|number| number.is_finite());
    let time = |text: &str| humantime::parse_duration(text.trim()).ok();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bounded above, and from 0")]
    if let (Some(from), Some(to)) = (number(from), number(to)) {
        let step = step.map_or(Some(1.0), number).ok_or("its step is no number")?;
        // Sums of decimal fractions are rounded to what was written.
        let value = |number: usize| ((from + step * number as f64) * 1e9).round() / 1e9;
        // Larger ones are not exact, and not whole numbers that somebody meant.
        let whole = |value: f64| if value.fract() == 0.0 && value.abs() < 1e15 { json!(value as i64) } else { json!(value) };
        let values = (0..=count(from, to, step)? as usize).map(|number| Some(value(number)).filter(|value| value.is_finite()).map(whole));
        return values.collect::<Option<_>>().ok_or_else(|| "goes beyond what a number can be".to_owned());
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bounded above, and from 0")]
    if let (Some(from), Some(to)) = (time(from), time(to)) {
        let step = step.and_then(time).ok_or("needs a step with a unit: 10s..60s/10s")?;
        let count = count(from.as_secs_f64(), to.as_secs_f64(), step.as_secs_f64())? as u32;
        let value = |number: u32| step.checked_mul(number).and_then(|steps| from.checked_add(steps));
        let values = (0..=count).map(|number| value(number).map(|value| humantime::format_duration(value).to_string().into()));
        return values.collect::<Option<_>>().ok_or_else(|| "goes beyond the longest time that can be".to_owned());
    }
    Err("is no range of numbers or times".to_owned())
}

fn single(word: &str) -> Json {
    match word.parse::<i64>() {
        Ok(number) => number.into(),
        Err(_) => word.parse::<f64>().ok().filter(|number| number.is_finite()).map_or_else(|| word.into(), |number| json!(number)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        for (range, expected) in [
            ("2..4", json!([2, 3, 4])),
            ("1..10/4", json!([1, 5, 9])),
            ("0.1..0.5/0.2", json!([0.1, 0.3, 0.5])),
            ("10s..1m/25s", json!(["10s", "35s", "1m"])),
            ("count|time", json!(["count", "time"])),
            ("0.5", json!([0.5])),
            ("1e300", json!([1e300])),
            ("1e999|nan|inf", json!(["1e999", "nan", "inf"])),
            ("1e19..1e19", json!([1e19])),
        ] {
            assert_eq!(values(range).map(Json::from), Ok(expected), "{range}");
        }
        for (range, expected) in [
            ("5..1", "goes nowhere: write FROM..TO or FROM..TO/STEP, upwards"),
            ("1..5/0", "goes nowhere: write FROM..TO or FROM..TO/STEP, upwards"),
            ("1s..5s", "needs a step with a unit: 10s..60s/10s"),
            ("a..b", "is no range of numbers or times"),
            ("1..1e9", "has more than 10000 values"),
            ("0s..18446744073709551615s/9223372036854775808s", "goes beyond the longest time that can be"),
            ("1e300..1e300", "goes beyond what a number can be"),
            ("-1e308..1e308", "has more than 10000 values"),
        ] {
            assert_eq!(values(range), Err(expected.to_owned()), "{range}");
        }
    }

    #[test]
    fn every_combination_once() {
        let keys = parse("a = 1..3, b = x|y").expect("is a sweep");
        let all: std::collections::BTreeSet<_> = (0..6).map(|number| written(&nth(&keys, number))).collect();
        assert_eq!(all.len(), 6);
        assert!(all.contains("a = 2, b = \"y\""));
        assert!(parse("a = 1, a = 2").is_err() && parse("a").is_err() && parse(" ").is_err());
    }
}
