//! What became of calls that were to be parked, for a loop that must know which keys are free.

use super::{Begun, Finisher};
use crate::event::{Offset, Source};
use crate::pipeline::ledger::Ledger;
use crate::pipeline::ports::World;

/// What became of a call that was to be parked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Park {
    /// The service.
    pub service: usize,
    /// Its event.
    pub event: Source,
    /// How it ended.
    pub end: ParkEnd,
}

/// How a call ended that was to be parked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParkEnd {
    /// It is on its topic, at this place of its partition if that is known.
    Parked(Option<Offset>),
    /// Its topic does not take it, and it is a dead letter instead.
    Replaced,
}

/// What became of calls that were to be parked; `None`: nobody wants to know.
#[derive(Debug, Default)]
pub(super) struct Parks(Option<Vec<Park>>);

impl Parks {
    /// Notes how a record's call ended. In another life of its partition the event's call is parked anew, and this says nothing of that one.
    pub(super) fn note(&mut self, ledger: &Ledger, begun: &Begun, service: usize, end: ParkEnd) {
        let event = &begun.record.source;
        if let Some(parks) = &mut self.0
            && ledger.is_current(event, begun.life)
        {
            parks.push(Park { service, event: event.clone(), end });
        }
    }
}

impl<W: World, T> Finisher<W, T> {
    /// Remembers what became of calls that were to be parked.
    pub fn telling_parks(self, wanted: bool) -> Self {
        Self { parks: Parks(wanted.then(Vec::new)), ..self }
    }

    /// What became of calls that were to be parked, since this was last asked.
    pub fn parks(&mut self) -> Vec<Park> {
        self.parks.0.as_mut().map(std::mem::take).unwrap_or_default()
    }
}
