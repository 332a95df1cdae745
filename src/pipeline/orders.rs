//! Orders for parked calls, as far as this process knows them: heard from the topic that keeps them, carried out by the drains, shown and given by
//! the API.
//!
//! Every instance reads the whole topic, and each carries out what concerns the partitions that it drains. So no order is lost with a process, and
//! none needs the instance that it was given to. A call that is under way when an order comes is not called back.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{broadcast, watch};
use uuid::Uuid;

use super::ports::{Clock, OrderLog};
use crate::machine::orders::{Change, Orders, Progress};

/// How often it is told how far an order has come.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// How long a drain waits at the start for what has been ordered before.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// What is ordered.
#[derive(Debug)]
pub struct OrderBook {
    orders: Mutex<Orders>,
    /// For how many calls each was carried out here, and how many of them have been told.
    done: Mutex<BTreeMap<Uuid, (u64, u64)>>,
    changes: broadcast::Sender<()>,
    /// How many changes of orders were heard.
    heard: AtomicU64,
    caught_up: watch::Sender<bool>,
}

impl OrderBook {
    /// A fleet's, by its consumer group.
    pub fn of(group: &str) -> Self {
        Self {
            orders: Mutex::new(Orders::of(group)),
            done: Mutex::default(),
            changes: broadcast::Sender::new(1),
            heard: AtomicU64::new(0),
            caught_up: watch::Sender::new(false),
        }
    }

    /// One in which nothing is written, and nothing ever will be by others.
    pub fn closed(group: &str) -> Arc<Self> {
        let book = Self::of(group);
        book.note_caught_up();
        Arc::new(book)
    }

    /// Takes note of a change.
    pub fn hear(&self, change: Change) {
        let told = matches!(change, Change::Progress(_) | Change::ProgressForgotten { .. });
        if let Change::Forgotten(order) = &change {
            self.done.lock().unwrap_or_else(PoisonError::into_inner).remove(order);
        }
        self.orders().hear(change);
        if !told {
            self.heard.fetch_add(1, Relaxed);
            // An error says that nobody waits.
            let _ = self.changes.send(());
        }
    }

    /// What was ordered before this process began is known now, or that nothing can be.
    pub fn note_caught_up(&self) {
        self.caught_up.send_replace(true);
    }

    /// Waits until that is known.
    pub async fn caught_up(&self) {
        // The sender is here too.
        let _ = self.caught_up.subscribe().wait_for(|caught_up| *caught_up).await;
    }

    /// Names a state of what is ordered: another number, another state.
    pub fn revision(&self) -> u64 {
        self.heard.load(Relaxed)
    }

    /// Tells of each change.
    pub fn changes(&self) -> broadcast::Receiver<()> {
        self.changes.subscribe()
    }

    /// Everything that is in force. Held for as long as it takes to look.
    pub fn orders(&self) -> MutexGuard<'_, Orders> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An order was carried out for so many calls.
    pub fn note_done(&self, order: Uuid, calls: u64) {
        self.done.lock().unwrap_or_else(PoisonError::into_inner).entry(order).or_default().0 += calls;
    }

    /// What has not been told yet.
    pub(super) fn untold(&self) -> Vec<(Uuid, u64)> {
        let done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        done.iter().filter(|(_, (done, told))| done > told).map(|(order, (done, _))| (*order, *done)).collect()
    }

    fn note_told(&self, order: Uuid, done: u64) {
        if let Some((_, told)) = self.done.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&order) {
            *told = done;
        }
    }
}

/// Tells how far orders have come here, and lets go those that can be about no call any more, since none is parked for longer than `longest`;
/// an instance that parks nothing does not know that.
pub async fn run<C: Clock, L: OrderLog>(
    book: Arc<OrderBook>,
    log: Arc<L>,
    (group, instance): (String, String),
    longest: Option<Duration>,
    clock: C,
) {
    // Of what is not read yet it is not known whether it is of use.
    book.caught_up().await;
    loop {
        clock.sleep_until(clock.now().plus(TELL_EVERY)).await;
        for (order, done) in book.untold() {
            // What is not taken is told with the next.
            if log.write(&Change::Progress(Progress { order, group: group.clone(), instance: instance.clone(), done })).await.is_ok() {
                book.note_told(order, done);
            }
        }
        let outlived = book.orders().outlived(longest, clock.wall());
        for change in outlived {
            if log.write(&change).await.is_ok() {
                book.hear(change);
            }
        }
    }
}
