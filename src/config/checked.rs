//! The checked config: every value in its own type, within its range.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

use crate::event::Topic;
use crate::event::foreign::Style;
use crate::machine::brake;
use crate::machine::breaker;
use crate::machine::expression::{Condition, Template};
use crate::machine::limit;
use crate::machine::verdict;

/// The whole config.
#[derive(Debug)]
pub struct Config {
    /// `[kafka]`
    pub kafka: Kafka,
    /// `[topics]`
    pub topics: Topics,
    /// `[dead_letters]`
    pub dead_letters: DeadLetters,
    /// `[redis]`; `None` when no `url` is given: breakers live in the process.
    pub redis: Option<Redis>,
    /// `[http]`
    pub http: Http,
    /// `[processing]`
    pub processing: Processing,
    /// `[services.*]`, by name.
    pub services: Vec<Service>,
    /// `[[pipeline]]`, in order. Each names a service that is in `services`.
    pub pipeline: Vec<Stage>,
    /// `[shutdown]`
    pub shutdown: Shutdown,
    /// `[telemetry]`
    pub telemetry: Telemetry,
}

/// `[kafka]`
#[derive(Debug, Clone)]
pub struct Kafka {
    /// `host:port`, comma-separated.
    pub brokers: String,
    /// The consumer group; the drain's is this with `.retry` behind it.
    pub group: String,
    /// librdkafka properties as written, for every client; none that the program owns. Values of secret ones are kept out of every output.
    pub properties: BTreeMap<String, SecretString>,
}

/// `[topics]`
#[derive(Debug, Clone)]
pub struct Topics {
    /// Read.
    pub events: Topic,
    /// Written: one record an event.
    pub outcomes: Topic,
    /// Written: what was given up.
    pub dead_letters: Topic,
    /// Written, where set: one record for every parked call that ended.
    pub deliveries: Option<Topic>,
    /// What operators order for parked calls.
    pub orders: Topic,
    /// Partitions of each topic that `migrate` creates.
    pub partitions: NonZeroU32,
    /// Replicas of each; `None` leaves it to the broker.
    pub replication_factor: Option<NonZeroU32>,
    /// Retention of each; must be longer than the longest park.
    pub retention: Duration,
}

/// `[dead_letters]`
#[derive(Debug, Clone)]
pub struct DeadLetters {
    /// How often a letter may have been redriven before it stays.
    pub max_redrives: u32,
    /// Whose headers are added to Fusebox's own, each once.
    pub styles: Vec<Style>,
    /// When a partition whose records turn bad is stopped; `None`: none ever is.
    pub brake: Option<brake::Settings>,
}

/// `[redis]`
#[derive(Debug, Clone)]
pub struct Redis {
    /// The URL, with its credentials if it has any (`password`, by file too, is put into it).
    pub url: SecretString,
    /// What the sentinels themselves want; the servers' are in the URL.
    pub sentinels: Option<Credentials>,
    /// What every key begins with.
    pub prefix: String,
    /// How long one command may take.
    pub timeout: Duration,
    /// How often states are read, in case a published transition was missed.
    pub poll_interval: Duration,
    /// Entries kept of each breaker's history.
    pub history: NonZeroUsize,
    /// A CA certificate to trust for `rediss://` (PEM).
    pub ca: Option<PathBuf>,
    /// A client certificate and its key for `rediss://` (PEM).
    pub identity: Option<Identity>,
}

/// A user and a password.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// The user; `None`: the one that needs no name.
    pub user: Option<String>,
    /// The password.
    pub password: SecretString,
}

/// A client certificate and its key, both PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The certificate chain.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// `[http]`
#[derive(Debug, Clone)]
pub struct Http {
    /// Where the API listens.
    pub listen: SocketAddr,
    /// Whether reading needs no token.
    pub anonymous: Anonymous,
    /// Who may do what.
    pub tokens: Vec<Token>,
}

/// What somebody without a token may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Anonymous {
    /// Read.
    Viewer,
    /// Nothing.
    None,
}

/// A bearer token, as its digest.
#[derive(Clone)]
pub struct Token {
    /// Who holds it: the actor in the audit.
    pub name: String,
    /// What it allows.
    pub role: Role,
    /// SHA-256 of the token's text.
    pub sha256: [u8; 32],
}

impl fmt::Debug for Token {
    /// Without the digest: a token of little chance could be guessed from it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("name", &self.name).field("role", &self.role).finish_non_exhaustive()
    }
}

/// What a token allows; each role may do what the ones before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Read.
    Viewer,
    /// Change breakers, release and discard parked calls.
    Operator,
    /// Everything.
    Admin,
}

/// `[processing]`
#[derive(Debug, Clone)]
pub struct Processing {
    /// What is kept in order.
    pub ordering: Ordering,
    /// Events running at once.
    pub concurrency: NonZeroUsize,
    /// Records in memory, those that Kafka's client has read ahead included.
    pub max_in_flight: NonZeroUsize,
    /// Their bytes, and those that wait for Kafka to take them, as often as they are held.
    pub max_in_flight_bytes: NonZeroUsize,
    /// The largest event that is read, bytes.
    pub max_event_bytes: NonZeroUsize,
    /// The longest time between two commits while records finish.
    pub commit_interval: Duration,
    /// How often what an event leaves behind is there.
    pub guarantee: Guarantee,
}

/// How often what an event leaves behind is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Guarantee {
    /// Once, and again if an instance dies before its commit.
    AtLeastOnce,
    /// Once: it is committed together with the offsets.
    ExactlyOnce {
        /// What an instance's transactions are known by, over its restarts; `None`: its own name, which no other life has.
        transactional_id: Option<String>,
    },
}

/// What is kept in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ordering {
    /// Events of one key, within their partition.
    Key,
    /// Events of one partition.
    Partition,
    /// Nothing.
    Unordered,
}

/// `[services.NAME]`
#[derive(Debug, Clone)]
pub struct Service {
    /// Its name: `rag`, `rulegen`, `notifier`, `vms`, or another.
    pub name: String,
    /// Where and how to call it.
    pub endpoint: Endpoint,
    /// The longest a call may take, body included.
    pub timeout: Duration,
    /// A successful call that takes longer is `slow`; `None`: no call is.
    pub slow: Option<Duration>,
    /// Live tries before the fallback.
    pub attempts: NonZeroU32,
    /// Calls in flight at once, of live events and drained calls together.
    pub concurrency: NonZeroUsize,
    /// How many of these there are at a time, where that is found out; `None`: always all.
    pub adaptive: Option<limit::Settings>,
    /// The largest reply that is read, bytes.
    pub max_reply_bytes: NonZeroUsize,
    /// Its breaker.
    pub breaker: breaker::Settings,
    /// What its breaker hears of a reply, where the status does not say it.
    pub rules: verdict::Rules,
    /// How it is asked for its health; `None`: it is not.
    pub health: Option<Health>,
    /// What stands in when it has no answer.
    pub fallback: Fallback,
}

/// `[services.NAME.health]`
#[derive(Debug, Clone)]
pub struct Health {
    /// The service's scheme, host and port, then `path`.
    pub uri: http::Uri,
    /// From one question to the next.
    pub interval: Duration,
    /// The longest that an answer may take, at most the service's own `timeout`.
    pub timeout: Duration,
    /// Whether health checks, and not calls, are what goes while its breaker is half-open.
    pub probe: bool,
}

/// Where and how a service is called.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// Scheme, host and port, then `path`: `http://127.0.0.1:8003/notify`.
    pub uri: http::Uri,
    /// The method, `POST` unless said otherwise.
    pub method: http::Method,
    /// Headers sent with each call; a value may be a secret.
    pub headers: Vec<(http::HeaderName, SecretString)>,
    /// A CA certificate to trust instead of the system's (PEM).
    pub ca: Option<PathBuf>,
    /// A client certificate to show.
    pub identity: Option<Identity>,
}

/// `[services.NAME.fallback]`
#[derive(Debug, Clone)]
pub enum Fallback {
    /// The last good answer for the same key, else `default`.
    Cached {
        /// What answers are kept by: an expression over the event that gives a string.
        key: Template,
        /// How long an answer stays good.
        ttl: Duration,
        /// How many are kept.
        max_entries: NonZeroUsize,
        /// What stands in when none is kept.
        default: serde_json::Map<String, serde_json::Value>,
    },
    /// A body.
    Default {
        /// What stands in.
        body: serde_json::Map<String, serde_json::Value>,
    },
    /// The call is parked, and made when the service is back.
    Park(Retry),
    /// The stage is left out.
    Skip,
    /// The event ends with an error.
    Fail,
}

/// `[services.NAME.retry]`, for a service whose fallback is `park`.
#[derive(Debug, Clone)]
pub struct Retry {
    /// Where its calls are parked.
    pub topic: Topic,
    /// Calls made before one is given up, the live one included.
    pub max_attempts: NonZeroU32,
    /// The longest a call is kept.
    pub max_age: Duration,
    /// The first delay's bound; doubled with each attempt.
    pub initial: Duration,
    /// The longest delay.
    pub max: Duration,
    /// How many of the service's `concurrency` places draining may use.
    pub drain_concurrency: NonZeroUsize,
    /// What is kept in order.
    pub order: RetryOrder,
}

impl Retry {
    /// Whether the calls of one key are kept in order.
    pub fn keeps_order(&self) -> bool {
        self.order == RetryOrder::Key
    }
}

/// What is kept in order of a service's calls, parked ones among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryOrder {
    /// Nothing.
    None,
    /// The calls of one key.
    Key,
}

/// `[[pipeline]]`
#[derive(Debug, Clone)]
pub struct Stage {
    /// The service it calls: an index into [`Config::services`].
    pub service: usize,
    /// Run only if this holds.
    pub when: Option<Condition>,
    /// The request; `None`: `{"event": …, "results": …}`.
    pub body: Option<Template>,
}

/// `[shutdown]`
#[derive(Debug, Clone)]
pub struct Shutdown {
    /// How long what is in flight may take to finish or park.
    pub timeout: Duration,
}

/// `[telemetry]`
#[derive(Debug, Clone)]
pub struct Telemetry {
    /// A filter in `tracing`'s syntax: `info`, `fusebox=debug,rdkafka=warn`.
    pub log: String,
    /// How lines look.
    pub format: LogFormat,
    /// Where judged calls are recorded, if they are.
    pub record_calls: Option<PathBuf>,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines: one JSON object a line.
    Json,
}

impl Config {
    /// The service a stage calls.
    pub fn service_of(&self, stage: &Stage) -> &Service {
        &self.services[stage.service]
    }

    /// Every service that parks, with its retry settings.
    pub fn parking(&self) -> impl Iterator<Item = (&Service, &Retry)> {
        self.parking_by_index().map(|(_, service, retry)| (service, retry))
    }

    /// The same, each with its place among all services.
    pub fn parking_by_index(&self) -> impl Iterator<Item = (usize, &Service, &Retry)> {
        self.services.iter().enumerate().filter_map(|(index, service)| match &service.fallback {
            Fallback::Park(retry) => Some((index, service, retry)),
            Fallback::Cached { .. } | Fallback::Default { .. } | Fallback::Skip | Fallback::Fail => None,
        })
    }
}
