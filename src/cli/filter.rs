//! Which parked calls are meant, for the commands that list them and order about them.

use serde_json::{Value, json};

/// What must hold of a parked call; what is not given holds of all.
#[derive(Debug, clap::Args)]
pub(super) struct Filter {
    /// Of this service
    #[arg(long)]
    service: Option<String>,
    /// Of this camera
    #[arg(long)]
    camera: Option<String>,
    /// Parked for this reason, such as timeout or circuit_open
    #[arg(long, value_name = "REASON")]
    parked_for: Option<String>,
    /// Parked for longer than this, such as 30m
    #[arg(long, value_name = "DURATION")]
    older_than: Option<String>,
    /// After at least so many failed calls
    #[arg(long, value_name = "N")]
    attempts: Option<u32>,
    /// With this text in the parked record; takes a token of role operator
    #[arg(long)]
    text: Option<String>,
}

impl Filter {
    /// What is given, by the API's names.
    pub(super) fn members(&self) -> impl Iterator<Item = (&'static str, Value)> {
        let text = |value: &Option<String>| value.as_ref().map(|value| json!(value));
        let members = [
            ("service", text(&self.service)),
            ("camera", text(&self.camera)),
            ("reason", text(&self.parked_for)),
            ("older_than", text(&self.older_than)),
            ("text", text(&self.text)),
            ("attempts", self.attempts.map(Value::from)),
        ];
        members.into_iter().filter_map(|(key, value)| Some((key, value?)))
    }
}
