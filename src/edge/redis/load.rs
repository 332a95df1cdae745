//! Reading what is stored of many breakers: all of them by one script, in one round trip.
//!
//! In a cluster no script may read several of them. Each is read by a script of its own there, whose time is its own too; they go out together, to
//! each node its own. So it is where a URL names one node of a cluster alone, once that has said so (`CROSSSLOT`).

use std::sync::atomic::Ordering;

use futures_util::future::join_all;
use redis::{ErrorKind, Script, ServerErrorKind};

use super::{RedisStore, unreadable};
use crate::pipeline::ports::{Clock, Kept, StoreError};

/// What the script answers of one service: nothing, or its state and its settings.
type Reply = Vec<Vec<Vec<u8>>>;

/// The script that reads.
pub(super) fn script() -> Script {
    Script::new(concat!(include_str!("scripts/state.lua"), include_str!("scripts/settings.lua"), include_str!("scripts/load.lua")))
}

impl<C: Clock> RedisStore<C> {
    /// What is stored of these services. Where one script may not read several of them, each is answered, or fails, for itself.
    pub(super) async fn read(&self, services: &[String]) -> Vec<Result<Kept, StoreError>> {
        if self.together.load(Ordering::Relaxed) {
            match self.read_together(services).await {
                Ok(Some(replies)) if replies.len() == services.len() => {
                    return services.iter().zip(&replies).map(|(service, reply)| self.kept(service, reply)).collect();
                }
                Ok(Some(_)) => return vec![Err(unreadable()); services.len()],
                Ok(None) => self.together.store(false, Ordering::Relaxed),
                Err(error) => return vec![Err(error); services.len()],
            }
        }
        join_all(services.iter().map(async |service| match self.read_together(std::slice::from_ref(service)).await?.as_deref() {
            Some([reply]) => self.kept(service, reply),
            _ => Err(unreadable()),
        }))
        .await
    }

    /// What the script answers; `None` if the services lie apart.
    async fn read_together(&self, services: &[String]) -> Result<Option<Vec<Reply>>, StoreError> {
        if services.is_empty() {
            return Ok(Some(Vec::new()));
        }
        let mut call = self.load.prepare_invoke();
        for service in services {
            call.key(self.keys.breaker(service));
        }
        let replies = self.link.run(|mut connection| async move {
            match call.invoke_async(&mut connection).await {
                Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::CrossSlot) => Ok(None),
                replies => replies.map(Some),
            }
        });
        replies.await
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
