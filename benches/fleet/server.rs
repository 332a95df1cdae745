//! Redis: what it has run so far, and one of the bench's own that may be frozen and killed.

use std::collections::BTreeMap;
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Where the Redis is that is measured.
pub fn url() -> String {
    std::env::var("REDIS_URL").expect("REDIS_URL is not set: run this under `scripts/services exec --`")
}

/// A Redis that is asked what it has done.
pub struct Onlooker(redis::Connection);

/// What a Redis has done so far.
#[derive(Debug, Clone)]
pub struct Done {
    commands: BTreeMap<String, u64>,
    cpu: Duration,
}

/// What was done between two moments.
#[derive(Debug, Clone)]
pub struct Work {
    /// Commands that came from outside.
    pub commands: u64,
    /// The same, and those that scripts ran.
    pub with_inner: u64,
    /// The server's CPU time.
    pub cpu: Duration,
}

/// What comes from clients; all else are commands within scripts.
const FROM_OUTSIDE: [&str; 8] = ["evalsha", "eval", "script|load", "ping", "subscribe", "zrem", "xrevrange", "hello"];

/// What an onlooker and a connection's making ask, which is none of the sharing.
const ASIDE: [&str; 5] = ["info", "client|setinfo", "client|setname", "select", "command"];

impl Onlooker {
    pub fn of(url: &str) -> Self {
        Self(redis::Client::open(url).and_then(|client| client.get_connection()).expect("Redis is there"))
    }

    pub fn done(&mut self) -> Done {
        let mut info = |section: &str| redis::cmd("INFO").arg(section).query::<String>(&mut self.0).expect("INFO");
        let (stats, cpu) = (info("commandstats"), info("cpu"));
        let command = |line: &str| {
            let (name, figures) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
            Some((name.to_owned(), figures.split(',').next()?.parse().ok()?))
        };
        let seconds = |line: &str| line.strip_prefix("used_cpu_user:").or(line.strip_prefix("used_cpu_sys:"))?.trim().parse::<f64>().ok();
        Done { commands: stats.lines().filter_map(command).collect(), cpu: Duration::from_secs_f64(cpu.lines().filter_map(seconds).sum()) }
    }

    /// Deletes what a run has left.
    pub fn clear(&mut self, prefix: &str) {
        let keys: Vec<String> = redis::cmd("KEYS").arg(format!("{prefix}:*")).query(&mut self.0).expect("keys");
        for keys in keys.chunks(1_000) {
            let () = redis::cmd("UNLINK").arg(keys).query(&mut self.0).expect("unlinked");
        }
    }
}

impl Done {
    pub fn since(&self, before: &Self) -> Work {
        let ran = |name: &String, now: &u64| now - before.commands.get(name).unwrap_or(&0);
        let counted = self.commands.iter().filter(|(name, _)| !ASIDE.contains(&name.as_str()));
        let outside = counted.clone().filter(|(name, _)| FROM_OUTSIDE.contains(&name.as_str()));
        Work {
            commands: outside.map(|(name, now)| ran(name, now)).sum(),
            with_inner: counted.map(|(name, now)| ran(name, now)).sum(),
            cpu: self.cpu.saturating_sub(before.cpu),
        }
    }
}

/// A `redis-server` that may be frozen and killed, by its process id.
pub struct Own {
    child: Child,
    port: u16,
}

impl Own {
    pub fn start() -> Self {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port();
        let child = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            std::thread::sleep(Duration::from_millis(5));
        }
        Self { child, port }
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    pub fn freeze(&self) {
        let sent = Command::new("kill").args(["-STOP", &self.child.id().to_string()]).status();
        assert!(sent.expect("kill runs").success(), "redis-server is gone");
    }

    pub fn kill(&mut self) {
        // SIGKILL ends a frozen process too.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        self.kill();
    }
}
