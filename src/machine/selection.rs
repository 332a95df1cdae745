//! Which parked calls somebody means: by their ids, or by what is known of them.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::event::UnixMillis;
use crate::event::envelope::{Parked, Reason};

/// A choice among parked calls: those that everything which is given holds of. Nothing given chooses all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Selection {
    /// Of these services.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub services: BTreeSet<String>,
    /// Of these events.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub event_ids: BTreeSet<Uuid>,
    /// Of these cameras.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub cameras: BTreeSet<String>,
    /// Parked for one of these reasons, by its word.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub reasons: BTreeSet<String>,
    /// First parked before then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parked_before: Option<UnixMillis>,
    /// After at least so many failed calls.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempts_from: Option<u32>,
    /// With this text in the envelope, as it is written there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

impl Selection {
    /// Reasons that there are not; empty where all are known.
    pub fn unknown_reasons(&self) -> Vec<&str> {
        self.reasons.iter().map(String::as_str).filter(|reason| Reason::parse(reason).is_none()).collect()
    }

    /// Whether calls of a service may be meant.
    pub fn is_of(&self, service: &str) -> bool {
        self.services.is_empty() || self.services.contains(service)
    }

    /// Whether a call is meant.
    pub fn has(&self, parked: &Parked) -> bool {
        let among = |wanted: &BTreeSet<String>, word: &str| wanted.is_empty() || wanted.contains(word);
        let parking = &parked.parking;
        self.is_of(&parked.service)
            && (self.event_ids.is_empty() || self.event_ids.contains(&parked.event_id))
            && among(&self.cameras, &parked.camera_id)
            && among(&self.reasons, parking.reason.as_str())
            && self.parked_before.is_none_or(|before| parking.first_parked_at < before)
            && self.attempts_from.is_none_or(|attempts| parking.attempt >= attempts)
            && self.text.as_ref().is_none_or(|text| contains(parked.record.value.as_deref().unwrap_or_default(), text.as_bytes()))
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    part.is_empty() || text.windows(part.len()).any(|window| window == part)
}
