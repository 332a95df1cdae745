//! Where the known members of an event lie in its JSON. Decoding finds them when it checks them; nobody need look for them again.

use std::ops::Range;

/// The members that an event is looked at for, by name.
pub const NAMES: [&str; 11] = [
    "id",
    "timestamp",
    "camera_id",
    "event_type",
    "label",
    "detections",
    "activity",
    "metadata",
    "query",
    "notification_channels",
    "recipients",
];

/// Where each of [`NAMES`] lies, if it is there. By default that is not known of any.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known(Option<[Place; NAMES.len()]>);

/// Begin and end; of what is absent both are 0, where an object has its brace.
type Place = (u32, u32);

/// What is known of one member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lies {
    /// Nothing: it must be looked for.
    Unknown,
    /// It is not there.
    Nowhere,
    /// There; of a name that stands twice, the last.
    At(Range<usize>),
}

impl Known {
    /// Of JSON text and its members' values, in the order of [`NAMES`], each a part of that text.
    pub(super) fn of(json: &str, values: [Option<&str>; NAMES.len()]) -> Self {
        Self(places(json, values))
    }

    /// Where the member of this name lies.
    pub fn lies(&self, name: &str) -> Lies {
        let place = NAMES.iter().position(|known| *known == name).and_then(|number| self.0.as_ref()?.get(number));
        match place {
            None => Lies::Unknown,
            Some((_, 0)) => Lies::Nowhere,
            Some((begin, end)) => Lies::At(*begin as usize..*end as usize),
        }
    }
}

fn places(json: &str, values: [Option<&str>; NAMES.len()]) -> Option<[Place; NAMES.len()]> {
    let mut places = [(0, 0); NAMES.len()];
    for (place, value) in places.iter_mut().zip(values) {
        let Some(value) = value else { continue };
        let Range { start, end } = within(json, value)?;
        *place = (u32::try_from(start).ok()?, u32::try_from(end).ok()?);
    }
    Some(places)
}

/// Where in a text a part of it lies; `None` of what is no part of it.
pub(crate) fn within(text: &str, part: &str) -> Option<Range<usize>> {
    let start = part.as_ptr().addr().checked_sub(text.as_ptr().addr())?;
    let end = start + part.len();
    (end <= text.len()).then_some(start..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_elsewhere_is_not_known() {
        let json = r#"{"id":"a","label":"b"}"#;
        let with = |label| {
            let mut values = [None; NAMES.len()];
            (values[0], values[4]) = (Some(&json[6..9]), Some(label));
            Known::of(json, values)
        };
        let known = with(&json[18..21]);
        assert_eq!((known.lies("id"), known.lies("label"), known.lies("query")), (Lies::At(6..9), Lies::At(18..21), Lies::Nowhere));
        assert_eq!(known.lies("site"), Lies::Unknown);
        assert_eq!(with(&String::from("\"b\"")), Known::default());
        assert_eq!(Known::default().lies("id"), Lies::Unknown);
    }
}
