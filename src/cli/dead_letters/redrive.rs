//! `fusebox dead-letters redrive`.

use std::io::IsTerminal;
use std::num::NonZeroU32;
use std::process::ExitCode;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};

use super::super::run::listen_for_signals;
use super::super::{Common, Done, Failure, Output, ask, print, print_json, say};
use super::of_kafka;
use crate::app::Signals;
use crate::app::redrive::{self, Gone};
use crate::config::Config;
use crate::edge::clock::SystemClock;
use crate::edge::kafka::KafkaEdgeError;
use crate::pipeline::redrive::{LeftLetter, Order, Selection, Tally, Told, Trouble};
use crate::pipeline::stop::Stop;

#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("which").required(true).multiple(true).args(["all", "id", "code", "service"])))]
pub(super) struct Args {
    /// All of them
    #[arg(long, conflicts_with_all = ["id", "code", "service"])]
    all: bool,
    /// Only of this event
    #[arg(long, value_name = "EVENT_ID")]
    id: Vec<String>,
    /// Only these codes, such as attempts_exhausted
    #[arg(long)]
    code: Vec<String>,
    /// Only calls of these services
    #[arg(long)]
    service: Vec<String>,
    /// Also those that were redriven before
    #[arg(long)]
    again: bool,
    /// Counts them by code and service, and does nothing
    #[arg(long)]
    dry_run: bool,
    /// Letters a second, at most
    #[arg(long, value_name = "LETTERS", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
}

/// Letters that are named one by one, of those that stay.
const NAMED: usize = 1_000;

pub(super) fn run(common: &Common, args: Args) -> Done {
    let config = common.load()?.config;
    let selection = Selection { ids: args.id, codes: args.code, services: args.service, since: None };
    let order = Order { selection, again: args.again, rate: args.rate.and_then(NonZeroU32::new) };
    let mut left = Vec::new();
    let bar = bar();
    let (tally, result) = ask(go(&config, &order, args.dry_run, &bar, &mut left))?;
    bar.finish_and_clear();
    match common.output {
        Output::Json => print_json(&answer(&tally, &left, args.dry_run))?,
        Output::Table => print(&words(&tally, &left, &config, args.dry_run))?,
    }
    match result {
        Ok(()) if tally.complete => Ok(ExitCode::SUCCESS),
        Ok(()) => {
            say(&format!("stopped after {} letters; run it again to go on", tally.redriven));
            Ok(ExitCode::FAILURE)
        }
        Err(Trouble::Read(error)) => Err(of_kafka(error)),
        Err(Trouble::Publish { why, unreachable: true }) => Err(Failure::Unreachable(format!("{why}; run it again to go on"))),
        Err(Trouble::Publish { why, unreachable: false }) => Err(Failure::Failed(anyhow::anyhow!("{why}; run it again to go on"))),
    }
}

async fn go(config: &Config, order: &Order, dry_run: bool, bar: &ProgressBar, left: &mut Vec<LeftLetter>) -> Result<Gone, Failure> {
    let signals = Signals::default();
    listen_for_signals(&signals)?;
    let stop = Stop::new();
    let asked = stop.clone();
    tokio::spawn(async move {
        signals.stop.cancelled().await;
        asked.request();
    });
    let mut tell = |told: Told<'_>| match told {
        Told::Left(letter, why) if left.len() < NAMED => left.push(LeftLetter::of(letter, why)),
        Told::Left(..) => {}
        Told::Progress(tally) => {
            bar.set_position(tally.redriven);
            bar.set_message(format!("{} looked at, {} stay", tally.looked_at, tally.left));
        }
    };
    redrive::run(config, SystemClock::new(), order, dry_run, stop, &mut tell).await.map_err(|error| match error {
        KafkaEdgeError::Property { .. } => Failure::Wrong(error.to_string()),
        other => of_kafka(other),
    })
}

fn answer(tally: &Tally, left: &[LeftLetter], dry_run: bool) -> Value {
    let mut answer = json!(tally);
    answer["dry_run"] = dry_run.into();
    answer["left_letters"] = json!(left);
    answer
}

fn words(tally: &Tally, left: &[LeftLetter], config: &Config, dry_run: bool) -> String {
    use std::fmt::Write as _;
    let cell = |text: &str| super::cell(&if text.is_empty() { Value::Null } else { text.into() });
    let rows: Vec<_> = tally.by.iter().map(|share| [cell(&share.code), cell(&share.service), share.letters.to_string()]).collect();
    let mut text = if rows.is_empty() { String::new() } else { super::table(["CODE", "SERVICE", "LETTERS"], &rows) };
    let would = if dry_run { "would be" } else { "were" };
    let _ = writeln!(
        text,
        "{} of {} letters on {} {would} redriven; {} were before, {} stay",
        tally.redriven, tally.looked_at, config.topics.dead_letters, tally.redriven_before, tally.left
    );
    for letter in left {
        // A header holds whatever was written into it: nothing of it may steer a terminal.
        let LeftLetter { partition, offset, reason, .. } = letter;
        let (code, detail) = (cell(letter.code.as_deref().unwrap_or_default()), cell(&letter.detail));
        let _ = writeln!(text, "stays: {partition}@{offset} {code} {reason}: {detail}");
    }
    if tally.left > left.len() as u64 {
        let _ = writeln!(text, "and {} more stay", tally.left - left.len() as u64);
    }
    text
}

fn bar() -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    if !std::io::stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    match ProgressStyle::with_template("{spinner} {pos} redriven  {per_sec}  {msg}") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
