//! A detection and its bounding box, as an event has them: what is known of them has its type, and stands once; the rest is any JSON.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

use super::json::{Checked, Text};

/// One detection, as far as it is looked at; what is not is checked all the same, in the same reading.
pub(super) struct Detection {
    pub(super) confidence: Option<f64>,
}

impl<'de> Deserialize<'de> for Detection {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct DetectionVisitor;
        impl<'de> Visitor<'de> for DetectionVisitor {
            type Value = Detection;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Detection, A::Error> {
                let mut detection = Detection { confidence: None };
                let mut seen = Seen::default();
                while let Some(Text(name)) = map.next_key()? {
                    seen.once(&["label", "confidence", "bounding_box"], &name)?;
                    match name.as_ref() {
                        "label" => {
                            map.next_value::<Option<Text<'_>>>()?;
                        }
                        "confidence" => detection.confidence = map.next_value()?,
                        "bounding_box" => {
                            map.next_value::<Option<BoundingBox>>()?;
                        }
                        _ => {
                            map.next_value::<Checked>()?;
                        }
                    }
                }
                Ok(detection)
            }
        }
        deserializer.deserialize_map(DetectionVisitor)
    }
}

/// A bounding box; its corners are numbers where they are given.
struct BoundingBox;

impl<'de> Deserialize<'de> for BoundingBox {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct BoxVisitor;
        impl<'de> Visitor<'de> for BoxVisitor {
            type Value = BoundingBox;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<BoundingBox, A::Error> {
                let mut seen = Seen::default();
                while let Some(Text(name)) = map.next_key()? {
                    seen.once(&["x_min", "y_min", "x_max", "y_max"], &name)?;
                    match name.as_ref() {
                        "x_min" | "y_min" | "x_max" | "y_max" => {
                            map.next_value::<Option<f64>>()?;
                        }
                        _ => {
                            map.next_value::<Checked>()?;
                        }
                    }
                }
                Ok(BoundingBox)
            }
        }
        deserializer.deserialize_map(BoxVisitor)
    }
}

/// Which known members an object has had: one that stands twice would be one thing to a service and another to us.
#[derive(Default)]
struct Seen(u8);

impl Seen {
    fn once<E: serde::de::Error>(&mut self, known: &[&'static str], name: &str) -> Result<(), E> {
        let Some(index) = known.iter().position(|known| *known == name) else { return Ok(()) };
        let bit = 1 << index;
        if self.0 & bit != 0 {
            return Err(E::duplicate_field(known[index]));
        }
        self.0 |= bit;
        Ok(())
    }
}
