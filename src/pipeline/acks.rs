//! The way back from Kafka: what became of published records, from the client's thread to the loop that published them.
//!
//! Acknowledgements come in bursts, one for each batch that a broker took. The loop is woken once for a burst and takes all of it at once, so
//! that a record costs neither a wake-up nor an allocation.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;

use super::ports::Ack;

/// A sender and its receiver.
pub fn channel() -> (AckSender, Acks) {
    let shared = Arc::new(Shared { arrived: Mutex::default(), receiver: AtomicWaker::new(), senders: AtomicUsize::new(1) });
    (AckSender(Arc::clone(&shared)), Acks { shared, taken: VecDeque::new() })
}

#[derive(Debug)]
struct Shared {
    arrived: Mutex<VecDeque<Ack>>,
    receiver: AtomicWaker,
    senders: AtomicUsize,
}

/// Tells what became of records; clones tell the same receiver.
#[derive(Debug)]
pub struct AckSender(Arc<Shared>);

impl AckSender {
    /// Tells of one. Never blocks for longer than it takes to swap two queues; it is kept also when nobody listens any more.
    pub fn send(&self, ack: Ack) {
        let was_empty = {
            let mut arrived = self.0.arrived.lock().unwrap_or_else(PoisonError::into_inner);
            let was_empty = arrived.is_empty();
            arrived.push_back(ack);
            was_empty
        };
        // Whoever was woken by the first of a burst takes those behind it too.
        if was_empty {
            self.0.receiver.wake();
        }
    }
}

impl Clone for AckSender {
    fn clone(&self) -> Self {
        self.0.senders.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(&self.0))
    }
}

impl Drop for AckSender {
    fn drop(&mut self) {
        if self.0.senders.fetch_sub(1, Ordering::Release) == 1 {
            self.0.receiver.wake();
        }
    }
}

/// Where a publisher's acknowledgements arrive, in order. For one task.
#[derive(Debug)]
pub struct Acks {
    shared: Arc<Shared>,
    taken: VecDeque<Ack>,
}

impl Acks {
    /// The next one, if it is there.
    pub fn try_recv(&mut self) -> Option<Ack> {
        if self.taken.is_empty() {
            // The emptied queue goes back, with its memory.
            std::mem::swap(&mut self.taken, &mut self.shared.arrived.lock().unwrap_or_else(PoisonError::into_inner));
        }
        self.taken.pop_front()
    }

    /// Waits for the next one; `None` once every sender is gone and all that they told is taken. Nothing is lost when the future is dropped.
    pub async fn recv(&mut self) -> Option<Ack> {
        poll_fn(|context| self.poll_recv(context)).await
    }

    fn poll_recv(&mut self, context: &Context<'_>) -> Poll<Option<Ack>> {
        if let Some(ack) = self.try_recv() {
            return Poll::Ready(Some(ack));
        }
        self.shared.receiver.register(context.waker());
        // Looked at again: what came before the waker was there woke nobody. And the senders before that: what the last one told is taken first.
        let is_over = self.shared.senders.load(Ordering::Acquire) == 0;
        match self.try_recv() {
            None if !is_over => Poll::Pending,
            last => Poll::Ready(last),
        }
    }

    /// Whether none is there.
    pub fn is_empty(&self) -> bool {
        self.taken.is_empty() && self.shared.arrived.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::ports::Token;

    fn ack(number: u64) -> Ack {
        Ack { token: Token(number), result: Ok(None) }
    }

    #[tokio::test]
    async fn all_come_in_order_over_threads_and_then_the_end() {
        const EACH: u64 = 10_000;
        let (sender, mut acks) = channel();
        let threads: Vec<_> = (0..3)
            .map(|thread| {
                let sender = sender.clone();
                std::thread::spawn(move || (0..EACH).for_each(|number| sender.send(ack(thread * EACH + number))))
            })
            .collect();
        drop(sender);
        let mut last = [None; 3];
        let mut count = 0;
        while let Some(Ack { token: Token(number), .. }) = acks.recv().await {
            let thread = usize::try_from(number / EACH).unwrap();
            assert!(last[thread] < Some(number), "in the order of each");
            last[thread] = Some(number);
            count += 1;
        }
        assert_eq!(count, 3 * EACH);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }

    #[tokio::test]
    async fn a_wait_that_is_dropped_loses_nothing() {
        let (sender, mut acks) = channel();
        for number in 0..100 {
            tokio::select! {
                biased;
                _ = acks.recv() => unreachable!("nothing was told yet"),
                () = async { sender.send(ack(number)) } => {}
            }
            assert_eq!(acks.recv().await, Some(ack(number)));
            assert!(acks.is_empty());
        }
        drop(sender);
        assert_eq!(acks.recv().await, None);
    }
}
