//! An event's JSON, read once for all the expressions that pick its members.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::event::json::Text;

/// Members that are remembered at most: 32 bytes each, for as long as the event runs, which no bound of what is in flight knows of.
const MOST_MEMBERS: usize = 1_024;

/// JSON text, and where its members lie.
#[derive(Debug)]
pub struct Document<'a> {
    text: Option<&'a str>,
    /// By name, as they come; `None` where the text is no object, has more than [`MOST_MEMBERS`], or a name is written with escapes: then each
    /// expression reads it itself.
    members: Option<Vec<(&'a str, &'a str)>>,
}

impl<'a> Document<'a> {
    /// Reads it, whatever it is.
    pub fn of(bytes: &'a Bytes) -> Self {
        let text = std::str::from_utf8(bytes).map(str::trim_ascii).ok().filter(|text| !text.is_empty());
        let members = text.and_then(|text| serde_json::from_str::<Members<'a>>(text).ok()).map(|members| members.0);
        Self { text, members }
    }

    /// The text without white space around it; `None` if it is no text, or empty.
    pub(super) fn text(&self) -> Option<&'a str> {
        self.text
    }

    /// Its members by name, in order, as written.
    pub(super) fn members(&self) -> Option<&[(&'a str, &'a str)]> {
        self.members.as_deref()
    }
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

    #[test]
    fn members_lie_where_they_are_written() {
        let bytes = Bytes::from_static(br#" {"a": [1, 2], "b":"x" , "a":3} "#);
        let document = Document::of(&bytes);
        assert_eq!(document.members(), Some(&[("a", "[1, 2]"), ("b", "\"x\""), ("a", "3")][..]));
        assert_eq!(document.text().map(str::len), Some(bytes.len() - 2));
    }

    #[test]
    fn a_thousand_members_are_remembered_and_no_more() {
        let object = |members: usize| Bytes::from(format!("{{{}}}", vec!["\"a\":1"; members].join(",")));
        let (most, more) = (object(MOST_MEMBERS), object(MOST_MEMBERS + 1));
        assert_eq!(Document::of(&most).members().map(<[_]>::len), Some(MOST_MEMBERS));
        assert_eq!((Document::of(&more).members(), Document::of(&more).text().map(str::len)), (None, Some(more.len())));
    }

    #[test]
    fn what_is_no_plain_object_is_left_to_the_expression() {
        for json in ["[1]", "17", r#"{"\u0061":1}"#, "{", r#"{"a":1"#] {
            let bytes = Bytes::from_static(json.as_bytes());
            assert_eq!((Document::of(&bytes).members(), Document::of(&bytes).text()), (None, Some(json)));
        }
        for nothing in [&b""[..], b"  ", b"\xff"] {
            let bytes = Bytes::from_static(nothing);
            assert_eq!(Document::of(&bytes).text(), None);
        }
    }
}
