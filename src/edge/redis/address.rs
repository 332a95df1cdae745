//! From `[redis]` to servers: the URL, the certificates, the socket's options. No connection is made.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::sentinel::{SentinelClientBuilder, SentinelServerType};
use redis::{
    Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo, RedisResult, TlsCertificates, TlsMode,
};
use secrecy::ExposeSecret;
use tokio::sync::Mutex;

use super::nodes::Cluster;
use super::servers::Servers;
use crate::config;
use crate::edge::tls;

/// How long a peer's silence on the wire is borne before the kernel ends the connection: its host has gone, since a living kernel
/// acknowledges even for a process that is frozen.
const PEER_GONE: Duration = Duration::from_secs(10);

/// Where Redis and a sentinel listen unless the URL says so.
const REDIS_PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;

/// A fault of `[redis]` that is found when the client is built.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {fault}")]
pub struct ConfigError {
    /// The key.
    pub key: &'static str,
    /// What is wrong with its value, and what to write instead. Repeats neither the URL nor any part of it but the scheme.
    pub fault: String,
}

impl ConfigError {
    fn new(key: &'static str, fault: impl Into<String>) -> Self {
        Self { key, fault: fault.into() }
    }
}

/// What a URL's scheme asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    One,
    Sentinels,
    Cluster,
}

/// Where a config says that Redis is.
///
/// # Errors
/// The URL cannot be read or names something that is not supported, or a file cannot be read.
pub(super) fn servers(config: &config::Redis) -> Result<Servers, ConfigError> {
    let url = Url::read(config.url.expose_secret())?;
    if !url.secure {
        for (key, given) in [("redis.ca", config.ca.is_some()), ("redis.certificate", config.identity.is_some())] {
            if given {
                return Err(ConfigError::new(key, "is of use with rediss:// only; change redis.url or leave it out"));
            }
        }
    }
    if url.text.contains("#insecure") {
        return Err(ConfigError::new("redis.url", "#insecure is not supported: name the server's CA certificate in redis.ca instead"));
    }
    let certificates = if url.secure {
        tls::install_provider();
        Some(certificates(config)?)
    } else {
        None
    };
    let unreadable_pem = || {
        let key = if config.identity.is_some() { "redis.certificate" } else { "redis.ca" };
        ConfigError::new(key, "cannot be read as PEM: a CERTIFICATE, and for a client a PRIVATE KEY beside it")
    };
    let open = |info: ConnectionInfo| match certificates.clone() {
        None => Client::open(info).map_err(|_| url.unreadable()),
        Some(certificates) => Client::build_with_tls(info, certificates).map_err(|_| unreadable_pem()),
    };
    if url.hosts().any(str::is_empty) {
        return Err(url.unreadable());
    }
    match url.kind {
        Kind::One => open(url.info(url.text)?).map(|client| Servers::One(Box::new(client))),
        Kind::Sentinels => {
            let (master, database) = url.path.split_once('/').unwrap_or((url.path, ""));
            let database: i64 = if database.is_empty() { 0 } else { database.parse().map_err(|_| url.unreadable())? };
            if master.is_empty() {
                return Err(url.unreadable());
            }
            let mut clients = Vec::new();
            for host in url.hosts() {
                let sentinel = url.host("", host, SENTINEL_PORT)?.addr().clone();
                // User and password are the servers'; any host does to read them by.
                let servers = url.host(url.credentials, host, SENTINEL_PORT)?;
                let builder =
                    sentinel_client(sentinel, master, database, servers.redis_settings(), config.sentinels.as_ref(), certificates.as_ref());
                let client = builder.map_err(|_| url.unreadable())?.build().map_err(|_| unreadable_pem())?;
                clients.push(Mutex::new(client));
            }
            Ok(Servers::Sentinels { clients: clients.into(), first: Arc::default(), database })
        }
        Kind::Cluster => {
            if !url.path.is_empty() && url.path != "0" {
                return Err(ConfigError::new("redis.url", "names a database; a cluster has database 0 alone"));
            }
            let nodes: Vec<_> = url.hosts().map(|host| url.host(url.credentials, host, REDIS_PORT)).collect::<Result<_, _>>()?;
            for node in &nodes {
                open(node.clone())?;
            }
            Ok(Servers::Cluster(Arc::new(Cluster::new(nodes, certificates, config.timeout))))
        }
    }
}

/// Asks one sentinel for the master of this name.
fn sentinel_client(
    sentinel: ConnectionAddr,
    master: &str,
    database: i64,
    servers: &RedisConnectionInfo,
    sentinels: Option<&config::Credentials>,
    certificates: Option<&TlsCertificates>,
) -> RedisResult<SentinelClientBuilder> {
    let mut builder = SentinelClientBuilder::new([sentinel], master, SentinelServerType::Master)?
        .set_client_to_redis_db(database)
        .set_client_to_redis_tcp_settings(socket_options())
        .set_client_to_sentinel_tcp_settings(socket_options());
    if let Some(user) = servers.username() {
        builder = builder.set_client_to_redis_username(user);
    }
    if let Some(password) = servers.password() {
        builder = builder.set_client_to_redis_password(password);
    }
    if let Some(config::Credentials { user, password }) = sentinels {
        builder = builder.set_client_to_sentinel_password(password.expose_secret());
        if let Some(user) = user {
            builder = builder.set_client_to_sentinel_username(user);
        }
    }
    if let Some(certificates) = certificates {
        builder = builder
            .set_client_to_redis_tls_mode(TlsMode::Secure)
            .set_client_to_redis_certificates(certificates.clone())
            .set_client_to_sentinel_certificates(certificates.clone());
    }
    Ok(builder)
}

/// The parts of `scheme://[credentials@]host,host…[/path]`. Not `Debug`: it may hold a password.
struct Url<'a> {
    text: &'a str,
    kind: Kind,
    secure: bool,
    /// With the `@`.
    credentials: &'a str,
    hosts: &'a str,
    path: &'a str,
}

impl<'a> Url<'a> {
    fn read(text: &'a str) -> Result<Self, ConfigError> {
        let (scheme, rest) = text.split_once("://").unwrap_or_default();
        let (kind, secure) = match scheme.to_ascii_lowercase().as_str() {
            "redis" => (Kind::One, false),
            "rediss" => (Kind::One, true),
            "redis+sentinel" => (Kind::Sentinels, false),
            "rediss+sentinel" => (Kind::Sentinels, true),
            "redis+cluster" => (Kind::Cluster, false),
            "rediss+cluster" => (Kind::Cluster, true),
            _ => {
                return Err(ConfigError::new(
                    "redis.url",
                    "must begin with redis:// or rediss://, redis+sentinel:// or rediss+sentinel://, redis+cluster:// or rediss+cluster://",
                ));
            }
        };
        let (credentials, rest) = rest.split_at(rest.rfind('@').map_or(0, |at| at + 1));
        let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
        Ok(Self { text, kind, secure, credentials, hosts, path })
    }

    fn hosts(&self) -> impl Iterator<Item = &'a str> {
        self.hosts.split(',')
    }

    /// How one of its hosts is connected to; at `port` unless it says so.
    fn host(&self, credentials: &str, host: &str, port: u16) -> Result<ConnectionInfo, ConfigError> {
        let scheme = if self.secure { "rediss" } else { "redis" };
        let port = if has_port(host) { String::new() } else { format!(":{port}") };
        self.info(&format!("{scheme}://{credentials}{host}{port}"))
    }

    fn info(&self, url: &str) -> Result<ConnectionInfo, ConfigError> {
        Ok(url.into_connection_info().map_err(|_| self.unreadable())?.set_tcp_settings(socket_options()))
    }

    fn unreadable(&self) -> ConfigError {
        let form = match self.kind {
            Kind::One => "redis://[user[:password]@]host[:port][/database]",
            Kind::Sentinels => "redis+sentinel://[user[:password]@]host[:port],host[:port],…/master[/database]",
            Kind::Cluster => "redis+cluster://[user[:password]@]host[:port],host[:port],…",
        };
        ConfigError::new("redis.url", format!("cannot be read; write {form}, and %XX for what is special in a password"))
    }
}

/// Whether a host is written with a port; `[::1]` is one without.
fn has_port(host: &str) -> bool {
    host.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'))
}

fn certificates(config: &config::Redis) -> Result<TlsCertificates, ConfigError> {
    let root_cert = config.ca.as_deref().map(|path| read("redis.ca", path)).transpose()?;
    if root_cert.as_deref().is_some_and(|pem| !contains(pem, b"BEGIN CERTIFICATE")) {
        return Err(ConfigError::new("redis.ca", "holds no PEM certificate"));
    }
    let client_tls = match &config.identity {
        Some(identity) => Some(ClientTlsConfig {
            client_cert: read("redis.certificate", &identity.certificate)?,
            client_key: read("redis.key", &identity.key)?,
        }),
        None => None,
    };
    Ok(TlsCertificates { client_tls, root_cert })
}

fn read(key: &'static str, path: &Path) -> Result<Vec<u8>, ConfigError> {
    std::fs::read(path).map_err(|error| ConfigError::new(key, format!("{}: {}", path.display(), error.kind())))
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

fn socket_options() -> TcpSettings {
    let probe = PEER_GONE / 5;
    let settings = TcpSettings::default()
        .set_nodelay(true)
        .set_keepalive(TcpKeepalive::new().with_time(PEER_GONE).with_interval(probe).with_retries(3));
    #[cfg(target_os = "linux")]
    let settings = settings.set_user_timeout(PEER_GONE);
    settings
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;

    fn config(url: &str) -> config::Redis {
        config::Redis {
            url: url.into(),
            sentinels: None,
            prefix: "fusebox".into(),
            timeout: Duration::from_millis(500),
            poll_interval: Duration::from_secs(5),
            history: NonZeroUsize::MIN,
            ca: None,
            identity: None,
        }
    }

    const SCHEME: &str =
        "redis.url: must begin with redis:// or rediss://, redis+sentinel:// or rediss+sentinel://, redis+cluster:// or rediss+cluster://";
    const SENTINEL: &str = "redis.url: cannot be read; write redis+sentinel://[user[:password]@]host[:port],host[:port],…/master[/database], and %XX for what is special in a password";

    #[test]
    fn urls() {
        for (url, expect) in [
            ("redis://127.0.0.1", Ok(())),
            ("redis://ann:hunter2@[::1]:6380/3", Ok(())),
            ("rediss://redis.internal", Ok(())),
            ("redis+sentinel://ann:hunter2@a,[::1]:26380/mymaster/3", Ok(())),
            ("rediss+sentinel://a/mymaster", Ok(())),
            ("redis+sentinel://a,b", Err(SENTINEL)),
            ("redis+sentinel://a,,b/mymaster", Err(SENTINEL)),
            ("redis+sentinel://a/mymaster/three", Err(SENTINEL)),
            ("redis+cluster://ann:hunter2@a,b:7001,[::1]", Ok(())),
            ("rediss+cluster://a/0", Ok(())),
            ("redis+cluster://a/1", Err("redis.url: names a database; a cluster has database 0 alone")),
            ("http://hunter2@a", Err(SCHEME)),
            ("127.0.0.1:6379", Err(SCHEME)),
            ("", Err(SCHEME)),
            ("rediss://a#insecure", Err("redis.url: #insecure is not supported: name the server's CA certificate in redis.ca instead")),
        ] {
            let got = servers(&config(url)).map(drop).map_err(|error| error.to_string());
            assert_eq!(got, expect.map_err(str::to_owned), "{url}");
        }
    }

    #[test]
    fn an_unreadable_url_is_not_repeated() {
        for url in ["redis://ann:hunter2@redis.internal:99999", "redis://ann:hunter2@redis.internal/three", "redis://ann:hunter2@"] {
            let error = servers(&config(url)).map(drop).expect_err(url).to_string();
            assert!(error.starts_with("redis.url: cannot be read") && !error.contains("hunter2") && !error.contains("internal"), "{error}");
        }
    }

    #[test]
    fn files_are_checked_at_once() {
        let missing = config::Redis { ca: Some("/nowhere/ca.pem".into()), ..config("rediss://127.0.0.1") };
        assert_eq!(servers(&missing).map(drop).expect_err("missing").to_string(), "redis.ca: /nowhere/ca.pem: entity not found");
        let file = tempfile::NamedTempFile::new().expect("a file");
        let empty = config::Redis { ca: Some(file.path().into()), ..config("rediss://127.0.0.1") };
        assert_eq!(servers(&empty).map(drop).expect_err("empty").to_string(), "redis.ca: holds no PEM certificate");
        let plain = config::Redis { ca: Some(file.path().into()), ..config("redis://127.0.0.1") };
        assert_eq!(
            servers(&plain).map(drop).expect_err("no TLS").to_string(),
            "redis.ca: is of use with rediss:// only; change redis.url or leave it out"
        );
    }
}
