//! `fusebox publish FILE | - | --generate N`: events onto the input topic.

use std::fs::File;
use std::io::{BufRead, BufReader, IsTerminal, Read};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use super::{Common, Done, Failure, Output, ask, print, print_json, say};
use crate::config::Config;
use crate::edge::clock::SystemClock;
use crate::edge::embedded::generator::Generator;
use crate::edge::kafka::{KafkaPublisher, Producer};
use crate::event::{Headers, Incoming, Offset, Partition, Record, Source, decode};
use crate::pipeline::ports::{Acks, Clock, Publisher, Token};

#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("from").required(true).args(["file", "generate"])))]
pub(super) struct Args {
    /// A file with one event (a JSON object) a line; `-` is standard input
    file: Option<PathBuf>,
    /// Publishes this many made-up events of cameras instead
    #[arg(long, value_name = "N")]
    generate: Option<u64>,
    /// Cameras that made-up events come from
    #[arg(long, default_value = "8", requires = "generate")]
    cameras: NonZeroUsize,
    /// What made-up events begin with: the same seed gives the same events, but for their times
    #[arg(long, default_value_t = 0, requires = "generate")]
    seed: u64,
    /// Events a second, at most
    #[arg(long, value_name = "EVENTS", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// Publishes lines as they are, also those that no event can be read from
    #[arg(long)]
    raw: bool,
}

/// Records on their way at once: enough to keep the client busy, few enough to hold in memory.
const WINDOW: u64 = 10_000;

/// How long Kafka may take for what is left at the end.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) fn run(common: &Common, args: Args) -> Done {
    let config = common.load()?.config;
    let clock = SystemClock::new();
    let (events, total) = source(&args, clock)?;
    let bar = bar(total);
    let counts = ask(async {
        let producer = Producer::connect(&config.kafka).map_err(|error| Failure::Wrong(error.to_string()))?;
        let (publisher, acks) = producer.handle();
        let mut publishing = Publishing { config: &config, clock, publisher, acks, sent: 0, acknowledged: 0, refused: 0, failed: None };
        let result = publishing.all(events, &args, &bar).await;
        let counts = (publishing.acknowledged, publishing.refused);
        drop(publishing);
        // What is not acknowledged by now is counted as failed already.
        let _ = producer.close(Duration::from_secs(1)).await;
        result.map(|()| counts)
    });
    bar.finish_and_clear();
    let (published, refused) = counts?;
    match common.output {
        Output::Json => print_json(&json!({ "published": published, "refused": refused, "topic": config.topics.events.as_str() }))?,
        Output::Table => print(&format!("{published} events are on {}\n", config.topics.events))?,
    }
    Ok(if refused == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

type Events = Box<dyn Iterator<Item = Result<(Option<Bytes>, Bytes), Failure>>>;

fn source(args: &Args, clock: SystemClock) -> Result<(Events, Option<u64>), Failure> {
    if let Some(count) = args.generate {
        let mut generator = Generator::new(args.seed, args.cameras);
        let made = (0..count).map(move |_| {
            let (key, value) = generator.event_at(clock.wall());
            Ok((Some(Bytes::from(key)), value))
        });
        return Ok((Box::new(made), Some(count)));
    }
    let path = args.file.clone().unwrap_or_else(|| PathBuf::from("-"));
    let input: Box<dyn Read> = if path.as_os_str() == "-" {
        Box::new(std::io::stdin())
    } else {
        Box::new(File::open(&path).map_err(|error| Failure::Wrong(format!("{}: {error}", path.display())))?)
    };
    let lines = BufReader::new(input).split(b'\n').map(|line| line.map_err(|error| Failure::Failed(error.into())));
    let events = lines.filter(|line| line.as_ref().map_or(true, |line| !line.trim_ascii().is_empty()));
    Ok((Box::new(events.map(|line| line.map(|line| (None, Bytes::from(line))))), None))
}

struct Publishing<'a> {
    config: &'a Config,
    clock: SystemClock,
    publisher: KafkaPublisher,
    acks: Acks,
    sent: u64,
    acknowledged: u64,
    refused: u64,
    failed: Option<String>,
}

impl Publishing<'_> {
    async fn all(&mut self, events: Events, args: &Args, bar: &ProgressBar) -> Result<(), Failure> {
        let began = self.clock.now();
        for (number, event) in (1u64..).zip(events) {
            let (key, value) = event?;
            let Some(record) = self.record(number, key, value, args.raw) else { continue };
            if let Some(rate) = args.rate {
                let due = began.plus(Duration::from_secs_f64(self.sent as f64 / f64::from(rate)));
                self.clock.sleep_until(due).await;
            }
            while self.publisher.publish(&record, Token(self.sent)).is_err() {
                self.acknowledge(bar).await?;
            }
            self.sent += 1;
            while self.sent - self.acknowledged >= WINDOW || !self.acks.is_empty() {
                self.acknowledge(bar).await?;
            }
        }
        while self.acknowledged < self.sent {
            self.acknowledge(bar).await?;
        }
        Ok(())
    }

    fn record(&mut self, number: u64, key: Option<Bytes>, value: Bytes, raw: bool) -> Option<Record> {
        let now = self.clock.wall();
        let topic = self.config.topics.events.clone();
        let source = Source { topic: topic.clone(), partition: Partition(0), offset: Offset(0) };
        let incoming = Incoming { source, key: key.clone(), value: Some(value.clone()), headers: Headers::new(), timestamp: None };
        let key = match decode::decode(&incoming, self.config.processing.max_event_bytes.get(), now) {
            Ok(event) => Some(event.key),
            Err(_) if raw => key,
            Err(error) => {
                say(&format!("line {number}: {error} ({}); left out, --raw publishes it all the same", error.code.as_str()));
                self.refused += 1;
                return None;
            }
        };
        Some(Record { topic, partition: None, key, value: Some(value), headers: Headers::new(), timestamp: now })
    }

    async fn acknowledge(&mut self, bar: &ProgressBar) -> Result<(), Failure> {
        let ack = tokio::time::timeout(PATIENCE, self.acks.recv()).await.ok().flatten().context("Kafka does not acknowledge");
        let ack = ack.map_err(|error| Failure::Unreachable(error.to_string()))?;
        match ack.result {
            Ok(_) => {
                self.acknowledged += 1;
                bar.inc(1);
                Ok(())
            }
            Err(error) => {
                let left = self.sent - self.acknowledged;
                self.failed = Some(error.to_string());
                Err(Failure::Unreachable(format!("Kafka does not take the events: {error}; {left} of {} are not published", self.sent)))
            }
        }
    }
}

fn bar(total: Option<u64>) -> ProgressBar {
    let bar = match total {
        Some(total) => ProgressBar::new(total),
        None => ProgressBar::new_spinner(),
    };
    if !std::io::stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    let template = if total.is_some() { "{bar:40} {pos}/{len} events  {per_sec}  {eta}" } else { "{spinner} {pos} events  {per_sec}" };
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
