//! What a service's journal says of the notifier's calls.

use std::collections::{BTreeMap, HashMap};

use fusebox::edge::embedded::stub::{Ended, Entry};

/// The event that a call of the notifier is about.
pub fn event_id(call: &Entry) -> &str {
    call.idempotency_key.as_deref().and_then(|key| key.strip_suffix("/notifier")).expect("a key of the notifier")
}

/// Whether a call was answered well.
pub fn is_delivery(call: &Entry) -> bool {
    call.ended == Some(Ended::Answered(200))
}

/// Each event's first call comes behind the first delivery of the one in front of it in its key; what is delivered again is a repeat. `keys`: the ids of
/// each key's events, in order.
#[track_caller]
pub fn keep_order(keys: &BTreeMap<String, Vec<String>>, calls: &[Entry]) {
    let (mut first, mut delivered) = (HashMap::new(), HashMap::new());
    for (place, call) in calls.iter().enumerate() {
        first.entry(event_id(call)).or_insert(place);
        if is_delivery(call) {
            delivered.entry(event_id(call)).or_insert(place);
        }
    }
    for (key, ids) in keys {
        for pair in ids.windows(2) {
            let before = delivered.get(&*pair[0]).unwrap_or_else(|| panic!("{} of {key} is not delivered", pair[0]));
            let called = first.get(&*pair[1]).unwrap_or_else(|| panic!("{} of {key} is not called", pair[1]));
            assert!(before < called, "{} of {key} is called before {} is delivered", pair[1], pair[0]);
        }
    }
}
