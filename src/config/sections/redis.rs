//! `[redis]`: where breakers are shared; without a URL they live in the process.

use std::num::NonZeroUsize;

use secrecy::SecretString;
use serde_json::{Value as Json, json};

use super::services::identity;
use super::{HOUR, MILLISECOND, SECOND};
use crate::config::checked::{Credentials, Redis};
use crate::config::reader::{Section, Shown};
use crate::config::shape::{Problem, ReadableFile, Shape, Text, Time, Whole, wrong};
use crate::config::tree::Written;

/// What `[redis]` holds; `Some(None)` without a URL.
pub(super) fn read(section: &Section<'_>) -> Option<Option<Redis>> {
    let url = section.secret(
        "url",
        RedisUrl,
        Shown::Url,
        "Where Redis is: `redis://`, `redis+sentinel://` or `redis+cluster://`, with `rediss` for TLS and `user:password@` for ACL users. Unless given, breakers live in the process.",
    );
    let password = section.secret("password", Text, Shown::Hidden, "The password, if it is not in the URL.");
    let sentinel_user = section.optional("sentinel_user", Text, "The sentinels' own user, if they want one.");
    let sentinel_password =
        section.secret("sentinel_password", Text, Shown::Hidden, "The sentinels' own password, if they want one; the servers' is another.");
    let prefix = section.required("prefix", Prefix, "What every key begins with; fleets with the same prefix share their breakers.");
    let timeout = section.required("timeout", Time::between(MILLISECOND, 60 * SECOND), "How long one command may take.");
    let poll_interval = section.required(
        "poll_interval",
        Time::between(100 * MILLISECOND, HOUR),
        "How often states are read, in case a published transition was missed.",
    );
    let history = section.required("history", Whole(1..=1_000_000_u32), "Transitions kept of each breaker.");
    let ca = section.optional("ca", ReadableFile, "A CA certificate to trust for `rediss://` (PEM).");
    let identity = identity(section);
    let Some(url) = url? else {
        for (name, given) in [("password", password), ("sentinel_password", sentinel_password), ("sentinel_user", sentinel_user)] {
            if given.is_some_and(|given| given.is_some()) {
                section.fault(name, "is given without `url`");
            }
        }
        return Some(None);
    };
    let (ca, identity) = (ca?, identity?);
    if !url.scheme.starts_with("rediss") {
        for (name, given) in [("ca", ca.is_some()), ("certificate", identity.is_some())] {
            if given {
                section.at_odds(&[name, "url"], format!("`{name}` is of use with a `rediss://` URL only; change `url`, or leave it out"));
            }
        }
    }
    let sentinels = match (sentinel_user?, sentinel_password?) {
        (user, Some(password)) => Some(Credentials { user, password: SecretString::from(password) }),
        (Some(_), None) => return section.report("sentinel_user", "needs `sentinel_password` besides it"),
        (None, None) => None,
    };
    if sentinels.is_some() && !url.scheme.ends_with("+sentinel") {
        return section.report("sentinel_password", "is of use with a `redis+sentinel://` URL only; change `url`, or leave it out");
    }
    let url = match password? {
        None => url.text,
        Some(password) => match url.with_password(&password) {
            Ok(url) => url,
            Err(message) => return section.report("password", message),
        },
    };
    Some(Some(Redis {
        url: SecretString::from(url),
        sentinels,
        prefix: prefix?,
        timeout: timeout?,
        poll_interval: poll_interval?,
        history: NonZeroUsize::new(history? as usize)?,
        ca,
        identity,
    }))
}

/// A Redis URL, as far as the config looks into it. Not `Debug`: it may hold a password.
struct Url {
    text: String,
    scheme: String,
}

impl Url {
    /// The URL with a password put into it.
    fn with_password(self, password: &str) -> Result<String, &'static str> {
        let Some((_, rest)) = self.text.split_once("://") else { return Err("is given without `url`") };
        let (user, host) = rest.rsplit_once('@').unwrap_or(("", rest));
        if user.contains(':') {
            return Err("is given besides the one in `url`; keep one of the two");
        }
        Ok(format!("{}://{user}:{}@{host}", self.scheme, percent_encoded(password)))
    }
}

/// A password as a URL spells it.
fn percent_encoded(text: &str) -> String {
    text.bytes().map(|byte| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// A Redis URL; nothing of it is repeated in a fault but its scheme.
struct RedisUrl;

impl Shape for RedisUrl {
    type Value = Url;
    fn expected(&self) -> String {
        "a URL such as \"redis://127.0.0.1:6379/0\"".to_owned()
    }
    fn schema(&self) -> Json {
        json!({ "type": "string", "format": "uri" })
    }
    fn read(&self, written: &Written<'_>) -> Result<Url, Problem> {
        let text = written.text().ok_or(Problem::Type)?;
        let (scheme, rest) = text.split_once("://").unwrap_or_default();
        match scheme {
            _ if text.contains("#insecure") => {
                wrong("`#insecure` would trust anybody; name the server's CA certificate in `redis.ca` instead")
            }
            "redis" | "rediss" | "redis+sentinel" | "rediss+sentinel" | "redis+cluster" | "rediss+cluster"
                if !rest.rsplit('@').next().unwrap_or_default().is_empty() =>
            {
                Ok(Url { text: text.to_owned(), scheme: scheme.to_owned() })
            }
            _ => wrong(
                "is no Redis URL; write \"redis://host:port/database\", \"redis+sentinel://host,host/master\" or \"redis+cluster://host,host\", with \"rediss\" for TLS",
            ),
        }
    }
}

/// A key prefix. Braces would take the part from the service's name that keeps a service's keys on one node of a Cluster.
struct Prefix;

impl Shape for Prefix {
    type Value = String;
    fn expected(&self) -> String {
        "a string".to_owned()
    }
    fn schema(&self) -> Json {
        json!({ "type": "string", "pattern": r"^[^{}\s]{1,100}$" })
    }
    fn read(&self, written: &Written<'_>) -> Result<String, Problem> {
        let text = written.text().ok_or(Problem::Type)?;
        let legal =
            !text.is_empty() && text.len() <= 100 && !text.contains(|c: char| c.is_whitespace() || c.is_control() || "{}".contains(c));
        if legal { Ok(text.to_owned()) } else { wrong(format!("{text:?} is no prefix: 1 to 100 characters, no spaces, no braces")) }
    }
}
