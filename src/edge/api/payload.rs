//! Bytes that somebody has sent, as the API shows them to those who may see them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use serde::Serialize;

use crate::event::headers::name;

/// What stands in the place of a value that may be a credential.
const REDACTED: &str = "[redacted]";

/// Text where it is that, else Base64.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Payload {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) text: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) base64: Option<String>,
    /// Whether there is more of it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) cut: bool,
}

impl Payload {
    /// At most so many bytes of it.
    pub(super) fn of(bytes: &Bytes, most: usize) -> Self {
        let cut = bytes.len() > most;
        let mut shown = &bytes[..bytes.len().min(most)];
        let text = match std::str::from_utf8(shown) {
            Ok(text) => Some(text),
            // Cut through a character: what is before it is text all the same.
            Err(error) if cut && error.error_len().is_none() => {
                shown = &shown[..error.valid_up_to()];
                std::str::from_utf8(shown).ok()
            }
            Err(_) => None,
        };
        match text {
            Some(text) => Self { text: Some(text.to_owned()), base64: None, cut },
            None => Self { text: None, base64: Some(BASE64.encode(shown)), cut },
        }
    }
}

/// A header, its value redacted if it may be a credential.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Header {
    name: String,
    value: Option<Payload>,
}

impl Header {
    /// At most so many bytes of its value.
    pub(super) fn of(name: &str, value: Option<&Bytes>, most: usize) -> Self {
        let shown = |value| {
            if may_be_secret(name) { Payload::of(&Bytes::from_static(REDACTED.as_bytes()), most) } else { Payload::of(value, most) }
        };
        Self { name: name.to_owned(), value: value.map(shown) }
    }
}

/// Whether a header of this name may carry a credential. Fusebox writes none that does: a service's own headers are in the config and not in an
/// envelope; but others may write to a retry topic, or hand an event's headers on.
fn may_be_secret(name: &str) -> bool {
    const PARTS: [&str; 9] = ["authorization", "cookie", "token", "secret", "password", "passwd", "api-key", "apikey", "credential"];
    let name = name.to_ascii_lowercase().replace('_', "-");
    !name::WRITTEN_HERE.contains(&name.as_str()) && PARTS.iter().any(|part| name.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_text_where_it_is_and_never_too_long() {
        const MOST: usize = 16;
        let of = |value: Vec<u8>| {
            let shown = Payload::of(&value.into(), MOST);
            (shown.text.map(|text| text.len()), shown.base64.map(|text| text.len()), shown.cut)
        };
        assert_eq!(of("grün".into()), (Some(5), None, false));
        assert_eq!(of(vec![0xff, 0]), (None, Some(4), false));
        assert_eq!(of(vec![b'x'; MOST]), (Some(MOST), None, false));
        assert_eq!(of(vec![b'x'; MOST + 1]), (Some(MOST), None, true));
        // Cut in the middle of a character.
        assert_eq!(of(["x".repeat(MOST - 1), "ü".to_owned()].concat().into()), (Some(MOST - 1), None, true));
    }

    #[test]
    fn headers_that_may_carry_credentials_are_redacted() {
        for (name, secret) in [
            ("Authorization", true),
            ("proxy-authorization", true),
            ("Set-Cookie", true),
            ("X-Api-Key", true),
            ("x_api_key", true),
            ("x-auth-token", true),
            ("client_secret", true),
            ("db-password", true),
            ("traceparent", false),
            ("content-type", false),
            (name::REASON, false),
            (name::EVENT_ID, false),
        ] {
            let shown = Header::of(name, Some(&"hunter2".into()), 100).value.and_then(|value| value.text);
            assert_eq!(shown.as_deref(), Some(if secret { REDACTED } else { "hunter2" }), "{name}");
            assert!(Header::of(name, None, 100).value.is_none());
        }
    }
}
