//! `fusebox retry release`, `delay`, `discard` and what goes with them: orders for parked calls, given to an instance's API.

use serde_json::{Map, Value, json};

use super::client::path_segment;
use super::filter::Filter;
use super::table::{cell, table};
use crate::edge::api::client::{ApiClient, ApiError};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Action {
    /// Makes parked calls due now; they go when their breaker lets them
    Release {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        how: How,
    },
    /// Lets parked calls wait; none is due sooner by it
    Delay {
        #[command(flatten)]
        which: Which,
        /// For how long from now, such as 30m
        #[arg(long = "for", value_name = "DURATION")]
        lasts: String,
        /// Only says how many there are
        #[arg(long)]
        dry_run: bool,
        /// Why, for those who find it like this
        #[arg(long)]
        reason: Option<String>,
    },
    /// Gives parked calls up: they become dead letters, with the code `discarded`, to be brought back by `dead-letters redrive`
    Discard {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        how: How,
    },
    /// What is ordered, how far it has come, and what is paused
    Orders,
    /// Takes an order back; what is done stays done
    Cancel {
        /// The order
        order: String,
    },
    /// Holds every parked call of a service
    Pause {
        /// The service
        service: String,
        /// Why, for those who find it like this
        #[arg(long)]
        reason: Option<String>,
        /// For how long, such as 30m; without it, until `resume`
        #[arg(long, value_name = "DURATION")]
        ttl: Option<String>,
    },
    /// Lets the parked calls of a paused service go
    Resume {
        /// The service
        service: String,
    },
}

/// Which calls: those that everything which is given holds of.
#[derive(Debug, clap::Args)]
#[group(
    id = "which",
    required = true,
    multiple = true,
    args = ["id", "service", "camera", "parked_for", "older_than", "attempts", "text", "all"]
)]
pub(super) struct Which {
    /// Of these events; may be given several times
    #[arg(long, value_name = "EVENT_ID")]
    id: Vec<String>,
    #[command(flatten)]
    filter: Filter,
    /// All of them
    #[arg(long)]
    all: bool,
}

/// How it is to be done.
#[derive(Debug, clap::Args)]
pub(super) struct How {
    /// Only says how many there are
    #[arg(long)]
    dry_run: bool,
    /// At most so many a second, all instances together
    #[arg(long, value_name = "N")]
    rate: Option<u32>,
    /// Why, for those who find it like this
    #[arg(long)]
    reason: Option<String>,
}

impl Which {
    /// The body that asks for it, with what else is given.
    fn body<'a>(&self, others: impl IntoIterator<Item = (&'a str, Option<Value>)>) -> Value {
        let filter = self.filter.members().map(|(key, value)| (key.to_owned(), value)).collect();
        let ids = (!self.id.is_empty()).then(|| json!(self.id));
        let mut body = given([("filter", Some(Value::Object(filter))), ("ids", ids)]);
        body.extend(given(others));
        Value::Object(body)
    }
}

/// The members that have a value.
fn given<'a>(members: impl IntoIterator<Item = (&'a str, Option<Value>)>) -> Map<String, Value> {
    members.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect()
}

fn text(value: Option<&String>) -> Option<Value> {
    value.map(|value| json!(value))
}

/// Asks for it.
pub(super) async fn ask(client: &ApiClient, action: &Action) -> Result<Value, ApiError> {
    let base = "/api/v1/retry";
    let order = |which: &Which, How { dry_run, rate, reason }: &How| {
        which.body([("dry_run", Some(json!(dry_run))), ("rate", rate.map(Value::from)), ("reason", text(reason.as_ref()))])
    };
    match action {
        Action::Release { which, how } => client.post(&format!("{base}/release"), &order(which, how)).await,
        Action::Discard { which, how } => client.post(&format!("{base}/discard"), &order(which, how)).await,
        Action::Delay { which, lasts, dry_run, reason } => {
            let body = which.body([("dry_run", Some(json!(dry_run))), ("reason", text(reason.as_ref())), ("for", Some(json!(lasts)))]);
            client.post(&format!("{base}/delay"), &body).await
        }
        Action::Orders => client.get(&format!("{base}/orders")).await,
        Action::Cancel { order } => client.post(&format!("{base}/orders/{}/cancel", path_segment(order)), &json!({})).await,
        Action::Pause { service, reason, ttl } => {
            let body = given([("reason", text(reason.as_ref())), ("ttl", text(ttl.as_ref()))]);
            client.post(&format!("{base}/services/{}/pause", path_segment(service)), &Value::Object(body)).await
        }
        Action::Resume { service } => client.post(&format!("{base}/services/{}/resume", path_segment(service)), &json!({})).await,
    }
}

/// The answer for people.
pub(super) fn told(action: &Action, answer: &Value) -> String {
    let calls = || {
        let more = if answer["counted_all"] == false { ", and more that were not counted" } else { "" };
        format!("{} parked calls{more}", cell(&answer["calls"]))
    };
    match action {
        Action::Release { .. } | Action::Delay { .. } | Action::Discard { .. } => match answer["order"].as_str() {
            Some(order) => format!("{}; order {order}\n", calls()),
            None => format!("{}; nothing was ordered\n", calls()),
        },
        Action::Orders => orders(answer),
        Action::Cancel { order } => format!("order {order} is taken back; it was carried out for {} calls\n", cell(&answer["done"])),
        Action::Pause { service, .. } => match answer["until"].as_str() {
            Some(until) => format!("no parked call of {service} goes until {until}\n"),
            None => format!("no parked call of {service} goes until `fusebox retry resume {service}`\n"),
        },
        Action::Resume { service } => format!("parked calls of {service} go on\n"),
    }
}

fn orders(answer: &Value) -> String {
    let all = |key: &str| answer[key].as_array().cloned().unwrap_or_default();
    let rows: Vec<_> = all("orders")
        .iter()
        .map(|order| {
            let state = if order["cancelled_by"].is_null() {
                "in force".to_owned()
            } else {
                format!("cancelled by {}", cell(&order["cancelled_by"]))
            };
            let calls = format!("{}{}", cell(&order["calls"]), if order["counted_all"] == false { "+" } else { "" });
            [
                cell(&order["id"]),
                cell(&order["act"]),
                cell(&order["at"]),
                calls,
                cell(&order["done"]),
                state,
                cell(&order["actor"]),
                cell(&order["reason"]),
            ]
        })
        .collect();
    let mut text = table(["ORDER", "ACT", "AT", "CALLS", "DONE", "STATE", "ACTOR", "REASON"], &rows);
    for pause in all("pauses") {
        let until = pause["until"].as_str().map_or_else(String::new, |until| format!(" until {until}"));
        text.push_str(&format!("{} is paused{until}, by {}: {}\n", cell(&pause["service"]), cell(&pause["actor"]), cell(&pause["reason"])));
    }
    text
}
