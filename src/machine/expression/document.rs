//! An event's JSON, read once at most for all the expressions that pick its members.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::sync::OnceLock;

use bytes::Bytes;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::event::Event;
use crate::event::json::Text;
use crate::event::known::{Known, Lies, within};

/// Members that are remembered at most: 32 bytes each, for as long as the event runs, which no bound of what is in flight knows of.
const MOST_MEMBERS: usize = 1_024;

/// JSON text, and where its members lie.
#[derive(Debug)]
pub struct Document<'a> {
    text: Option<&'a str>,
    known: Option<&'a Known>,
    /// Names and values, as they come, read when one is wanted that is not known; `None` where the text is no object, has more than
    /// [`MOST_MEMBERS`], or a name is written with escapes: then each expression reads it itself.
    members: OnceLock<Option<Vec<Member>>>,
}

/// Where a member's name and its value lie.
type Member = (Range<usize>, Range<usize>);

impl<'a> Document<'a> {
    /// Of JSON text, whatever it is.
    pub fn of(bytes: &'a Bytes) -> Self {
        let text = std::str::from_utf8(bytes).map(str::trim_ascii).ok().filter(|text| !text.is_empty());
        Self { text, known: None, members: OnceLock::new() }
    }

    /// Of an event.
    pub fn of_event(event: &'a Event) -> Self {
        Self { known: Some(&event.known), ..Self::of(&event.json) }
    }

    /// The text without white space around it; `None` if it is no text, or empty.
    pub(super) fn text(&self) -> Option<&'a str> {
        self.text
    }

    /// Where the member of this name lies, if that is known without reading.
    pub(super) fn known(&self, name: &str) -> Lies {
        self.known.map_or(Lies::Unknown, |known| known.lies(name))
    }

    /// Its members by name, in order, as written; `None` where they are not remembered.
    pub(super) fn members(&self) -> Option<impl Iterator<Item = (&'a str, &'a str)>> {
        let text = self.text?;
        let members = self.members.get_or_init(|| read(text)).as_ref()?;
        Some(members.iter().filter_map(|(name, value)| Some((text.get(name.clone())?, text.get(value.clone())?))))
    }
}

fn read(text: &str) -> Option<Vec<Member>> {
    let Members(members) = serde_json::from_str(text).ok()?;
    members.into_iter().map(|(name, value)| Some((within(text, name)?, within(text, value)?))).collect()
}

struct Members<'a>(Vec<(&'a str, &'a str)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MembersVisitor;
        impl<'de> Visitor<'de> for MembersVisitor {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::with_capacity(16);
                while let Some((name, value)) = map.next_entry::<Text<'de>, &'de RawValue>()? {
                    let Cow::Borrowed(name) = name.0 else { return Err(A::Error::custom("an escaped name")) };
                    if members.len() == MOST_MEMBERS {
                        return Err(A::Error::custom("more members than are worth remembering"));
                    }
                    members.push((name, value.get()));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(MembersVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members<'a>(document: &Document<'a>) -> Option<Vec<(&'a str, &'a str)>> {
        document.members().map(Iterator::collect)
    }

    #[test]
    fn members_lie_where_they_are_written() {
        let bytes = Bytes::from_static(br#" {"a": [1, 2], "b":"x" , "a":3} "#);
        let document = Document::of(&bytes);
        assert_eq!(members(&document), Some(vec![("a", "[1, 2]"), ("b", "\"x\""), ("a", "3")]));
        assert_eq!(document.text().map(str::len), Some(bytes.len() - 2));
    }

    #[test]
    fn a_thousand_members_are_remembered_and_no_more() {
        let object = |members: usize| Bytes::from(format!("{{{}}}", vec!["\"a\":1"; members].join(",")));
        let (most, more) = (object(MOST_MEMBERS), object(MOST_MEMBERS + 1));
        assert_eq!(members(&Document::of(&most)).map(|members| members.len()), Some(MOST_MEMBERS));
        assert_eq!((members(&Document::of(&more)), Document::of(&more).text().map(str::len)), (None, Some(more.len())));
    }

    #[test]
    fn what_is_no_plain_object_is_left_to_the_expression() {
        for json in ["[1]", "17", r#"{"\u0061":1}"#, "{", r#"{"a":1"#] {
            let bytes = Bytes::from_static(json.as_bytes());
            assert_eq!((members(&Document::of(&bytes)), Document::of(&bytes).text()), (None, Some(json)));
        }
        for nothing in [&b""[..], b"  ", b"\xff"] {
            let bytes = Bytes::from_static(nothing);
            assert_eq!(Document::of(&bytes).text(), None);
        }
    }
}
