//! From the config to the parts: each part receives its own section, as values.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context as _;
use futures_util::future::FutureExt as _;
use tokio::sync::mpsc;

use super::Real;
use crate::config::{self, Config};
use crate::edge::api;
use crate::edge::chance::ThreadChance;
use crate::edge::clock::SystemClock;
use crate::edge::http::HttpCaller;
use crate::edge::kafka::orders::KafkaOrders;
use crate::edge::kafka::{self, Ahead, ConsumerOptions, KafkaEdgeError, KafkaSubscription, Settled, session_timeout};
use crate::event::dead_letter::Letterbox;
use crate::event::{Incoming, Topic, UnixMillis, envelope};
use crate::machine::disposition::Bounds;
use crate::machine::fallback::Cache;
use crate::machine::progress::MAX_BYTES;
use crate::machine::schedule::Schedule;
use crate::machine::selection::Selection;
use crate::pipeline::behind::Behind;
use crate::pipeline::breakers::{Announcement, Breakers, Probes, Subject};
use crate::pipeline::guard::{Guard, Manner};
use crate::pipeline::orders::OrderBook;
use crate::pipeline::ports::{Budget, OrderLog as _};
use crate::pipeline::stages::{Fallback, Stage, Stages};
use crate::pipeline::stop::Stop;
use crate::pipeline::{drain, health, process};
use crate::telemetry::facts::Teller;
use crate::telemetry::metrics::Metrics;

type Guards = Vec<Arc<Guard<Real>>>;

pub(super) fn breakers(
    config: &Config,
    clock: SystemClock,
    chance: ThreadChance,
    teller: &Arc<Teller<SystemClock>>,
    instance: &str,
) -> (Arc<Breakers<Real>>, mpsc::UnboundedReceiver<Announcement>) {
    let services = config.services.iter().map(|service| Subject {
        service: service.name.clone(),
        settings: service.breaker.clone(),
        probes: if service.health.as_ref().is_some_and(|health| health.probe) { Probes::Checks } else { Probes::Calls },
    });
    Breakers::new(services, clock, chance, Arc::clone(teller), instance.to_owned())
}

/// How the services are asked for their health that are.
pub(super) fn health(config: &Config) -> Vec<health::Manner> {
    let manner = |(service, health): (usize, &config::Health)| health::Manner {
        service,
        interval: health.interval,
        timeout: health.timeout,
        probes: health.probe,
    };
    let services = config.services.iter().enumerate();
    services.filter_map(|(index, service)| Some((index, service.health.as_ref()?))).map(manner).collect()
}

pub(super) fn guards(
    config: &Config,
    breakers: &Arc<Breakers<Real>>,
    caller: &Arc<HttpCaller<SystemClock>>,
    clock: SystemClock,
    teller: &Arc<Teller<SystemClock>>,
    stop: &Stop,
) -> Guards {
    let guard = |(index, service): (usize, &config::Service)| {
        let manner = Manner {
            timeout: service.timeout,
            slow: service.slow,
            concurrency: service.concurrency.get(),
            drain_concurrency: match &service.fallback {
                config::Fallback::Park(retry) => retry.drain_concurrency.get(),
                _ => 0,
            },
            adaptive: service.adaptive,
            rules: service.rules.clone(),
        };
        Arc::new(Guard::new(index, manner, Arc::clone(breakers), Arc::clone(caller), clock, Arc::clone(teller), stop.clone()))
    };
    config.services.iter().enumerate().map(guard).collect()
}

pub(super) fn stages(
    config: &Config,
    guards: &Guards,
    stop: &Stop,
    instance: &str,
    clock: SystemClock,
    chance: ThreadChance,
    teller: &Arc<Teller<SystemClock>>,
) -> anyhow::Result<Arc<Stages<Real>>> {
    let stage = |stage: &config::Stage| {
        let service = config.service_of(stage);
        Stage {
            service: stage.service,
            name: service.name.clone(),
            method: service.endpoint.method.to_string(),
            path: service.endpoint.uri.path().to_owned(),
            guard: Arc::clone(&guards[stage.service]),
            tries: match &service.fallback {
                // A live try is a call made: it counts against what a parked call may make in all.
                config::Fallback::Park(retry) => service.attempts.min(retry.max_attempts).get(),
                _ => service.attempts.get(),
            },
            when: stage.when.clone(),
            body: stage.body.clone(),
            fallback: fallback(&service.fallback),
        }
    };
    Ok(Arc::new(Stages {
        stages: config.pipeline.iter().map(stage).collect(),
        outcomes: config.topics.outcomes.clone(),
        dead_letters: letterbox(config, ""),
        behind: behind(config, stop, clock)?,
        instance: instance.to_owned(),
        clock,
        chance,
        witness: Arc::clone(teller),
    }))
}

/// What is known of the parked calls of services that keep order; begins to read along on their topics.
fn behind(config: &Config, stop: &Stop, clock: SystemClock) -> anyhow::Result<Arc<Behind>> {
    let ordered = || config.parking_by_index().filter(|(_, _, retry)| retry.keeps_order());
    let behind = Arc::new(Behind::new(
        config.topics.events.clone(),
        ordered().map(|(index, service, _)| (index, service.name.clone())),
        stop.clone(),
    ));
    for (index, _, retry) in ordered() {
        kafka::along::read(&config.kafka, &retry_group(config), retry.topic.clone(), index, &behind, clock).context("kafka")?;
    }
    Ok(behind)
}

/// Where the dead letters of a loop go; what is behind the group's name is its consumer's.
fn letterbox(config: &Config, suffix: &str) -> Letterbox {
    Letterbox {
        topic: config.topics.dead_letters.clone(),
        styles: config.dead_letters.styles.clone(),
        group: format!("{}{suffix}", config.kafka.group),
    }
}

fn fallback(fallback: &config::Fallback) -> Fallback {
    match fallback {
        config::Fallback::Cached { key, ttl, max_entries, default } => {
            Fallback::Cached { key: key.clone(), cache: Mutex::new(Cache::new(*max_entries, *ttl)), default: default.clone() }
        }
        config::Fallback::Default { body } => Fallback::Default { body: body.clone() },
        config::Fallback::Park(retry) => Fallback::Park { topic: retry.topic.clone(), bounds: bounds(retry), ordered: retry.keeps_order() },
        config::Fallback::Skip => Fallback::Skip,
        config::Fallback::Fail => Fallback::Fail,
    }
}

fn bounds(retry: &config::Retry) -> Bounds {
    Bounds { max_attempts: retry.max_attempts.get(), max_age: retry.max_age, schedule: Schedule { initial: retry.initial, max: retry.max } }
}

pub(super) fn routes(config: &Config, guards: &Guards) -> Vec<drain::Route<Real>> {
    let route = |(index, service, retry): (usize, &config::Service, &config::Retry)| drain::Route {
        service: index,
        name: service.name.clone(),
        guard: Arc::clone(&guards[index]),
        bounds: bounds(retry),
        concurrency: retry.drain_concurrency.get(),
        ordered: retry.keeps_order(),
    };
    config.parking_by_index().map(route).collect()
}

pub(super) fn process_settings(config: &Config) -> process::Settings {
    process::Settings {
        ordering: match config.processing.ordering {
            config::Ordering::Key => process::Ordering::Key,
            config::Ordering::Partition => process::Ordering::Partition,
            config::Ordering::Unordered => process::Ordering::Unordered,
        },
        concurrency: config.processing.concurrency.get(),
        max_event_bytes: config.processing.max_event_bytes.get(),
        commit_interval: config.processing.commit_interval,
        stop_timeout: config.shutdown.timeout,
        hand_over_timeout: hand_over_timeout(config),
        max_ahead_bytes: MAX_BYTES,
        together: together(config),
        brake: config.dead_letters.brake.clone(),
    }
}

pub(super) fn drain_settings(config: &Config) -> drain::Settings {
    drain::Settings {
        commit_interval: config.processing.commit_interval,
        stop_timeout: config.shutdown.timeout,
        hand_over_timeout: hand_over_timeout(config),
        max_ahead_bytes: MAX_BYTES,
        together: together(config),
        dead_letters: letterbox(config, ".retry"),
        deliveries: config.topics.deliveries.clone(),
        max_aside: crate::machine::shelf::MOST,
    }
}

/// The least time between two transactions of a loop. Each costs some round trips and a mark in every partition that it writes to: this is
/// what Kafka Streams commits by where it processes exactly once (`commit.interval.ms`, 100 ms there).
const TRANSACTION_INTERVAL: Duration = Duration::from_millis(100);

fn together(config: &Config) -> Option<Duration> {
    match config.processing.guarantee {
        config::Guarantee::AtLeastOnce => None,
        config::Guarantee::ExactlyOnce { .. } => Some(config.processing.commit_interval.min(TRANSACTION_INTERVAL)),
    }
}

/// What a loop's transactions are known by, if it makes any.
fn transactional_id(config: &Config, instance: &str, name: &str) -> Option<String> {
    match &config.processing.guarantee {
        config::Guarantee::AtLeastOnce => None,
        config::Guarantee::ExactlyOnce { transactional_id } => Some(format!("{}.{name}", transactional_id.as_deref().unwrap_or(instance))),
    }
}

/// How long a revocation may wait for its commit: half of the session's timeout, so that as much is left to commit before the
/// broker could take the member for dead.
fn revoke_wait(config: &Config) -> Duration {
    session_timeout(&config.kafka) / 2
}

/// How long records of a revoked partition may take to finish: the consumer waits for this, and a little longer.
fn hand_over_timeout(config: &Config) -> Duration {
    revoke_wait(config).mul_f64(0.8)
}

pub(super) fn events(
    config: &Config,
    instance: &str,
    budget: Arc<Budget>,
    ahead: Ahead,
    metrics: &Arc<Metrics>,
    clock: SystemClock,
) -> anyhow::Result<KafkaSubscription> {
    let topics = vec![config.topics.events.clone()];
    let mut options = options(config, config.kafka.group.clone(), topics, instance, budget, ahead, metrics);
    options.transactional_id = transactional_id(config, instance, "events");
    KafkaSubscription::start(&config.kafka, options, clock).context("kafka")
}

pub(super) fn retries(
    config: &Config,
    service: &str,
    instance: &str,
    budget: Arc<Budget>,
    ahead: Ahead,
    metrics: &Arc<Metrics>,
    clock: SystemClock,
) -> anyhow::Result<KafkaSubscription> {
    let topic = retry_topic(config, service);
    let mut options = options(config, retry_group(config), vec![topic], instance, budget, ahead, metrics);
    options.seat = Some(service.to_owned());
    options.transactional_id = transactional_id(config, instance, &format!("retry.{service}"));
    KafkaSubscription::start(&config.kafka, options, clock).context("kafka")
}

/// The topic that a service's calls are parked on.
fn retry_topic(config: &Config, service: &str) -> Topic {
    let found = config.parking().find(|(parking, _)| parking.name == service).map(|(_, retry)| retry.topic.clone());
    found.expect("a route is made of a service that parks")
}

/// The group that drains parked calls.
pub(super) fn retry_group(config: &Config) -> String {
    format!("{}.retry", config.kafka.group)
}

/// The longest that counting parked calls may take: well below what a request may.
const COUNT_WITHIN: Duration = Duration::from_secs(7);

/// How parked calls are ordered about.
pub(super) fn ordering(config: &Arc<Config>, book: &Arc<OrderBook>, log: &Arc<KafkaOrders<SystemClock>>) -> api::orders::Ordering {
    let (counts, log) = (Arc::clone(config), Arc::clone(log));
    api::orders::Ordering {
        book: Arc::clone(book),
        group: config.kafka.group.clone(),
        services: config.parking().map(|(service, retry)| (service.name.clone(), retry.max_age)).collect(),
        new_id: Box::new(uuid::Uuid::new_v4),
        count: Box::new(move |selection| {
            let config = Arc::clone(&counts);
            async move { count(&config, selection).await.map_err(|error| error.to_string()) }.boxed()
        }),
        write: Box::new(move |change| {
            let log = Arc::clone(&log);
            async move { log.write(&change).await.map_err(|error| error.to_string()) }.boxed()
        }),
    }
}

async fn count(config: &Config, selection: Selection) -> Result<api::orders::Counted, KafkaEdgeError> {
    let calls = Arc::new(AtomicU64::new(0));
    // An order is about these topics, and its rate is laid on their partitions.
    let topics = topics_of(config, |service| selection.is_of(service));
    let counting = Arc::clone(&calls);
    // What is no call that was parked is nobody's to order about.
    let see = move |record: Incoming| {
        if envelope::read(record, UnixMillis(i64::MAX)).is_ok_and(|parked| selection.has(&parked)) {
            counting.fetch_add(1, Ordering::Relaxed);
        }
    };
    let looked = kafka::look(&config.kafka, &retry_group(config), topics, COUNT_WITHIN, see).await?;
    Ok(api::orders::Counted { calls: calls.load(Ordering::Relaxed), all: looked.all, ends: looked.ends })
}

/// The topics that calls are parked on.
pub(super) fn retry_topics(config: &Config) -> Vec<Topic> {
    topics_of(config, |_| true)
}

fn topics_of(config: &Config, has: impl Fn(&str) -> bool) -> Vec<Topic> {
    let services = config.parking().filter(|(service, _)| has(&service.name));
    services.map(|(_, retry)| retry.topic.clone()).collect::<BTreeSet<_>>().into_iter().collect()
}

fn options(
    config: &Config,
    group: String,
    topics: Vec<Topic>,
    instance: &str,
    budget: Arc<Budget>,
    ahead: Ahead,
    metrics: &Arc<Metrics>,
) -> ConsumerOptions {
    let metrics = Arc::clone(metrics);
    ConsumerOptions {
        group,
        seat: None,
        topics,
        client_id: instance.to_owned(),
        budget,
        ahead,
        max_record_bytes: config.processing.max_event_bytes.get(),
        revoke_wait: Some(revoke_wait(config)),
        transactional_id: None,
        on_commit: Arc::new(move |settled| match settled {
            Settled::Taken => metrics.count_commit(true),
            Settled::Nothing => {}
            Settled::Failed(error) => {
                metrics.count_commit(false);
                tracing::warn!(target: "fusebox", error, "a commit was not taken; it is made again");
            }
        }),
    }
}
