//! The two forms in which a set of unfinished records is written, and read back: distances, and bits.
//!
//! Both only shrink while records finish, whichever finish: a distance of two neighbours takes no more bytes than the two distances that it
//! replaces, and the bits reach from the commit to the newest record, which lie ever closer. So what fits once fits until a further record
//! begins; that is what [`Watermark::after`](crate::machine::watermark::Watermark::after) rests on.

use super::Progress;
use crate::event::Offset;

/// Bytes that a distance takes.
pub(in crate::machine) fn distance_size(from: Offset, to: Offset) -> usize {
    let bits = 64 - to.0.abs_diff(from.0).leading_zeros();
    // At most ten.
    bits.div_ceil(7).max(1) as usize
}

/// Bytes that a bit for each offset takes.
pub(in crate::machine) fn bits_size(next: Offset, last: Offset) -> usize {
    usize::try_from(last.0.abs_diff(next.0) / 8 + 1).unwrap_or(usize::MAX)
}

/// Bytes that all the distances take.
pub(super) fn distances_size(next: Offset, unfinished: &[Offset], last: Offset) -> usize {
    let mut from = next;
    let to_each: usize = unfinished.iter().map(|offset| distance_size(std::mem::replace(&mut from, *offset), *offset)).sum();
    to_each + distance_size(from, last)
}

/// The distances that fit, and the last offset that they tell of. The last of them is that from the last unfinished record to the end.
pub(super) fn distances(next: Offset, unfinished: &[Offset], last: Offset, capacity: usize) -> (Vec<u8>, Offset) {
    let whole = distances_size(next, unfinished, last) <= capacity;
    let mut payload = Vec::new();
    let mut from = next;
    for offset in unfinished {
        // Cut off, it ends with a distance of nothing, which takes a byte.
        if !whole && payload.len() + distance_size(from, *offset) + 1 > capacity {
            write_leb128(&mut payload, 0);
            return (payload, from);
        }
        write_leb128(&mut payload, offset.0.abs_diff(from.0));
        from = *offset;
    }
    if whole {
        write_leb128(&mut payload, last.0.abs_diff(from.0));
        return (payload, last);
    }
    write_leb128(&mut payload, 0);
    (payload, from)
}

/// Reads distances; `None` if these are none.
pub(super) fn read_distances(next: Offset, payload: &[u8]) -> Option<Progress> {
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

/// The bits that fit.
pub(super) fn bits(next: Offset, unfinished: &[Offset], last: Offset, capacity: usize) -> Vec<u8> {
    let mut payload = vec![0xff; bits_size(next, last).min(capacity)];
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

/// Reads bits.
pub(super) fn read_bits(next: Offset, payload: &[u8]) -> Progress {
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
