//! Everything that one test's instances live in.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use fusebox::edge::api::digest;
use fusebox::edge::embedded::stub::{Entry, Options, Stub, Stubs, USUAL};
use serde_json::Value;
use tempfile::TempDir;
use uuid::Uuid;

use super::event::Event;
use super::instance::Instance;
use super::kafka::{self, Committed, Message};
use super::redis::Store;
use super::{Permit, RUNTIME, eventually, server, until};

/// Requests that a stub remembers: more than any test makes.
const JOURNAL: usize = 400_000;

/// What a world is to be like.
#[derive(Debug)]
pub struct Builder {
    name: String,
    partitions: u32,
    config: String,
    brokers: Option<String>,
    redis: Option<String>,
    migrates: bool,
}

/// Topics, a group, a Redis prefix, stubs of the four services, config files, tokens.
pub struct World {
    /// The input topic.
    pub events: String,
    /// Outcomes.
    pub outcomes: String,
    /// Dead letters.
    pub dead_letters: String,
    /// The notifier's parked calls.
    pub retries: String,
    /// The group of the events; with `.retry` behind it, that of the parked calls.
    pub group: String,
    /// A token of role operator.
    pub operator: String,
    /// A token of role viewer.
    pub viewer: String,
    stubs: Stubs,
    redis: Store,
    directory: TempDir,
    instances: AtomicUsize,
    _permit: Permit,
}

/// What a command did.
#[derive(Debug)]
pub struct Ran {
    /// Its exit code.
    pub code: i32,
    /// What it wrote to standard output.
    pub out: String,
    /// What it wrote to standard error.
    pub err: String,
}

impl Ran {
    /// Its standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))
    }

    /// Checks its exit code.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:?}");
        self
    }
}

/// A loopback port that nobody listens on, below those that outgoing connections are given. It may be taken by somebody else at once.
pub fn free_port() -> u16 {
    eventually("a free port", || {
        let port = rand::random_range(10_240..32_768);
        TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok().then_some(port)
    })
}

/// The binary, deaf to what this process's environment says of its config.
pub(super) fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fusebox"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("FUSEBOX_") {
            command.env_remove(name);
        }
    }
    command
}

/// Runs a command of the binary to its end.
pub fn fusebox(arguments: &[&str], input: &str) -> Ran {
    let child = command().args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.expect("the binary starts");
    // A command that does not read its input closes it.
    drop(child.stdin.take().expect("a pipe").write_all(input.as_bytes()));
    let output = child.wait_with_output().expect("it ends");
    Ran {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

impl Builder {
    /// Partitions of each topic; 3 unless said.
    pub fn partitions(mut self, partitions: u32) -> Self {
        self.partitions = partitions;
        self
    }

    /// Config, TOML, over that of the harness; several times adds up.
    pub fn config(mut self, toml: &str) -> Self {
        let _ = writeln!(self.config, "{toml}");
        self
    }

    /// Another Kafka's address for the instances; the topics are not created.
    pub fn brokers(mut self, brokers: &str) -> Self {
        self.brokers = Some(brokers.to_owned());
        self.without_topics()
    }

    /// Another Redis.
    pub fn redis(mut self, url: &str) -> Self {
        self.redis = Some(url.to_owned());
        self
    }

    /// `fusebox migrate` is left to the test.
    pub fn without_topics(mut self) -> Self {
        self.migrates = false;
        self
    }

    /// Makes it: starts the stubs, writes the config, runs `fusebox migrate`.
    pub fn start(self) -> World {
        let permit = Permit::take();
        let id = format!("it-{}-{}", self.name, &Uuid::new_v4().simple().to_string()[..12]);
        let addresses = USUAL.map(|(service, _)| (service, (Ipv4Addr::LOCALHOST, 0).into()));
        let stubs = RUNTIME.block_on(Stubs::start(addresses, &Options { journal_entries: JOURNAL, seed: 0 })).expect("free ports");
        let redis_url = self.redis.clone().unwrap_or_else(|| server("REDIS_URL"));
        let world = World {
            events: format!("{id}.events"),
            outcomes: format!("{id}.outcomes"),
            dead_letters: format!("{id}.dead-letters"),
            retries: format!("{id}.notifications.retry"),
            group: id.clone(),
            operator: format!("fbx_operator_{}", Uuid::new_v4().simple()),
            viewer: format!("fbx_viewer_{}", Uuid::new_v4().simple()),
            stubs,
            redis: Store::new(&redis_url, &id),
            directory: TempDir::new().expect("a directory"),
            instances: AtomicUsize::new(0),
            _permit: permit,
        };
        std::fs::write(world.directory.path().join("harness.toml"), self.base(&world, &redis_url)).expect("written");
        std::fs::write(world.directory.path().join("test.toml"), &self.config).expect("written");
        if self.migrates {
            // The store may be away on purpose; what it must hold is then left to the test.
            let arguments: &[&str] = if self.redis.is_some() { &["migrate", "--set", "redis.url="] } else { &["migrate"] };
            world.cli(arguments).exits(0);
            until("Kafka has the topics", || world.topics().iter().all(|topic| kafka::partitions(topic) > 0));
        }
        world
    }

    /// Like the shipped config, but that everything which takes its time takes less.
    fn base(&self, world: &World, redis_url: &str) -> String {
        let hex = |token: &str| digest(token).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let brokers = self.brokers.clone().unwrap_or_else(|| server("KAFKA_BROKERS"));
        let World { events, outcomes, dead_letters, retries, group, operator, viewer, .. } = world;
        let partitions = self.partitions;
        // The newer protocol has the broker decide, and a property that is set in one file cannot be taken away in the next.
        let is_newer = self.config.contains("\"group.protocol\" = \"consumer\"");
        let session = if is_newer { "" } else { "\"session.timeout.ms\" = \"10000\"" };
        let mut toml = format!(
            r#"
[kafka]
brokers = "{brokers}"
group = "{group}"
properties = {{ {session} }}
[topics]
events = "{events}"
outcomes = "{outcomes}"
dead_letters = "{dead_letters}"
orders = "{group}.orders"
partitions = {partitions}
[redis]
url = "{redis_url}"
prefix = "{group}"
poll_interval = "250ms"
[processing]
commit_interval = "100ms"
[shutdown]
timeout = "10s"
[telemetry]
format = "text"
[services.notifier.retry]
topic = "{retries}"
initial = "100ms"
max = "1s"
[[http.tokens]]
name = "ops"
role = "operator"
sha256 = "{}"
[[http.tokens]]
name = "eyes"
role = "viewer"
sha256 = "{}"
"#,
            hex(operator),
            hex(viewer),
        );
        for stub in world.stubs.iter() {
            let (service, url) = (stub.service(), stub.url());
            let _ = write!(toml, "[services.{service}]\nurl = \"{url}\"\ntimeout = \"5s\"\nbreaker.recovery_timeout = \"1s\"\n");
        }
        toml
    }
}

impl World {
    /// A world for the test of this name, which its topics carry.
    #[expect(clippy::new_ret_no_self, reason = "a test reads: a new world, with this and that, started")]
    pub fn new(name: &str) -> Builder {
        Builder { name: name.to_owned(), partitions: 3, config: String::new(), brokers: None, redis: None, migrates: true }
    }

    /// The flags that name this world's config.
    pub fn config_flags(&self) -> Vec<String> {
        let file = |name: &str| ["--config".to_owned(), self.path(name).to_string_lossy().into_owned()];
        [file("harness.toml"), file("test.toml")].concat()
    }

    /// A path in a directory of this world's own.
    pub fn path(&self, name: &str) -> std::path::PathBuf {
        Path::new(self.directory.path()).join(name)
    }

    /// Runs a command of the binary with this world's config.
    pub fn cli(&self, arguments: &[&str]) -> Ran {
        self.cli_with_input(arguments, "")
    }

    /// The same, with something on standard input.
    pub fn cli_with_input(&self, arguments: &[&str], input: &str) -> Ran {
        let flags = self.config_flags();
        // In front, so that what a test names beside them comes later, and wins.
        let all: Vec<&str> = flags.iter().map(String::as_str).chain(arguments.iter().copied()).collect();
        fusebox(&all, input)
    }

    /// Starts a command of the binary with this world's config, and leaves it to the test.
    pub fn start(&self, arguments: &[&str]) -> std::process::Child {
        let started =
            command().args(self.config_flags()).args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        started.expect("the binary starts")
    }

    /// Starts an instance and waits until it is ready.
    pub fn run(&self) -> Instance {
        let instance = self.spawn(&[]);
        instance.wait_ready();
        instance
    }

    /// Starts an instance, with flags beside those of the config, and waits until its API answers.
    pub fn spawn(&self, flags: &[&str]) -> Instance {
        let number = self.instances.fetch_add(1, Ordering::Relaxed);
        let mut arguments = self.config_flags();
        arguments.extend(flags.iter().map(|&flag| flag.to_owned()));
        Instance::spawn(&arguments, self.path(&format!("instance-{number}.log")), self.operator.clone())
    }

    /// A service's stub.
    #[track_caller]
    pub fn stub(&self, service: &str) -> &Stub {
        self.stubs.get(service).unwrap_or_else(|| panic!("no stub of {service}"))
    }

    /// What a service was asked, in order.
    #[track_caller]
    pub fn calls(&self, service: &str) -> Vec<Entry> {
        self.stub(service).journal()
    }

    /// How often a service was asked.
    #[track_caller]
    pub fn call_count(&self, service: &str) -> usize {
        usize::try_from(self.stub(service).counts().requests).expect("few")
    }

    /// What the fleet keeps in Redis.
    pub fn redis(&self) -> &Store {
        &self.redis
    }

    /// Publishes events to the input topic; gives each one's partition and offset.
    pub fn publish(&self, events: &[Event]) -> Vec<(i32, i64)> {
        kafka::publish(&self.events, events)
    }

    /// Publishes records to another topic.
    pub fn publish_to(&self, topic: &str, records: &[Event]) -> Vec<(i32, i64)> {
        kafka::publish(topic, records)
    }

    /// Gives a topic these settings, and of all others the brokers' own.
    pub fn set(&self, topic: &str, settings: &[(&str, &str)]) {
        kafka::set(topic, settings);
    }

    /// Deletes a topic, and waits until it is gone.
    pub fn delete(&self, topic: &str) {
        kafka::delete(&[topic]);
        until("the topic is gone", || kafka::partitions(topic) == 0);
    }

    /// Waits until a topic has this many records that are committed, and gives all that there are: what transactions leave behind is not counted.
    #[track_caller]
    pub fn wait_to_read(&self, topic: &str, at_least: usize) -> Vec<Message> {
        eventually(&format!("{at_least} records on {topic}"), || Some(kafka::read(topic)).filter(|all| all.len() >= at_least))
    }

    /// Publishes one event and waits for its outcome.
    #[track_caller]
    pub fn outcome_of(&self, event: &Event) -> Value {
        let before = kafka::count(&self.outcomes);
        self.publish(std::slice::from_ref(event));
        let outcomes = self.outcomes(before + 1);
        let found = outcomes.iter().map(Message::json).find(|outcome| outcome["event_id"] == *event.id);
        found.unwrap_or_else(|| panic!("no outcome of {}", event.id))
    }

    /// Waits for this many outcomes, and gives all that there are.
    #[track_caller]
    pub fn outcomes(&self, at_least: usize) -> Vec<Message> {
        self.wait_for(&self.outcomes, at_least)
    }

    /// Waits until a topic has this many records, and gives all that there are.
    #[track_caller]
    pub fn wait_for(&self, topic: &str, at_least: usize) -> Vec<Message> {
        until(&format!("{at_least} records on {topic}"), || kafka::count(topic) >= at_least);
        kafka::read(topic)
    }

    /// Every record of a topic.
    pub fn read(&self, topic: &str) -> Vec<Message> {
        kafka::read(topic)
    }

    /// How many partitions a topic has; 0: it is not there.
    pub fn partitions_of(&self, topic: &str) -> i32 {
        kafka::partitions(topic)
    }

    /// How many records a topic holds.
    pub fn count(&self, topic: &str) -> usize {
        kafka::count(topic)
    }

    /// What the group has committed of the events, by partition.
    pub fn committed(&self) -> BTreeMap<i32, Committed> {
        kafka::committed(&self.group, &self.events)
    }

    /// Whether the group has committed all events, and that of the parked calls all of those.
    pub fn is_committed(&self) -> bool {
        [(self.group.clone(), &self.events), (format!("{}.retry", self.group), &self.retries)].iter().all(|(group, topic)| {
            let committed = kafka::committed(group, topic);
            kafka::ends(topic).iter().all(|(partition, end)| committed[partition].offset.unwrap_or(0) == *end)
        })
    }

    /// How many records of parked calls lie above what their group has committed.
    pub fn retries_left(&self) -> usize {
        let committed = kafka::committed(&format!("{}.retry", self.group), &self.retries);
        let left = kafka::ends(&self.retries).into_iter().map(|(partition, end)| end - committed[&partition].offset.unwrap_or(0));
        usize::try_from(left.sum::<i64>()).expect("a number of records")
    }

    /// How many partitions of the parked calls each instance has, fewest first; nothing while they are being shared out.
    pub fn drain_shares(&self) -> Vec<usize> {
        let mut shares = kafka::shares(&format!("{}.retry", self.group));
        shares.sort_unstable();
        shares
    }

    /// Waits until everything is committed.
    #[track_caller]
    pub fn wait_for_commits(&self) {
        until("everything is committed", || self.is_committed());
    }

    /// The names of its topics.
    pub fn topics(&self) -> [&str; 4] {
        [&self.events, &self.outcomes, &self.dead_letters, &self.retries]
    }
}

impl Drop for World {
    fn drop(&mut self) {
        kafka::delete(&self.topics());
        kafka::delete(&[&format!("{}.orders", self.group)]);
        self.redis.clear();
    }
}
