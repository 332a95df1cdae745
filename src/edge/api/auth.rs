//! Who may do what: bearer tokens, stored as SHA-256 and compared in constant time.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::{Api, Problem};
use crate::pipeline::ports::{Store, World};

/// Who may do what.
#[derive(Debug, Clone)]
pub struct Access {
    /// Whether reading needs no token.
    pub anonymous_reads: bool,
    /// The tokens.
    pub credentials: Vec<Credential>,
}

/// A token, as its digest.
#[derive(Debug, Clone)]
pub struct Credential {
    /// Who holds it.
    pub name: String,
    /// What it allows.
    pub permission: Permission,
    /// SHA-256 of the token's text.
    pub sha256: [u8; 32],
}

/// What a token allows; each may do what the ones before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Permission {
    /// Read.
    View,
    /// Change breakers and parked calls.
    Operate,
    /// Everything.
    Administer,
}

/// The one who asked, for the audit.
#[derive(Debug, Clone)]
pub(super) struct Actor(pub(super) String);

/// A token's digest, as the config keeps it.
pub fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

impl Access {
    fn holder(&self, headers: &HeaderMap) -> Result<Option<&Credential>, Problem> {
        let Some(value) = headers.get(header::AUTHORIZATION) else { return Ok(None) };
        let unauthorized = |detail: &str| Problem::new(StatusCode::UNAUTHORIZED, detail);
        let token = value
            .to_str()
            .ok()
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, token)| token.trim())
            .ok_or_else(|| unauthorized("the header Authorization must be: Bearer TOKEN"))?;
        let given = digest(token);
        // Every digest is compared, so that the time taken does not tell which one came close.
        let mut found = None;
        for credential in &self.credentials {
            if bool::from(credential.sha256.ct_eq(&given)) {
                found = Some(credential);
            }
        }
        found.map(Some).ok_or_else(|| unauthorized("the token is not known here"))
    }

    pub(super) fn check(&self, headers: &HeaderMap, needed: Permission) -> Result<Actor, Problem> {
        match self.holder(headers)? {
            Some(holder) if holder.permission >= needed => Ok(Actor(holder.name.clone())),
            Some(holder) => Err(Problem::new(
                StatusCode::FORBIDDEN,
                format!("`{}` may not do this; it takes a token of role operator or admin", holder.name),
            )),
            None if needed == Permission::View && self.anonymous_reads => Ok(Actor("anonymous".to_owned())),
            None if self.credentials.is_empty() => Err(Problem::new(
                StatusCode::FORBIDDEN,
                "no tokens are configured here, so nothing can be done over HTTP that needs one; `fusebox token new` makes one",
            )),
            None => Err(Problem::new(StatusCode::UNAUTHORIZED, "this takes a token: Authorization: Bearer TOKEN")),
        }
    }
}

pub(super) async fn may_read<W: World, S: Store>(
    State(api): State<Arc<Api<W, S>>>,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    api.access.check(request.headers(), Permission::View)?;
    Ok(next.run(request).await)
}

pub(super) async fn may_operate<W: World, S: Store>(
    State(api): State<Arc<Api<W, S>>>,
    mut request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let actor = api.access.check(request.headers(), Permission::Operate)?;
    request.extensions_mut().insert(actor);
    Ok(next.run(request).await)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn access(anonymous_reads: bool) -> Access {
        let credential = |name: &str, permission| Credential { name: name.into(), permission, sha256: digest(name) };
        Access {
            anonymous_reads,
            credentials: vec![
                credential("viewer", Permission::View),
                credential("operator", Permission::Operate),
                credential("admin", Permission::Administer),
            ],
        }
    }

    #[test]
    fn each_role_may_do_what_it_may() {
        let given = |value: &str| {
            let mut headers = HeaderMap::new();
            if !value.is_empty() {
                headers.insert(header::AUTHORIZATION, HeaderValue::from_str(value).expect("a header"));
            }
            headers
        };
        for (header, view, view_closed, operate) in [
            ("", 200, 401, 401),
            ("Bearer viewer", 200, 200, 403),
            ("bearer operator", 200, 200, 200),
            ("Bearer admin", 200, 200, 200),
            ("Bearer somebody", 401, 401, 401),
            ("Bearer ", 401, 401, 401),
            ("Basic dmlld2Vy", 401, 401, 401),
            ("viewer", 401, 401, 401),
        ] {
            let status = |open, needed| match access(open).check(&given(header), needed) {
                Ok(_) => 200,
                Err(problem) => serde_json::to_value(problem).expect("JSON")["status"].as_u64().expect("a status"),
            };
            assert_eq!(status(true, Permission::View), view, "{header}: view");
            assert_eq!(status(false, Permission::View), view_closed, "{header}: view, closed");
            assert_eq!(status(true, Permission::Operate), operate, "{header}: operate");
        }
    }

    #[test]
    fn without_tokens_nothing_can_be_changed() {
        let access = Access { anonymous_reads: true, credentials: Vec::new() };
        let problem = access.check(&HeaderMap::new(), Permission::Operate).expect_err("refused");
        assert_eq!(serde_json::to_value(problem).expect("JSON")["status"], 403);
    }
}
