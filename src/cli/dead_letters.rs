//! `fusebox dead-letters list` and `redrive`: they read the dead-letter topic, with the config alone.

mod redrive;

use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;

use super::table::{cell, table};
use super::{Common, Done, Failure, Output, ask, print};
use crate::edge::kafka::{self, KafkaEdgeError, Start};
use crate::event::headers::name;
use crate::event::{Incoming, UnixMillis};
use crate::pipeline::redrive::{Selection, dead_lettered_at};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// What was given up, and why; with --output json one object a line, payload included
    List {
        /// Only these codes, such as invalid_json or attempts_exhausted
        #[arg(long)]
        code: Vec<String>,
        /// Only calls of these services
        #[arg(long)]
        service: Vec<String>,
        /// Only of this event
        #[arg(long, value_name = "EVENT_ID")]
        id: Vec<String>,
        /// Only the last so many offsets of each partition
        #[arg(long, value_name = "N")]
        last: Option<u64>,
    },
    /// Sends dead letters back to where they came from, each once; ended early, it is gone on with by running it again
    Redrive(redrive::Args),
}

/// How long Kafka may be silent before the topic's end.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) fn run(common: &Common, args: Args) -> Done {
    match args.action {
        Action::List { code, service, id, last } => list(common, Selection { codes: code, services: service, ids: id, since: None }, last),
        Action::Redrive(args) => redrive::run(common, args),
    }
}

fn list(common: &Common, selection: Selection, last: Option<u64>) -> Done {
    let config = common.load()?.config;
    let start = last.map_or(Start::Beginning, Start::Last);
    let keep = move |letter: &Incoming| selection.takes(letter);
    let rows = ask(async {
        let mut letters = kafka::read(&config.kafka, &config.topics.dead_letters, start, PATIENCE, keep)
            .map_err(|error| Failure::Wrong(error.to_string()))?;
        let mut rows = Vec::new();
        while let Some(letter) = letters.recv().await {
            let letter = letter.map_err(of_kafka)?;
            match common.output {
                Output::Json => print(&format!("{}\n", as_json(&letter)))?,
                Output::Table => rows.push(as_row(&letter)),
            }
        }
        Ok(rows)
    })?;
    if common.output == Output::Table {
        print(&table(["AT", "CODE", "SERVICE", "ORIGIN", "EVENT", "ERROR"], &rows))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What it means that Kafka did not do what it was asked to.
fn of_kafka(error: KafkaEdgeError) -> Failure {
    if error.is_unreachable() { Failure::Unreachable(error.to_string()) } else { Failure::Failed(error.into()) }
}

fn as_row(letter: &Incoming) -> [String; 6] {
    let text = |header| cell(&letter.headers.text(header).map_or(serde_json::Value::Null, Into::into));
    [
        dead_lettered_at(letter).map_or_else(|| "-".to_owned(), UnixMillis::to_rfc3339),
        text(name::ERROR_CODE),
        text(name::SERVICE),
        format!("{}/{}@{}", text(name::ORIGIN_TOPIC), text(name::ORIGIN_PARTITION), text(name::ORIGIN_OFFSET)),
        text(name::EVENT_ID),
        text(name::ERROR),
    ]
}

fn as_json(letter: &Incoming) -> serde_json::Value {
    use base64::Engine as _;
    let bytes = |bytes: &bytes::Bytes| match std::str::from_utf8(bytes) {
        Ok(text) => json!({ "text": text }),
        Err(_) => json!({ "base64": base64::engine::general_purpose::STANDARD.encode(bytes) }),
    };
    let headers: Vec<_> = letter
        .headers
        .iter()
        .map(|(name, value)| json!({ "name": name, "value": value.map_or(serde_json::Value::Null, |value| String::from_utf8_lossy(value).into()) }))
        .collect();
    json!({
        "topic": letter.source.topic.as_str(),
        "partition": letter.source.partition.0,
        "offset": letter.source.offset.0,
        "timestamp": letter.timestamp.map(UnixMillis::to_rfc3339),
        "code": letter.headers.text(name::ERROR_CODE),
        "error": letter.headers.text(name::ERROR),
        "service": letter.headers.text(name::SERVICE),
        "event_id": letter.headers.text(name::EVENT_ID),
        "origin": {
            "topic": letter.headers.text(name::ORIGIN_TOPIC),
            "partition": letter.headers.number::<i32>(name::ORIGIN_PARTITION),
            "offset": letter.headers.number::<i64>(name::ORIGIN_OFFSET),
        },
        "key": letter.key.as_ref().map(bytes),
        "value": letter.value.as_ref().map(bytes),
        "headers": headers,
    })
}
