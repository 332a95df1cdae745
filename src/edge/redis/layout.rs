//! The key that says in which layout the other keys are written: what `migrate` looks at and writes.

use redis::Script;

use super::address::{self, ConfigError};
use super::keys::Keys;
use super::link::Link;
use crate::config;
use crate::edge::migrations::{Found, Layout, LayoutError};

/// The layout's version in one Redis.
#[derive(Debug)]
pub struct RedisLayout {
    link: Link,
    key: String,
}

impl RedisLayout {
    /// Begins to connect, in the background. Called within a tokio runtime.
    ///
    /// # Errors
    /// As [`super::RedisStore::open`].
    pub fn open(config: &config::Redis) -> Result<Self, ConfigError> {
        let servers = address::servers(config)?;
        let key = Keys::new(&config.prefix, servers.database()).layout();
        Ok(Self { link: Link::new(servers, config.timeout), key })
    }

    async fn run(&self, script: &str, word: &str) -> Result<Found, LayoutError> {
        let script = Script::new(script);
        let mut call = script.key(&self.key);
        call.arg(word);
        let (state, wanted, found): (String, String, String) = self
            .link
            .run(|mut connection| async move { call.invoke_async(&mut connection).await })
            .await
            .map_err(|error| LayoutError(error.0))?;
        match state.as_str() {
            "absent" => Ok(Found::Absent),
            "same" => Ok(Found::Same),
            _ => Ok(Found::Other { wanted, found }),
        }
    }
}

impl Layout for RedisLayout {
    async fn look(&self, script: &str) -> Result<Found, LayoutError> {
        self.run(script, "look").await
    }

    async fn apply(&self, script: &str) -> Result<Found, LayoutError> {
        self.run(script, "apply").await
    }
}
