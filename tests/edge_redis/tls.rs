//! TLS, with a CA and a client's certificate: one server, a master behind sentinels, a cluster.

use std::path::PathBuf;

use super::several::{everything_works, home, joined, node, says, until_heard, until_says};
use super::*;

/// A CA, a server's certificate for 127.0.0.1 and a client's, by `openssl`.
fn certificates(directory: &std::path::Path) {
    let openssl = |args: &str| {
        let status = Command::new("openssl").args(args.split(' ')).current_dir(directory).stderr(Stdio::null()).status();
        assert!(status.expect("openssl is installed").success(), "openssl {args}");
    };
    std::fs::write(directory.join("server.ext"), "subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n").expect("written");
    std::fs::write(directory.join("client.ext"), "basicConstraints=CA:FALSE\nextendedKeyUsage=clientAuth\n").expect("written");
    for ca in ["ca", "other"] {
        openssl(&format!(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN={ca} -keyout {ca}.key -out {ca}.pem"
        ));
    }
    for name in ["server", "client"] {
        openssl(&format!(
            "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN={name} -keyout {name}.key -out {name}.csr"
        ));
        openssl(&format!("x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile {name}.ext -out {name}.pem"));
    }
}

#[tokio::test]
async fn tls_with_a_ca_and_a_client_certificate() {
    let directory = tempfile::tempdir().expect("a directory");
    certificates(directory.path());
    let file = |name: &str| directory.path().join(name);
    let tls = free_port().to_string();
    let path = |name: &str| file(name).display().to_string();
    let _server = Server::start(&[
        "--tls-port",
        &tls,
        "--tls-cert-file",
        &path("server.pem"),
        "--tls-key-file",
        &path("server.key"),
        "--tls-ca-cert-file",
        &path("ca.pem"),
        "--tls-auth-clients",
        "yes",
    ]);
    let identity = || Some(config::Identity { certificate: file("client.pem"), key: file("client.key") });
    let with = |ca: &str, identity| config::Redis { ca: Some(file(ca)), identity, ..config(&format!("rediss://127.0.0.1:{tls}/0"), "p") };

    let store = store_at(&with("ca.pem", identity()), "a", Tick(1_000_000));
    let mut heard = store.watch();
    assert_eq!(next(&mut heard).await, Heard::Connected);
    assert_eq!(store.save("rag", &snapshot(1, Held::HalfOpen), None).await, Ok(Saved::Stored));

    for (config, expect) in [
        (with("other.pem", identity()), "its certificate's issuer is not trusted (redis.ca names the one that is)"),
        (with("ca.pem", None), "it refused the client's certificate, or found none"),
        (
            config::Redis { url: format!("rediss://localhost:{tls}").into(), ..with("ca.pem", identity()) },
            "its certificate is for another name",
        ),
    ] {
        let store = store_at(&config, "b", Tick(0));
        let error = load(&store, &names(&["rag"])).await.expect_err("no trust").0;
        assert_eq!(error, format!("no TLS with Redis: {expect}"));
    }
}

/// Certificates, and what a server needs to be asked by TLS alone by whoever has one of them; what servers ask of each other too.
struct Trust {
    directory: tempfile::TempDir,
}

impl Trust {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        certificates(directory.path());
        Self { directory }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Arguments of a server, and those beside them.
    fn args(&self, port: u16, more: &[&str]) -> Vec<String> {
        let path = |name: &str| self.file(name).display().to_string();
        let own = [
            ("--tls-port", port.to_string()),
            ("--tls-cert-file", path("server.pem")),
            ("--tls-key-file", path("server.key")),
            ("--tls-ca-cert-file", path("ca.pem")),
            ("--tls-auth-clients", "yes".to_owned()),
            ("--tls-replication", "yes".to_owned()),
        ];
        let own = own.into_iter().flat_map(|(name, value)| [name.to_owned(), value]);
        own.chain(more.iter().map(|&more| more.to_owned())).collect()
    }

    fn server(&self, port: u16, more: &[&str]) -> Server {
        let args = self.args(port, more);
        Server::start(&args.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn config(&self, url: &str) -> config::Redis {
        let identity = config::Identity { certificate: self.file("client.pem"), key: self.file("client.key") };
        config::Redis { ca: Some(self.file("ca.pem")), identity: Some(identity), ..config(url, "tls") }
    }

    /// What is said where the CA is another, and where there is no certificate of the client's.
    async fn is_needed(&self, url: &str) {
        for (config, expect) in [
            (
                config::Redis { ca: Some(self.file("other.pem")), ..self.config(url) },
                "its certificate's issuer is not trusted (redis.ca names the one that is)",
            ),
            (config::Redis { identity: None, ..self.config(url) }, "it refused the client's certificate, or found none"),
        ] {
            let store = store_at(&config, "b", Tick(0));
            assert_eq!(state_of(&store, "rag").await.expect_err("no trust").0, format!("no TLS with Redis: {expect}"));
        }
    }
}

#[tokio::test]
async fn sentinels_and_the_masters_that_they_name_by_tls() {
    let trust = Trust::new();
    let [at, replica_at, sentinel_at] = [0, 1, 2].map(|_| low_port());
    let mut master = trust.server(at, &["--repl-diskless-sync-delay", "0"]);
    let replica = trust.server(replica_at, &["--replicaof", "127.0.0.1", &at.to_string()]);
    until_says(master.port, &["INFO", "replication"], "state=online").await;
    let file = trust.file("sentinel.conf");
    let monitor = format!("sentinel monitor events 127.0.0.1 {at} 1\nsentinel down-after-milliseconds events 200\n");
    std::fs::write(&file, monitor).expect("written");
    let watcher = trust.server(sentinel_at, &[file.to_str().expect("text"), "--sentinel"]);
    until_says(watcher.port, &["SENTINEL", "REPLICAS", "events"], &replica_at.to_string()).await;
    until_says(watcher.port, &["SENTINEL", "CKQUORUM", "events"], "usable").await;

    let url = format!("rediss+sentinel://127.0.0.1:{sentinel_at}/events");
    trust.is_needed(&url).await;
    let (store, other) = (store_at(&trust.config(&url), "a", Tick(1_000_000)), store_at(&trust.config(&url), "b", Tick(1_000_000)));
    let mut heard = other.watch();
    assert_eq!(next(&mut heard).await, Heard::Connected);
    let services = names(&["rag", "vms"]);
    eventually("a connection", async || load(&store, &services).await.ok()).await;
    everything_works(&store, &services, 3).await;
    until_says(replica.port, &["HGET", "tls:{vms}:breaker", "generation"], "3").await;

    master.kill();
    eventually("the new master", async || store.save("rag", &snapshot(4, Held::HalfOpen), None).await.ok()).await;
    assert!(says(replica.port, &["ROLE"], "master"));
    until_heard(&mut heard, &store).await;
    everything_works(&store, &services, 2_000).await;
}

#[tokio::test]
async fn a_cluster_by_tls() {
    let trust = Trust::new();
    let ports = [0, 1, 2].map(|_| low_port());
    let nodes = ports.map(|port| {
        let args = trust.args(port, &["--tls-cluster", "yes", "--cluster-require-full-coverage", "no"]);
        node(&args.iter().map(String::as_str).collect::<Vec<_>>())
    });
    let mut met = std::collections::HashMap::new();
    met.extend(nodes.iter().map(|node| node.port).zip(ports));
    let mut nodes = joined(nodes, |node| met[&node.port]).await;
    let url = format!("rediss+cluster://127.0.0.1:{}", ports[0]);
    trust.is_needed(&url).await;
    let (store, other) = (store_at(&trust.config(&url), "a", Tick(1_000_000)), store_at(&trust.config(&url), "b", Tick(1_000_000)));
    let mut heard = other.watch();
    assert_eq!(next(&mut heard).await, Heard::Connected);
    let services: Vec<String> = (0..30).map(|number| format!("s{number}")).collect();
    eventually("a connection", async || load(&store, &services).await.ok()).await;
    everything_works(&store, &services, 3).await;
    // The seed goes: the others are known by now, and are asked by TLS too.
    let is_of_seed = |service: &String| home(&nodes, &format!("tls:{{{service}}}:breaker")).0 == 0;
    let (of_seed, of_others): (Vec<_>, Vec<_>) = services.iter().cloned().partition(is_of_seed);
    assert!(!of_seed.is_empty() && !of_others.is_empty());
    nodes[0].kill();
    eventually("it is missed", async || load(&store, &of_seed).await.err()).await;
    until_says(nodes[1].port, &["CLUSTER", "NODES"], "master,fail").await;
    everything_works(&store, &of_others, 1_000).await;
    // What was heard was of the seed, until it went.
    while next(&mut heard).await != Heard::Connected {}
    until_heard(&mut heard, &store).await;
    nodes[0].restart();
    eventually("all of it", async || load(&store, &services).await.ok()).await;
    everything_works(&store, &services, 2_000).await;
    until_heard(&mut heard, &store).await;
}
