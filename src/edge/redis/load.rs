//! Reading what is stored of many breakers: all of them by one script, in one round trip.
//!
//! Where services lie on different nodes no script may read several of them. The server says so (`CROSSSLOT`), and from then on each is read by a
//! script of its own; they go out together.

use std::sync::atomic::Ordering;

use futures_util::future::join_all;
use redis::{ErrorKind, RedisResult, Script, ServerErrorKind};

use super::{RedisStore, unreadable};
use crate::pipeline::ports::{Clock, Kept, StoreError};

/// What the script answers of one service: nothing, or its state and its settings.
type Reply = Vec<Vec<Vec<u8>>>;

/// The script that reads.
pub(super) fn script() -> Script {
    Script::new(concat!(include_str!("scripts/state.lua"), include_str!("scripts/settings.lua"), include_str!("scripts/load.lua")))
}

impl<C: Clock> RedisStore<C> {
    /// What is stored of these services.
    pub(super) async fn read(&self, services: &[String]) -> Result<Vec<Kept>, StoreError> {
        let keys: Vec<String> = services.iter().map(|service| self.keys.breaker(service)).collect();
        let replies = self
            .link
            .run(|connection| async move {
                let read = async |keys: &[String]| -> RedisResult<Vec<Reply>> {
                    let mut call = self.load.prepare_invoke();
                    for key in keys {
                        call.key(key);
                    }
                    call.invoke_async(&mut connection.clone()).await
                };
                if keys.is_empty() {
                    return Ok(Vec::new());
                }
                if self.together.load(Ordering::Relaxed) {
                    match read(&keys).await {
                        Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::CrossSlot) => {
                            self.together.store(false, Ordering::Relaxed);
                        }
                        replies => return replies,
                    }
                }
                let replies: RedisResult<Vec<_>> = join_all(keys.chunks(1).map(read)).await.into_iter().collect();
                Ok(replies?.into_iter().flatten().collect())
            })
            .await?;
        if replies.len() != services.len() {
            return Err(unreadable());
        }
        services.iter().zip(&replies).map(|(service, reply)| self.kept(service, reply)).collect()
    }

    fn kept(&self, service: &str, reply: &[Vec<Vec<u8>>]) -> Result<Kept, StoreError> {
        let (state, tuning) = match reply {
            [] => return Ok(Kept::default()),
            [state, tuning] => (state, tuning),
            _ => return Err(unreadable()),
        };
        let state = match state.split_first() {
            Some((word, state)) if word == b"found" => Some(self.state(state)?),
            Some((word, why)) if word == b"damaged" => {
                let why = why.first().map(|why| String::from_utf8_lossy(why)).unwrap_or_default();
                tracing::warn!(service, %why, "the breaker's state in Redis cannot be read; it counts as absent, and the next change replaces it");
                None
            }
            Some((word, _)) if word == b"absent" => None,
            _ => return Err(unreadable()),
        };
        let tuning = match tuning.split_first() {
            Some((word, tuning)) if word == b"found" => Some(self.tuning(tuning)?),
            Some((word, _)) if word == b"absent" => None,
            _ => return Err(unreadable()),
        };
        Ok(Kept { state, tuning })
    }
}
