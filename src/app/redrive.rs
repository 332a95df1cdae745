//! Dead letters, as the API reads them and sends them back.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::FutureExt as _;
use tokio::sync::Semaphore;

use crate::config::{Config, Guarantee};
use crate::edge::api::dead_letters::{Letter, Letters, Place, Redrives, Wished};
use crate::edge::clock::SystemClock;
use crate::edge::kafka::{self, Extent, KafkaEdgeError, Redriver, Start};
use crate::event::redrive::Routes;
use crate::event::{Incoming, UnixMillis};
use crate::pipeline::redrive::{self, Desk, Order, Selection, Tally, Told, Trouble};
use crate::pipeline::stop::Stop;

/// How long Kafka may be silent: a page must be there within what a request may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Pages that are read at once, and how long one waits for its turn.
const AT_ONCE: usize = 2;
const TURN: Duration = Duration::from_secs(4);

/// Offsets that a page of chosen letters looks through in each partition: about a second's reading of small ones.
const WINDOW: u64 = 5_000;

/// Where dead letters go when they are redriven.
pub fn routes(config: &Config) -> Routes {
    Routes {
        events: config.topics.events.clone(),
        parking: config.parking().map(|(service, retry)| (service.name.clone(), retry.topic.clone())).collect(),
        ordered: config.parking().filter(|(_, retry)| retry.keeps_order()).map(|(service, _)| service.name.clone()).collect(),
        services: config.services.iter().map(|service| service.name.clone()).collect(),
        max_redrives: config.dead_letters.max_redrives,
    }
}

/// What the API needs for them.
pub(super) fn letters(config: &Arc<Config>, redrives: Arc<Redrives>, clock: SystemClock) -> Letters {
    let (reads, sends, turns) = (Arc::clone(config), Arc::clone(config), Arc::new(Semaphore::new(AT_ONCE)));
    Letters {
        page: Box::new(move |wished| {
            let (config, turns) = (Arc::clone(&reads), Arc::clone(&turns));
            async move {
                let Ok(_turn) = tokio::time::timeout(TURN, turns.acquire()).await else {
                    return Err("too many ask for dead letters at once; try again".to_owned());
                };
                page(&config, wished).await.map_err(|error| error.to_string())
            }
            .boxed()
        }),
        redrive: Box::new(move |order, dry_run, stop, tell| {
            let config = Arc::clone(&sends);
            async move { go(&config, clock, &order, dry_run, stop, tell).await }.boxed()
        }),
        new_id: Box::new(uuid::Uuid::new_v4),
        redrives,
    }
}

async fn page(config: &Config, wished: Wished) -> Result<(Vec<Letter>, Option<Place>), KafkaEdgeError> {
    let Wished { selection, limit, from, show } = wished;
    let window = if selection == Selection::default() { limit as u64 } else { WINDOW };
    let extent = Extent { limit, window, patience: PATIENCE };
    let make = move |letter: &Incoming| {
        let at = redrive::dead_lettered_at(letter).unwrap_or(UnixMillis(0));
        selection.takes(letter).then(|| (at, show(letter)))
    };
    let page = kafka::newest(&config.kafka, &config.topics.dead_letters, from, extent, make).await?;
    Ok((page.records, page.next))
}

async fn go(
    config: &Config,
    clock: SystemClock,
    order: &Order,
    dry_run: bool,
    stop: Stop,
    mut tell: Box<dyn FnMut(Told<'_>) + Send>,
) -> (Tally, Option<String>) {
    match run(config, clock, order, dry_run, stop, &mut *tell).await {
        Err(error) => (Tally::default(), Some(error.to_string())),
        Ok((tally, Ok(()))) => (tally, None),
        Ok((tally, Err(Trouble::Read(error)))) => (tally, Some(error.to_string())),
        Ok((tally, Err(Trouble::Publish { why, .. }))) => (tally, Some(why)),
    }
}

/// A pass over the letters, and what ended it early.
pub type Gone = (Tally, Result<(), Trouble<KafkaEdgeError>>);

/// Goes through the dead letters; with `dry_run` nothing goes.
///
/// # Errors
/// It could not begin.
pub async fn run(
    config: &Config,
    clock: SystemClock,
    order: &Order,
    dry_run: bool,
    stop: Stop,
    tell: &mut (dyn FnMut(Told<'_>) + Send),
) -> Result<Gone, KafkaEdgeError> {
    let topic = config.topics.dead_letters.clone();
    // Before it is asked what went: whoever redrives at this moment is stopped by it.
    let redriver = match (&config.processing.guarantee, dry_run) {
        (_, true) => None,
        (Guarantee::AtLeastOnce, false) => Some(Redriver::begin(&config.kafka).await?),
        (Guarantee::ExactlyOnce { .. }, false) => Some(Redriver::together(&config.kafka).await?),
    };
    let gone = async {
        let memories = kafka::memories(&config.kafka, &topic, PATIENCE).await?;
        let mut letters = kafka::read(&config.kafka, &topic, Start::Beginning, 2 * PATIENCE, |_| true)?;
        let routes = routes(config);
        let desk = Desk { topic, routes: &routes, memories, publisher: redriver.as_ref(), clock, stop };
        Ok(redrive::run(&mut letters, order, desk, tell).await)
    }
    .await;
    // Its client waits for what it has under way when it is dropped, which must not hold up the runtime.
    let _ = tokio::time::timeout(Duration::from_secs(1), tokio::task::spawn_blocking(move || drop(redriver))).await;
    gone
}
