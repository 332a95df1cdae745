//! What instances say of a service, in Redis: a hash, by instance, each with its end on Redis' clock.
//!
//! | key | type | holds |
//! |---|---|---|
//! | `<prefix>:{<service>}:window` | hash | by instance: `<generation> <until> <alone> <kind> <figures> <retry after>`; gone with the last of them |
//!
//! Guarantees: telling and hearing are one script, so of two that tell at once one hears the other; what is over by Redis' clock, or of an older
//! life, is heard by nobody.
//!
//! Figures are `calls/failures/slow/streak`, of several policies with a comma between them; a `Retry-After` follows as ms, if there is one. What cannot
//! be read is left out: an instance of another version may have said it.
//!
//! Where Redis, or one of its nodes, refuses this alone, for a right that the user lacks, say, that is told once, and once that it works again.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Duration;

use futures_util::future::join_all;
use redis::Script;

use super::{RedisStore, wire};
use crate::machine::breaker::{Counts, Generation, Testimony, Told};
use crate::pipeline::ports::{Clock, EvidenceStore, Store, StoreError, Telling};

/// The longest that anything is evidence.
const LONGEST: Duration = Duration::from_secs(24 * 3_600);

/// The script that tells and hears.
pub(super) fn script() -> Script {
    Script::new(concat!(include_str!("scripts/state.lua"), include_str!("scripts/evidence.lua")))
}

impl<C: Clock> EvidenceStore for RedisStore<C> {
    async fn tell(&self, tellings: &[Telling]) -> Vec<Result<Vec<Told>, StoreError>> {
        let answers = join_all(tellings.iter().map(|telling| self.tell_one(telling))).await;
        // What one of its services was refused, all of a node were: it does not work again for the others' answers.
        let mut failing = BTreeSet::new();
        for (Telling { service, .. }, answer) in tellings.iter().zip(&answers) {
            let Err(StoreError(error)) = answer else { continue };
            failing.insert(self.node(service));
            if self.fails_alone(&self.evidence_failing, service) {
                tracing::warn!(
                    service,
                    error,
                    "instances do not hear what the others see of services: until Redis takes it each goes by what it sees itself, and no quorum is reached"
                );
            }
        }
        for Telling { service, .. } in tellings {
            let node = self.node(service);
            if !failing.contains(&node) && self.evidence_failing.end(node) {
                tracing::info!(service, "instances hear what the others see of services again");
            }
        }
        answers
    }
}

impl<C: Clock> RedisStore<C> {
    async fn tell_one(&self, Telling { service, testimony, lasts }: &Telling) -> Result<Vec<Told>, StoreError> {
        let mut call = self.evidence.key(self.keys.window(service));
        let lasts = if testimony.is_empty() { Duration::ZERO } else { (*lasts).min(LONGEST) };
        call.arg(&self.instance).arg(testimony.generation.0).arg(lasts.as_millis()).arg(text(testimony));
        let reply: Vec<Vec<u8>> = self.link.run(|mut connection| async move { call.invoke_async(&mut connection).await }).await?;
        let told = |pair: &[Vec<u8>]| {
            let [instance, what] = pair else { return None };
            let testimony = parse(std::str::from_utf8(what).ok()?, testimony.generation)?;
            Some(Told { instance: String::from_utf8_lossy(instance).into_owned(), testimony })
        };
        Ok(reply.chunks(2).filter_map(told).collect())
    }
}

fn text(testimony: &Testimony) -> String {
    let figures = testimony
        .figures
        .iter()
        .map(|Counts { calls, failures, slow, consecutive_failures }| format!("{calls}/{failures}/{slow}/{consecutive_failures}"));
    let mut text = format!("{} {} {}", u8::from(testimony.alone), testimony.kind, figures.collect::<Vec<_>>().join(","));
    if let Some(span) = testimony.retry_after {
        let _ = write!(text, " {}", wire::span(span));
    }
    text
}

/// What [`text`] wrote; `None` for anything else.
fn parse(text: &str, generation: Generation) -> Option<Testimony> {
    let mut words = text.split(' ');
    let alone = match words.next()? {
        "0" => false,
        "1" => true,
        _ => return None,
    };
    let kind = words.next()?.parse().ok()?;
    let figures = words.next()?.split(',').filter(|figures| !figures.is_empty()).map(counts).collect::<Option<_>>()?;
    let retry_after = words.next().map(|ms| ms.parse().map(Duration::from_millis)).transpose().ok()?;
    Some(Testimony { generation, alone, kind, figures, retry_after })
}

fn counts(text: &str) -> Option<Counts> {
    let numbers = text.split('/').map(|number| number.parse().ok()).collect::<Option<Vec<u64>>>()?;
    let [calls, failures, slow, consecutive_failures] = numbers.try_into().ok()?;
    Some(Counts { calls, failures, slow, consecutive_failures })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_counts() -> impl Strategy<Value = Counts> {
        any::<[u64; 4]>().prop_map(|[calls, failures, slow, consecutive_failures]| Counts { calls, failures, slow, consecutive_failures })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            alone: bool, kind: u64, figures in prop::collection::vec(any_counts(), 0..4), asked in prop::option::of(0..4_000_000_u64),
        ) {
            let testimony = Testimony { generation: Generation(7), alone, kind, figures, retry_after: asked.map(Duration::from_millis) };
            prop_assert_eq!(parse(&text(&testimony), Generation(7)), Some(testimony));
        }

        #[test]
        fn no_text_makes_it_panic(text: String) {
            let _ = parse(&text, Generation(0));
        }
    }

    #[test]
    fn what_another_version_wrote_is_none() {
        for text in ["", "2 0 1/2/3/4", "1 x 1/2/3/4", "1 0 1/2/3", "1 0 1/2/3/4/5", "1 0 1/2/3/-4", "1 0", "1 0 1/2/3/4 soon"] {
            assert_eq!(parse(text, Generation(0)), None, "{text}");
        }
    }
}
