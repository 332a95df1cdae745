//! A change of a breaker's settings as it crosses the process's border: the settings as a `breaker` table, its time as how long ago it was.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

use super::wire::{optional, span, text};
use crate::config::{breaker_table, read_breaker};
use crate::event::UnixMillis;
use crate::pipeline::tuning::{Chosen, Tuning};

/// A change on its way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct TuningWire {
    /// The instance that was asked.
    pub(super) instance: String,
    pub(super) revision: u64,
    /// The whole table; none: the configured settings.
    pub(super) table: Option<Map<String, Json>>,
    pub(super) actor: String,
    pub(super) reason: String,
    /// How long ago it was made; below zero when Redis' clock was set back since.
    pub(super) age_ms: i64,
}

impl TuningWire {
    /// A change, at `now` of the sender's wall clock; `None` if it is one that was never read.
    pub(super) fn of(tuning: &Tuning, now: UnixMillis) -> Option<Self> {
        let table = match &tuning.chosen {
            Chosen::Configured => None,
            Chosen::Given(settings) => Some(breaker_table(settings)),
            Chosen::Unreadable(_) => return None,
        };
        Some(Self {
            instance: tuning.instance.clone(),
            revision: tuning.revision,
            table,
            actor: tuning.actor.clone(),
            reason: tuning.reason.clone(),
            age_ms: span(now.since(tuning.at)),
        })
    }

    /// The table's text; empty: the configured settings.
    pub(super) fn text(&self) -> String {
        self.table.as_ref().map(|table| Json::from(table.clone()).to_string()).unwrap_or_default()
    }

    /// The change, at `now` of the reader's wall clock.
    pub(super) fn tuning(self, now: UnixMillis) -> Tuning {
        let chosen = self.table.map_or(Chosen::Configured, read);
        Tuning {
            revision: self.revision,
            chosen,
            actor: self.actor,
            reason: self.reason,
            at: ago(now, self.age_ms),
            instance: self.instance,
        }
    }
}

/// Reads what `scripts/settings.lua` answers, in its order; `None` if it answers something else.
pub(super) fn from_reply(reply: &[Vec<u8>], now: UnixMillis) -> Option<Tuning> {
    let [revision, settings, actor, reason, instance, age] = reply else { return None };
    let chosen = match settings.as_slice() {
        b"" => Chosen::Configured,
        settings => match serde_json::from_slice(settings) {
            Ok(table) => read(table),
            Err(_) => Chosen::Unreadable("it is no JSON object".to_owned()),
        },
    };
    Some(Tuning {
        revision: text(revision).parse().ok()?,
        chosen,
        actor: text(actor),
        reason: text(reason),
        at: ago(now, optional(age)??),
        instance: text(instance),
    })
}

fn read(table: Map<String, Json>) -> Chosen {
    // Whoever goes by it has a lease of its own.
    match read_breaker(table, Duration::ZERO) {
        Ok(settings) => Chosen::Given(Arc::new(settings)),
        Err(faults) => Chosen::Unreadable(faults.to_string().replace('\n', "; ")),
    }
}

fn ago(now: UnixMillis, age_ms: i64) -> UnixMillis {
    UnixMillis(now.0.saturating_sub(age_ms.max(0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::breaker::{PolicySettings, Settings};

    const NOW: UnixMillis = UnixMillis(1_000_000);

    fn given() -> Chosen {
        let fail_max = 7.try_into().expect("not zero");
        Chosen::Given(Arc::new(Settings::new(
            PolicySettings::Consecutive { fail_max },
            Duration::from_millis(1_500),
            Duration::from_secs(1),
        )))
    }

    fn tuning(chosen: Chosen) -> Tuning {
        Tuning { revision: 3, chosen, actor: "ann".into(), reason: "λ".into(), at: UnixMillis(400_000), instance: "a".into() }
    }

    #[test]
    fn a_change_comes_back_as_it_went_by_message_and_by_hash() {
        for chosen in [Chosen::Configured, given()] {
            let sent = tuning(chosen);
            let wire = TuningWire::of(&sent, NOW).expect("written");
            let there = UnixMillis(77_000_000);
            let expect = Tuning { at: UnixMillis(76_400_000), ..sent };
            let reply = ["3", &wire.text(), "ann", "λ", "a", "600000"].map(|field| field.as_bytes().to_vec());
            assert_eq!(from_reply(&reply, there), Some(expect.clone()));
            let message = serde_json::to_string(&wire).expect("serializes");
            assert_eq!(serde_json::from_str::<TuningWire>(&message).expect("its own form").tuning(there), expect);
        }
        assert_eq!(TuningWire::of(&tuning(Chosen::Unreadable(String::new())), NOW), None);
    }

    #[test]
    fn what_this_version_cannot_read_says_why_and_keeps_its_revision() {
        for (settings, word) in [
            ("no json", "no JSON object"),
            ("[]", "no JSON object"),
            (r#"{"policy": "clairvoyant"}"#, "policy"),
            (r#"{"fail_max": 0}"#, "fail_max"),
            (r#"{"fail_max": 1, "mood": "good"}"#, "mood"),
        ] {
            let reply = ["4", settings, "ann", "", "a", "-5"].map(|field| field.as_bytes().to_vec());
            let tuning = from_reply(&reply, NOW).expect("a change");
            assert_eq!((tuning.revision, tuning.at), (4, NOW));
            assert!(matches!(&tuning.chosen, Chosen::Unreadable(why) if why.contains(word)), "{settings}: {tuning:?}");
        }
    }

    #[test]
    fn a_reply_of_another_shape_is_none() {
        let reply = ["4", "", "ann", "", "a", "0"].map(|field| field.as_bytes().to_vec());
        assert!(from_reply(&reply, NOW).is_some());
        assert_eq!(from_reply(&reply[1..], NOW), None);
        for place in [0, 5] {
            let mut other = reply.clone();
            other[place] = b"many".to_vec();
            assert_eq!(from_reply(&other, NOW), None);
        }
    }
}
