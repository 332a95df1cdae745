//! The failures: how each begins, how it ends, and what an instance says of it meanwhile.

use std::time::Duration;

use super::proxy::Proxy;
use crate::harness::{RedisServer, until};

/// What [`super::course`] sets as `redis.timeout`, ms.
pub const TIMEOUT_MS: i64 = 1_500;
/// The same.
pub const TIMEOUT: Duration = Duration::from_millis(1_500);

/// A way in which Redis fails.
pub struct Failure {
    /// Its name.
    pub name: &'static str,
    /// Begins it.
    pub strike: fn(&mut Rig),
    /// Ends it.
    pub mend: fn(&mut Rig),
    /// What is seen of it.
    pub seen: Seen,
}

/// What an instance says of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// Nothing: it lasts shorter than a question, or is overcome at once.
    Nothing,
    /// At most that it is away and there again: a command was under way, or it was not.
    Briefly,
    /// That the store is away; one of these is the reason.
    Away(&'static [&'static str]),
}

/// A Redis that can be made to fail, and what is needed for it.
pub struct Rig {
    server: RedisServer,
    /// What the instances have in its place.
    pub proxy: Proxy,
    other: RedisServer,
    /// Open from before a failure, for those that let nobody in.
    admin: Option<redis::Connection>,
}

impl Rig {
    /// A Redis that runs, empty.
    pub fn start() -> Self {
        let mut server = RedisServer::down();
        server.start();
        let proxy = Proxy::to(server.port());
        let mut rig = Self { server, proxy, other: RedisServer::down(), admin: None };
        rig.enter();
        rig
    }

    /// The server's own URL.
    pub fn url(&self) -> String {
        self.server.url()
    }

    fn enter(&mut self) {
        self.admin = Some(connection(&self.server));
    }

    /// Ends every connection but the one that asks.
    fn kill_connections(&mut self) {
        self.ask("CLIENT KILL TYPE normal");
        self.ask("CLIENT KILL TYPE pubsub");
    }

    /// A command, its words apart by a space.
    pub fn ask(&mut self, command: &str) {
        let mut words = command.split(' ');
        let mut query = redis::cmd(words.next().expect("a word"));
        for word in words {
            query.arg(word);
        }
        query.exec(self.admin.as_mut().expect("entered")).unwrap_or_else(|error| panic!("{command}: {error}"));
    }

    /// A command whose answer comes late, or never.
    fn ask_aside(&self, command: &'static [&'static str]) {
        let mut connection = connection(&self.server);
        std::thread::spawn(move || drop(redis::cmd(command[0]).arg(&command[1..]).exec(&mut connection)));
    }

    /// Kills it, and what it held with it.
    pub fn kill(&mut self) {
        self.server.kill();
    }

    /// Starts it again, with what it has saved.
    pub fn restart(&mut self) {
        self.server.start();
        self.enter();
    }
}

fn connection(server: &RedisServer) -> redis::Connection {
    redis::Client::open(server.url()).and_then(|client| client.get_connection()).expect("it answers")
}

const LATE: &[&str] = &["Redis did not answer within 1s 500ms", "Redis did not answer in time"];

/// Nobody is there.
pub const GONE: &[Failure] = &[
    Failure {
        name: "killed, and started again empty",
        strike: Rig::kill,
        mend: Rig::restart,
        seen: Seen::Away(&["Redis ended the connection", "Redis refused the connection"]),
    },
    Failure {
        name: "a password that is another now",
        strike: |rig| {
            rig.ask("CONFIG SET requirepass another");
            rig.kill_connections();
        },
        mend: |rig| rig.ask("CONFIG SET requirepass "),
        seen: Seen::Away(&["Redis ended the connection", "Redis refused the credentials"]),
    },
    Failure {
        name: "killed, and started again with what it held",
        strike: |rig| {
            rig.ask("SAVE");
            rig.kill();
        },
        mend: Rig::restart,
        seen: Seen::Away(&["Redis ended the connection", "Redis refused the connection"]),
    },
    Failure {
        name: "killed, and started again with what it held long ago",
        // What was saved in the failure before.
        strike: Rig::kill,
        mend: Rig::restart,
        seen: Seen::Away(&["Redis ended the connection", "Redis refused the connection"]),
    },
];

/// It answers, and has lost something.
pub const FORGETFUL: &[Failure] = &[
    Failure { name: "flushed", strike: |rig| rig.ask("FLUSHALL"), mend: |_| {}, seen: Seen::Nothing },
    Failure { name: "scripts flushed", strike: |rig| rig.ask("SCRIPT FLUSH"), mend: |_| {}, seen: Seen::Nothing },
    Failure { name: "connections killed", strike: Rig::kill_connections, mend: |_| {}, seen: Seen::Briefly },
    Failure {
        name: "a replica of an empty server, and back",
        strike: |rig| {
            rig.other.start();
            rig.ask(&format!("REPLICAOF 127.0.0.1 {}", rig.other.port()));
        },
        mend: |rig| {
            rig.ask("REPLICAOF NO ONE");
            rig.other.kill();
        },
        seen: Seen::Away(&["Redis is a replica and takes no writes", "Redis is still loading its data", "Redis ended the connection"]),
    },
];

/// It is there, and says nothing, or late.
pub const SILENT: &[Failure] = &[
    Failure { name: "frozen", strike: |rig| rig.server.signal("STOP"), mend: |rig| rig.server.signal("CONT"), seen: Seen::Away(LATE) },
    Failure {
        name: "slow, and within the timeout",
        // An answer takes twice that, and a script that Redis has not seen yet three answers.
        strike: |rig| rig.proxy.delay(TIMEOUT / 10),
        mend: |rig| rig.proxy.pass(),
        seen: Seen::Nothing,
    },
    Failure {
        name: "slower than the timeout",
        strike: |rig| rig.proxy.delay(2 * TIMEOUT),
        mend: |rig| rig.proxy.pass(),
        seen: Seen::Away(LATE),
    },
    Failure {
        name: "a network that swallows everything",
        strike: |rig| rig.proxy.swallow(),
        mend: |rig| rig.proxy.pass(),
        seen: Seen::Away(LATE),
    },
    Failure {
        name: "writes paused",
        strike: |rig| rig.ask("CLIENT PAUSE 60000 WRITE"),
        mend: |rig| rig.ask("CLIENT UNPAUSE"),
        seen: Seen::Away(LATE),
    },
];

/// It answers, and does not do what it is asked.
pub const REFUSING: &[Failure] = &[
    Failure {
        name: "out of memory",
        strike: |rig| {
            rig.ask("CONFIG SET maxmemory-policy noeviction");
            rig.ask("CONFIG SET maxmemory 1mb");
        },
        mend: |rig| rig.ask("CONFIG SET maxmemory 0"),
        seen: Seen::Away(&["Redis is out of memory and takes no writes"]),
    },
    Failure {
        name: "full of clients",
        strike: |rig| {
            rig.ask("CONFIG SET maxclients 1");
            rig.kill_connections();
        },
        mend: |rig| rig.ask("CONFIG SET maxclients 1000"),
        seen: Seen::Away(&["Redis ended the connection", "Redis has no room for another client"]),
    },
    Failure {
        name: "a right is taken away",
        strike: |rig| rig.ask("ACL SETUSER default -hset -xadd"),
        mend: |rig| rig.ask("ACL SETUSER default +@all"),
        seen: Seen::Away(&["the Redis user may not do this (NOPERM)"]),
    },
    Failure {
        name: "short of replicas",
        strike: |rig| rig.ask("CONFIG SET min-replicas-to-write 1"),
        mend: |rig| rig.ask("CONFIG SET min-replicas-to-write 0"),
        seen: Seen::Away(&["Redis has too few replicas and takes no writes"]),
    },
    Failure {
        name: "a replica of a dead server",
        strike: |rig| rig.ask("REPLICAOF 127.0.0.1 1"),
        mend: |rig| rig.ask("REPLICAOF NO ONE"),
        seen: Seen::Away(&["Redis is a replica and takes no writes"]),
    },
    Failure {
        name: "busy with a script",
        strike: |rig| {
            rig.ask("CONFIG SET busy-reply-threshold 50");
            rig.ask_aside(&["EVAL", "while true do end", "0"]);
        },
        mend: |rig| rig.ask("SCRIPT KILL"),
        seen: Seen::Away(&["Redis is busy with a script", "Redis did not answer within 1s 500ms"]),
    },
    Failure {
        name: "loading its data",
        strike: |rig| {
            rig.ask("CONFIG SET key-load-delay 1000000");
            rig.ask("CONFIG SET loading-process-events-interval-bytes 1024");
            rig.ask_aside(&["DEBUG", "RELOAD"]);
        },
        // It ends by itself, after a second for each key.
        mend: |rig| {
            let url = rig.server.url();
            until("it has loaded", || {
                let client = redis::Client::open(url.as_str()).expect("a URL");
                client.get_connection().and_then(|mut connection| redis::cmd("PING").exec(&mut connection)).is_ok()
            });
        },
        seen: Seen::Away(&["Redis is still loading its data", "Redis did not answer within 1s 500ms"]),
    },
];
