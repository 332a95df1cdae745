//! Whatever stands in a file, reading it ends in a config or in faults.

use proptest::prelude::*;
use serde_json::Value as Json;

use super::World;
use crate::config::reader::Form;
use crate::config::schema::catalogue;

/// Known keys as a user would write them, so that values of any type meet every reader.
fn known_keys() -> Vec<String> {
    let keys = catalogue().into_iter().filter(|described| matches!(described.form, Form::Key { .. } | Form::Open | Form::Table));
    keys.map(|described| described.path.to_string().replace("<name>", "rag").replace("[]", "")).collect()
}

fn values() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(Json::from),
        any::<i64>().prop_map(Json::from),
        any::<f64>().prop_map(Json::from),
        ".{0,12}".prop_map(Json::from),
        "[0-9]{1,22}(ms|s|y| h|MiB|E|)".prop_map(Json::from),
        "(redis|http)://.{0,8}@?.{0,8}".prop_map(Json::from),
    ];
    leaf.prop_recursive(2, 8, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Json::from),
            prop::collection::vec(("[a-z._]{1,8}", inner), 0..3)
                .prop_map(|pairs| Json::from(pairs.into_iter().collect::<serde_json::Map<_, _>>())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn any_text(text in "\\PC{0,60}") {
        _ = World::file(&text).load();
    }

    #[test]
    fn any_value_at_any_key(keys in prop::collection::vec((prop::sample::select(known_keys()), values()), 1..4)) {
        for (key, value) in keys {
            let Ok(value) = toml::Value::try_from(value) else { continue };
            let world = World::file(&format!("{key} = {value}"));
            if let Err(faults) = world.load() {
                prop_assert!(!faults.0.is_empty());
            }
        }
    }

    #[test]
    fn any_variable(name in "FUSEBOX_(KAFKA|SERVICES|HTTP|X)?(__|_|RAG|A|URL|HEADERS|É){0,6}", value in ".{0,12}") {
        _ = World::new().and_env(&name, &value).load();
    }
}
