//! Which series a config can produce. All of them exist from the start, at 0: an alert on a rate needs the first sample before
//! the first failure, and a series that appears with the failure has none.

use crate::config::{Config, Fallback};
use crate::event::Topic;
use crate::machine::disposition::FallbackKind;

/// What the series of one config are told apart by.
#[derive(Debug, Clone)]
pub struct Series {
    /// The services, in the config's order: facts name them by their place.
    pub services: Vec<ServiceLabels>,
    /// Every topic that records are published to.
    pub topics: Vec<Topic>,
    /// Whether breakers are shared; without a store there is no `store_up` that could be 0.
    pub store: bool,
}

/// One service, as far as its series go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceLabels {
    /// Its name.
    pub name: String,
    /// Whether calls of it are parked and drained.
    pub parks: bool,
    /// Whether it is asked for its health.
    pub checked: bool,
    /// Which fallback it has.
    pub fallback_kind: FallbackKind,
}

impl Series {
    /// The series that a config can produce.
    pub fn of(config: &Config) -> Self {
        let services =
            config.services.iter().map(|service| ServiceLabels::of(&service.name, &service.fallback, service.health.is_some())).collect();
        let fixed = [&config.topics.events, &config.topics.outcomes, &config.topics.dead_letters];
        let retry = config.parking().map(|(_, retry)| &retry.topic);
        let mut topics: Vec<Topic> = fixed.into_iter().chain(&config.topics.deliveries).chain(retry).cloned().collect();
        topics.sort();
        topics.dedup();
        Self { services, topics, store: config.redis.is_some() }
    }
}

impl ServiceLabels {
    /// A service with this fallback, which is asked for its health or not.
    pub fn of(name: &str, fallback: &Fallback, checked: bool) -> Self {
        let fallback_kind = match fallback {
            Fallback::Cached { .. } => FallbackKind::Cached,
            Fallback::Default { .. } => FallbackKind::Default,
            Fallback::Park(_) => FallbackKind::Park,
            Fallback::Skip => FallbackKind::Skip,
            Fallback::Fail => FallbackKind::Fail,
        };
        Self { name: name.to_owned(), parks: fallback_kind == FallbackKind::Park, checked, fallback_kind }
    }
}
