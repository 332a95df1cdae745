//! `[services.NAME]`: where a service is, how it is called, and how it is guarded.

use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, Method, Uri};
use secrecy::SecretString;
use serde_json::{Value as Json, json};

use super::topics::Claims;
use super::{HOUR, MILLISECOND, adaptive, breaker, fallback, health, verdict};
use crate::config::checked::{Endpoint, Health, Identity, Service};
use crate::config::faults::Fault;
use crate::config::reader::{Section, Shown};
use crate::config::shape::{Problem, ReadableFile, Shape, Size, Text, Time, Whole, Word, wrong};
use crate::config::tree::Written;
use crate::machine::breaker::Settings;

/// What a service's table holds.
pub(super) fn read(name: &str, section: &Section<'_>, claims: &mut Claims, warnings: &mut Vec<Fault>) -> Option<Service> {
    let named = is_name(name) || section.is_describing();
    if !named {
        section.fault_here(format!("{name:?} is no service's name: 1 to 63 of letters, digits, `_` and `-`, the first a letter"));
    }
    let url =
        section.required("url", BaseUrl, "Where it is: `http://host:port` or `https://host:port`, with a path before `path` if need be.");
    let endpoint = endpoint(section, url.clone(), warnings);
    let timeout = section.or("timeout", "30s", Time::between(MILLISECOND, HOUR), "The longest a call may take, body included.");
    let slow = section.optional(
        "slow",
        Time::between(MILLISECOND, HOUR),
        "A successful call that takes longer counts as slow. Unless given, none does.",
    );
    let attempts = section.or("attempts", 1, Whole(1..=100_u32), "Live tries before the fallback; each is settled with the breaker.");
    let concurrency = section.or(
        "concurrency",
        64,
        Whole(1..=100_000_u32),
        "Calls in flight at once, live and drained together. A call waits for its turn at most `timeout`, then it is `overload`.",
    );
    let adaptive =
        section.section("adaptive", "How many of its places there are at a time.", |section| adaptive::read(section, concurrency, timeout));
    let max_reply_bytes = section.or("max_reply_bytes", "1MiB", Size(1..=1 << 30), "The largest reply that is read.");
    let of_calls = verdict::of_calls(section);
    let breaker = section.section("breaker", "When its circuit opens, and how it comes back.", |section| {
        let (settings, rules) = (breaker::read(section, timeout), verdict::read(section, of_calls));
        Some((settings?, rules?))
    });
    let health = section.section("health", "How it is asked for its health while its breaker is not closed.", |section| {
        health::read(section, url.as_ref(), timeout)
    });
    let fallback = fallback::read(name, concurrency, section, claims);
    if let (Some((settings, _)), Some(timeout), Some(health)) = (&breaker, timeout, &health) {
        warn_of_short_stay(settings, timeout, health.as_ref(), section, warnings);
    }
    if let (Some(Some(slow)), Some(timeout)) = (slow, timeout)
        && slow >= timeout
    {
        let (slow, timeout) = (humantime::format_duration(slow), humantime::format_duration(timeout));
        section.at_odds(
            &["slow", "timeout"],
            format!("`slow`, {slow}, must be shorter than `timeout`, {timeout}: no call that long succeeds"),
        );
    }
    let (breaker, rules) = breaker?;
    Some(Service {
        name: named.then(|| name.to_owned())?,
        endpoint: endpoint?,
        timeout: timeout?,
        slow: slow?,
        attempts: NonZeroU32::new(attempts?)?,
        concurrency: NonZeroUsize::new(concurrency? as usize)?,
        adaptive: adaptive?,
        max_reply_bytes: NonZeroUsize::new(max_reply_bytes?)?,
        breaker,
        rules,
        health: health?,
        fallback: fallback?,
    })
}

/// Warns where a breaker may leave half-open before its probes can have decided.
fn warn_of_short_stay(settings: &Settings, timeout: Duration, health: Option<&Health>, section: &Section<'_>, warnings: &mut Vec<Fault>) {
    let Some(stay) = settings.half_open_timeout else { return };
    let (answers, permits) = (settings.probes_that_decide(), settings.permits.max(1));
    let (longest, why) = match health.filter(|health| health.probe) {
        Some(health) => (health.interval * (answers - 1) + health.timeout, "health checks at their interval"),
        None => (timeout * answers.div_ceil(permits), "probes as long as `timeout`"),
    };
    if stay < longest {
        let (stay, longest) = (humantime::format_duration(stay), humantime::format_duration(longest));
        section.within("breaker", |breaker| {
            let message =
                format!("{stay} is shorter than {why} may take to decide, {longest}: the breaker of a slow service may never close");
            warnings.push(breaker.remark("half_open_timeout", &message));
        });
    }
}

/// Whether a service may be called so: names stand in topics, Redis keys, metrics and expressions.
fn is_name(name: &str) -> bool {
    name.len() <= 63
        && name.starts_with(|first: char| first.is_ascii_alphabetic())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}

fn endpoint(section: &Section<'_>, url: Option<Uri>, warnings: &mut Vec<Fault>) -> Option<Endpoint> {
    let path = section.or("path", "/", UrlPath, "What is called there.");
    let method = section.or(
        "method",
        "POST",
        Word(&[("POST", Method::POST), ("PUT", Method::PUT), ("PATCH", Method::PATCH)]),
        "The request's method.",
    );
    let headers = section.open("headers", "Headers sent with each call; a value may stand in a file that `<header>_file` names.", header);
    let ca = section.optional("ca", ReadableFile, "A CA certificate to trust instead of the system's (PEM).");
    let identity = identity(section);
    let (url, ca, identity) = (url?, ca?, identity?);
    if (ca.is_some() || identity.is_some()) && url.scheme_str() == Some("http") {
        warnings.push(section.remark(if ca.is_some() { "ca" } else { "certificate" }, "has no effect: the URL is not `https://`"));
    }
    let uri = join(&url, &path?);
    let Some(uri) = uri else { return section.report("path", "does not make a URL together with `url`") };
    Some(Endpoint { uri, method: method?, headers: headers?, ca, identity })
}

/// A client certificate and its key, which come together.
pub(super) fn identity(section: &Section<'_>) -> Option<Option<Identity>> {
    let certificate = section.optional("certificate", ReadableFile, "A client certificate to show (PEM); with `key`.");
    let key = section.optional("key", ReadableFile, "Its private key (PEM).");
    match (certificate?, key?) {
        (Some(certificate), Some(key)) => Some(Some(Identity { certificate, key })),
        (None, None) => Some(None),
        (Some(_), None) => section.report("certificate", "needs `key` besides it"),
        (None, Some(_)) => section.report("key", "needs `certificate` besides it"),
    }
}

/// The URL with this path behind its own; `None` if the two make no URL.
pub(super) fn join(url: &Uri, path: &str) -> Option<Uri> {
    let path = format!("{}{path}", url.path().trim_end_matches('/'));
    let mut parts = url.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(path).ok()?);
    Uri::from_parts(parts).ok()
}

/// Headers that each call sets itself.
const OWNED: [&str; 8] =
    ["content-type", "content-length", "host", "connection", "transfer-encoding", "idempotency-key", "traceparent", "tracestate"];

fn header(name: &str, headers: &Section<'_>) -> Option<(HeaderName, SecretString)> {
    let value = headers.entry(name, Text, Shown::Hidden);
    let Ok(parsed) = HeaderName::from_bytes(name.as_bytes()) else {
        return headers.report(name, "is no header's name");
    };
    if OWNED.contains(&parsed.as_str()) {
        return headers.report(name, "cannot be set: each call sets it itself");
    }
    let value = value?;
    if HeaderValue::from_str(&value).is_err() {
        return headers.report(name, "holds characters that a header's value cannot have, such as a line break");
    }
    Some((parsed, value.into()))
}

/// An absolute `http` or `https` URL without credentials, query or fragment. A fault repeats nothing of it: it may hold a password.
struct BaseUrl;

impl Shape for BaseUrl {
    type Value = Uri;
    fn expected(&self) -> String {
        "a URL such as \"http://127.0.0.1:8001\"".to_owned()
    }
    fn schema(&self) -> Json {
        json!({ "type": "string", "format": "uri", "pattern": "^https?://[^@?#]+$" })
    }
    fn read(&self, written: &Written<'_>) -> Result<Uri, Problem> {
        let text = written.text().ok_or(Problem::Type)?;
        let Ok(uri) = text.parse::<Uri>() else { return wrong("is no URL; write \"http://host:port\" or \"https://host:port\"") };
        match (uri.scheme_str(), uri.authority()) {
            (Some("http" | "https"), Some(authority)) if authority.as_str().contains('@') => {
                wrong("holds credentials; put them into `headers`, where they are kept out of every output")
            }
            (Some("http" | "https"), Some(_)) if text.contains(['?', '#']) => wrong("ends before the query; put that into `path`"),
            (Some("http" | "https"), Some(authority)) if !authority.host().is_empty() => Ok(uri),
            _ => wrong("must begin with \"http://\" or \"https://\" and name a host"),
        }
    }
}

/// A path that begins with `/`, with its query if it has one.
pub(super) struct UrlPath;

impl Shape for UrlPath {
    type Value = String;
    fn expected(&self) -> String {
        "a path such as \"/notify\"".to_owned()
    }
    fn schema(&self) -> Json {
        json!({ "type": "string", "pattern": "^/[^#]*$" })
    }
    fn read(&self, written: &Written<'_>) -> Result<String, Problem> {
        let text = written.text().ok_or(Problem::Type)?;
        let legal = text.starts_with('/') && !text.contains('#') && PathAndQuery::try_from(text).is_ok();
        if legal { Ok(text.to_owned()) } else { wrong(format!("{text:?} is no path; it begins with `/`")) }
    }
}
