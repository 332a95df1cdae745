//! From a service's config to a connector: certificate files are read here, once, at the start.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use crate::config::{Identity, Service};
use crate::edge::tls;

/// Why a service cannot be called as configured. Names key and file; never a secret, a header's value or an address.
#[derive(Debug, thiserror::Error)]
pub enum HttpSetupError {
    /// The URL cannot be called.
    #[error("{key}: {problem}")]
    Url {
        /// The config's key.
        key: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A header's value cannot be sent.
    #[error("{key}: the value has a control character (a line break, perhaps), which no header may carry")]
    Header {
        /// The config's key.
        key: String,
    },
    /// A file cannot be read.
    #[error("{key}: cannot read {}", path.display())]
    Unreadable {
        /// The config's key.
        key: String,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file is not what is expected of it.
    #[error("{key}: {} holds no {expected} in PEM form", path.display())]
    NotPem {
        /// The config's key.
        key: String,
        /// The file.
        path: PathBuf,
        /// What should be in it.
        expected: &'static str,
    },
    /// A certificate cannot be used.
    #[error("{key}: {} cannot be used", path.display())]
    Unusable {
        /// The config's key.
        key: String,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: rustls::Error,
    },
    /// No CA is configured, and the system has none.
    #[error("services.{service}.ca: the system has no CA certificates to check {service}'s certificate with; name a PEM file here")]
    NoSystemRoots {
        /// The service.
        service: String,
        /// What was looked for in vain.
        source: io::Error,
    },
}

impl HttpSetupError {
    pub(super) fn url(service: &Service, problem: &'static str) -> Self {
        Self::Url { key: format!("services.{}.url", service.name), problem }
    }
}

/// A connector for one service: no proxy, no Nagle, TLS only where the URL says `https`.
pub(super) fn connector(service: &Service) -> Result<HttpsConnector<HttpConnector>, HttpSetupError> {
    let endpoint = &service.endpoint;
    if endpoint.uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err(HttpSetupError::url(
            service,
            "it carries credentials, which would not be sent; put them into the header `authorization`",
        ));
    }
    let tls = match endpoint.uri.scheme_str() {
        Some("https") => tls_config(service)?,
        Some("http") => {
            tls::install_provider();
            ClientConfig::builder().with_root_certificates(RootCertStore::empty()).with_no_client_auth()
        }
        _ => return Err(HttpSetupError::url(service, "it must begin with http:// or https://")),
    };
    let mut tcp = HttpConnector::new();
    tcp.set_nodelay(true);
    tcp.enforce_http(false);
    Ok(HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(tcp))
}

fn tls_config(service: &Service) -> Result<ClientConfig, HttpSetupError> {
    tls::install_provider();
    let builder = ClientConfig::builder();
    let builder = match &service.endpoint.ca {
        Some(path) => builder.with_root_certificates(roots(&format!("services.{}.ca", service.name), path)?),
        None => builder.with_native_roots().map_err(|source| HttpSetupError::NoSystemRoots { service: service.name.clone(), source })?,
    };
    let Some(Identity { certificate, key: private_key }) = &service.endpoint.identity else {
        return Ok(builder.with_no_client_auth());
    };
    let key = format!("services.{}.certificate", service.name);
    let chain = certificates(&key, certificate)?;
    let private_key = private_key_of(&format!("services.{}.key", service.name), private_key)?;
    builder.with_client_auth_cert(chain, private_key).map_err(|source| HttpSetupError::Unusable { key, path: certificate.clone(), source })
}

fn roots(key: &str, path: &Path) -> Result<RootCertStore, HttpSetupError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(key, path)? {
        roots.add(certificate).map_err(|source| HttpSetupError::Unusable { key: key.to_owned(), path: path.to_owned(), source })?;
    }
    Ok(roots)
}

fn certificates(key: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, HttpSetupError> {
    let read = CertificateDer::pem_slice_iter(&read(key, path)?).collect::<Result<Vec<_>, pem::Error>>();
    read.ok().filter(|certificates| !certificates.is_empty()).ok_or_else(|| not_pem(key, path, "certificate"))
}

fn private_key_of(key: &str, path: &Path) -> Result<PrivateKeyDer<'static>, HttpSetupError> {
    PrivateKeyDer::from_pem_slice(&read(key, path)?).map_err(|_| not_pem(key, path, "unencrypted private key"))
}

fn read(key: &str, path: &Path) -> Result<Vec<u8>, HttpSetupError> {
    fs::read(path).map_err(|source| HttpSetupError::Unreadable { key: key.to_owned(), path: path.to_owned(), source })
}

fn not_pem(key: &str, path: &Path, expected: &'static str) -> HttpSetupError {
    HttpSetupError::NotPem { key: key.to_owned(), path: path.to_owned(), expected }
}
