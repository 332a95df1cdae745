//! What has finished above a partition's commit, as the text that Kafka keeps beside the committed offset, so that a restart, or the
//! partition's next owner, does not run it again.
//!
//! The text is a version (`fusebox1`), a letter for the form, and Base64. Two forms are tried and the shorter is taken:
//! - `r`: the distances between records that have *not* finished, as LEB128: short when little is unfinished, however far it lies apart;
//! - `b`: a bit for each offset, set where a record has finished: short when much is unfinished close together.
//!
//! What does not fit into [`MAX_BYTES`] is left out from the far end: its records run again, and nothing is ever claimed finished that
//! is not. A text that is not of this version is no progress.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;

use crate::event::Offset;

/// The longest text: Kafka's default for `offset.metadata.max.bytes`.
pub const MAX_BYTES: usize = 4_096;

const VERSION: &str = "fusebox1";

/// Bytes that fit behind version and form.
const MAX_PAYLOAD: usize = (MAX_BYTES - VERSION.len() - 1) / 4 * 3;

/// What is known to have finished: every offset from the first to the last, but for the unfinished ones.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// The first offset that is known of. What lies below it may be another log, which began anew.
    first: Offset,
    /// Offsets of records that have not finished, in order.
    unfinished: Vec<Offset>,
    /// The last offset that is known of.
    last: Option<Offset>,
}

/// A text beside a commit that says nothing to this version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    /// Somebody else's, or another version's.
    #[error("it is not of this version")]
    Foreign,
    /// This version's, but damaged.
    #[error("it is damaged")]
    Damaged,
}

impl Progress {
    /// Everything from `first` to `last` has finished but for `unfinished`, which is in order.
    pub fn new(first: Offset, unfinished: Vec<Offset>, last: Option<Offset>) -> Self {
        Self { first, unfinished, last }
    }

    /// Whether an offset lies below all that is known of.
    pub fn begins_above(&self, offset: Offset) -> bool {
        self.last.is_some() && offset < self.first
    }

    /// Whether a record is known to have finished.
    pub fn has_finished(&self, offset: Offset) -> bool {
        offset >= self.first && self.last.is_some_and(|last| offset <= last) && self.unfinished.binary_search(&offset).is_err()
    }

    /// The last offset that is known of.
    pub fn last(&self) -> Option<Offset> {
        self.last
    }

    /// Offsets above `above` that are known not to have finished.
    pub fn unfinished_above(&self, above: Option<Offset>) -> impl Iterator<Item = Offset> + '_ {
        self.unfinished.iter().copied().filter(move |offset| above.is_none_or(|above| *offset > above))
    }

    /// The text beside a commit of `next`; empty if nothing above it is known to have finished.
    pub fn encode(&self, next: Offset) -> String {
        let Some(last) = self.last.filter(|last| *last >= next) else { return String::new() };
        let unfinished = &self.unfinished[self.unfinished.partition_point(|offset| *offset < next)..];
        let above = last.0 - next.0 + 1;
        if i64::try_from(unfinished.iter().filter(|offset| **offset <= last).count()).unwrap_or(above) >= above {
            return String::new();
        }
        let (distances, reach) = distances(next, unfinished, last);
        let bits = bits(next, unfinished, last);
        let covered = next.0 + i64::try_from(bits.len()).unwrap_or(i64::MAX).saturating_mul(8) - 1;
        let take_bits = match (reach >= last, covered >= last.0) {
            (true, true) => bits.len() < distances.len(),
            // Where one of them does not fit as a whole, the one that tells of more is taken.
            _ => covered > reach.0,
        };
        let (form, payload) = if take_bits { ('b', bits) } else { ('r', distances) };
        format!("{VERSION}{form}{}", BASE64.encode(payload))
    }

    /// Reads the text beside a commit of `next`.
    ///
    /// # Errors
    /// It says nothing to this version; then nothing is known to have finished.
    pub fn decode(next: Offset, text: &str) -> Result<Self, Unknown> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let rest = text.strip_prefix(VERSION).ok_or(Unknown::Foreign)?;
        let (form, payload) = rest.split_at_checked(1).ok_or(Unknown::Damaged)?;
        let payload = BASE64.decode(payload).map_err(|_| Unknown::Damaged)?;
        if next.0 < 0 || payload.len() > MAX_BYTES {
            return Err(Unknown::Damaged);
        }
        match form {
            "r" => read_distances(next, &payload).ok_or(Unknown::Damaged),
            "b" => Ok(read_bits(next, &payload)),
            _ => Err(Unknown::Foreign),
        }
    }
}

/// The distances that fit, and the last offset that they tell of. The last of them is that from the last unfinished record to the end.
fn distances(next: Offset, unfinished: &[Offset], last: Offset) -> (Vec<u8>, Offset) {
    let mut payload = Vec::new();
    let mut from = next;
    // The longest LEB128 of a distance is ten bytes: room for the closing one is kept.
    for offset in unfinished.iter().take_while(|offset| **offset <= last) {
        if payload.len() + 20 > MAX_PAYLOAD {
            write_leb128(&mut payload, 0);
            return (payload, from);
        }
        write_leb128(&mut payload, offset.0.abs_diff(from.0));
        from = *offset;
    }
    write_leb128(&mut payload, last.0.abs_diff(from.0));
    (payload, last)
}

fn read_distances(next: Offset, payload: &[u8]) -> Option<Progress> {
    let mut unfinished = Vec::new();
    let (mut at, mut rest) = (next.0, payload);
    while !rest.is_empty() {
        let distance = i64::try_from(read_leb128(&mut rest)?).ok()?;
        at = at.checked_add(distance)?;
        unfinished.push(Offset(at));
    }
    let last = unfinished.pop()?;
    // Only the first may lie at the commit itself; two at one place are no distances.
    if unfinished.windows(2).any(|pair| pair[0] >= pair[1]) {
        return None;
    }
    Some(Progress { first: next, unfinished, last: Some(last) })
}

fn bits(next: Offset, unfinished: &[Offset], last: Offset) -> Vec<u8> {
    let wanted = usize::try_from((last.0 - next.0) / 8 + 1).unwrap_or(usize::MAX).min(MAX_PAYLOAD);
    let mut payload = vec![0xff; wanted];
    let mut clear = |index: u64| {
        if let Some(byte) = usize::try_from(index / 8).ok().and_then(|byte| payload.get_mut(byte)) {
            *byte &= !(1 << (index % 8));
        }
    };
    for offset in unfinished {
        clear(offset.0.abs_diff(next.0));
    }
    // Behind the last there is nothing that could have finished.
    let end = last.0.abs_diff(next.0) + 1;
    for index in end..end.next_multiple_of(8) {
        clear(index);
    }
    payload
}

fn read_bits(next: Offset, payload: &[u8]) -> Progress {
    let mut unfinished = Vec::new();
    let mut last = None;
    for (index, byte) in (0i64..).zip(payload) {
        for bit in 0..8 {
            let offset = Offset(next.0.saturating_add(index * 8 + bit));
            if byte >> bit & 1 == 1 { last = Some(offset) } else { unfinished.push(offset) }
        }
    }
    unfinished.retain(|offset| last.is_some_and(|last| *offset < last));
    Progress { first: next, unfinished, last }
}

fn write_leb128(into: &mut Vec<u8>, mut value: u64) {
    loop {
        let [low, ..] = value.to_le_bytes();
        value >>= 7;
        if value == 0 {
            into.push(low & 0x7f);
            return;
        }
        into.push(low | 0x80);
    }
}

fn read_leb128(from: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = from.split_first()?;
        *from = rest;
        let part = u64::from(byte & 0x7f);
        if shift == 63 && part > 1 {
            return None;
        }
        value |= part << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn offsets(numbers: &[i64]) -> Vec<Offset> {
        numbers.iter().copied().map(Offset).collect()
    }

    #[test]
    fn little_is_said_where_little_is_known() {
        assert_eq!(Progress::default().encode(Offset(0)), "");
        assert_eq!(Progress::new(Offset(0), Vec::new(), Some(Offset(9))).encode(Offset(10)), "");
        assert_eq!(Progress::new(Offset(0), offsets(&[10, 11]), Some(Offset(11))).encode(Offset(10)), "", "nothing above has finished");
    }

    #[test]
    fn a_record_that_is_stuck_costs_a_few_bytes_however_many_finish_behind_it() {
        let text = Progress::new(Offset(0), offsets(&[100]), Some(Offset(50_000_100))).encode(Offset(100));
        assert!(text.len() < 20, "{text}");
        let progress = Progress::decode(Offset(100), &text).expect("its own");
        assert!(!progress.has_finished(Offset(100)) && progress.has_finished(Offset(101)) && progress.has_finished(Offset(50_000_100)));
        assert!(!progress.has_finished(Offset(50_000_101)));
        assert!(!progress.has_finished(Offset(99)), "below the commit lies another log");
    }

    #[test]
    fn what_is_not_ours_is_no_progress() {
        for text in ["x", "fusebox2rAAA", "fusebox1xAAA", "{\"offset\":3}", "fusebox"] {
            assert_eq!(Progress::decode(Offset(0), text), Err(Unknown::Foreign), "{text}");
        }
        for text in ["fusebox1", "fusebox1r", "fusebox1r!!", "fusebox1r____________", "fusebox1rAAAA"] {
            assert_eq!(Progress::decode(Offset(0), text), Err(Unknown::Damaged), "{text}");
        }
    }

    proptest! {
        /// What is read is what was written; where not all of it fits, less is known, and never more.
        #[test]
        fn is_read_as_it_was_written(next in 0i64..1 << 60, gaps in prop::collection::vec((any::<bool>(), 1i64..2_000), 1..6_000), dense: bool) {
            let (mut unfinished, mut finished, mut at) = (Vec::new(), Vec::new(), next);
            for (done, gap) in gaps {
                if done { finished.push(Offset(at)) } else { unfinished.push(Offset(at)) }
                at += if dense { 1 } else { gap };
            }
            let last = unfinished.iter().chain(&finished).max().copied();
            let written = Progress::new(Offset(next), unfinished.clone(), last);
            let text = written.encode(Offset(next));
            prop_assert!(text.len() <= MAX_BYTES, "{} bytes", text.len());
            let read = Progress::decode(Offset(next), &text).expect("its own");
            for offset in &unfinished {
                prop_assert!(!read.has_finished(*offset), "{offset} has not finished");
            }
            let known = finished.iter().filter(|offset| read.has_finished(**offset)).count();
            if text.len() < MAX_BYTES - 64 {
                prop_assert_eq!(known, finished.len(), "all of it fits");
            } else {
                prop_assert!(known > 0);
            }
        }

        #[test]
        fn whatever_stands_there_is_read_or_refused(next: i64, text in "(fusebox1[rb])?[A-Za-z0-9_-]{0,80}", bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Progress::decode(Offset(next), &text);
            let _ = Progress::decode(Offset(next), &format!("fusebox1r{}", BASE64.encode(&bytes)));
            let _ = Progress::decode(Offset(next), &format!("fusebox1b{}", BASE64.encode(&bytes)));
        }
    }
}
