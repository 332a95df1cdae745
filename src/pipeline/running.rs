//! What runs at once, each with what must be known of it if it is cut off before its end.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};

/// Futures that end with an `R`; of one that is cut off, a `K` is left.
pub struct Running<K, R>(FuturesUnordered<Run<K, R>>);

struct Run<K, R> {
    left: K,
    run: BoxFuture<'static, R>,
}

impl<K: Unpin, R> Future for Run<K, R> {
    type Output = R;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<R> {
        self.get_mut().run.as_mut().poll(context)
    }
}

impl<K: Unpin, R> Default for Running<K, R> {
    fn default() -> Self {
        Self(FuturesUnordered::new())
    }
}

impl<K: Unpin, R> Running<K, R> {
    /// One more.
    pub fn push(&mut self, left: K, run: BoxFuture<'static, R>) {
        self.0.push(Run { left, run });
    }

    /// The next that ends; `None` if nothing runs.
    pub async fn next(&mut self) -> Option<R> {
        self.0.next().await
    }

    /// Drops those for which `ends` holds, where they are: a call that one of them makes is cancelled, its permit and its turn given back.
    /// Gives what is left of them. Looks at every one.
    pub fn cut_off(&mut self, mut ends: impl FnMut(&K) -> bool) -> Vec<K> {
        let mut cut = Vec::new();
        for run in std::mem::take(&mut self.0) {
            if ends(&run.left) { cut.push(run.left) } else { self.0.push(run) }
        }
        cut
    }

    /// How many run.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none does.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use std::sync::Arc;

    #[test]
    fn what_is_cut_off_is_dropped_at_once_and_the_rest_goes_on() {
        let (stays, goes) = (Arc::new(()), Arc::new(()));
        let mut running = Running::default();
        for (left, held) in [("stays", Arc::clone(&stays)), ("goes", Arc::clone(&goes)), ("goes too", Arc::clone(&goes))] {
            let run = async move {
                tokio::task::yield_now().await;
                drop(held);
                left
            };
            running.push(left, run.boxed());
        }
        assert_eq!(running.next().now_or_never(), None, "all have begun");
        let mut cut = running.cut_off(|left| left.starts_with("goes"));
        cut.sort_unstable();
        assert_eq!((cut, running.len()), (vec!["goes", "goes too"], 1));
        assert_eq!((Arc::strong_count(&goes), Arc::strong_count(&stays)), (1, 2), "with what they held");
        let next = std::iter::from_fn(|| running.next().now_or_never()).flatten().next();
        assert_eq!((next, running.is_empty()), (Some("stays"), true));
    }
}
