//! How the store is, for those who show it, and those who ask it only while it is there. The keeper alone notes it.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Mutex, PoisonError};

/// Whether the store can be asked, as far as is known.
#[derive(Debug, Default)]
pub struct StoreHealth {
    state: AtomicU8,
    fault: Mutex<String>,
    /// By service, whether the node that has it does.
    serves: Box<[AtomicBool]>,
}

const ABSENT: u8 = 0;
/// One that was not asked yet: as good as away, but its first answer, or the lack of it, is news.
const UNASKED: u8 = 1;
const DOWN: u8 = 2;
const UP: u8 = 3;

/// What is known of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreState {
    /// None is configured.
    Absent,
    /// It, or one of its nodes, has not been reached yet, or not lately; or it answers, and takes nothing.
    Down,
    /// It answers, and takes what there is to store.
    Up,
}

impl StoreHealth {
    /// Of a store that was not asked yet, for so many services.
    pub(super) fn unasked(services: usize) -> Self {
        Self { state: AtomicU8::new(UNASKED), fault: Mutex::default(), serves: (0..services).map(|_| AtomicBool::new(false)).collect() }
    }

    /// Whether a service's node answers, and takes what there is to store of it. The store may be down all the same, for others.
    pub fn serves(&self, service: usize) -> bool {
        self.serves.get(service).is_some_and(|serves| serves.load(Ordering::Relaxed))
    }

    /// Notes which services are served; whether that is news of any.
    pub(super) fn serve(&self, serves: impl Fn(usize) -> bool) -> bool {
        self.serves.iter().enumerate().fold(false, |news, (service, known)| {
            let now = serves(service);
            news | (known.swap(now, Ordering::Relaxed) != now)
        })
    }

    /// What is known.
    pub fn state(&self) -> StoreState {
        match self.state.load(Ordering::Relaxed) {
            ABSENT => StoreState::Absent,
            UP => StoreState::Up,
            _ => StoreState::Down,
        }
    }

    /// What was wrong with it when it was last asked; empty where nothing was, or it was not asked yet.
    pub fn fault(&self) -> String {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes how it is, and what is wrong with it; whether that is news.
    pub(super) fn set(&self, state: StoreState, fault: &str) -> bool {
        fault.clone_into(&mut self.fault.lock().unwrap_or_else(PoisonError::into_inner));
        let value = match state {
            StoreState::Absent => ABSENT,
            StoreState::Down => DOWN,
            StoreState::Up => UP,
        };
        self.state.swap(value, Ordering::Relaxed) != value
    }
}
