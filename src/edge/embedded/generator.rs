//! Cameras that see things: plausible events of about a kilobyte, the same from the same seed. Time is handed in.

use std::num::NonZeroUsize;
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::Xoshiro256PlusPlus;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use serde::Serialize;
use uuid::Uuid;

use crate::event::UnixMillis;

const PLACES: [&str; 8] = ["entrance", "lobby", "parking", "loading-dock", "corridor", "warehouse", "perimeter", "server-room"];
const LABELS: [(&str, f64); 6] = [("person", 0.22), ("car", 0.5), ("truck", 0.6), ("bicycle", 0.25), ("dog", 0.12), ("backpack", 0.08)];
const ACTIVITIES: [(&str, &str); 6] = [
    ("loitering", "Has anybody waited here for so long before?"),
    ("running", "What made people run here in the last days?"),
    ("climbing_fence", "Who else has crossed the fence at this place?"),
    ("package_left", "Which packages were left behind near here?"),
    ("tailgating", "How often do people follow others through this door?"),
    ("vehicle_stopped", "Which vehicles have stopped here at this hour?"),
];
const RECIPIENTS: [&str; 5] =
    ["guard.desk@site.example", "night.shift@site.example", "operations@site.example", "facility.manager@site.example", "+15550100"];

/// One event in so many asks for a notification.
const NOTIFIED: u32 = 3;

/// The image that bounding boxes lie in, pixels.
const WIDTH: f64 = 1_920.0;
const HEIGHT: f64 = 1_080.0;

/// An endless source of events.
#[derive(Debug, Clone)]
pub struct Generator {
    chance: Xoshiro256PlusPlus,
    cameras: Vec<String>,
    frame: u64,
}

#[derive(Serialize)]
struct Event<'a> {
    id: Uuid,
    timestamp: String,
    camera_id: &'a str,
    event_type: &'a str,
    label: &'a str,
    detections: Vec<Detection>,
    #[serde(skip_serializing_if = "Option::is_none")]
    activity: Option<&'a str>,
    metadata: Metadata<'a>,
    query: &'a str,
    notification_channels: &'a [&'a str],
    recipients: Vec<&'a str>,
}

#[derive(Serialize)]
struct Detection {
    label: &'static str,
    confidence: f64,
    bounding_box: BoundingBox,
    track_id: u32,
}

#[derive(Serialize)]
struct BoundingBox {
    x_min: f64,
    y_min: f64,
    x_max: f64,
    y_max: f64,
}

#[derive(Serialize)]
struct Metadata<'a> {
    site: &'a str,
    zone: &'a str,
    model: &'a str,
    frame: u64,
    width: f64,
    height: f64,
    night_vision: bool,
    inference_ms: f64,
}

impl Generator {
    /// A generator over so many cameras. Their names depend on their number alone.
    pub fn new(seed: u64, cameras: NonZeroUsize) -> Self {
        let name = |index: usize| format!("cam-{}-{:02}", PLACES[index % PLACES.len()], index / PLACES.len() + 1);
        Self { chance: Xoshiro256PlusPlus::seed_from_u64(seed), cameras: (0..cameras.get()).map(name).collect(), frame: 0 }
    }

    /// The cameras' names.
    pub fn cameras(&self) -> &[String] {
        &self.cameras
    }

    /// The next event, as seen at that time: the record's key (the camera) and its value. The event's id is a UUIDv7 of that time.
    pub fn event_at(&mut self, at: UnixMillis) -> (String, Bytes) {
        let chance = &mut self.chance;
        self.frame += chance.random_range(1..250);
        let camera = chance.random_range(0..self.cameras.len());
        let detections: Vec<Detection> = (0..chance.random_range(3..=5)).map(|_| detection(chance)).collect();
        let activity = chance.random_bool(0.4).then(|| ACTIVITIES[chance.random_range(0..ACTIVITIES.len())]);
        let notified = chance.random_ratio(1, NOTIFIED);
        let recipients = if notified { chance.random_range(1..=3) } else { 0 };
        let millis = u64::try_from(at.0).unwrap_or(0);
        let event = Event {
            id: uuid::Builder::from_unix_timestamp_millis(millis, &chance.random()).into_uuid(),
            timestamp: at.to_rfc3339(),
            camera_id: &self.cameras[camera],
            event_type: if activity.is_some() { "activity" } else { "detection" },
            label: detections.first().map_or("person", |detection| detection.label),
            detections,
            activity: activity.map(|(activity, _)| activity),
            metadata: Metadata {
                site: "north-campus",
                zone: PLACES[camera % PLACES.len()],
                model: "yolo-11m",
                frame: self.frame,
                width: WIDTH,
                height: HEIGHT,
                night_vision: chance.random_bool(0.3),
                inference_ms: rounded(chance.random_range(6.0..28.0), 10.0),
            },
            query: activity.map_or("What happened here at this hour in the last seven days?", |(_, query)| query),
            notification_channels: if chance.random_bool(0.25) { &["email", "sms"] } else { &["email"] },
            recipients: RECIPIENTS.sample(chance, recipients).copied().collect(),
        };
        let value = serde_json::to_vec(&event).expect("an event of texts and finite numbers is JSON");
        (self.cameras[camera].clone(), value.into())
    }

    /// Events from that time on, at that distance.
    pub fn every(mut self, from: UnixMillis, interval: Duration) -> impl Iterator<Item = (String, Bytes)> {
        let mut at = from;
        std::iter::from_fn(move || {
            let event = self.event_at(at);
            at = at.plus(interval);
            Some(event)
        })
    }
}

fn detection(chance: &mut Xoshiro256PlusPlus) -> Detection {
    // What is common is picked from the front of the list more often.
    let index = chance.random_range(0..LABELS.len()).min(chance.random_range(0..LABELS.len()));
    let (label, size) = LABELS[index];
    let width = WIDTH * size * chance.random_range(0.3..0.9);
    let height = HEIGHT * size * chance.random_range(0.4..1.0);
    let (x_min, y_min) = (chance.random_range(0.0..WIDTH - width), chance.random_range(0.0..HEIGHT - height));
    Detection {
        label,
        confidence: rounded(chance.random_range(0.55..0.99), 1_000.0),
        bounding_box: BoundingBox {
            x_min: rounded(x_min, 10.0),
            y_min: rounded(y_min, 10.0),
            x_max: rounded(x_min + width, 10.0),
            y_max: rounded(y_min + height, 10.0),
        },
        track_id: chance.random_range(1..10_000),
    }
}

fn rounded(number: f64, parts: f64) -> f64 {
    (number * parts).round() / parts
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use serde_json::Value;

    use super::*;
    use crate::event::decode::decode;
    use crate::event::{Headers, Incoming, Offset, Partition, Source, Topic};

    const START: UnixMillis = UnixMillis(1_793_739_845_000);

    fn some(seed: u64) -> Vec<(String, Bytes)> {
        let generator = Generator::new(seed, NonZeroUsize::new(12).unwrap());
        generator.every(START, Duration::from_millis(100)).take(500).collect()
    }

    #[test]
    fn the_same_seed_sees_the_same_things() {
        assert_eq!(some(7), some(7));
        assert_ne!(some(7), some(8));
    }

    #[test]
    fn every_event_is_one_that_is_read() {
        let mut ids = HashSet::new();
        for (index, (key, value)) in some(1).into_iter().enumerate() {
            let at = START.plus(Duration::from_millis(100 * index as u64));
            let record = Incoming {
                source: Source { topic: Topic::from("events"), partition: Partition(0), offset: Offset(index as i64) },
                key: Some(key.clone().into()),
                value: Some(value.clone()),
                headers: Headers::new(),
                timestamp: None,
            };
            let event = decode(&record, 4_096, UnixMillis(0)).unwrap();
            assert_eq!(*event.camera_id, *key);
            assert!(ids.insert(event.id));
            assert_eq!(event.id.get_version_num(), 7);
            assert!((600..1_600).contains(&value.len()), "{} bytes", value.len());
            let value: Value = serde_json::from_slice(&value).unwrap();
            assert_eq!(value["timestamp"], at.to_rfc3339());
            for detection in value["detections"].as_array().unwrap() {
                let side = |name: &str| detection["bounding_box"][name].as_f64().unwrap();
                assert!(0.0 <= side("x_min") && side("x_min") < side("x_max") && side("x_max") <= WIDTH, "{detection}");
                assert!(0.0 <= side("y_min") && side("y_min") < side("y_max") && side("y_max") <= HEIGHT, "{detection}");
            }
        }
    }

    #[test]
    fn there_is_something_for_every_stage() {
        let events: Vec<Value> = some(3).iter().map(|(_, value)| serde_json::from_slice(value).unwrap()).collect();
        let share = |is: &dyn Fn(&Value) -> bool| events.iter().filter(|event| is(event)).count() * 100 / events.len();
        let notified = share(&|event| !event["recipients"].as_array().unwrap().is_empty());
        assert!((20..50).contains(&notified), "{notified} % have recipients");
        let activities = share(&|event| event["event_type"] == "activity");
        assert!((25..55).contains(&activities), "{activities} % are activities");
        let cameras: HashSet<&str> = events.iter().map(|event| event["camera_id"].as_str().unwrap()).collect();
        assert_eq!(cameras.len(), 12);
    }

    #[test]
    fn cameras_have_names_of_their_own() {
        let generator = Generator::new(0, NonZeroUsize::new(40).unwrap());
        assert_eq!(generator.cameras()[0], "cam-entrance-01");
        assert_eq!(generator.cameras()[39], "cam-server-room-05");
        assert_eq!(generator.cameras().iter().collect::<HashSet<_>>().len(), 40);
    }
}
