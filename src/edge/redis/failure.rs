//! What went wrong with Redis, in words that name no address, credential or certificate.
//!
//! The client's own texts may carry a host's name (a certificate for another one), a user's, or part of a URL; so a text is chosen
//! here by the kind of the failure, and theirs is never shown.

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use redis::{ErrorKind, RedisError};
use rustls::CertificateError;

use crate::pipeline::ports::StoreError;

/// What an error of credentials carries that a sentinel has refused.
const SENTINEL: &str = "a sentinel";

/// A sentinel's failure: its credentials are not the servers'.
pub(super) fn of_sentinel(error: RedisError) -> RedisError {
    let refused = error.kind() == ErrorKind::AuthenticationFailed || matches!(word(&error), Some("NOAUTH" | "WRONGPASS"));
    if refused { (ErrorKind::AuthenticationFailed, "refused", SENTINEL.to_owned()).into() } else { error }
}

/// The failure as people see it.
pub(super) fn describe(error: &RedisError) -> StoreError {
    StoreError(match error.kind() {
        ErrorKind::AuthenticationFailed if error.detail() == Some(SENTINEL) => "a sentinel refused the credentials".to_owned(),
        ErrorKind::AuthenticationFailed => "Redis refused the credentials".to_owned(),
        ErrorKind::MasterNameNotFoundBySentinel => "no sentinel names a master that can be used".to_owned(),
        ErrorKind::ClusterConnectionNotFound => "no node of the Redis cluster has what is asked for".to_owned(),
        _ if word(error).is_some() => match word(error).unwrap_or_default() {
            "NOAUTH" | "WRONGPASS" => "Redis refused the credentials".to_owned(),
            "LOADING" => "Redis is still loading its data".to_owned(),
            "READONLY" => "Redis is a replica and takes no writes".to_owned(),
            "OOM" => "Redis is out of memory and takes no writes".to_owned(),
            "MISCONF" => "Redis cannot save to its disk and takes no writes".to_owned(),
            "NOREPLICAS" => "Redis has too few replicas and takes no writes".to_owned(),
            "BUSY" => "Redis is busy with a script".to_owned(),
            "CLUSTERDOWN" => "a part of the Redis cluster is gone, and the rest does not serve without it".to_owned(),
            "MOVED" | "ASK" | "TRYAGAIN" => "a slot of the Redis cluster is on its way from one node to another".to_owned(),
            "MAXCLIENTS" => "Redis has no room for another client".to_owned(),
            "NOPERM" => "the Redis user may not do this (NOPERM): see the ACL in docs/operations.md".to_owned(),
            word => format!("Redis answered {word}"),
        },
        _ if error.is_connection_refusal() => "Redis refused the connection".to_owned(),
        _ if error.is_timeout() => "Redis did not answer in time".to_owned(),
        _ if tls_of(error).is_some() => format!("no TLS with Redis: {}", tls_of(error).unwrap_or_default()),
        _ if error.is_connection_dropped() => "Redis ended the connection".to_owned(),
        ErrorKind::Io => "Redis cannot be reached".to_owned(),
        ErrorKind::Parse | ErrorKind::UnexpectedReturnType => "Redis gave an answer that cannot be read".to_owned(),
        _ => "the Redis client failed".to_owned(),
    })
}

/// The server's word for what is wrong, if it was the server who found something wrong. What a script runs into is `ERR` where the server is
/// older than 7.0, and the word is quoted; of a right that is missing there 7.0 only tells. A server that is full has no word for it.
fn word(error: &RedisError) -> Option<&str> {
    const QUOTED: [&str; 5] = ["READONLY", "OOM", "MISCONF", "NOREPLICAS", "NOPERM"];
    let code = error.code()?;
    let detail = error.detail().unwrap_or_default();
    if code != "ERR" {
        return Some(code);
    }
    if detail.contains("max number of clients") {
        return Some("MAXCLIENTS");
    }
    if detail.contains("user executing the script can't run this command") {
        return Some("NOPERM");
    }
    QUOTED.into_iter().find(|word| detail.contains(&format!(" -{word} "))).or(Some(code))
}

/// Why there is no connection.
#[derive(Clone)]
pub(super) enum Away {
    /// Nothing came within this time.
    Silent(Duration),
    /// The last attempt ended in this.
    Failed(RedisError),
}

impl Away {
    /// The failure as people see it.
    pub(super) fn describe(&self) -> StoreError {
        match self {
            Self::Silent(bound) => too_late(*bound),
            Self::Failed(error) => describe(error),
        }
    }

    /// The failure as the client's own.
    pub(super) fn error(self) -> RedisError {
        match self {
            Self::Silent(_) => io::Error::from(io::ErrorKind::TimedOut).into(),
            Self::Failed(error) => error,
        }
    }
}

impl std::fmt::Debug for Away {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The client's own form may name the server.
        self.describe().fmt(f)
    }
}

/// Nothing came within the time that a command may take.
pub(super) fn too_late(timeout: Duration) -> StoreError {
    StoreError(format!("Redis did not answer within {}", humantime::format_duration(timeout)))
}

/// Whether the connection is of no more use after a failure: it is broken, or leads to a server that cannot serve.
pub(super) fn ends_connection(error: &RedisError) -> bool {
    error.is_unrecoverable_error()
        || error.is_io_error()
        || error.kind() == ErrorKind::AuthenticationFailed
        || error.kind() == ErrorKind::ClusterConnectionNotFound
        || matches!(word(error), Some("READONLY" | "MASTERDOWN" | "CLUSTERDOWN"))
}

/// What was wrong with TLS, if that is what was wrong.
fn tls_of(error: &RedisError) -> Option<&'static str> {
    let outer = error.source()?;
    // The client keeps causes behind an `Arc`, whose own `source` skips the error within it.
    let inner: &(dyn Error + 'static) = match outer.downcast_ref::<Arc<dyn Error + Send + Sync>>() {
        Some(shared) => &**shared,
        None => outer,
    };
    let cause = inner.downcast_ref::<io::Error>().and_then(|io| io.get_ref()).and_then(|cause| cause.downcast_ref::<rustls::Error>());
    match cause.or_else(|| inner.downcast_ref::<rustls::Error>())? {
        rustls::Error::InvalidCertificate(fault) => Some(match fault {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => "its certificate has expired",
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => "its certificate is not valid yet",
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => "its certificate is for another name",
            CertificateError::UnknownIssuer => "its certificate's issuer is not trusted (redis.ca names the one that is)",
            _ => "its certificate cannot be accepted",
        }),
        rustls::Error::AlertReceived(_) => Some("it refused the client's certificate, or found none"),
        rustls::Error::InvalidMessage(_) => Some("it does not speak TLS on this port"),
        _ => Some("the handshake failed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOPERM: &str = "the Redis user may not do this (NOPERM): see the ACL in docs/operations.md";

    #[test]
    fn what_the_server_answers_has_a_text_of_its_own() {
        let script = "-ERR Error running script (call to f_9b8c): @user_script:61: @user_script: 61: ";
        for (answer, expect) in [
            ("-LOADING Redis is loading the dataset in memory".to_owned(), "Redis is still loading its data"),
            ("-READONLY You can't write against a read only replica. script: 9b8c".to_owned(), "Redis is a replica and takes no writes"),
            (format!("{script}-READONLY You can't write against a read only replica."), "Redis is a replica and takes no writes"),
            ("-OOM command not allowed when used memory > 'maxmemory'.".to_owned(), "Redis is out of memory and takes no writes"),
            (format!("{script}-OOM command not allowed when used memory > 'maxmemory'."), "Redis is out of memory and takes no writes"),
            ("-MISCONF Redis is configured to save RDB snapshots".to_owned(), "Redis cannot save to its disk and takes no writes"),
            ("-NOREPLICAS Not enough good replicas to write.".to_owned(), "Redis has too few replicas and takes no writes"),
            ("-BUSY Redis is busy running a script.".to_owned(), "Redis is busy with a script"),
            ("-ERR max number of clients reached".to_owned(), "Redis has no room for another client"),
            ("-ERR max number of clients + cluster connections reached".to_owned(), "Redis has no room for another client"),
            ("-NOAUTH Authentication required.".to_owned(), "Redis refused the credentials"),
            ("-WRONGPASS invalid username-password pair or user is disabled.".to_owned(), "Redis refused the credentials"),
            ("-NOPERM this user has no permissions to run the 'hset' command".to_owned(), NOPERM),
            ("-ERR The user executing the script can't run this command or subcommand script: 9b8c, on @user_script:1.".to_owned(), NOPERM),
            (format!("{script}-NOPERM The user executing the script can't run this command or subcommand"), NOPERM),
            ("-ERR hunter2 at redis.internal".to_owned(), "Redis answered ERR"),
            ("-MOVED 7 redis.internal:6379".to_owned(), "a slot of the Redis cluster is on its way from one node to another"),
            ("-TRYAGAIN Multiple keys".to_owned(), "a slot of the Redis cluster is on its way from one node to another"),
            ("-CLUSTERDOWN The cluster is down".to_owned(), "a part of the Redis cluster is gone, and the rest does not serve without it"),
        ] {
            let parsed = redis::parse_redis_value(format!("{answer}\r\n").as_bytes()).expect("an error in the protocol's form");
            let error = parsed.extract_error().expect_err("an error");
            assert_eq!(
                (describe(&error).0.as_str(), ends_connection(&error)),
                (expect, answer.contains("READONLY") || answer.contains("CLUSTERDOWN")),
                "{answer}"
            );
        }
    }

    #[test]
    fn no_text_carries_what_the_client_said() {
        let secret = "hunter2 at redis.internal:6379";
        let io = |kind| RedisError::from(io::Error::new(kind, secret));
        let tls = |error: rustls::Error| RedisError::from(io::Error::new(io::ErrorKind::InvalidData, error));
        let general = |kind| RedisError::from((kind, "WRONGPASS", secret.to_owned()));
        for (error, expect) in [
            (io(io::ErrorKind::ConnectionRefused), "Redis refused the connection"),
            (io(io::ErrorKind::TimedOut), "Redis did not answer in time"),
            (io(io::ErrorKind::ConnectionReset), "Redis ended the connection"),
            (io(io::ErrorKind::Other), "Redis cannot be reached"),
            (
                tls(rustls::Error::InvalidCertificate(CertificateError::NotValidForName)),
                "no TLS with Redis: its certificate is for another name",
            ),
            (general(ErrorKind::AuthenticationFailed), "Redis refused the credentials"),
            (general(ErrorKind::MasterNameNotFoundBySentinel), "no sentinel names a master that can be used"),
            (general(ErrorKind::UnexpectedReturnType), "Redis gave an answer that cannot be read"),
            (general(ErrorKind::Client), "the Redis client failed"),
        ] {
            assert_eq!(describe(&error).0, expect);
        }
    }
}
