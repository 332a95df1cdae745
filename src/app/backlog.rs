//! The backlog: how far behind the groups are, how many calls are parked, how fast they come and go, and whether the topics are as
//! they must be. Asked of Kafka beside the loops, every few seconds.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::Mutex as AsyncMutex;

use super::stalls::Stalls;
use super::survey::{For, Known, State, Surveys};
use super::{Real, wiring};
use crate::config::Config;
use crate::edge::api::{Looked, RetryService, RetryStatus};
use crate::edge::clock::SystemClock;
use crate::edge::kafka::{Inspection, LagSampler, Needed, PartitionLag, TopicAdmin};
use crate::event::{Topic, UnixMillis};
use crate::machine::breaker::{Held, LockKind};
use crate::machine::outlook::{self, Basis, Road, outlook};
use crate::machine::time::Tick;
use crate::pipeline::breakers::Breakers;
use crate::pipeline::drain::Gauges;
use crate::pipeline::orders::OrderBook;
use crate::pipeline::ports::Clock;
use crate::telemetry::metrics::{Backlogged, Metrics};

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
    book: Arc<OrderBook>,
    metrics: Arc<Metrics>,
    clock: SystemClock,
    stalls: Arc<Stalls>,
    surveys: Surveys,
    samples: Mutex<VecDeque<Sample>>,
    /// What Kafka last said of the events' topic.
    of_events: Mutex<(Tick, Vec<PartitionLag>)>,
    inspection: Mutex<Option<Inspection>>,
    /// Held by the one that asks Kafka: others wait for its answer instead of asking too.
    asking: AsyncMutex<()>,
}

struct Route {
    service: usize,
    name: String,
    topic: Topic,
    /// What it drained a second when it last did.
    capacity: Mutex<Option<f64>>,
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
    done: i64,
    depth: u64,
}

impl Sums {
    fn state(self) -> State {
        (self.end, self.done)
    }
}

/// A pace: calls parked and finished a second, and over how long that was.
type Rates = (f64, f64, Duration);

impl Backlog {
    pub(super) fn connect(
        config: &Config,
        breakers: Arc<Breakers<Real>>,
        (gauges, book): (Arc<Gauges>, Arc<OrderBook>),
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
        let routes = config.parking_by_index().map(|(service, settings, retry)| Route {
            service,
            name: settings.name.clone(),
            topic: retry.topic.clone(),
            capacity: Mutex::default(),
        });
        let fixed = [&config.topics.events, &config.topics.outcomes, &config.topics.dead_letters];
        let mut needed: Vec<Needed> = fixed
            .into_iter()
            .chain(&config.topics.deliveries)
            .map(|topic| Needed { topic: topic.clone(), retention: None, beside: None })
            .collect();
        needed.extend(config.parking().map(|(_, retry)| Needed {
            topic: retry.topic.clone(),
            retention: Some(retry.max_age),
            beside: retry.keeps_order().then(|| config.topics.events.clone()),
        }));
        Ok(Arc::new(Self {
            routes: routes.collect(),
            needed,
            events,
            retries,
            admin: if inspects_topics { Some(TopicAdmin::connect(&config.kafka).with_context(kafka)?) } else { None },
            breakers,
            gauges,
            surveys: Surveys::new(&config.kafka, &wiring::retry_group(config), Arc::clone(&book), clock),
            book,
            metrics,
            clock,
            stalls,
            samples: Mutex::default(),
            of_events: Mutex::default(),
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
            let partitions = self.sample_events().await;
            self.show_lag(&partitions);
            self.stalls.look("events", &partitions, self.clock.now());
            self.sample().await;
            self.survey(For::Metrics).await;
            self.show();
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
        if answered {
            self.survey(For::Somebody).await;
        }
        let status = RetryStatus { services: self.routes.iter().map(|route| self.of(route, answered)).collect() };
        if answered {
            self.show();
        }
        status
    }

    /// Looks at what is parked, where that is worth it.
    async fn survey(&self, whom: For) {
        for topic in self.routes.iter().map(|route| &route.topic).collect::<std::collections::BTreeSet<_>>() {
            let Some((_, sums)) = self.sums(topic).last().copied() else { continue };
            if sums.depth > 0 && self.surveys.refresh(topic, sums.state(), whom).await {
                tracing::trace!(%topic, "looked at what is parked");
            }
        }
    }

    /// Shows the backlogs as metrics.
    fn show(&self) {
        let found = self.inspection().unwrap_or_default();
        for route in &self.routes {
            let RetryService { depth, due, oldest_seconds, time_to_drain_seconds, retention_seconds, retention_used, .. } =
                self.of(route, true);
            self.metrics.set_retry(
                route.service,
                &Backlogged {
                    depth: depth.unwrap_or(0),
                    due,
                    oldest: oldest_seconds.map(Duration::from_secs_f64).unwrap_or_default(),
                    drain_seconds: time_to_drain_seconds,
                    retention_seconds,
                    retention_used: retention_used.unwrap_or(0.0),
                    retention_short: found.too_short.iter().any(|(topic, ..)| *topic == route.topic),
                },
            );
        }
    }

    /// How far each partition of the events is. Empty if Kafka does not say.
    pub(super) async fn of_events(&self) -> Vec<PartitionLag> {
        let _asking = self.asking.lock().await;
        let (at, partitions) = self.of_events.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if !partitions.is_empty() && self.clock.now().since(at) < FRESH {
            return partitions;
        }
        self.sample_events().await
    }

    async fn sample_events(&self) -> Vec<PartitionLag> {
        let partitions = self.events.sample(WITHIN).await.unwrap_or_default();
        *self.of_events.lock().unwrap_or_else(PoisonError::into_inner) = (self.clock.now(), partitions.clone());
        partitions
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
            for (topic, partitions, needed) in &found.too_few {
                tracing::error!(
                    target: "fusebox",
                    %topic,
                    partitions,
                    needed,
                    "a retry topic whose calls are kept in order has fewer partitions than the events' topic: calls of the events beyond cannot be \
                     made until it has as many"
                );
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
        true
    }

    fn show_lag(&self, partitions: &[PartitionLag]) {
        for lag in partitions {
            self.metrics.set_lag(&lag.partition, lag.lag());
        }
    }

    /// A topic's sums, sample by sample.
    fn sums(&self, topic: &Topic) -> Vec<(Tick, Sums)> {
        let samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        samples.iter().map(|sample| (sample.at, sums(&sample.partitions, topic))).collect()
    }

    fn of(&self, route: &Route, answered: bool) -> RetryService {
        let samples = self.sums(&route.topic);
        let (now, wall) = (self.clock.now(), self.clock.wall());
        let last = samples.last().copied();
        let (parked, drained, _) = rates(&samples, Tick(0));
        let looked = last.and_then(|(_, sums)| self.surveys.known(&route.topic, &route.name, sums.depth, sums.state()));
        let depth = last.map(|(_, sums)| looked.as_ref().and_then(|known| known.counted).unwrap_or(sums.depth)).filter(|_| answered);
        let gauge = self.gauges.of(route.service);
        // Without having looked, what this instance holds is all that is known.
        let Known { said, age, .. } = looked.clone().unwrap_or_default();
        let is_empty = depth == Some(0);
        let due = if looked.is_some() { said.due } else { gauge.due as u64 };
        let first = said.oldest.filter(|_| said.exact).or(said.oldest.into_iter().chain(gauge.oldest).min()).filter(|_| !is_empty);
        let (seconds, basis, until) = self.forecast(route, depth, &samples, looked.as_ref(), (now, wall));
        let kept =
            self.inspection().and_then(|found| found.kept.into_iter().find(|(topic, _)| *topic == route.topic)).map(|(_, kept)| kept);
        let written = said.written.filter(|_| !is_empty).map(|written| wall.since(written).as_secs_f64());
        RetryService {
            service: route.name.clone(),
            topic: route.topic.to_string(),
            circuit_breaker_state: self.breakers.state(route.service).as_str(),
            depth,
            due: if is_empty { 0 } else { due },
            oldest_seconds: first.map(|first| wall.since(first).as_secs_f64()),
            held: gauge.held,
            put_aside: gauge.shelved,
            by_reason: if is_empty { Default::default() } else { said.by_reason },
            by_attempts: if is_empty { Default::default() } else { said.by_attempts },
            looked: looked.map(|_| Looked { calls: said.looked_at, exact: said.exact, seconds_ago: age.as_secs_f64() }),
            parked_per_second: parked,
            drained_per_second: drained,
            time_to_drain_seconds: seconds,
            time_to_drain_basis: basis.map(Basis::as_str),
            held_until: until.map(UnixMillis::to_rfc3339),
            retention_seconds: kept.map(|kept| kept.as_secs_f64()),
            retention_used: kept.filter(|kept| !kept.is_zero()).and_then(|kept| Some(written? / kept.as_secs_f64())),
        }
    }

    /// When it will be gone, what that rests on, and until when it is held, as far as that is known.
    fn forecast(
        &self,
        route: &Route,
        depth: Option<u64>,
        samples: &[(Tick, Sums)],
        looked: Option<&Known>,
        (now, wall): (Tick, UnixMillis),
    ) -> (Option<f64>, Option<Basis>, Option<UnixMillis>) {
        let standing = self.breakers.snapshot(route.service);
        let pause = self.book.orders().pause(&route.name, wall).map(|pause| pause.until);
        let (road, until) = match (pause, &standing.held) {
            (Some(until), _) => (Road::Paused, until),
            (None, Held::Open { until }) => (Road::Open(until.since(now)), Some(self.clock.wall_of(*until))),
            (None, Held::HalfOpen) => (Road::HalfOpen, None),
            (None, Held::Locked(lock)) if lock.kind == LockKind::ForcedOpen => {
                (Road::ForcedOpen, lock.expires_at.map(|at| self.clock.wall_of(at)))
            }
            (None, Held::Closed | Held::Locked(_)) => (Road::Clear, None),
        };
        let Some(depth) = depth else { return (None, None, until) };
        let (parked, drained, measured_over) = rates(samples, standing.since);
        let mut capacity = route.capacity.lock().unwrap_or_else(PoisonError::into_inner);
        let all_wait = looked.filter(|known| known.said.exact).map(|known| known.said.due == 0);
        let (seconds, basis) = outlook(&outlook::Known { depth, all_wait, parked, drained, measured_over, capacity: *capacity, road });
        if basis == Basis::Measured {
            *capacity = Some(drained);
        }
        (seconds, Some(basis), until.filter(|_| depth > 0))
    }
}

fn sums(partitions: &[PartitionLag], topic: &Topic) -> Sums {
    partitions.iter().filter(|lag| lag.partition.topic == *topic).fold(Sums::default(), |sums, lag| Sums {
        end: sums.end + lag.end.0,
        done: sums.done + lag.done(),
        depth: sums.depth + lag.unfinished(),
    })
}

/// Calls parked and finished a second, between the first sample that was taken then or later, and the last.
fn rates(samples: &[(Tick, Sums)], since: Tick) -> Rates {
    let Some((to, last)) = samples.last().copied() else { return (0.0, 0.0, Duration::ZERO) };
    let (from, first) = samples.iter().copied().find(|(at, _)| *at >= since).unwrap_or((to, last));
    let over = to.since(from);
    if over.is_zero() {
        return (0.0, 0.0, over);
    }
    let rate = |from: i64, to: i64| (to - from).max(0) as f64 / over.as_secs_f64();
    (rate(first.end, last.end), rate(first.done, last.done), over)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_taken_between_the_first_and_the_last_sample() {
        let sums = |end, done| Sums { end, done, depth: 0 };
        let samples = [(Tick(1_000), sums(0, 0)), (Tick(6_000), sums(50, 0)), (Tick(11_000), sums(50, 20))];
        let seconds = Duration::from_secs;
        assert_eq!(rates(&samples, Tick(0)), (5.0, 2.0, seconds(10)));
        assert_eq!(rates(&samples, Tick(1_001)), (0.0, 4.0, seconds(5)), "since the breaker changed");
        assert_eq!(rates(&samples, Tick(11_001)), (0.0, 0.0, Duration::ZERO));
        assert_eq!(rates(&[(Tick(1), sums(50, 20)), (Tick(10_001), sums(0, 0))], Tick(0)), (0.0, 0.0, seconds(10)), "a topic made anew");
        assert_eq!(rates(&[], Tick(0)), (0.0, 0.0, Duration::ZERO));
    }
}
