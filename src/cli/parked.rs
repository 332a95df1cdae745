//! `fusebox retry list` and `show`: the parked calls themselves, read by an instance's API.

use serde_json::{Value, json};

use super::client::path_segment;
use super::filter::Filter;
use super::table::{cell, table};
use crate::edge::api::client::{ApiClient, ApiError};

/// The most that one answer has.
const PAGE: usize = 200;

/// Which parked calls are listed: those that everything which is given holds of.
#[derive(Debug, clap::Args)]
pub(super) struct List {
    /// Of this event
    #[arg(long, value_name = "EVENT_ID")]
    id: Option<String>,
    #[command(flatten)]
    filter: Filter,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 50, conflicts_with = "all")]
    limit: usize,
    /// All of them
    #[arg(long)]
    all: bool,
    /// From where an earlier list ended
    #[arg(long)]
    cursor: Option<String>,
}

/// Which one is shown.
#[derive(Debug, clap::Args)]
pub(super) struct Show {
    /// The topic, as `retry list` has it
    topic: String,
    /// The partition
    partition: i32,
    /// The offset
    offset: i64,
}

impl List {
    fn query(&self) -> Vec<(&'static str, String)> {
        let written = |value: Value| if let Value::String(text) = value { text } else { value.to_string() };
        let mut query: Vec<_> = self.filter.members().map(|(key, value)| (key, written(value))).collect();
        query.extend(self.id.clone().map(|id| ("event_id", id)));
        query
    }
}

/// Asks for as many pages as it takes.
pub(super) async fn list(client: &ApiClient, list: &List) -> Result<Value, ApiError> {
    let wanted = if list.all { usize::MAX } else { list.limit };
    let (mut messages, mut cursor, mut scanned, mut missing) = (Vec::new(), list.cursor.clone(), 0, false);
    loop {
        let mut query = list.query();
        query.push(("limit", (wanted - messages.len()).min(PAGE).to_string()));
        query.extend(cursor.clone().map(|cursor| ("cursor", cursor)));
        let query: Vec<String> = query.iter().map(|(key, value)| format!("{key}={}", path_segment(value))).collect();
        let answer = client.get(&format!("/api/v1/retry/messages?{}", query.join("&"))).await?;
        messages.extend(answer["messages"].as_array().cloned().unwrap_or_default());
        scanned += answer["scanned"].as_u64().unwrap_or(0);
        missing |= answer["missing"] == true;
        let before = std::mem::replace(&mut cursor, answer["next"].as_str().map(str::to_owned));
        // No further: a partition is away whose place is kept.
        if cursor.is_none() || cursor == before || messages.len() >= wanted {
            let complete = answer["complete"] == true && !missing;
            return Ok(json!({ "messages": messages, "next": cursor, "complete": complete, "scanned": scanned, "missing": missing }));
        }
    }
}

/// Asks for one.
pub(super) async fn show(client: &ApiClient, show: &Show) -> Result<Value, ApiError> {
    client.get(&format!("/api/v1/retry/messages/{}/{}/{}", path_segment(&show.topic), show.partition, show.offset)).await
}

/// The list for people.
pub(super) fn listed(answer: &Value) -> String {
    let messages = answer["messages"].as_array().map(Vec::as_slice).unwrap_or_default();
    let rows: Vec<_> = messages
        .iter()
        .map(|message| {
            let when = match (&message["order"]["act"], &message["due"]) {
                (Value::String(act), Value::Bool(true)) => format!("due ({act})"),
                (_, Value::Bool(true)) => "due".to_owned(),
                _ => cell(&message["not_before"]),
            };
            let reason = if message["unreadable"].is_null() { &message["reason"] } else { &message["unreadable"] };
            [
                cell(&message["service"]),
                cell(&message["topic"]),
                cell(&message["partition"]),
                cell(&message["offset"]),
                cell(&message["first_parked_at"]),
                cell(reason),
                cell(&message["attempts"]),
                cell(&message["parks"]),
                when,
                cell(&message["camera_id"]),
                cell(&message["event_id"]),
                cell(&message["size"]),
            ]
        })
        .collect();
    let headings =
        ["SERVICE", "TOPIC", "PART", "OFFSET", "PARKED", "REASON", "ATTEMPTS", "PARKS", "NOT BEFORE", "CAMERA", "EVENT", "BYTES"];
    table(headings, &rows)
}

/// That there are more, for people.
pub(super) fn more(answer: &Value) -> Option<String> {
    match answer["next"].as_str() {
        Some(cursor) => Some(format!("there are more: --all, or --cursor {cursor}")),
        None => (answer["complete"] == false).then(|| "some partitions could not be read just now; they are not listed".to_owned()),
    }
}

/// One call for people: what is known of it line by line, then its headers and what is in it.
pub(super) fn shown(answer: &Value) -> String {
    const FIELDS: [&str; 14] = [
        "service",
        "event_id",
        "camera_id",
        "reason",
        "attempts",
        "parks",
        "first_parked_at",
        "not_before",
        "due",
        "finished",
        "unreadable",
        "topic",
        "partition",
        "offset",
    ];
    let mut rows: Vec<_> = FIELDS.iter().map(|field| [(*field).to_owned(), cell(&answer[*field])]).collect();
    if let Some(act) = answer["order"]["act"].as_str() {
        rows.push(["order".to_owned(), format!("{act} {}", cell(&answer["order"]["id"]))]);
    }
    let payload =
        |value: &Value| value["text"].as_str().or(value["base64"].as_str()).map_or_else(|| "-".to_owned(), |text| cell(&text.into()));
    for header in answer["headers"].as_array().into_iter().flatten() {
        rows.push([format!("header {}", cell(&header["name"])), payload(&header["value"])]);
    }
    let inside = match &answer["envelope"] {
        Value::Null => payload(&answer["value"]),
        // JSON writes control characters as escapes.
        envelope => serde_json::to_string_pretty(envelope).unwrap_or_default(),
    };
    format!("{}\n{inside}\n", table(["FIELD", "VALUE"], &rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_says_when_each_goes_and_whether_there_are_more() {
        let answer = json!({
            "messages": [
                { "service": "notifier", "topic": "t", "partition": 0, "offset": 3, "reason": "timeout", "attempts": 1, "due": true, "order": { "act": "release" } },
                { "service": null, "topic": "t", "partition": 1, "offset": 4, "unreadable": "invalid_json", "size": 9 },
                { "service": "vms", "topic": "t", "partition": 1, "offset": 5, "due": false, "not_before": "2026-11-03T21:04:05.678Z" },
            ],
            "next": "abc",
            "complete": false,
        });
        let text = listed(&answer);
        for (line, words) in text.lines().zip([
            ["SERVICE", "NOT BEFORE"],
            ["timeout", "due (release)"],
            ["invalid_json", "9"],
            ["vms", "2026-11-03T21:04:05.678Z"],
        ]) {
            assert!(words.iter().all(|word| line.contains(word)), "{words:?}: {line}");
        }
        assert_eq!(more(&answer).as_deref(), Some("there are more: --all, or --cursor abc"));
        assert_eq!(more(&json!({ "next": null, "complete": true })), None);
        assert!(more(&json!({ "next": null, "complete": false })).expect("a word").contains("could not be read"));
    }

    #[test]
    fn a_call_is_shown_with_what_is_in_it() {
        let text = shown(&json!({
            "service": "notifier", "headers": [{ "name": "h", "value": { "text": "a\u{1b}b" } }], "envelope": { "request": { "path": "/notify" } },
        }));
        assert!(text.contains("header h") && text.contains("a b") && text.contains("\"path\": \"/notify\""), "{text}");
    }
}
