//! Services that cannot be called as configured are refused at the start, with the key and the file.

use std::error::Error;
use std::path::PathBuf;

use fusebox::config::{Identity, Service};
use fusebox::edge::clock::SystemClock;
use fusebox::edge::http::HttpCaller;
use http::HeaderName;

use super::service;

fn refusal(service: Service) -> String {
    let error = HttpCaller::new(&[service], SystemClock::new()).unwrap_err();
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

#[test]
fn what_is_wrong_and_where() {
    let files = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| -> PathBuf {
        let path = files.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let rcgen::CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let certificate = file("cert.pem", &cert.pem());
    let key = file("key.pem", &signing_key.serialize_pem());
    let other_key = file("other.pem", &rcgen::KeyPair::generate().unwrap().serialize_pem());
    let empty = file("empty.pem", "");
    let broken = file("broken.pem", "-----BEGIN CERTIFICATE-----\nnot base64!\n-----END CERTIFICATE-----\n");
    let odd = file("odd.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let missing = files.path().join("missing.pem");
    let https = || service("https://127.0.0.1:1");
    let with_ca = |path: &PathBuf| {
        let mut service = https();
        service.endpoint.ca = Some(path.clone());
        service
    };
    let with_identity = |cert: &PathBuf, key: &PathBuf| {
        let mut service = with_ca(&certificate);
        service.endpoint.identity = Some(Identity { certificate: cert.clone(), key: key.clone() });
        service
    };
    let with_header = |value: &str| {
        let mut service = https();
        service.endpoint.ca = Some(certificate.clone());
        service.endpoint.headers.push((HeaderName::from_static("authorization"), value.to_owned().into()));
        service
    };
    for (service, expect) in [
        (with_ca(&missing), "services.notifier.ca: cannot read {dir}/missing.pem: No such file or directory (os error 2)"),
        (with_ca(&empty), "services.notifier.ca: {dir}/empty.pem holds no certificate in PEM form"),
        (with_ca(&key), "services.notifier.ca: {dir}/key.pem holds no certificate in PEM form"),
        (with_ca(&broken), "services.notifier.ca: {dir}/broken.pem holds no certificate in PEM form"),
        (with_ca(&odd), "services.notifier.ca: {dir}/odd.pem cannot be used: invalid peer certificate: BadEncoding"),
        (
            with_identity(&missing, &key),
            "services.notifier.certificate: cannot read {dir}/missing.pem: No such file or directory (os error 2)",
        ),
        (
            with_identity(&certificate, &missing),
            "services.notifier.key: cannot read {dir}/missing.pem: No such file or directory (os error 2)",
        ),
        (with_identity(&certificate, &certificate), "services.notifier.key: {dir}/cert.pem holds no unencrypted private key in PEM form"),
        (
            with_identity(&certificate, &other_key),
            "services.notifier.certificate: {dir}/cert.pem cannot be used: keys may not be consistent: KeyMismatch",
        ),
        (
            with_header("Bearer secret\r\nx: y"),
            "services.notifier.headers.authorization: the value has a control character (a line break, perhaps), which no header may carry",
        ),
        (service("ftp://127.0.0.1:1"), "services.notifier.url: it must begin with http:// or https://"),
        (
            service("http://user:secret@127.0.0.1:1"),
            "services.notifier.url: it carries credentials, which would not be sent; put them into the header `authorization`",
        ),
    ] {
        let refusal = refusal(service);
        assert_eq!(refusal.replace(&*files.path().to_string_lossy(), "{dir}"), expect);
        assert!(!refusal.contains("secret"));
    }
}
