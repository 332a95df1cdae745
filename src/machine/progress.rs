//! What has finished above a partition's commit, as the text that Kafka keeps beside the committed offset, so that a restart, or the
//! partition's next owner, does not run it again.
//!
//! The text is a version (`fusebox1`), a letter for the form, and Base64. The shortest of these is taken:
//! - `r`: the distances between records that have *not* finished, as LEB128: short when little is unfinished, however far it lies apart;
//! - `b`: a bit for each offset, set where a record has finished: short when much is unfinished close together;
//! - `R` and `B`: the same, deflated. They are tried only where neither is short as it is: a commit is made every second.
//!
//! What does not fit is left out from the far end: its records run again, and nothing is ever claimed finished that is not. A loop does
//! not let it come to that ([`Watermark::after`](super::watermark::Watermark::after)). A text that is not of this version is no progress.
//! Reading one is bounded, whoever wrote it: by the text's length, and by [`MAX_PLAIN`] where it was deflated.

mod forms;
#[cfg(test)]
mod tests;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use miniz_oxide::deflate::compress_to_vec;
use miniz_oxide::inflate::decompress_to_vec_with_limit;

use crate::event::Offset;

pub(super) use self::forms::{bits_size, distance_size};

/// The longest text: Kafka's default for `offset.metadata.max.bytes`.
pub const MAX_BYTES: usize = 4_096;

const VERSION: &str = "fusebox1";

/// The most bytes that are deflated, and that a deflated text may hold: five times what fits as it is. Its bits are 131,072 offsets, of
/// which a reader keeps eight bytes each at worst: 1 MiB.
const MAX_PLAIN: usize = 16 << 10;

/// The most unfinished records that a text can tell of: a bit for each.
pub const MAX_TOLD: u64 = MAX_PLAIN as u64 * 8;

/// A payload that is not deflated: it would save less than it costs.
const SHORT: usize = 256;

/// How hard deflating tries, of 10: with more, the patterns that occur get no shorter, and take twice the time.
const EFFORT: u8 = 1;

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

/// Bytes of a form that a text of so many bytes holds, as they are.
pub fn capacity(max_bytes: usize) -> usize {
    max_bytes.saturating_sub(VERSION.len() + 1) * 3 / 4
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

    /// How many offsets from there on are known to have finished, or to hold no record.
    pub fn finished_from(&self, from: Offset) -> u64 {
        let from = from.max(self.first);
        let Some(last) = self.last.filter(|last| *last >= from) else { return 0 };
        let unfinished = self.unfinished.len() - self.unfinished.partition_point(|offset| *offset < from);
        (last.0.abs_diff(from.0) + 1).saturating_sub(unfinished as u64)
    }

    /// The last offset that is known of.
    pub fn last(&self) -> Option<Offset> {
        self.last
    }

    /// Offsets above `above` that are known not to have finished.
    pub fn unfinished_above(&self, above: Option<Offset>) -> impl Iterator<Item = Offset> + '_ {
        self.unfinished.iter().copied().filter(move |offset| above.is_none_or(|above| *offset > above))
    }

    /// The text beside a commit of `next`, at most `max_bytes` long; empty if nothing above it is known to have finished.
    pub fn encode(&self, next: Offset, max_bytes: usize) -> String {
        let Some(last) = self.last.filter(|last| *last >= next) else { return String::new() };
        let within = self.unfinished.partition_point(|offset| *offset < next)..self.unfinished.partition_point(|offset| *offset <= last);
        let unfinished = &self.unfinished[within];
        let capacity = capacity(max_bytes);
        if unfinished.len() as u64 > last.0.abs_diff(next.0) || capacity == 0 {
            return String::new();
        }
        let (form, payload) = whole(next, unfinished, last, capacity).unwrap_or_else(|| cut_off(next, unfinished, last, capacity));
        format!("{VERSION}{form}{}", BASE64.encode(payload))
    }

    /// The text, if all of it fits: what cannot be told in part.
    pub fn encode_whole(&self, next: Offset, max_bytes: usize) -> Option<String> {
        let text = self.encode(next, max_bytes);
        let read = Self::decode(next, &text).ok()?;
        let told = self.last.filter(|last| *last >= next);
        (read.last == told && read.unfinished.iter().eq(self.unfinished.iter().filter(|offset| **offset >= next))).then_some(text)
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
        if next.0 < 0 || text.len() > MAX_BYTES {
            return Err(Unknown::Damaged);
        }
        let (form, payload) = rest.split_at_checked(1).ok_or(Unknown::Damaged)?;
        let payload = BASE64.decode(payload).map_err(|_| Unknown::Damaged)?;
        let inflated = || decompress_to_vec_with_limit(&payload, MAX_PLAIN).map_err(|_| Unknown::Damaged);
        match form {
            "r" => forms::read_distances(next, &payload).ok_or(Unknown::Damaged),
            "b" => Ok(forms::read_bits(next, &payload)),
            "R" => forms::read_distances(next, &inflated()?).ok_or(Unknown::Damaged),
            "B" => Ok(forms::read_bits(next, &inflated()?)),
            _ => Err(Unknown::Foreign),
        }
    }
}

/// The shortest form that says all of it, if one fits.
fn whole(next: Offset, unfinished: &[Offset], last: Offset, capacity: usize) -> Option<(char, Vec<u8>)> {
    let sizes = (forms::distances_size(next, unfinished, last), bits_size(next, last));
    let plain = if sizes.1 < sizes.0 { sizes.1 } else { sizes.0 };
    let distances = || forms::distances(next, unfinished, last, sizes.0).0;
    let bits = || forms::bits(next, unfinished, last, sizes.1);
    let deflated = (plain > SHORT).then(|| {
        let distances = (sizes.0 <= MAX_PLAIN).then(|| ('R', compress_to_vec(&distances(), EFFORT)));
        let bits = (sizes.1 <= MAX_PLAIN).then(|| ('B', compress_to_vec(&bits(), EFFORT)));
        distances.into_iter().chain(bits).min_by_key(|(_, payload)| payload.len())
    });
    let shortest = match deflated.flatten() {
        Some(deflated) if deflated.1.len() < plain => deflated,
        _ if plain > capacity => return None,
        _ if plain < sizes.0 => ('b', bits()),
        _ => ('r', distances()),
    };
    (shortest.1.len() <= capacity).then_some(shortest)
}

/// As much as fits, of the form that then tells of more.
fn cut_off(next: Offset, unfinished: &[Offset], last: Offset, capacity: usize) -> (char, Vec<u8>) {
    let (distances, reach) = forms::distances(next, unfinished, last, capacity);
    let covered = next.0.saturating_add(i64::try_from(capacity).unwrap_or(i64::MAX).saturating_mul(8));
    if covered > reach.0 { ('b', forms::bits(next, unfinished, last, capacity)) } else { ('r', distances) }
}
