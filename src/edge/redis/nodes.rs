//! A cluster: a link to each of its nodes, and which of them has which slots.
//!
//! Guarantees:
//! - A command goes to the node of its key. `MOVED` is followed and remembered, `ASK` is followed, a few times; what the nodes say of the slots is
//!   read anew with each connection, after each failure, and a second after each slot that has moved, from whichever node answers. A node without
//!   slots is let go.
//! - A node that is away, or silent, is so for its own services alone: each has a link of its own, with the guarantees of [`super::link`].
//! - A script that a node does not know is sent to that node, and not to all: one of them may be away.
//!
//! The client's own connection to a cluster does not give the second: while it looks for one node, it keeps the commands of all waiting.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::aio::PubSub;
use redis::cluster_routing::Slot;
use redis::{
    Arg, Client, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, RedisError, RedisResult, ServerErrorKind, TlsCertificates, Value,
};

use super::link::{Link, attempt_bound};
use super::servers::{Servers, first_answer, one};

/// How often one command is sent, at most: to the node that was thought to have its slot, to the one that has it, and a few times while it moves.
const SENT: usize = 6;

/// How long to wait for the rest of a service's keys, which are moved one after the other.
const MOVING: Duration = Duration::from_millis(20);

/// How long after a slot has moved all are read anew: others move with it.
const SETTLED: Duration = Duration::from_secs(1);

/// Where a node listens.
type Address = (String, u16);

/// A cluster.
pub(super) struct Cluster {
    /// Some of its nodes. Where the first is, and the credentials for all, are in it.
    seeds: Vec<ConnectionInfo>,
    certificates: Option<TlsCertificates>,
    /// How long a command may take.
    timeout: Duration,
    /// The one that answered last is asked first.
    first: AtomicUsize,
    known: Mutex<Known>,
    /// How many nodes have been known so far.
    numbered: AtomicUsize,
    /// Whether the slots are about to be read anew.
    refreshing: AtomicBool,
}

/// What the nodes have said.
#[derive(Default)]
struct Known {
    nodes: Vec<Arc<Node>>,
    slots: HashMap<Slot, Arc<Node>>,
}

struct Node {
    number: usize,
    address: Address,
    link: Link,
}

/// A connection to all nodes; clones share it.
#[derive(Clone)]
pub(super) struct Nodes {
    cluster: Arc<Cluster>,
    /// The node that was asked last: a command without a key goes where the one before it went.
    last: Option<Arc<Node>>,
}

impl Cluster {
    /// The cluster that some nodes belong to.
    pub(super) fn new(seeds: Vec<ConnectionInfo>, certificates: Option<TlsCertificates>, timeout: Duration) -> Self {
        Self {
            seeds,
            certificates,
            timeout,
            first: AtomicUsize::new(0),
            known: Mutex::default(),
            numbered: AtomicUsize::new(0),
            refreshing: AtomicBool::new(false),
        }
    }

    /// Reads which node has which slots.
    pub(super) async fn connect(self: Arc<Self>, timeout: Duration) -> RedisResult<Nodes> {
        let addresses = self.addresses();
        let ask = async |place: usize| {
            let address: &Address = &addresses[place];
            let mut connection = one(&self.client(address)?).await?;
            let ranges: Ranges = redis::cmd("CLUSTER").arg("SLOTS").query_async(&mut connection).await?;
            // One that has left the cluster knows of none.
            if ranges.0.is_empty() { Err(no_node()) } else { Ok((address.0.clone(), ranges)) }
        };
        let (host, ranges) = first_answer(addresses.len(), &self.first, timeout, ask).await?;
        self.learn(&host, ranges)?;
        Ok(Nodes { cluster: Arc::clone(&self), last: None })
    }

    /// A subscription on whichever node gives it: what is published on one is heard on all.
    pub(super) async fn subscribe(&self, channel: &str, timeout: Duration) -> RedisResult<PubSub> {
        let addresses = self.addresses();
        let ask = async |place: usize| {
            let mut subscription = self.client(&addresses[place])?.get_async_pubsub().await?;
            subscription.subscribe(channel).await?;
            Ok(subscription)
        };
        first_answer(addresses.len(), &self.first, timeout, ask).await
    }

    /// Has the slots read anew, in a moment.
    fn refresh(self: &Arc<Self>) {
        if self.refreshing.swap(true, Ordering::Relaxed) {
            return;
        }
        let cluster = Arc::clone(self);
        tokio::spawn(async move {
            tokio::time::sleep(SETTLED).await;
            let bound = attempt_bound(cluster.timeout);
            // What is not read now is read when something fails for it.
            drop(tokio::time::timeout(bound, Arc::clone(&cluster).connect(bound)).await);
            cluster.refreshing.store(false, Ordering::Relaxed);
        });
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where any node may be found; never empty.
    fn addresses(&self) -> Vec<Address> {
        let mut addresses: Vec<_> = self.seeds.iter().filter_map(|seed| address(seed.addr())).collect();
        for node in &self.known().nodes {
            if !addresses.contains(&node.address) {
                addresses.push(node.address.clone());
            }
        }
        addresses
    }

    fn client(&self, (host, port): &Address) -> RedisResult<Client> {
        let (seed, host, port) = (self.seeds[0].clone(), host.clone(), *port);
        match &self.certificates {
            None => Client::open(seed.set_addr(ConnectionAddr::Tcp(host, port))),
            Some(certificates) => {
                let there = ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None };
                Client::build_with_tls(seed.set_addr(there), certificates.clone())
            }
        }
    }

    /// Takes up what the node at `host` says of the slots. Nodes that it does not name are forgotten.
    fn learn(&self, host: &str, ranges: Ranges) -> RedisResult<()> {
        let mut known = self.known();
        let mut now = Known::default();
        for (first, last, (there, port)) in ranges.0 {
            let address = (if there.is_empty() { host.to_owned() } else { there }, port);
            let node = match now.nodes.iter().chain(&known.nodes).find(|node| node.address == address) {
                Some(node) => Arc::clone(node),
                None => self.node(address)?,
            };
            if !now.nodes.iter().any(|one| Arc::ptr_eq(one, &node)) {
                now.nodes.push(Arc::clone(&node));
            }
            now.slots.extend((first..=last).filter_map(Slot::new).map(|slot| (slot, Arc::clone(&node))));
        }
        *known = now;
        Ok(())
    }

    fn node(&self, address: Address) -> RedisResult<Arc<Node>> {
        let servers = Servers::One(Box::new(self.client(&address)?));
        let number = self.numbered.fetch_add(1, Ordering::Relaxed);
        Ok(Arc::new(Node { number, address, link: Link::new(servers, self.timeout) }))
    }

    fn node_of(&self, slot: Slot) -> RedisResult<Arc<Node>> {
        self.known().slots.get(&slot).cloned().ok_or_else(no_node)
    }

    /// Which node a key is thought to lie on; `None` while none is known to have its slot.
    pub(super) fn number_of(&self, key: &str) -> Option<usize> {
        self.known().slots.get(&Slot::for_key(key.as_bytes())).map(|node| node.number)
    }

    /// Where a node sends on to, and whether for good.
    fn other(&self, from: &Node, error: &RedisError) -> RedisResult<Arc<Node>> {
        let unreadable = || RedisError::from((ErrorKind::Parse, "a redirection that cannot be read"));
        let (there, slot) = error.redirect_node().ok_or_else(unreadable)?;
        let (host, port) = there.rsplit_once(':').ok_or_else(unreadable)?;
        let host = if host.is_empty() { from.address.0.clone() } else { host.to_owned() };
        let address = (host, port.parse().map_err(|_| unreadable())?);
        let mut known = self.known();
        let found = known.nodes.iter().find(|node| node.address == address).cloned();
        let node = match found {
            Some(node) => node,
            None => {
                let node = self.node(address)?;
                known.nodes.push(Arc::clone(&node));
                node
            }
        };
        if let (ErrorKind::Server(ServerErrorKind::Moved), Some(slot)) = (error.kind(), Slot::new(slot)) {
            known.slots.insert(slot, Arc::clone(&node));
        }
        Ok(node)
    }
}

impl Nodes {
    /// Sends a command to where its key is.
    pub(super) async fn ask(&mut self, cmd: &Cmd) -> RedisResult<Value> {
        let mut node = match (key(cmd), &self.last) {
            (None, Some(last)) => Arc::clone(last),
            (key, _) => self.cluster.node_of(Slot::for_key(key.unwrap_or_default()))?,
        };
        let mut asking = false;
        let mut sent = 0;
        loop {
            self.last = Some(Arc::clone(&node));
            let error = match node.link.ask(cmd, asking).await {
                Err(error) if sent < SENT => error,
                answer => return answer,
            };
            sent += 1;
            match error.kind() {
                ErrorKind::Server(ServerErrorKind::Moved) => {
                    (node, asking) = (self.cluster.other(&node, &error)?, false);
                    self.cluster.refresh();
                }
                ErrorKind::Server(ServerErrorKind::Ask) => (node, asking) = (self.cluster.other(&node, &error)?, true),
                ErrorKind::Server(ServerErrorKind::TryAgain) => tokio::time::sleep(MOVING).await,
                _ => return Err(error),
            }
        }
    }
}

/// `CLUSTER SLOTS`: ranges, each with its master.
struct Ranges(Vec<(u16, u16, Address)>);

impl redis::FromRedisValue for Ranges {
    fn from_redis_value(value: Value) -> Result<Self, redis::ParsingError> {
        let ranges: Vec<Vec<Value>> = redis::from_redis_value(value)?;
        let range = |range: Vec<Value>| {
            let mut range = range.into_iter();
            let mut next = || range.next().ok_or_else(|| redis::ParsingError::from("a range of slots lacks something"));
            let (first, last) = (redis::from_redis_value(next()?)?, redis::from_redis_value(next()?)?);
            let master: Vec<Value> = redis::from_redis_value(next()?)?;
            let mut master = master.into_iter();
            let (Some(host), Some(port)) = (master.next(), master.next()) else { return Err("a node is without a port".into()) };
            let (host, port) = (redis::from_redis_value::<Option<String>>(host)?, redis::from_redis_value(port)?);
            Ok((first, last, (host.unwrap_or_default(), port)))
        };
        ranges.into_iter().map(range).collect::<Result<_, _>>().map(Self)
    }
}

fn no_node() -> RedisError {
    (ErrorKind::ClusterConnectionNotFound, "no node has the slot").into()
}

fn address(addr: &ConnectionAddr) -> Option<Address> {
    match addr {
        ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => Some((host.clone(), *port)),
        _ => None,
    }
}

/// A command's first key.
fn key(cmd: &Cmd) -> Option<&[u8]> {
    let word = |place: usize| match cmd.args_iter().nth(place) {
        Some(Arg::Simple(word)) => Some(word),
        _ => None,
    };
    match word(0)? {
        b"EVALSHA" | b"EVAL" => word(3),
        b"SCRIPT" | b"PING" => None,
        _ => word(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_goes_by_its_first_key() {
        let command = |words: &[&str]| {
            let mut command = redis::cmd(words[0]);
            command.arg(&words[1..]);
            command
        };
        for (words, expect) in [
            (&["EVALSHA", "0123", "2", "p:{rag}:breaker", "p:{rag}:history", "7"][..], Some("p:{rag}:breaker")),
            (&["XREVRANGE", "p:{rag}:history", "+", "-"], Some("p:{rag}:history")),
            (&["ZREM", "p:{rag}:probes", "a:1"], Some("p:{rag}:probes")),
            (&["SCRIPT", "LOAD", "return 1"], None),
            (&["PING"], None),
        ] {
            assert_eq!(key(&command(words)), expect.map(str::as_bytes), "{words:?}");
        }
    }

    #[test]
    fn the_slots_are_read_with_their_masters() {
        let read = |answer: &str| {
            let value = redis::parse_redis_value(answer.as_bytes()).expect("in the protocol's form");
            redis::from_redis_value::<Ranges>(value).map(|ranges| ranges.0).ok()
        };
        let node = "*2\r\n$1\r\na\r\n:7001\r\n";
        let replica = "*4\r\n$1\r\nb\r\n:7002\r\n$2\r\nid\r\n*0\r\n";
        let unnamed = "*4\r\n$-1\r\n:7003\r\n$2\r\nid\r\n*0\r\n";
        let answer = format!("*2\r\n*4\r\n:0\r\n:99\r\n{node}{replica}*3\r\n:100\r\n:16383\r\n{unnamed}");
        assert_eq!(read(&answer), Some(vec![(0, 99, ("a".into(), 7_001)), (100, 16_383, (String::new(), 7_003))]));
        for damaged in ["+OK\r\n", "*1\r\n*2\r\n:0\r\n:99\r\n", "*1\r\n*3\r\n:0\r\n:99\r\n*1\r\n$1\r\na\r\n", "*1\r\n*1\r\n$1\r\nx\r\n"] {
            assert_eq!(read(damaged), None, "{damaged}");
        }
    }
}
