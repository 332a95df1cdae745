//! Redis as an onlooker sees it, and a Redis of a test's own, which it may kill.

use std::collections::HashMap;
use std::net::{Ipv4Addr, TcpListener};
use std::process::{Child, Command, Stdio};

use redis::Commands;
use tempfile::TempDir;

use super::{eventually, free_port, until};

/// What a fleet keeps in Redis.
#[derive(Debug, Clone)]
pub struct Store {
    url: String,
    prefix: String,
}

impl Store {
    pub(super) fn new(url: &str, prefix: &str) -> Self {
        Self { url: url.to_owned(), prefix: prefix.to_owned() }
    }

    fn connection(&self) -> redis::Connection {
        redis::Client::open(self.url.as_str()).and_then(|client| client.get_connection()).expect("Redis is there")
    }

    /// A breaker's hash; empty if there is none.
    pub fn breaker(&self, service: &str) -> HashMap<String, String> {
        self.connection().hgetall(format!("{}:{{{service}}}:breaker", self.prefix)).expect("a hash")
    }

    /// A breaker's state; empty if none is stored.
    pub fn state(&self, service: &str) -> String {
        self.breaker(service).remove("state").unwrap_or_default()
    }

    /// What instances say of a service, by instance.
    pub fn window(&self, service: &str) -> HashMap<String, String> {
        self.connection().hgetall(format!("{}:{{{service}}}:window", self.prefix)).expect("a hash")
    }

    /// A breaker's transitions, oldest first.
    pub fn history(&self, service: &str) -> Vec<HashMap<String, String>> {
        let entries = |what| -> redis::streams::StreamRangeReply {
            self.connection().xrange_all(format!("{}:{{{service}}}:{what}", self.prefix)).expect("a stream")
        };
        let mut ids: Vec<_> = ["history", "alone"].into_iter().flat_map(|what| entries(what).ids).collect();
        let place = |id: &str| id.split_once('-').map(|(ms, number)| (ms.parse::<u64>().ok(), number.parse::<u64>().ok()));
        ids.sort_by_key(|entry| place(&entry.id));
        let fields = |entry: redis::streams::StreamId| {
            let text = |value| redis::from_redis_value::<String>(value).expect("text");
            entry.map.into_iter().map(|(name, value)| (name, text(value))).collect()
        };
        ids.into_iter().map(fields).collect()
    }

    /// Transitions as `from→to cause`, oldest first.
    pub fn transitions(&self, service: &str) -> Vec<String> {
        let told = |entry: &HashMap<String, String>| format!("{}→{} {}", entry["from"], entry["to"], entry["cause"]);
        self.history(service).iter().map(told).collect()
    }

    pub(super) fn clear(&self) {
        let Ok(mut connection) = redis::Client::open(self.url.as_str()).and_then(|client| client.get_connection()) else { return };
        let keys: Vec<String> =
            connection.scan_match(format!("{}:*", self.prefix)).map(|keys| keys.flatten().collect()).unwrap_or_default();
        if !keys.is_empty() {
            // What is left behind disturbs no other test: every prefix is used once.
            drop(connection.del::<_, ()>(keys));
        }
    }
}

/// A `redis-server` on a port of its own, killed by its process id. What it writes to the disk goes when it is dropped.
#[derive(Debug)]
pub struct RedisServer {
    port: u16,
    child: Option<Child>,
    directory: TempDir,
    args: Vec<String>,
}

impl RedisServer {
    /// One that does not run yet.
    pub fn down() -> Self {
        Self { port: free_port(), child: None, directory: TempDir::new().expect("a directory"), args: Vec::new() }
    }

    /// One that runs, with these arguments beside its own.
    pub fn with(args: &[&str]) -> Self {
        let mut server = Self::down();
        server.args = args.iter().map(|arg| (*arg).to_owned()).collect();
        server.start();
        server
    }

    /// A node of a cluster that runs. The nodes talk to each other on a port that is higher by ten thousand, which outgoing connections are not given.
    pub fn node(args: &[&str]) -> Self {
        let is_free = |port: u16| port < 22_768 && TcpListener::bind((Ipv4Addr::LOCALHOST, port + 10_000)).is_ok();
        let mut server = Self::down();
        server.port = eventually("two free ports", || Some(free_port()).filter(|port| is_free(*port)));
        server.args = ["--cluster-enabled", "yes"].iter().chain(args).map(|arg| (*arg).to_owned()).collect();
        server.start();
        server
    }

    /// A sentinel that runs, by this config.
    pub fn sentinel(config: &str) -> Self {
        let mut server = Self::down();
        let file = server.directory.path().join("sentinel.conf");
        std::fs::write(&file, config).expect("written");
        server.args = vec![file.to_str().expect("text").to_owned(), "--sentinel".to_owned()];
        server.start();
        server
    }

    /// What it answers; a refusal is none.
    pub fn ask(&self, command: &[&str]) -> Option<redis::Value> {
        let mut connection = redis::Client::open(self.url()).and_then(|client| client.get_connection()).ok()?;
        redis::cmd(command[0]).arg(&command[1..]).query(&mut connection).ok()
    }

    /// Waits until its answer has this in it.
    pub fn wait_to_say(&self, command: &[&str], word: &str) {
        until(&format!("{command:?} says {word}"), || self.ask(command).is_some_and(|answer| format!("{answer:?}").contains(word)));
    }

    /// Its port on the loopback.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    /// Starts it, with what it has saved if it was told to.
    pub fn start(&mut self) {
        let is_sentinel = self.args.iter().any(|arg| arg == "--sentinel");
        let of_data: &[&str] = if is_sentinel { &[] } else { &["--save", "", "--appendonly", "no"] };
        // A sentinel's first argument is its file.
        let child = Command::new("redis-server")
            .args(&self.args)
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1"])
            .args(of_data)
            .args(["--enable-debug-command", "local", "--dir"])
            .arg(self.directory.path())
            .stdout(Stdio::null())
            .spawn();
        self.child = Some(child.expect("redis-server is installed"));
        until("redis-server answers", || redis::Client::open(self.url()).and_then(|client| client.get_connection()).is_ok());
    }

    /// Sends it a signal: `STOP`, `CONT`.
    pub fn signal(&self, signal: &str) {
        let pid = self.child.as_ref().expect("it runs").id().to_string();
        assert!(Command::new("kill").args([&format!("-{signal}"), &pid]).status().expect("kill runs").success(), "it is gone");
    }

    /// Kills it, and what it held with it.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}
