//! Services over TLS, with a CA of their own and with client certificates.

use std::path::PathBuf;
use std::sync::Arc;

use fusebox::config::{Identity, Service};
use fusebox::edge::embedded::stub::Stub;
use fusebox::edge::tls::install_provider;
use fusebox::pipeline::ports::CallError;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::{ANYWHERE, ask, caller, service, stub};

/// A certification authority, with a directory for its files.
struct Authority {
    files: tempfile::TempDir,
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let files = tempfile::tempdir().unwrap();
        std::fs::write(files.path().join("ca.pem"), certificate.pem()).unwrap();
        Self { files, certificate: certificate.der().clone(), issuer: Issuer::new(params, key) }
    }

    fn ca(&self) -> PathBuf {
        self.files.path().join("ca.pem")
    }

    fn issue(&self, name: &str) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        (CertificateParams::new([name.to_owned()]).unwrap().signed_by(&key, &self.issuer).unwrap(), key)
    }

    fn identity(&self, name: &str) -> Identity {
        let (issued, key) = self.issue(name);
        let files =
            Identity { certificate: self.files.path().join(format!("{name}.pem")), key: self.files.path().join(format!("{name}.key")) };
        std::fs::write(&files.certificate, issued.pem()).unwrap();
        std::fs::write(&files.key, key.serialize_pem()).unwrap();
        files
    }
}

/// Puts TLS before a stub, with a certificate of this name; asks for a client certificate of that authority. Answers the URL.
async fn terminate(stub: &Stub, authority: &Authority, name: &str, clients: Option<&Authority>) -> String {
    install_provider();
    let (certificate, key) = authority.issue(name);
    let builder = match clients {
        None => ServerConfig::builder().with_no_client_auth(),
        Some(clients) => {
            let mut roots = RootCertStore::empty();
            roots.add(clients.certificate.clone()).unwrap();
            ServerConfig::builder().with_client_cert_verifier(WebPkiClientVerifier::builder(roots.into()).build().unwrap())
        }
    };
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = builder.with_single_cert(vec![certificate.der().clone()], key).unwrap();
    let (acceptor, to) = (TlsAcceptor::from(Arc::new(config)), stub.addr());
    let listener = TcpListener::bind(ANYWHERE).await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                if let Ok(mut stream) = acceptor.accept(stream).await {
                    let mut plain = TcpStream::connect(to).await.unwrap();
                    let _ = copy_bidirectional(&mut stream, &mut plain).await;
                }
            });
        }
    });
    format!("https://{addr}")
}

#[tokio::test]
async fn who_is_trusted_is_what_the_config_says() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let (us, them) = (ours.identity("fusebox"), theirs.identity("fusebox"));
    let ok = Ok(200);
    let refused = Err(CallError::Connect);
    for (what, name, clients, ca, identity, expect) in [
        ("the configured CA", "127.0.0.1", None, Some(&ours), None, ok),
        ("another CA", "127.0.0.1", None, Some(&theirs), None, refused),
        ("the system's CAs", "127.0.0.1", None, None, None, refused),
        ("another name", "elsewhere.example", None, Some(&ours), None, refused),
        ("a client certificate nobody asked for", "127.0.0.1", None, Some(&ours), Some(&us), ok),
        ("the client certificate that is asked for", "127.0.0.1", Some(&ours), Some(&ours), Some(&us), ok),
        ("no client certificate", "127.0.0.1", Some(&ours), Some(&ours), None, refused),
        ("another's client certificate", "127.0.0.1", Some(&ours), Some(&ours), Some(&them), refused),
    ] {
        let stub = stub().await;
        let mut service: Service = service(&terminate(&stub, &ours, name, clients).await);
        service.endpoint.ca = ca.map(Authority::ca);
        service.endpoint.identity = identity.cloned();
        let caller = match fusebox::edge::http::HttpCaller::new(&[service.clone()], fusebox::edge::clock::SystemClock::new()) {
            // A machine without any CA certificates says so at the start, which is as good.
            Err(fusebox::edge::http::HttpSetupError::NoSystemRoots { .. }) if ca.is_none() => continue,
            made => made.unwrap(),
        };
        for _ in 0..2 {
            assert_eq!(ask(&caller).await.map(|reply| reply.status), expect, "{what}");
        }
        let counts = stub.counts();
        let connections = u64::from(expect.is_ok());
        assert_eq!((counts.requests, counts.connections), (2 * connections, connections), "{what}: connections are kept");
    }
}

#[tokio::test]
async fn tls_where_none_is_expected_and_the_reverse_is_no_reply() {
    let authority = Authority::new();
    let stub = stub().await;
    let tls = terminate(&stub, &authority, "127.0.0.1", None).await;
    assert_eq!(ask(&caller(service(&tls.replace("https", "http")))).await, Err(CallError::Connect));
    let mut over_plain = service(&stub.url().replace("http", "https"));
    over_plain.endpoint.ca = Some(authority.ca());
    assert_eq!(ask(&caller(over_plain)).await.map(|reply| reply.status), Err(CallError::Connect));
    assert_eq!(stub.counts().requests, 0);
}
