//! The backlog: how far behind the groups are, how many calls are parked, how fast they come and go, and whether the topics are as
//! they must be. Asked of Kafka beside the loops, every few seconds.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::Mutex as AsyncMutex;

use super::stalls::Stalls;
use super::{Real, wiring};
use crate::config::Config;
use crate::edge::api::{RetryService, RetryStatus};
use crate::edge::clock::SystemClock;
use crate::edge::kafka::{Inspection, LagSampler, Needed, PartitionLag, TopicAdmin};
use crate::event::Topic;
use crate::machine::time::Tick;
use crate::pipeline::breakers::Breakers;
use crate::pipeline::drain::Gauges;
use crate::pipeline::ports::Clock;
use crate::telemetry::metrics::Metrics;

/// How often Kafka is asked.
const EVERY: Duration = Duration::from_secs(5);

/// How often the topics are looked at, while they are as they must be.
const INSPECT_EVERY: Duration = Duration::from_secs(60);

/// How old an answer may be that somebody asks for.
const FRESH: Duration = Duration::from_secs(1);

/// How long Kafka may take to answer.
const WITHIN: Duration = Duration::from_secs(4);

/// Over how long rates are taken.
const RATES_OVER: Duration = Duration::from_secs(30);

pub(super) struct Backlog {
    routes: Vec<Route>,
    needed: Vec<Needed>,
    events: LagSampler,
    retries: Option<LagSampler>,
    /// `None`: the topics are taken to be as they must be.
    admin: Option<TopicAdmin>,
    breakers: Arc<Breakers<Real>>,
    gauges: Arc<Gauges>,
    metrics: Arc<Metrics>,
    clock: SystemClock,
    stalls: Arc<Stalls>,
    samples: Mutex<VecDeque<Sample>>,
    inspection: Mutex<Option<Inspection>>,
    /// Held by the one that asks Kafka: others wait for its answer instead of asking too.
    asking: AsyncMutex<()>,
}

struct Route {
    service: usize,
    name: String,
    topic: Topic,
}

/// What Kafka said of the retry topics.
struct Sample {
    at: Tick,
    partitions: Vec<PartitionLag>,
}

/// One topic's sums in one sample.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Sums {
    end: i64,
    committed: i64,
    depth: u64,
}

impl Backlog {
    pub(super) fn connect(
        config: &Config,
        breakers: Arc<Breakers<Real>>,
        gauges: Arc<Gauges>,
        metrics: Arc<Metrics>,
        clock: SystemClock,
        stalls: Arc<Stalls>,
        inspects_topics: bool,
    ) -> anyhow::Result<Arc<Self>> {
        let kafka = || "kafka";
        let retry_topics = wiring::retry_topics(config);
        let retries = if retry_topics.is_empty() {
            None
        } else {
            Some(LagSampler::connect(&config.kafka, &wiring::retry_group(config), &retry_topics).with_context(kafka)?)
        };
        let events =
            LagSampler::connect(&config.kafka, &config.kafka.group, std::slice::from_ref(&config.topics.events)).with_context(kafka)?;
        let routes = config.services.iter().enumerate().filter_map(|(service, settings)| {
            config.parking().find(|(parking, _)| parking.name == settings.name).map(|(_, retry)| Route {
                service,
                name: settings.name.clone(),
                topic: retry.topic.clone(),
            })
        });
        let fixed = [&config.topics.events, &config.topics.outcomes, &config.topics.dead_letters];
        let mut needed: Vec<Needed> =
            fixed.into_iter().chain(&config.topics.deliveries).map(|topic| Needed { topic: topic.clone(), retention: None }).collect();
        needed.extend(config.parking().map(|(_, retry)| Needed { topic: retry.topic.clone(), retention: Some(retry.max_age) }));
        Ok(Arc::new(Self {
            routes: routes.collect(),
            needed,
            events,
            retries,
            admin: if inspects_topics { Some(TopicAdmin::connect(&config.kafka).with_context(kafka)?) } else { None },
            breakers,
            gauges,
            metrics,
            clock,
            stalls,
            samples: Mutex::default(),
            inspection: Mutex::default(),
            asking: AsyncMutex::new(()),
        }))
    }

    /// Asks for as long as the process runs.
    pub(super) async fn run(self: Arc<Self>) {
        let mut next_inspection = Tick(0);
        loop {
            if next_inspection <= self.clock.now() {
                let fine = self.inspect().await;
                next_inspection = self.clock.now().plus(if fine { INSPECT_EVERY } else { EVERY });
            }
            let partitions = self.events.sample(WITHIN).await.unwrap_or_default();
            self.show_lag(&partitions);
            self.stalls.look("events", &partitions, self.clock.now());
            self.sample().await;
            tokio::time::sleep(EVERY).await;
        }
    }

    /// What the topics lack; `None` while Kafka has not said.
    pub(super) fn inspection(&self) -> Option<Inspection> {
        self.inspection.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The backlog as it is now, or as it was when Kafka last answered.
    pub(super) async fn status(&self) -> RetryStatus {
        let fresh = self.latest().is_some_and(|at| self.clock.now().since(at) < FRESH);
        let answered = fresh || self.sample().await;
        RetryStatus { services: self.routes.iter().map(|route| self.of(route, answered)).collect() }
    }

    async fn inspect(&self) -> bool {
        let found = match &self.admin {
            Some(admin) => admin.inspect(&self.needed, WITHIN).await,
            None => Ok(Inspection::default()),
        };
        let Ok(found) = found else { return false };
        let fine = found.is_fine();
        let before = self.inspection.lock().unwrap_or_else(PoisonError::into_inner).replace(found.clone());
        if before.as_ref() != Some(&found) {
            for topic in &found.missing {
                tracing::error!(target: "fusebox", %topic, "a topic is missing; `fusebox migrate` creates it");
            }
            for (topic, kept, needed) in &found.too_short {
                tracing::error!(
                    target: "fusebox",
                    %topic,
                    ?kept,
                    ?needed,
                    "a retry topic deletes records before their max_age is over: raise its retention.ms, or lower retry.max_age"
                );
            }
        }
        fine
    }

    fn latest(&self) -> Option<Tick> {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner).back().map(|sample| sample.at)
    }

    /// Asks Kafka for the retry topics' offsets; false if it did not answer.
    async fn sample(&self) -> bool {
        let Some(retries) = &self.retries else { return true };
        let _asking = self.asking.lock().await;
        if self.latest().is_some_and(|at| self.clock.now().since(at) < FRESH) {
            return true;
        }
        let asked = retries.sample(WITHIN).await;
        self.stalls.look("retries", asked.as_deref().unwrap_or_default(), self.clock.now());
        let Ok(partitions) = asked else { return false };
        self.show_lag(&partitions);
        let at = self.clock.now();
        {
            let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
            samples.push_back(Sample { at, partitions });
            while samples.len() > 2 && samples.get(1).is_some_and(|second| at.since(second.at) >= RATES_OVER) {
                samples.pop_front();
            }
        }
        for route in &self.routes {
            let shown = self.of(route, true);
            let oldest = shown.oldest_seconds.map(Duration::from_secs_f64).unwrap_or_default();
            self.metrics.set_retry(route.service, shown.depth.unwrap_or(0), shown.due as u64, oldest);
        }
        true
    }

    fn show_lag(&self, partitions: &[PartitionLag]) {
        for lag in partitions {
            self.metrics.set_lag(&lag.partition, lag.lag());
        }
    }

    fn of(&self, route: &Route, answered: bool) -> RetryService {
        let samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        let first = samples.front().map(|sample| (sample.at, sums(&sample.partitions, &route.topic)));
        let last = samples.back().map(|sample| (sample.at, sums(&sample.partitions, &route.topic)));
        drop(samples);
        let (parked, drained) = rates(first, last);
        let depth = last.map(|(_, sums)| sums.depth).filter(|_| answered);
        let gauge = self.gauges.of(route.service);
        RetryService {
            service: route.name.clone(),
            topic: route.topic.to_string(),
            circuit_breaker_state: self.breakers.state(route.service).as_str(),
            depth,
            due: gauge.due,
            oldest_seconds: gauge.oldest.map(|oldest| self.clock.wall().since(oldest).as_secs_f64()),
            held: gauge.held,
            parked_per_second: parked,
            drained_per_second: drained,
            time_to_drain_seconds: depth.and_then(|depth| time_to_drain(depth, parked, drained)),
        }
    }
}

fn sums(partitions: &[PartitionLag], topic: &Topic) -> Sums {
    partitions.iter().filter(|lag| lag.partition.topic == *topic).fold(Sums::default(), |sums, lag| Sums {
        end: sums.end + lag.end.0,
        committed: sums.committed + lag.next().0,
        depth: sums.depth + lag.lag(),
    })
}

/// Calls parked and finished a second, between two samples.
fn rates(first: Option<(Tick, Sums)>, last: Option<(Tick, Sums)>) -> (f64, f64) {
    let (Some((from, first)), Some((to, last))) = (first, last) else { return (0.0, 0.0) };
    let seconds = to.since(from).as_secs_f64();
    if seconds <= 0.0 {
        return (0.0, 0.0);
    }
    let rate = |from: i64, to: i64| (to - from).max(0) as f64 / seconds;
    (rate(first.end, last.end), rate(first.committed, last.committed))
}

/// At this pace; `None` while the backlog does not shrink.
fn time_to_drain(depth: u64, parked: f64, drained: f64) -> Option<f64> {
    if depth == 0 {
        return Some(0.0);
    }
    let net = drained - parked;
    (net > 0.0).then(|| depth as f64 / net)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_says_when_it_is_gone() {
        assert_eq!(time_to_drain(0, 5.0, 0.0), Some(0.0));
        assert_eq!(time_to_drain(100, 1.0, 11.0), Some(10.0));
        assert_eq!(time_to_drain(100, 11.0, 11.0), None);
        assert_eq!(time_to_drain(100, 0.0, 0.0), None);
    }

    #[test]
    fn rates_are_taken_between_the_first_and_the_last_sample() {
        let sums = |end, committed| Sums { end, committed, depth: 0 };
        let rate = |a, b| rates(Some((Tick(1_000), a)), Some((Tick(11_000), b)));
        assert_eq!(rate(sums(0, 0), sums(50, 20)), (5.0, 2.0));
        assert_eq!(rate(sums(50, 20), sums(0, 0)), (0.0, 0.0), "a topic made anew has no negative rate");
        assert_eq!(rates(Some((Tick(1), sums(0, 0))), Some((Tick(1), sums(9, 9)))), (0.0, 0.0));
        assert_eq!(rates(None, None), (0.0, 0.0));
    }
}
