//! From `[redis]` to a client: the URL, the certificates, the socket's options. No connection is made.

use std::path::Path;
use std::time::Duration;

use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::{Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, TlsCertificates};
use secrecy::ExposeSecret;

use crate::config;
use crate::edge::tls;

/// How long a peer's silence on the wire is borne before the kernel ends the connection: its host has gone, since a living kernel
/// acknowledges even for a process that is frozen.
const PEER_GONE: Duration = Duration::from_secs(10);

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

/// The client of a single server.
///
/// # Errors
/// The URL cannot be read or names something that is not supported, or a file cannot be read.
pub(super) fn client(config: &config::Redis) -> Result<Client, ConfigError> {
    let url = config.url.expose_secret();
    let secure = is_secure(url)?;
    let unreadable = || {
        ConfigError::new(
            "redis.url",
            "cannot be read; write redis://[user[:password]@]host[:port][/database], and %XX for what is special in a password",
        )
    };
    let info = url.into_connection_info().map_err(|_| unreadable())?;
    if matches!(info.addr(), ConnectionAddr::TcpTls { insecure: true, .. }) {
        return Err(ConfigError::new("redis.url", "#insecure is not supported: name the server's CA certificate in redis.ca instead"));
    }
    let info = info.set_tcp_settings(socket_options());
    if !secure {
        for (key, given) in [("redis.ca", config.ca.is_some()), ("redis.certificate", config.identity.is_some())] {
            if given {
                return Err(ConfigError::new(key, "is of use with rediss:// only; change redis.url or leave it out"));
            }
        }
        return Client::open(info).map_err(|_| unreadable());
    }
    tls::install_provider();
    secure_client(info, config)
}

/// Whether the URL's scheme asks for TLS.
fn is_secure(url: &str) -> Result<bool, ConfigError> {
    let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme).to_ascii_lowercase();
    match scheme.as_str() {
        "redis" => Ok(false),
        "rediss" => Ok(true),
        "redis+sentinel" | "rediss+sentinel" | "redis+cluster" | "rediss+cluster" => {
            Err(ConfigError::new("redis.url", format!("{scheme}:// is not supported yet; name one server with redis:// or rediss://")))
        }
        _ => Err(ConfigError::new("redis.url", "must begin with redis:// or rediss://")),
    }
}

fn secure_client(info: ConnectionInfo, config: &config::Redis) -> Result<Client, ConfigError> {
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
    let key = if client_tls.is_some() { "redis.certificate" } else { "redis.ca" };
    Client::build_with_tls(info, TlsCertificates { client_tls, root_cert })
        .map_err(|_| ConfigError::new(key, "cannot be read as PEM: a CERTIFICATE, and for a client a PRIVATE KEY beside it"))
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
            prefix: "fusebox".into(),
            timeout: Duration::from_millis(500),
            poll_interval: Duration::from_secs(5),
            history: NonZeroUsize::MIN,
            ca: None,
            identity: None,
        }
    }

    #[test]
    fn urls() {
        for (url, expect) in [
            ("redis://127.0.0.1", Ok(())),
            ("redis://ann:hunter2@[::1]:6380/3", Ok(())),
            ("rediss://redis.internal", Ok(())),
            (
                "redis+sentinel://a,b/mymaster",
                Err("redis.url: redis+sentinel:// is not supported yet; name one server with redis:// or rediss://"),
            ),
            ("redis+cluster://a,b", Err("redis.url: redis+cluster:// is not supported yet; name one server with redis:// or rediss://")),
            ("http://hunter2@a", Err("redis.url: must begin with redis:// or rediss://")),
            ("127.0.0.1:6379", Err("redis.url: must begin with redis:// or rediss://")),
            ("", Err("redis.url: must begin with redis:// or rediss://")),
            ("rediss://a#insecure", Err("redis.url: #insecure is not supported: name the server's CA certificate in redis.ca instead")),
        ] {
            let got = client(&config(url)).map(drop).map_err(|error| error.to_string());
            assert_eq!(got, expect.map_err(str::to_owned), "{url}");
        }
    }

    #[test]
    fn an_unreadable_url_is_not_repeated() {
        for url in ["redis://ann:hunter2@redis.internal:99999", "redis://ann:hunter2@redis.internal/three", "redis://ann:hunter2@"] {
            let error = client(&config(url)).map(drop).expect_err(url).to_string();
            assert!(error.starts_with("redis.url: cannot be read") && !error.contains("hunter2") && !error.contains("internal"), "{error}");
        }
    }

    #[test]
    fn files_are_checked_at_once() {
        let missing = config::Redis { ca: Some("/nowhere/ca.pem".into()), ..config("rediss://127.0.0.1") };
        assert_eq!(client(&missing).map(drop).expect_err("missing").to_string(), "redis.ca: /nowhere/ca.pem: entity not found");
        let file = tempfile::NamedTempFile::new().expect("a file");
        let empty = config::Redis { ca: Some(file.path().into()), ..config("rediss://127.0.0.1") };
        assert_eq!(client(&empty).map(drop).expect_err("empty").to_string(), "redis.ca: holds no PEM certificate");
        let plain = config::Redis { ca: Some(file.path().into()), ..config("redis://127.0.0.1") };
        assert_eq!(
            client(&plain).map(drop).expect_err("no TLS").to_string(),
            "redis.ca: is of use with rediss:// only; change redis.url or leave it out"
        );
    }
}
