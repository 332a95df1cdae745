//! The settings that are tried: the service's own, and what `--candidate` changes of them.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value as Json};

use super::super::Failure;
use super::Candidate;
use crate::config::{Config, changed_breaker, read_breaker};
use crate::machine::breaker::Settings;

/// The time limit of a service that the config does not know.
const TIMEOUT: Duration = Duration::from_secs(30);

/// What a service has in force; of one that the config does not know, the defaults. A candidate, of which there may be one, is put over it.
pub(super) fn base(config: &Config, service: &str, candidates: &[String]) -> Result<Settings, Failure> {
    let base = configured(config, service)?;
    match candidates {
        [] => Ok(base),
        [candidate] => {
            let (_, table) = parse(candidate)?;
            changed(&base, &table, candidate)
        }
        _ => Err(Failure::Wrong("--sweep starts from one --candidate at most".to_owned())),
    }
}

/// The candidates for a service: those that are given, or else what it has in force.
pub(super) fn of(config: &Config, service: &str, candidates: &[String]) -> Result<Vec<Candidate>, Failure> {
    let base = configured(config, service)?;
    if candidates.is_empty() {
        return Ok(vec![Candidate { name: "configured".to_owned(), settings: Arc::new(base) }]);
    }
    let mut named: Vec<Candidate> = Vec::with_capacity(candidates.len());
    for candidate in candidates {
        let (name, table) = parse(candidate)?;
        if named.iter().any(|known| known.name == name) {
            return Err(Failure::Wrong(format!("--candidate {candidate:?}: there is one named {name:?} already")));
        }
        named.push(Candidate { name, settings: Arc::new(changed(&base, &table, candidate)?) });
    }
    Ok(named)
}

/// What changes of settings come to.
pub(super) fn changed(base: &Settings, table: &Map<String, Json>, given: &str) -> Result<Settings, Failure> {
    changed_breaker(base, table)
        .map_err(|faults| Failure::Wrong(faults.0.iter().map(|fault| format!("{given:?}: {fault}")).collect::<Vec<_>>().join("\n")))
}

fn configured(config: &Config, service: &str) -> Result<Settings, Failure> {
    match config.services.iter().find(|known| known.name == service) {
        Some(known) => Ok(known.breaker.clone()),
        None => Ok(read_breaker(Map::new(), TIMEOUT)?),
    }
}

/// `NAME='KEY = VALUE, …'`.
fn parse(candidate: &str) -> Result<(String, Map<String, Json>), Failure> {
    let wrong =
        |why: &str| Failure::Wrong(format!("--candidate {candidate:?}: {why}; write NAME='KEY = VALUE, …', such as strict='fail_max = 3'"));
    let (name, table) = candidate.split_once('=').ok_or_else(|| wrong("has no name"))?;
    let table = toml::from_str::<toml::Table>(&format!("table = {{ {table} }}")).map_err(|error| wrong(error.message()))?;
    let table = serde_json::to_value(table).map_err(|error| wrong(&error.to_string()))?;
    match table.get("table") {
        Some(Json::Object(table)) => Ok((name.trim().to_owned(), table.clone())),
        _ => Err(wrong("is no table")),
    }
}
