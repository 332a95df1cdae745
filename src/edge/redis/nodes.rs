//! A cluster: a link to each of its nodes, and which of them has which slots.
//!
//! Guarantees:
//! - A command goes to the node of its key. `MOVED` is followed and remembered, `ASK` is followed, a few times; what the nodes say of the slots is
//!   read anew with each connection, after each failure, and a second after each slot that has moved, from whichever node answers and hears the
//!   others: one that is cut off claims what it had. What only such a node says is taken where no other says more; another is asked next, when it
//!   proves wrong. A node without slots is let go; one that is about to get some is kept for a while.
//! - A subscription stands at a node that hears the others, too, and is given up when it does so no more and another does.
//! - A node that is away, or silent, is so for its own services alone: each has a link of its own, with the guarantees of [`super::link`].
//! - A script that a node does not know is sent to that node, and not to all: one of them may be away.
//!
//! The client's own connection to a cluster does not give the second: while it looks for one node, it keeps the commands of all waiting.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::aio::{MultiplexedConnection, PubSub};
use redis::cluster_routing::Slot;
use redis::{
    Arg, Client, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, RedisError, RedisResult, ServerErrorKind, TlsCertificates, Value,
};

use super::link::{Link, attempt_bound};
use super::servers::{Answer, Servers, first_answer, one};

/// How often one command is sent, at most: to the node that was thought to have its slot, to the one that has it, and a few times while it moves.
const SENT: usize = 6;

/// How long to wait for the rest of a service's keys, which are moved one after the other.
const MOVING: Duration = Duration::from_millis(20);

/// How long after a slot has moved all are read anew: others move with it.
const SETTLED: Duration = Duration::from_secs(1);

/// How often all are read, a second apart or more, before a node is let go to which `ASK` has led and which has got no slots.
const IMPORTING: usize = 16;

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
    /// Which of the addresses said so.
    told_by: usize,
}

struct Node {
    number: usize,
    address: Address,
    link: Link,
    /// How often it is kept yet, without slots.
    importing: AtomicUsize,
}

/// Where a subscription stands: a node that is to hear the others.
pub(super) struct Stand {
    cluster: Arc<Cluster>,
    /// Beside the subscription, which can be asked nothing.
    connection: MultiplexedConnection,
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
            Ok(look(&mut connection).await?.map(|ranges| (address.0.clone(), ranges)))
        };
        let (place, (host, ranges)) = first_answer(addresses.len(), &self.first, timeout, ask).await?;
        self.learn(place, &host, ranges)?;
        Ok(Nodes { cluster: Arc::clone(&self), last: None })
    }

    /// A subscription on whichever node gives it: what is published on one is heard on all that hear each other.
    pub(super) async fn subscribe(self: Arc<Self>, channel: &str, timeout: Duration) -> RedisResult<(PubSub, Stand)> {
        let addresses = self.addresses();
        let ask = async |place: usize| {
            let client = self.client(&addresses[place])?;
            let mut connection = one(&client).await?;
            let view = look(&mut connection).await?;
            let mut subscription = client.get_async_pubsub().await?;
            subscription.subscribe(channel).await?;
            Ok(view.map(|_| (subscription, connection)))
        };
        let (_, (subscription, connection)) = first_answer(addresses.len(), &self.first, timeout, ask).await?;
        Ok((subscription, Stand { cluster: self, connection }))
    }

    /// Whether there is a node that hears the others.
    async fn is_whole_somewhere(&self, timeout: Duration) -> bool {
        let addresses = self.addresses();
        let ask = async |place: usize| {
            let mut connection = one(&self.client(&addresses[place])?).await?;
            match look(&mut connection).await? {
                Answer::Whole(_) => Ok(Answer::Whole(())),
                Answer::Poor(_) => Err(no_node()),
            }
        };
        let answer = tokio::time::timeout(timeout, first_answer(addresses.len(), &self.first, timeout, ask));
        answer.await.is_ok_and(|answer| answer.is_ok())
    }

    /// Has the slots read anew, in a moment.
    fn refresh(self: &Arc<Self>) {
        if self.refreshing.swap(true, Ordering::Relaxed) {
            return;
        }
        let cluster = Arc::clone(self);
        tokio::spawn(async move {
            tokio::time::sleep(SETTLED).await;
            // What moves from now on may not be in the answer.
            cluster.refreshing.store(false, Ordering::Relaxed);
            let bound = attempt_bound(cluster.timeout);
            // What is not read now is read when something fails for it.
            drop(tokio::time::timeout(bound, cluster.connect(bound)).await);
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

    /// Takes up what the node at `host` says of the slots. Nodes that it does not name are forgotten, but for those that are about to get some.
    fn learn(&self, told_by: usize, host: &str, ranges: Ranges) -> RedisResult<()> {
        let mut known = self.known();
        let mut now = Known { told_by, ..Known::default() };
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
        for node in &known.nodes {
            let is_named = now.nodes.iter().any(|one| Arc::ptr_eq(one, node));
            let once_more = |left: usize| left.checked_sub(1);
            if !is_named && node.importing.fetch_update(Ordering::Relaxed, Ordering::Relaxed, once_more).is_ok() {
                now.nodes.push(Arc::clone(node));
            }
        }
        *known = now;
        Ok(())
    }

    fn node(&self, address: Address) -> RedisResult<Arc<Node>> {
        let servers = Servers::One(Box::new(self.client(&address)?));
        let number = self.numbered.fetch_add(1, Ordering::Relaxed);
        Ok(Arc::new(Node { number, address, link: Link::new(servers, self.timeout), importing: AtomicUsize::new(0) }))
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
        match (error.kind(), Slot::new(slot)) {
            (ErrorKind::Server(ServerErrorKind::Moved), Some(slot)) => drop(known.slots.insert(slot, Arc::clone(&node))),
            _ => node.importing.store(IMPORTING, Ordering::Relaxed),
        }
        Ok(node)
    }
}

impl Stand {
    /// Looks whether the node hears the others as it should.
    ///
    /// # Errors
    /// It is gone, silent, or of no cluster any more; or it does not hear the others, and another node does.
    pub(super) async fn check(&mut self) -> RedisResult<()> {
        let timeout = self.cluster.timeout;
        let view = tokio::time::timeout(timeout, look(&mut self.connection)).await;
        match view.map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))?? {
            Answer::Poor(_) if self.cluster.is_whole_somewhere(attempt_bound(timeout)).await => Err(no_node()),
            _ => Ok(()),
        }
    }
}

impl Nodes {
    /// Has another node asked next, if the one that said where the slots are would be.
    pub(super) fn doubt(&self) {
        let cluster = &self.cluster;
        let told_by = cluster.known().told_by;
        // It does not matter if another answered meanwhile, which is first then.
        let _ = cluster.first.compare_exchange(told_by, told_by + 1, Ordering::Relaxed, Ordering::Relaxed);
    }

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

impl<T> Answer<T> {
    fn map<U>(self, with: impl FnOnce(T) -> U) -> Answer<U> {
        match self {
            Self::Whole(answer) => Answer::Whole(with(answer)),
            Self::Poor(answer) => Answer::Poor(with(answer)),
        }
    }
}

/// What a node says of the slots: poor, if it does not hear the others. One that has left the cluster knows of none.
async fn look(connection: &mut MultiplexedConnection) -> RedisResult<Answer<Ranges>> {
    let ranges: Ranges = redis::cmd("CLUSTER").arg("SLOTS").query_async(connection).await?;
    if ranges.0.is_empty() {
        return Err(no_node());
    }
    match redis::cmd("CLUSTER").arg("INFO").query_async::<String>(connection).await {
        Ok(info) if !hears_others(&info) => Ok(Answer::Poor(ranges)),
        Err(error) if error.is_io_error() || error.is_connection_dropped() => Err(error),
        // A user may lack the right to ask for it.
        Ok(_) | Err(_) => Ok(Answer::Whole(ranges)),
    }
}

/// Whether a node is in touch with most of the others, by its `CLUSTER INFO`.
fn hears_others(info: &str) -> bool {
    let says = |what: &str| info.lines().any(|line| line == what);
    says("cluster_state:ok") && !says("cluster_known_nodes:1")
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
    fn a_node_says_whether_it_hears_the_others() {
        for (state, nodes, expect) in [("ok", 6, true), ("ok", 10, true), ("fail", 6, false), ("ok", 1, false), ("fail", 1, false)] {
            let info =
                format!("cluster_state:{state}\r\ncluster_slots_assigned:16384\r\ncluster_known_nodes:{nodes}\r\ncluster_size:3\r\n");
            assert_eq!(hears_others(&info), expect, "{info}");
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
