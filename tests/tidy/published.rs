//! What is written for people and other programs names what exists: tables of metrics and config keys, alerts, dashboards, the runbook.
//!
//! A table is held to the code when `<!-- tidy: metrics -->` or `<!-- tidy: config -->` stands in a line above it, with nothing but empty
//! lines between: every name, in backticks in the first column, must exist, and every one that exists must be there.
//! `<!-- tidy: config partly -->` lets a table leave keys out.

use std::collections::BTreeSet;

use fusebox::telemetry::metrics::{Kind, TABLE};

/// Every metric's name.
pub fn metrics() -> BTreeSet<String> {
    TABLE.iter().map(|family| family.name.to_owned()).collect()
}

/// Every key that the shipped config sets or shows, as `section.key`; a service's name and a pipeline's stage are `*`.
pub fn config_keys(manual: &str) -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    let mut section = String::new();
    for line in manual.lines() {
        // `#key = …` shows a key that is not set; a sentence has a space behind its `#`.
        let line = line.strip_prefix('#').filter(|rest| !rest.starts_with([' ', '#'])).unwrap_or(line).trim();
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_start_matches('[').split(']').next().unwrap_or_default().trim().to_owned();
        } else if let Some((key, value)) = line.split_once('=').filter(|(key, _)| is_key(key.trim())) {
            let full = general(&format!("{section}.{}", key.trim()));
            if let Ok(toml::Value::Table(inner)) =
                format!("x = {value}").parse::<toml::Table>().map(|mut table| table.remove("x").unwrap_or(toml::Value::Boolean(false)))
            {
                keys.extend(inner.keys().map(|inner| format!("{full}.{inner}")));
            }
            keys.insert(full);
        }
    }
    keys
}

fn is_key(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|sign| sign.is_ascii_alphanumeric() || "_.-\"".contains(sign))
}

/// A key with `*` where the config's writer chooses the name.
fn general(key: &str) -> String {
    let mut parts: Vec<&str> = key.split('.').collect();
    if parts.len() > 1 && parts[0] == "services" {
        parts[1] = "*";
    }
    parts.join(".")
}

/// The marked tables of a Markdown file against what exists.
pub fn table(path: &str, text: &str, what: &str, exist: &BTreeSet<String>) -> Vec<String> {
    let mut violations = Vec::new();
    let lines: Vec<&str> = text.lines().collect();
    for (index, line) in lines.iter().enumerate() {
        let whole = line.trim() == format!("<!-- tidy: {what} -->");
        if !whole && line.trim() != format!("<!-- tidy: {what} partly -->") {
            continue;
        }
        let rows =
            lines[index + 1..].iter().skip_while(|line| line.trim().is_empty()).take_while(|line| line.trim_start().starts_with('|'));
        let named: BTreeSet<String> = rows.filter_map(|row| first_column(row)).collect();
        if named.is_empty() {
            violations.push(format!("{path}:{}: no table of {what} with names in backticks follows its mark", index + 1));
        }
        violations.extend(named.difference(exist).map(|name| format!("{path}:{}: `{name}` does not exist ({what})", index + 1)));
        if whole {
            violations.extend(exist.difference(&named).map(|name| format!("{path}:{}: `{name}` is missing ({what})", index + 1)));
        }
    }
    violations
}

/// The name in a row's first column: what stands in its first backticks, labels in braces cut off.
fn first_column(row: &str) -> Option<String> {
    let cell = row.trim().trim_start_matches('|').split('|').next()?;
    let name = cell.split('`').nth(1)?.split('{').next()?.trim();
    Some(name.to_owned())
}

/// Metrics that alerts and dashboards ask for exist, histograms by their three series.
pub fn names_in_queries(path: &str, text: &str, exist: &BTreeSet<String>) -> Vec<String> {
    let histograms: BTreeSet<&str> = TABLE.iter().filter(|family| family.kind == Kind::Histogram).map(|family| family.name).collect();
    let mut violations = Vec::new();
    for (at, name) in super::code::words(text).filter(|(_, word)| word.starts_with("fusebox_")) {
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).filter(|base| histograms.contains(base));
        if histograms.contains(name) || base.is_none() && !exist.contains(name) {
            violations.push(format!("{path}:{}: no series is named `{name}`", super::code::line(text, at)));
        }
    }
    violations
}

/// Sections of `docs/runbook.md` that other files send people to are there.
pub fn runbook(path: &str, text: &str, runbook: &str) -> Vec<String> {
    const PAGE: &str = "docs/runbook.md#";
    let sections: BTreeSet<String> = runbook.lines().filter(|line| line.starts_with('#')).map(anchor).collect();
    let mut violations = Vec::new();
    for (at, _) in text.match_indices(PAGE) {
        let name: String = text[at + PAGE.len()..].chars().take_while(|sign| sign.is_alphanumeric() || "-_".contains(*sign)).collect();
        if !sections.contains(&name) {
            violations.push(format!("{path}:{}: {PAGE}{name} is no section of it", super::code::line(text, at)));
        }
    }
    violations
}

/// A heading's anchor, as code hosts make it: small letters, hyphens for spaces, no other signs.
fn anchor(heading: &str) -> String {
    let words = heading.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
    words.chars().filter(|sign| sign.is_alphanumeric() || "-_".contains(*sign)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_table_that_differs_is_found() {
        let exist = set(&["a_total", "b"]);
        let check = |text: &str| table("x.md", text, "metrics", &exist);
        assert_eq!(
            check("<!-- tidy: metrics -->\n\n| name | what |\n|---|---|\n| `a_total{x}` | |\n| `b` | `c` |\n"),
            Vec::<String>::new()
        );
        assert_eq!(check("<!-- tidy: metrics -->\n| `a_total` | |\n"), ["x.md:1: `b` is missing (metrics)"]);
        assert_eq!(check("<!-- tidy: metrics partly -->\n| `a_total` | |\n"), Vec::<String>::new());
        assert_eq!(check("<!-- tidy: metrics partly -->\n| `c` | |\n"), ["x.md:1: `c` does not exist (metrics)"]);
        assert_eq!(check("<!-- tidy: metrics -->\nprose\n| `a_total` |\n").len(), 3);
        assert_eq!(check("| `c` |\n<!-- tidy: config -->\n| `d` |"), Vec::<String>::new());
    }

    #[test]
    fn keys_are_those_that_are_set_or_shown() {
        let manual = "# a = prose\n[kafka]\nbrokers = \"x\"\n#password_file = \"y\"\n[services.rag]\nbreaker = { fail_max = 5 }\n[[pipeline]]\nservice = \"rag\"\n";
        let expect = ["kafka.brokers", "kafka.password_file", "pipeline.service", "services.*.breaker", "services.*.breaker.fail_max"];
        assert_eq!(config_keys(manual), set(&expect));
    }

    #[test]
    fn a_way_to_no_section_is_found() {
        let check = |text: &str| runbook("a.yml", text, "# Runbook\n\n## Redis is away (G7)\n").len();
        assert_eq!(check("see docs/runbook.md#redis-is-away-g7, or docs/runbook.md"), 0);
        assert_eq!(check("url: docs/runbook.md#redis-is-here"), 1);
    }

    #[test]
    fn a_query_for_nothing_is_found() {
        let check = |query: &str| names_in_queries("a.yml", query, &metrics()).len();
        assert_eq!(check("rate(fusebox_events_total[5m]) + fusebox_event_duration_seconds_bucket"), 0);
        assert_eq!(check("fusebox_nothing_total"), 1);
        assert_eq!(check("fusebox_event_duration_seconds > 1"), 1, "a histogram has no series of its own name");
        assert_eq!(check("fusebox_events_total_count"), 1);
    }
}
