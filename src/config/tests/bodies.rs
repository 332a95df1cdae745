//! The shipped expressions, over the events that they were written for.

use bytes::Bytes;
use serde_json::{Value as Json, json};

use super::World;
use crate::config::{Config, Fallback};
use crate::event::Headers;
use crate::machine::expression::{Document, Scope, Template};

fn render(template: &Template, event: &Json, results: &[(&str, Json)]) -> Json {
    let event = Bytes::from(event.to_string());
    let results: Vec<(&str, Bytes)> = results.iter().map(|(name, data)| (*name, Bytes::from(data.to_string()))).collect();
    let rendered = template.render(&Scope { event: &Document::of(&event), results: &results, headers: &Headers::default() }).unwrap();
    serde_json::from_slice(&rendered).unwrap()
}

fn body<'c>(config: &'c Config, service: &str) -> &'c Template {
    config.pipeline.iter().find(|stage| config.service_of(stage).name == service).unwrap().body.as_ref().unwrap()
}

fn bare() -> Json {
    json!({ "id": "e1", "timestamp": "2026-01-01T00:00:00Z", "camera_id": "c1", "notification_channels": ["email"], "recipients": [] })
}

fn full() -> Json {
    let mut event = bare();
    event["label"] = "person".into();
    event["detections"] = json!([
        { "label": "person", "confidence": 0.9, "bounding_box": { "x_min": 1, "y_min": 2, "x_max": 3, "y_max": 4 } },
        { "label": "dog", "confidence": 0.5 },
    ]);
    event["recipients"] = json!(["a@example.org"]);
    event["extra"] = json!({ "kept": [1, 2.5, null, "ü"] });
    event
}

#[test]
fn rag_is_asked_about_what_the_event_has() {
    let config = World::new().loaded().config;
    let query = |event: &Json| render(body(&config, "rag"), event, &[]);
    let asked = |label: Json, bbox: Json| json!({ "query_event": { "camera_id": "c1", "timestamp": "2026-01-01T00:00:00Z", "label": label, "bbox": bbox }, "k": 10 });
    assert_eq!(query(&full()), asked("person".into(), json!({ "x_min": 1, "y_min": 2, "x_max": 3, "y_max": 4 })));
    assert_eq!(query(&bare()), asked(Json::Null, Json::Null));
    for detections in [json!([]), json!([{ "label": "dog" }])] {
        let mut event = bare();
        event["detections"] = detections;
        assert_eq!(query(&event), asked(Json::Null, Json::Null), "{event}");
    }
}

#[test]
fn later_stages_are_told_what_earlier_ones_found() {
    let config = World::new().loaded().config;
    let (rag, rules) = (json!({ "similar_events": [1] }), json!({ "severity": "high" }));
    let event = full();
    assert_eq!(render(body(&config, "rulegen"), &event, &[("rag", rag.clone())]), json!({ "event": event, "context": rag }));
    assert_eq!(render(body(&config, "rulegen"), &event, &[]), json!({ "event": event, "context": null }));
    let notify = |rag: Json, rules: Json| {
        json!({
            "event_id": "e1", "event": event, "rag_analysis": rag, "rule_evaluation": rules, "channels": ["email"],
            "recipients": ["a@example.org"], "timestamp": "2026-01-01T00:00:00Z",
        })
    };
    let results = [("rag", rag.clone()), ("rulegen", rules.clone())];
    assert_eq!(render(body(&config, "notifier"), &event, &results), notify(rag, rules));
    assert_eq!(render(body(&config, "notifier"), &event, &[]), notify(Json::Null, Json::Null));
    let clip = json!({ "event_id": "e1", "camera_id": "c1", "timestamp": "2026-01-01T00:00:00Z" });
    assert_eq!(render(body(&config, "vms"), &event, &[]), clip);
}

#[test]
fn the_notifier_is_called_when_there_are_recipients() {
    let config = World::new().loaded().config;
    let when = config.pipeline.iter().find_map(|stage| stage.when.as_ref()).unwrap();
    for (event, expect) in [(full(), true), (bare(), false)] {
        let event = Bytes::from(event.to_string());
        assert_eq!(when.holds(&Scope { event: &Document::of(&event), results: &[], headers: &Headers::default() }), Ok(expect));
    }
}

#[test]
fn rags_answers_are_kept_by_camera_and_label() {
    let config = World::new().loaded().config;
    let key = config.services.iter().find_map(|service| match &service.fallback {
        Fallback::Cached { key, .. } => Some(key),
        _ => None,
    });
    assert_eq!(render(key.unwrap(), &full(), &[]), "c1/person");
    assert_eq!(render(key.unwrap(), &bare(), &[]), "c1/");
}
