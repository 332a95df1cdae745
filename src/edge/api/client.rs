//! The other end of the API: what the command line asks an instance.

use std::time::Duration;

use axum::http::{Method, Request, StatusCode, Uri, header};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

/// The longest that an answer may take.
const TIMEOUT: Duration = Duration::from_secs(15);

/// The largest answer that is read.
const MAX_BYTES: usize = 64 * 1024 * 1024;

/// An instance's API.
#[derive(Debug)]
pub struct ApiClient {
    base: String,
    token: Option<SecretString>,
}

/// Why there is no answer, or not the one hoped for.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The URL is none.
    #[error("{0:?} is no URL of an instance; write http://HOST:PORT")]
    Url(String),
    /// Nobody answers.
    #[error("no instance answers at {url}: {why}")]
    Unreachable {
        /// Where.
        url: String,
        /// Why not.
        why: String,
    },
    /// The instance said no.
    #[error("{detail} (HTTP {status})")]
    Refused {
        /// The status.
        status: u16,
        /// What it said.
        detail: String,
    },
    /// The answer is not what the API gives.
    #[error("the answer from {url} is not JSON; is this a Fusebox instance?")]
    Unreadable {
        /// Where from.
        url: String,
    },
}

impl ApiClient {
    /// A client of the instance at `base` (`http://127.0.0.1:8080`).
    pub fn new(base: &str, token: Option<SecretString>) -> Self {
        Self { base: base.trim_end_matches('/').to_owned(), token }
    }

    /// GET.
    ///
    /// # Errors
    /// See [`ApiError`].
    pub async fn get(&self, path: &str) -> Result<Value, ApiError> {
        self.ask(Method::GET, path, None, None).await
    }

    /// POST.
    ///
    /// # Errors
    /// See [`ApiError`].
    pub async fn post(&self, path: &str, body: &Value) -> Result<Value, ApiError> {
        self.ask(Method::POST, path, Some(body), None).await
    }

    /// PATCH, over the change that `tag` names alone if one is given.
    ///
    /// # Errors
    /// See [`ApiError`].
    pub async fn patch(&self, path: &str, body: &Value, tag: Option<&str>) -> Result<Value, ApiError> {
        self.ask(Method::PATCH, path, Some(body), tag).await
    }

    /// DELETE, likewise.
    ///
    /// # Errors
    /// See [`ApiError`].
    pub async fn delete(&self, path: &str, tag: Option<&str>) -> Result<Value, ApiError> {
        self.ask(Method::DELETE, path, None, tag).await
    }

    async fn ask(&self, method: Method, path: &str, body: Option<&Value>, tag: Option<&str>) -> Result<Value, ApiError> {
        let url = format!("{}{path}", self.base);
        let uri: Uri = url.parse().ok().filter(|uri: &Uri| uri.host().is_some()).ok_or_else(|| ApiError::Url(self.base.clone()))?;
        let mut request = Request::builder().method(method).uri(uri).header(header::ACCEPT, "application/json");
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {}", token.expose_secret()));
        }
        if let Some(tag) = tag {
            request = request.header(header::IF_MATCH, format!("\"{}\"", tag.trim_matches('"')));
        }
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let bytes = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
        let unreachable = |why: String| ApiError::Unreachable { url: self.base.clone(), why };
        let request = request.body(Full::new(bytes)).map_err(|error| unreachable(error.to_string()))?;
        crate::edge::tls::install_provider();
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_native_roots()
            .map_err(|error| unreachable(error.to_string()))?
            .https_or_http()
            .enable_http1()
            .build();
        let client = Client::builder(TokioExecutor::new()).build::<_, Full<Bytes>>(connector);
        let answer = async {
            let response = client.request(request).await.map_err(|error| unreachable(cause(&error)))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_BYTES).collect().await.map_err(|error| unreachable(error.to_string()))?;
            Ok::<_, ApiError>((status, body.to_bytes()))
        };
        let (status, body) =
            tokio::time::timeout(TIMEOUT, answer).await.map_err(|_| unreachable(format!("no answer within {TIMEOUT:?}")))??;
        read(&self.base, status, &body)
    }
}

fn read(url: &str, status: StatusCode, body: &[u8]) -> Result<Value, ApiError> {
    let value: Result<Value, _> = serde_json::from_slice(body);
    if status.is_success() {
        return value.map_err(|_| ApiError::Unreadable { url: url.to_owned() });
    }
    let detail = value.ok().and_then(|problem| problem["detail"].as_str().map(str::to_owned));
    Err(ApiError::Refused { status: status.as_u16(), detail: detail.unwrap_or_else(|| "the instance gave no reason".to_owned()) })
}

/// The innermost cause: what says why a connection could not be made.
fn cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
