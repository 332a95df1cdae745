//! What the others publish: a subscription on a connection of its own.
//!
//! Guarantees:
//! - It is renewed for ever, with back-off and jitter, until its receiver is dropped. Each time it stands, [`Heard::Connected`] goes first:
//!   what was said in between was missed, and has to be read.
//! - A server that is frozen or gone is noticed within a heartbeat and a timeout: a subscription that hears nothing looks the same
//!   as one to which nothing is said. So is a node of a cluster that hears the others no more, where another does.
//! - Memory is bounded: a receiver that falls behind loses the subscription, and is told so by the next `Connected`.
//!
//! A message that cannot be read is dropped with a warning; the poll behind the subscription finds what it said.

use std::convert::Infallible;
use std::time::Duration;

use futures_util::StreamExt;
use redis::Msg;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::link::{attempt_bound, attempts};
use super::servers::Servers;
use super::tunings::TuningWire;
use super::wire::{LAYOUT, Wire};
use super::{failure, keys::Keys};
use crate::edge::backoff::Attempts;
use crate::pipeline::ports::{Clock, Heard, StoreError};

/// Changes held for a receiver that is busy. A fleet has tens of breakers; more unread changes than this are cheaper read anew.
const UNREAD: usize = 256;

/// What is published.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Message {
    layout: u32,
    service: String,
    #[serde(flatten)]
    said: Said,
}

/// What is said of a service.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Said {
    /// Its state.
    State(Wire),
    /// A change of its settings.
    Tuning { settings: TuningWire },
}

impl Message {
    /// A service's state.
    pub(super) fn new(service: &str, state: Wire) -> Self {
        Self { layout: LAYOUT, service: service.to_owned(), said: Said::State(state) }
    }

    /// A change of a service's settings.
    pub(super) fn of_tuning(service: &str, settings: TuningWire) -> Self {
        Self { layout: LAYOUT, service: service.to_owned(), said: Said::Tuning { settings } }
    }
}

/// One subscription.
pub(super) struct Watch<C> {
    pub(super) servers: Servers,
    pub(super) keys: Keys,
    /// Whose publications are not told: they are known already.
    pub(super) instance: String,
    pub(super) clock: C,
    /// How long an answer may take.
    pub(super) timeout: Duration,
    /// How often the server is asked whether it is there.
    pub(super) heartbeat: Duration,
}

impl<C: Clock> Watch<C> {
    /// Listens in a task of its own.
    pub(super) fn spawn(self) -> mpsc::Receiver<Heard> {
        let (tell, heard) = mpsc::channel(UNREAD);
        tokio::spawn(async move {
            tokio::select! {
                () = tell.closed() => {}
                () = self.listen(&tell) => {}
            }
        });
        heard
    }

    /// Listens until the receiver is gone.
    async fn listen(&self, tell: &mpsc::Sender<Heard>) {
        let mut attempts = attempts();
        loop {
            let Err(why) = self.session(tell, &mut attempts).await;
            if tell.is_closed() {
                return;
            }
            tracing::debug!(error = %why, "no subscription to Redis");
            tokio::time::sleep(attempts.next_wait()).await;
        }
    }

    /// One connection, from its making to its end.
    async fn session(&self, tell: &mpsc::Sender<Heard>, attempts: &mut Attempts) -> Result<Infallible, StoreError> {
        let ended = || StoreError("Redis ended the subscription".to_owned());
        // Room for `Connected` is taken before there is a subscription, so that nothing piles up behind a receiver that is busy.
        let room = tell.reserve().await.map_err(|_| ended())?;
        let bound = attempt_bound(self.timeout);
        let channel = self.keys.transitions();
        let subscribed = tokio::time::timeout(bound, self.servers.subscribe(&channel, bound)).await;
        let subscribed = subscribed.map_err(|_| failure::too_late(bound))?.map_err(|error| failure::describe(&error))?;
        let (subscription, mut stand) = subscribed;
        let (mut sink, mut stream) = subscription.split();
        attempts.succeeded();
        room.send(Heard::Connected);

        let mut heartbeat = tokio::time::interval(self.heartbeat);
        heartbeat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                message = stream.next() => {
                    let Some(heard) = self.read(&message.ok_or_else(ended)?) else { continue };
                    match tell.try_send(heard) {
                        Ok(()) => {}
                        Err(TrySendError::Full(_)) => return Err(StoreError("the subscription was not read in time".to_owned())),
                        Err(TrySendError::Closed(_)) => return Err(ended()),
                    }
                }
                _ = heartbeat.tick() => {
                    tokio::time::timeout(self.timeout, sink.ping::<redis::Value>())
                        .await
                        .map_err(|_| failure::too_late(self.timeout))?
                        .map_err(|error| failure::describe(&error))?;
                    if let Some(stand) = &mut stand {
                        stand.check().await.map_err(|error| failure::describe(&error))?;
                    }
                }
            }
        }
    }

    /// What a message says, if it is another's and can be read.
    fn read(&self, message: &Msg) -> Option<Heard> {
        match parse(message.get_payload_bytes()) {
            Ok(Message { service, said: Said::Tuning { settings }, .. }) => {
                (settings.instance != self.instance).then(|| Heard::Tuned { service, tuning: settings.tuning(self.clock.wall()) })
            }
            Ok(Message { service, said: Said::State(state), .. }) => {
                if state.instance == self.instance {
                    return None;
                }
                let snapshot = state.snapshot(self.clock.now());
                if snapshot.is_none() {
                    tracing::warn!(service, "a published breaker state lacks what belongs to it; it is not taken up");
                }
                Some(Heard::Changed { service, snapshot: snapshot? })
            }
            Err(fault) => {
                tracing::warn!(
                    fault,
                    bytes = message.get_payload_bytes().len(),
                    "a published breaker state cannot be read; it is not taken up"
                );
                None
            }
        }
    }
}

fn parse(payload: &[u8]) -> Result<Message, &'static str> {
    let message: Message = serde_json::from_slice(payload).map_err(|_| "it is no message of this channel")?;
    if message.layout == LAYOUT { Ok(message) } else { Err("it is of another version") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::breaker::{Generation, Held, Snapshot};
    use crate::machine::time::Tick;

    #[test]
    fn messages_of_other_shapes_or_versions_are_refused() {
        let snapshot = Snapshot { generation: Generation(3), held: Held::HalfOpen, trips: 1, since: Tick(0) };
        let whole = serde_json::to_value(Message::new("rag", Wire::of(&snapshot, "a", Tick(0)))).expect("serializes");
        let parsed = parse(whole.to_string().as_bytes()).expect("its own form");
        let Said::State(state) = parsed.said else { panic!("a state became a change of settings") };
        assert_eq!((parsed.service.as_str(), state.snapshot(Tick(0))), ("rag", Some(snapshot)));

        let with = |key: &str, value: serde_json::Value| {
            let mut changed = whole.clone();
            changed[key] = value;
            changed.to_string()
        };
        for (payload, expect) in [
            (String::new(), "it is no message of this channel"),
            ("null".into(), "it is no message of this channel"),
            ("\u{0}".into(), "it is no message of this channel"),
            (with("generation", (-1).into()), "it is no message of this channel"),
            (with("state", "ajar".into()), "it is no message of this channel"),
            (with("layout", 2.into()), "it is of another version"),
        ] {
            assert_eq!(parse(payload.as_bytes()).map(drop), Err(expect), "{payload}");
        }
    }
}
