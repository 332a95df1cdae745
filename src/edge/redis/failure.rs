//! What went wrong with Redis, in words that name no address, credential or certificate.
//!
//! The client's own texts may carry a host's name (a certificate for another one), a user's, or part of a URL; so a text is chosen
//! here by the kind of the failure, and theirs is never shown.

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use redis::{ErrorKind, RedisError, ServerErrorKind};
use rustls::CertificateError;

use crate::pipeline::ports::StoreError;

/// The failure as people see it.
pub(super) fn describe(error: &RedisError) -> StoreError {
    StoreError(match error.kind() {
        ErrorKind::AuthenticationFailed => "Redis refused the credentials".to_owned(),
        ErrorKind::Server(ServerErrorKind::BusyLoading) => "Redis is still loading its data".to_owned(),
        ErrorKind::Server(ServerErrorKind::ReadOnly) => "Redis is a replica and takes no writes".to_owned(),
        ErrorKind::Server(ServerErrorKind::NoPerm) => {
            "the Redis user may not do this (NOPERM): see the ACL in docs/operations.md".to_owned()
        }
        _ if error.is_connection_refusal() => "Redis refused the connection".to_owned(),
        _ if error.is_timeout() => "Redis did not answer in time".to_owned(),
        _ if tls_of(error).is_some() => format!("no TLS with Redis: {}", tls_of(error).unwrap_or_default()),
        _ if error.is_connection_dropped() => "Redis ended the connection".to_owned(),
        ErrorKind::Io => "Redis cannot be reached".to_owned(),
        ErrorKind::Parse | ErrorKind::UnexpectedReturnType => "Redis gave an answer that cannot be read".to_owned(),
        _ => match error.code() {
            Some("NOAUTH" | "WRONGPASS") => "Redis refused the credentials".to_owned(),
            Some(code) => format!("Redis answered {code}"),
            None => "the Redis client failed".to_owned(),
        },
    })
}

/// Nothing came within the time that a command may take.
pub(super) fn too_late(timeout: Duration) -> StoreError {
    StoreError(format!("Redis did not answer within {}", humantime::format_duration(timeout)))
}

/// Whether the connection is of no more use after a failure: it is broken, or leads to a server that cannot serve.
pub(super) fn ends_connection(error: &RedisError) -> bool {
    error.is_unrecoverable_error()
        || error.is_io_error()
        || matches!(
            error.kind(),
            ErrorKind::AuthenticationFailed | ErrorKind::Server(ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown)
        )
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
            (general(ErrorKind::UnexpectedReturnType), "Redis gave an answer that cannot be read"),
            (general(ErrorKind::Client), "the Redis client failed"),
        ] {
            assert_eq!(describe(&error).0, expect);
        }
    }
}
