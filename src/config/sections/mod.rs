//! The keys, a file for each section: what they are called, what they mean, what they may hold, and what must hold between them.

mod adaptive;
mod brake;
mod breaker;
mod dead_letters;
mod fallback;
mod health;
mod http;
mod kafka;
mod pipeline;
mod policy;
mod processing;
mod redis;
mod services;
mod telemetry;
mod topics;
mod verdict;

use std::time::Duration;

use super::checked::{Config, Guarantee, Kafka, Processing, Shutdown};
use super::faults::Fault;
use super::reader::Section;
use super::shape::Time;

pub(super) use breaker::read as breaker;

/// A millisecond: the finest time that is kept.
const MILLISECOND: Duration = Duration::from_millis(1);
/// A second.
const SECOND: Duration = Duration::from_secs(1);
/// A minute.
const MINUTE: Duration = Duration::from_secs(60);
/// An hour.
const HOUR: Duration = Duration::from_secs(3_600);
/// A day.
const DAY: Duration = Duration::from_secs(86_400);

/// The whole config. What deserves a look but stops nothing goes to `warnings`.
pub(super) fn config(root: &Section<'_>, warnings: &mut Vec<Fault>) -> Option<Config> {
    let kafka = root.section("kafka", "Where the records are.", kafka::read);
    let mut claims = topics::Claims::default();
    let topics = root.section("topics", "What is read and written.", |section| topics::read(section, &mut claims));
    let redis = root.section("redis", "Where breakers are shared and survive a restart.", redis::read);
    let http = root.section("http", "The API.", http::read);
    let processing = root.section("processing", "How much is done at once.", |section| processing::read(section, warnings));
    claims.ordering = processing.as_ref().map(|processing| processing.ordering);
    let dead_letters = root.section(
        "dead_letters",
        "What is given up: what is said on it, how often it is redriven, and how much at once is too much.",
        |section| dead_letters::read(section, processing.as_ref()),
    );
    let services =
        root.each("services", "name", "A downstream service.", |name, section| services::read(name, section, &mut claims, warnings));
    let pipeline = pipeline::read(root, services.as_deref(), warnings);
    let shutdown = root.section("shutdown", "How the process stops.", |section| {
        let timeout = section.required(
            "timeout",
            Time::between(100 * MILLISECOND, HOUR),
            "How long what is in flight may take to finish or park after SIGTERM; then the process exits 1.",
        );
        Some(Shutdown { timeout: timeout? })
    });
    let telemetry = root.section("telemetry", "The log.", telemetry::read);
    claims.check(root);
    if let (Some(kafka), Some(processing)) = (&kafka, &processing) {
        root.within("kafka", |section| section.within("properties", |section| transactions(section, kafka, processing, warnings)));
    }
    Some(Config {
        kafka: kafka?,
        topics: topics?,
        dead_letters: dead_letters?,
        redis: redis?,
        http: http?,
        processing: processing?,
        services: services?.into_iter().map(|(_, service)| service).collect::<Option<_>>()?,
        pipeline: pipeline?,
        shutdown: shutdown?,
        telemetry: telemetry?,
    })
}

/// What properties of librdkafka mean for transactions, or would if there were any.
fn transactions(section: &Section<'_>, kafka: &Kafka, processing: &Processing, warnings: &mut Vec<Fault>) {
    use secrecy::ExposeSecret;
    let exactly_once = processing.guarantee != Guarantee::AtLeastOnce;
    if !exactly_once && kafka.properties.contains_key("transaction.timeout.ms") {
        warnings.push(section.remark("transaction.timeout.ms", "has no effect: `processing.guarantee` is not \"exactly_once\""));
    }
    if exactly_once && kafka.properties.get("isolation.level").is_some_and(|level| level.expose_secret() != "read_committed") {
        let message = "must be \"read_committed\" where `processing.guarantee` is \"exactly_once\": what is committed would be taken for \
                       settled while a transaction could still change it";
        section.fault("isolation.level", message);
    }
}
