//! `[http]`: where the API listens, and who may do what.

use std::net::SocketAddr;

use serde_json::{Value as Json, json};

use crate::config::checked::{Anonymous, Http, Role, Token};
use crate::config::reader::{Section, Shown};
use crate::config::shape::{Problem, Shape, Text, Word, wrong};
use crate::config::tree::Written;

/// What `[http]` holds.
pub(super) fn read(section: &Section<'_>) -> Option<Http> {
    let listen = section.required("listen", Address, "Where the API listens: an address and a port.");
    let anonymous = section.required(
        "anonymous",
        Word(&[("viewer", Anonymous::Viewer), ("none", Anonymous::None)]),
        "What needs no token: reading, or nothing.",
    );
    let mut seen: Vec<(usize, Token)> = Vec::new();
    let tokens = section.list("tokens", "A bearer token. `fusebox token new` makes one and prints its table.", |index, section| {
        let token = token(section)?;
        if let Some((other, _)) = seen.iter().find(|(_, other)| other.name == token.name) {
            section.fault("name", format!("{:?} is the name of tokens[{other}] already; the audit tells actors apart by name", token.name));
        }
        if let Some((other, _)) = seen.iter().find(|(_, other)| other.sha256 == token.sha256) {
            section.fault("sha256", format!("is the digest of tokens[{other}] already; each holder needs a token of their own"));
        }
        seen.push((index, token.clone()));
        Some(token)
    });
    Some(Http { listen: listen?, anonymous: anonymous?, tokens: tokens?.into_iter().collect::<Option<_>>()? })
}

fn token(section: &Section<'_>) -> Option<Token> {
    let name = section.required("name", Text, "Who holds it: the actor in the audit.");
    let role = section.required(
        "role",
        Word(&[("viewer", Role::Viewer), ("operator", Role::Operator), ("admin", Role::Admin)]),
        "What it allows: reading; changing breakers and parked calls; everything.",
    );
    let sha256 = section.required_secret("sha256", Digest, Shown::Hidden, "SHA-256 of the token's text, 64 hexadecimal digits.");
    Some(Token { name: name?, role: role?, sha256: sha256? })
}

/// An address to listen on.
struct Address;

impl Shape for Address {
    type Value = SocketAddr;
    fn expected(&self) -> String {
        "an address and a port, such as \"127.0.0.1:8080\"".to_owned()
    }
    fn schema(&self) -> Json {
        json!({ "type": "string", "minLength": 1 })
    }
    fn read(&self, written: &Written<'_>) -> Result<SocketAddr, Problem> {
        let text = written.text().ok_or(Problem::Type)?;
        text.parse().or_else(|_| {
            wrong(format!(
                "{text:?} is no address to listen on; write an IP address and a port: \"127.0.0.1:8080\", \"0.0.0.0:8080\", \"[::]:8080\""
            ))
        })
    }
}

/// A SHA-256 digest in hexadecimal digits. A fault repeats nothing of it: it may be the token itself, written here by mistake.
struct Digest;

impl Shape for Digest {
    type Value = [u8; 32];
    fn expected(&self) -> String {
        "64 hexadecimal digits".to_owned()
    }
    fn schema(&self) -> Json {
        json!({ "type": "string", "pattern": "^[0-9A-Fa-f]{64}$" })
    }
    fn read(&self, written: &Written<'_>) -> Result<[u8; 32], Problem> {
        let text = written.text().ok_or(Problem::Type)?.as_bytes();
        let mut digest = [0; 32];
        let nibble = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        for (byte, pair) in digest.iter_mut().zip(text.chunks(2)) {
            *byte = match pair {
                [high, low] => match (nibble(*high), nibble(*low)) {
                    (Some(high), Some(low)) => high << 4 | low,
                    _ => return wrong(NO_DIGEST),
                },
                _ => return wrong(NO_DIGEST),
            };
        }
        if text.len() == 64 { Ok(digest) } else { wrong(NO_DIGEST) }
    }
}

const NO_DIGEST: &str = "is no SHA-256 digest of 64 hexadecimal digits; `fusebox token new` prints one";
