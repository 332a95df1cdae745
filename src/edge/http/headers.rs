//! A call's request headers: those that never change are built once for each service, those of the call are put in beside them.

use http::header::{ACCEPT, CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use secrecy::ExposeSecret;

use crate::config::Service;
use crate::event::Headers;
use crate::event::headers::name::{TRACEPARENT, TRACESTATE};
use crate::pipeline::ports::Call;

use super::setup::HttpSetupError;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const TRACEPARENT_NAME: HeaderName = HeaderName::from_static(TRACEPARENT);
const TRACESTATE_NAME: HeaderName = HeaderName::from_static(TRACESTATE);

/// What every call of a service carries. A configured header replaces the program's own of that name; two of one name are both sent.
pub(super) fn fixed(service: &Service, uri: &Uri) -> Result<HeaderMap, HttpSetupError> {
    let mut headers = HeaderMap::with_capacity(16);
    // The client would format `Host` anew for every call.
    headers.insert(HOST, host(uri).ok_or_else(|| HttpSetupError::url(service, "it has no host"))?);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    headers.insert(USER_AGENT, HeaderValue::from_static(concat!("fusebox/", env!("CARGO_PKG_VERSION"))));
    // A place that each call overwrites, so that a clone of the map need not grow.
    headers.insert(IDEMPOTENCY_KEY, HeaderValue::from_static("none"));
    for (index, (name, value)) in service.endpoint.headers.iter().enumerate() {
        let mut value = HeaderValue::from_str(value.expose_secret())
            .map_err(|_| HttpSetupError::Header { key: format!("services.{}.headers.{name}", service.name) })?;
        value.set_sensitive(true);
        let seen_before = service.endpoint.headers[..index].iter().any(|(earlier, _)| earlier == name);
        if seen_before {
            headers.append(name.clone(), value);
        } else {
            headers.insert(name.clone(), value);
        }
    }
    Ok(headers)
}

/// Host and, unless it is the scheme's own, port.
fn host(uri: &Uri) -> Option<HeaderValue> {
    let host = uri.host().filter(|host| !host.is_empty())?;
    let usual = if uri.scheme_str() == Some("https") { 443 } else { 80 };
    match uri.port_u16() {
        Some(port) if port != usual => HeaderValue::from_str(&format!("{host}:{port}")).ok(),
        _ => HeaderValue::from_str(host).ok(),
    }
}

/// The fixed headers with those of one call.
pub(super) fn of_call(fixed: &HeaderMap, call: &Call<'_>) -> HeaderMap {
    let mut headers = fixed.clone();
    headers.insert(IDEMPOTENCY_KEY, idempotency_key(call.idempotency_key));
    for (name, value) in call.trace {
        let name = match *name {
            TRACEPARENT => TRACEPARENT_NAME,
            TRACESTATE => TRACESTATE_NAME,
            // Nothing else is a trace header.
            _ => continue,
        };
        // Trace headers come from the event's producer. What no header may carry is left out: W3C has a broken trace start anew.
        if let Ok(value) = HeaderValue::from_maybe_shared(value.clone()) {
            headers.insert(name, value);
        }
    }
    headers
}

/// What a request without a body carries of these: a service's own headers, and not those of a call.
pub(super) fn without_body(fixed: &HeaderMap) -> HeaderMap {
    let mut headers = fixed.clone();
    headers.remove(CONTENT_TYPE);
    headers.remove(IDEMPOTENCY_KEY);
    headers
}

/// A reply's headers by name. Values of one name are joined by `, `, which HTTP says is the same (RFC 9110, 5.3).
pub(super) fn of_reply(headers: &HeaderMap) -> Headers {
    let mut named = Headers::new();
    for name in headers.keys() {
        let mut values = headers.get_all(name).iter();
        let mut joined = values.next().map_or_else(Vec::new, |first| first.as_bytes().to_vec());
        for value in values {
            joined.extend_from_slice(b", ");
            joined.extend_from_slice(value.as_bytes());
        }
        named.append(name.as_str().to_owned(), Some(joined.into()));
    }
    named
}

/// The key as a header's value. A parked call's key is read back from Kafka, where others can write: a key with anything but visible
/// ASCII and spaces is percent-encoded, so that the same key is the same value on every try and nothing is injected.
fn idempotency_key(key: &str) -> HeaderValue {
    let plain = |byte: u8| matches!(byte, b' '..=b'~');
    if key.bytes().all(plain) {
        return HeaderValue::from_str(key).expect("visible ASCII and spaces are a header's value");
    }
    let mut encoded = String::with_capacity(key.len() * 3);
    for byte in key.bytes() {
        if plain(byte) && !matches!(byte, b' ' | b'%') {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    HeaderValue::from_str(&encoded).expect("percent-encoded text is visible ASCII")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn host_names_the_port_unless_it_is_the_scheme_s_own() {
        for (uri, expect) in [
            ("http://rag/query", Some("rag")),
            ("http://rag:80/query", Some("rag")),
            ("http://rag:443/", Some("rag:443")),
            ("https://rag:443/", Some("rag")),
            ("https://rag:80/", Some("rag:80")),
            ("http://[::1]:8001/", Some("[::1]:8001")),
            ("http://user:secret@rag:8001/", Some("rag:8001")),
            ("/query", None),
        ] {
            let uri: Uri = uri.parse().unwrap();
            assert_eq!(host(&uri).as_ref().map(|value| value.to_str().unwrap()), expect, "{uri}");
        }
    }

    #[test]
    fn a_reply_s_headers_are_one_value_a_name() {
        let mut headers = HeaderMap::new();
        for (name, value) in [("X-State", &b"degraded"[..]), ("via", b"a"), ("x-bytes", b"\xff"), ("Via", b"b")] {
            headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_bytes(value).unwrap());
        }
        let named = of_reply(&headers);
        assert_eq!(named.iter().count(), 3);
        assert_eq!((named.text("x-state"), named.text("via"), named.text("x-bytes")), (Some("degraded"), Some("a, b"), None));
    }

    #[test]
    fn a_key_that_no_header_may_carry_is_encoded() {
        for (key, expect) in [
            ("018f/notifier", "018f/notifier"),
            ("", ""),
            ("a b", "a b"),
            ("x\r\nx-admin: 1", "x%0D%0Ax-admin:%201"),
            ("50%\n", "50%25%0A"),
            ("nul\0", "nul%00"),
            ("café", "caf%C3%A9"),
        ] {
            assert_eq!(idempotency_key(key).as_bytes(), expect.as_bytes(), "{key:?}");
        }
    }

    proptest! {
        #[test]
        fn no_key_panics_or_ends_the_header(key in any::<String>()) {
            let value = idempotency_key(&key);
            prop_assert!(!value.as_bytes().iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)));
        }
    }
}
