//! `[services.NAME.fallback]`, and `[services.NAME.retry]` for a service that parks.
//!
//! The keys that a fallback takes depend on its kind. Layers merge key by key, so a later layer's `kind = "skip"` finds an
//! earlier layer's `ttl` in the table: what belongs to another kind is left aside if an earlier layer wrote it, and a fault if not.

use std::num::{NonZeroU32, NonZeroUsize};

use serde_json::{Map, Value as Json};

use super::pipeline::Expression;
use super::topics::Claims;
use super::{DAY, MILLISECOND, SECOND};
use crate::config::checked::{Fallback, Ordering, Retry, RetryOrder};
use crate::config::faults::listed;
use crate::config::reader::Section;
use crate::config::shape::{Object, Time, TopicName, Whole, Word};
use crate::machine::disposition::FallbackKind;
use crate::machine::expression::Template;

/// The keys that only one kind takes.
const KEYS: [(&str, FallbackKind); 5] = [
    ("key", FallbackKind::Cached),
    ("ttl", FallbackKind::Cached),
    ("max_entries", FallbackKind::Cached),
    ("default", FallbackKind::Cached),
    ("body", FallbackKind::Default),
];

/// What a service's `fallback` and `retry` tables hold.
pub(super) fn read(name: &str, concurrency: Option<u32>, service: &Section<'_>, claims: &mut Claims) -> Option<Fallback> {
    let (kind, written) =
        service.section("fallback", "What stands in when the service has no answer.", |section| Some(table(section))).unzip();
    let kind = kind.flatten();
    let parks = kind == Some(FallbackKind::Park);
    if let (Some(kind), false, Some(retry_layer)) = (kind, parks, service.layer("retry")) {
        let kind_layer = service.within("fallback", |fallback| fallback.layer("kind")).flatten().unwrap_or(0);
        if retry_layer >= kind_layer && retry_layer > 0 {
            let kind = kind.as_str();
            service.fault(
                "retry",
                format!("has no effect: `fallback.kind` is {kind:?}, and only \"park\" parks calls to try again; remove one of the two"),
            );
        }
    }
    // With a kind that cannot be read nobody knows whether the table is wanted: it is read, so that its own faults are found.
    let retry = if parks || kind.is_none() {
        service.section("retry", "When a parked call is tried again; for a service whose fallback is `park`.", |section| {
            retry(name, concurrency, section, if parks { Some(claims) } else { None })
        })
    } else {
        service.skip("retry");
        None
    };
    match kind? {
        FallbackKind::Park => Some(Fallback::Park(retry?)),
        _ => written.flatten(),
    }
}

/// The fallback's own table: its kind, and the fallback itself unless it parks.
fn table(section: &Section<'_>) -> (Option<FallbackKind>, Option<Fallback>) {
    let kind = section.required(
        "kind",
        Word(&[
            ("cached", FallbackKind::Cached),
            ("default", FallbackKind::Default),
            ("park", FallbackKind::Park),
            ("skip", FallbackKind::Skip),
            ("fail", FallbackKind::Fail),
        ]),
        "What stands in: the last good answer, a body, nothing yet (the call is parked), nothing at all, or an error that dead-letters the event.",
    );
    let wanted = |of: FallbackKind| kind == Some(of) || section.is_describing();
    for (name, of) in KEYS {
        if !wanted(of) {
            leave_aside(name, kind, section);
        }
    }
    let cached = wanted(FallbackKind::Cached).then(|| cached(section)).flatten();
    let body = wanted(FallbackKind::Default)
        .then(|| section.required("body", Object, "`default`: what stands in, any table. A later layer's replaces it whole."));
    let fallback = kind.and_then(|kind| match kind {
        FallbackKind::Cached => cached,
        FallbackKind::Default => Some(Fallback::Default { body: body.flatten()? }),
        FallbackKind::Skip => Some(Fallback::Skip),
        FallbackKind::Fail => Some(Fallback::Fail),
        FallbackKind::Park => None,
    });
    (kind, fallback)
}

fn cached(section: &Section<'_>) -> Option<Fallback> {
    let key =
        section.required("key", Expression(Template::compile), "`cached`: what answers are kept by, an expression that gives a string.");
    let ttl = section.or("ttl", "1h", Time::between(MILLISECOND, 365 * DAY), "`cached`: how long an answer stays good.");
    let max_entries =
        section.or("max_entries", 10_000, Whole(1..=10_000_000_u32), "`cached`: how many answers are kept; the least used goes first.");
    let default = section.optional(
        "default",
        Object,
        "`cached`: what stands in when no answer is kept, any table. A later layer's replaces it whole.",
    );
    Some(Fallback::Cached {
        key: key?,
        ttl: ttl?,
        max_entries: NonZeroUsize::new(max_entries? as usize)?,
        default: default?.unwrap_or_else(Map::<String, Json>::new),
    })
}

/// Leaves a key of another kind aside, or finds fault with it if the layer that chose the kind, or a later one, wrote it.
fn leave_aside(name: &str, kind: Option<FallbackKind>, section: &Section<'_>) {
    section.skip(name);
    if let (Some(kind), Some(layer)) = (kind, section.layer(name))
        && layer > 0
        && layer >= section.layer("kind").unwrap_or(0)
    {
        let takes = listed(KEYS.iter().filter(|(_, of)| *of == kind).map(|(name, _)| *name));
        let takes = if takes.is_empty() { "nothing else".to_owned() } else { takes };
        section.fault(name, format!("has no effect: a fallback of kind {:?} takes {takes}", kind.as_str()));
    }
}

fn retry(name: &str, concurrency: Option<u32>, section: &Section<'_>, claims: Option<&mut Claims>) -> Option<Retry> {
    let topic = section.or("topic", format!("surveillance.{name}.retry"), TopicName, "Where its calls are parked; a topic of its own.");
    let max_attempts = section.or("max_attempts", 8, Whole(1..=10_000_u32), "Calls made before one is given up, the live one included.");
    let max_age =
        section.or("max_age", "24h", Time::between(SECOND, 3_650 * DAY), "The longest a call is kept; shorter than `topics.retention`.");
    let initial = section.or("initial", "1s", Time::between(MILLISECOND, DAY), "The first delay's bound; doubled with each attempt.");
    let max = section.or("max", "5m", Time::between(MILLISECOND, 7 * DAY), "The longest delay.");
    let drain_concurrency = section.or(
        "drain_concurrency",
        i64::from(DRAIN_CONCURRENCY),
        Whole(1..=10_000_u32),
        "How many drained calls may be at the service at once, all instances together; a smaller `concurrency` lowers the default.",
    );
    let order = section.or(
        "order",
        "none",
        Word(&[("none", RetryOrder::None), ("key", RetryOrder::Key)]),
        "`key`: a call waits for those of its event's key that were parked before it, whichever instance has them.",
    );
    if let (Some(initial), Some(max)) = (initial, max)
        && initial > max
    {
        let (initial, max) = (humantime::format_duration(initial), humantime::format_duration(max));
        section.at_odds(&["initial", "max"], format!("`initial`, {initial}, must not be longer than `max`, {max}"));
    }
    let drain_concurrency = match (drain_concurrency, concurrency) {
        (Some(drain), Some(all)) if drain > all => {
            if section.layer("drain_concurrency").is_some_and(|layer| layer > 0) {
                section.fault("drain_concurrency", format!("{drain} is more than the service's `concurrency`, {all}"));
            }
            Some(all)
        }
        (drain, _) => drain,
    };
    if let Some(claims) = claims {
        if order == Some(RetryOrder::Key) && claims.ordering == Some(Ordering::Unordered) {
            let why = "events of one key run in any order where `processing.ordering` is \"unordered\": parked calls have none to keep";
            section.fault("order", why);
        }
        claims.must_outlast(section, "max_age", max_age);
        claims.claim(section, "topic", topic.as_ref());
    }
    Some(Retry {
        topic: topic?,
        max_attempts: NonZeroU32::new(max_attempts?)?,
        max_age: max_age?,
        initial: initial?,
        max: max?,
        drain_concurrency: NonZeroUsize::new(drain_concurrency? as usize)?,
        order: order?,
    })
}

/// The places that draining may use unless said otherwise.
const DRAIN_CONCURRENCY: u32 = 16;
