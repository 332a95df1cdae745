//! Which way imports point, and who may name which crate.

use std::collections::BTreeSet;

use super::code;
use super::tree::Source;

/// What each layer may name of ours, itself included.
const MAY_NAME: [(&str, &[&str]); 10] = [
    ("event", &["event"]),
    ("machine", &["machine", "event"]),
    ("pipeline", &["pipeline", "machine", "event", "config"]),
    ("config", &["config", "machine", "event"]),
    ("telemetry", &["telemetry", "pipeline", "machine", "event", "config"]),
    ("edge", &["edge", "pipeline", "machine", "event", "config", "telemetry"]),
    ("app", &["app", "edge", "pipeline", "machine", "event", "config", "telemetry"]),
    ("cli", &["cli", "app", "edge", "pipeline", "machine", "event", "config", "telemetry"]),
    ("main", &["cli", "app"]),
    ("lib", &[]),
];

/// Client and server crates: the world, which the edge alone touches.
const WORLD: [&str; 7] = ["rdkafka", "redis", "axum", "hyper", "hyper_util", "hyper_rustls", "tower_http"];

/// What a decision must not know: a runtime and the crates around it.
const RUNTIME: [&str; 3] = ["tokio", "tokio_util", "futures_util"];

/// Clocks, by the names of their types.
const CLOCKS: [&str; 2] = ["Instant", "SystemTime"];

/// `main → app → edge → pipeline → machine → event`.
pub fn layers(source: &Source) -> Vec<String> {
    let layer = source.layer();
    let Some((_, allowed)) = MAY_NAME.iter().find(|(name, _)| *name == layer) else {
        return vec![format!("{}: no rule says what `{layer}` may name; add a row to tests/tidy/imports.rs", source.path)];
    };
    let depth = source.module().len();
    let mut violations = Vec::new();
    for Path { at, names, .. } in paths(&source.code) {
        let supers = names.iter().take_while(|name| **name == "super").count();
        let named = match names[0] {
            "crate" | "fusebox" => names.get(1),
            // As many steps up as the module is deep lead to the root, however that is written.
            "super" if supers >= depth => names.get(supers),
            _ => None,
        };
        let Some(named) = named.filter(|named| MAY_NAME.iter().any(|(name, _)| name == *named)) else { continue };
        if !allowed.contains(named) {
            let line = code::line(&source.code, at);
            violations.push(format!("{}:{line}: `{layer}` names `{named}`: hand the value in, or cut a port", source.path));
        }
    }
    violations
}

/// `machine` and `event` name no runtime, client crate or clock; client crates are the edge's alone.
pub fn crates(source: &Source) -> Vec<String> {
    let layer = source.layer();
    let pure = matches!(layer, "machine" | "event");
    let paths = paths(&source.code);
    // A module of ours may have a crate's name: whoever declares it, or imports it by a longer path, means ours.
    let imported = paths.iter().filter(|path| path.imports && path.names.len() > 1).filter_map(|path| path.names.last().copied());
    let local: BTreeSet<&str> = declared(&source.code).chain(imported).collect();
    let mut violations = Vec::new();
    for Path { at, names, .. } in &paths {
        let first = names[0];
        // A word by itself is a variable, a field or a macro's name, unless an import begins with it: then what follows has its name.
        let is_crate = names.len() > 1 && !local.contains(first);
        let line = code::line(&source.code, *at);
        if is_crate && WORLD.contains(&first) && layer != "edge" {
            violations.push(format!("{}:{line}: only `edge` names `{first}`: cut a port, or let `edge` hand over a value", source.path));
        }
        if is_crate && pure && RUNTIME.contains(&first) {
            violations.push(format!("{}:{line}: `{layer}` names `{first}`: a decision waits for nothing", source.path));
        }
        if pure && names.iter().any(|name| CLOCKS.contains(name)) {
            violations.push(format!("{}:{line}: `{layer}` names a clock: take `now` as an argument", source.path));
        }
    }
    violations
}

/// The modules that the code declares.
fn declared(code: &str) -> impl Iterator<Item = &str> {
    let mut before = "";
    code::words(code).filter_map(move |(_, word)| (std::mem::replace(&mut before, word) == "mod").then_some(word))
}

/// A path of the code: `a::b::c`, or one that an import's group spells in parts.
struct Path<'a> {
    /// Where its last part begins.
    at: usize,
    /// Its names, at least one.
    names: Vec<&'a str>,
    /// Whether it stands in a `use` item.
    imports: bool,
}

/// Every path of the code, single words too.
fn paths(code: &str) -> Vec<Path<'_>> {
    let mut found = Vec::new();
    // What a group's paths begin with; nothing for the braces of a block.
    let mut groups: Vec<Vec<&str>> = Vec::new();
    let (mut names, mut joined, mut imports, mut end, mut place) = (Vec::new(), false, false, 0, 0);
    // An empty word behind the last one, so that what stands there is gone through too.
    for (at, word) in code::words(code).chain([(code.len(), "")]) {
        // Two colons join; one alone, of a type or a field, does not.
        let between = code[end..at].replace("::", "→");
        for sign in between.chars().filter(|sign| !sign.is_whitespace()) {
            if sign == '→' {
                joined = true;
                continue;
            }
            let opens_group = sign == '{' && joined && imports;
            if opens_group {
                groups.push(std::mem::take(&mut names));
            } else if !names.is_empty() {
                found.push(Path { at: place, names: std::mem::take(&mut names), imports });
            }
            match sign {
                '{' if !opens_group => groups.push(Vec::new()),
                '}' => drop(groups.pop()),
                ';' => imports = false,
                _ => {}
            }
            joined = false;
        }
        if !joined && !names.is_empty() {
            found.push(Path { at: place, names: std::mem::take(&mut names), imports });
        }
        if word == "use" {
            imports = true;
        } else if !word.is_empty() {
            if names.is_empty() && imports {
                names = groups.last().cloned().unwrap_or_default();
            }
            names.push(word);
            place = at;
        }
        (joined, end) = (false, at + word.len());
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(rule: fn(&Source) -> Vec<String>, path: &str, text: &str, expect: &[&str]) {
        let violations = rule(&Source::new(path, text));
        assert_eq!(violations.len(), expect.len(), "{path}: {text}\n{violations:#?}");
        for (violation, expect) in violations.iter().zip(expect) {
            assert!(violation.contains(expect), "{path}: {text}\n{violation}\n{expect}");
        }
    }

    #[test]
    fn paths_are_spelled_out() {
        let spelled = |code: &str| paths(code).iter().map(|path| path.names.join("::")).collect::<Vec<_>>();
        assert_eq!(spelled("use a::{b, c::{d, e as f}, self};"), ["a::b", "a::c::d", "a::c::e", "a::c::as", "a::c::f", "a::self"]);
        assert_eq!(spelled("use ::a::b; x = a::b(c.d) { e }"), ["a::b", "x", "a::b", "c", "d", "e"]);
        assert_eq!(spelled("fn f(a: b::C<d::E>) -> F"), ["fn", "f", "a", "b::C", "d::E", "F"]);
    }

    #[test]
    fn an_import_against_the_order_is_found() {
        check(layers, "src/event/a.rs", "use crate::machine::Tick;", &["src/event/a.rs:1: `event` names `machine`"]);
        check(
            layers,
            "src/machine/a.rs",
            "use super::Tick;\nuse crate::{event::X, pipeline::ports};",
            &["a.rs:2: `machine` names `pipeline`"],
        );
        check(layers, "src/pipeline/a.rs", "fn f() { crate::edge::clock::now() }", &["`pipeline` names `edge`"]);
        check(layers, "src/pipeline/a/b.rs", "use super::super::super::edge;", &["`pipeline` names `edge`"]);
        check(layers, "src/telemetry/mod.rs", "use super::app::run;", &["`telemetry` names `app`"]);
        check(layers, "src/edge/a.rs", "use crate::cli::Cli;", &["`edge` names `cli`"]);
        check(layers, "src/main.rs", "fn main() { fusebox::edge::x() }", &["`main` names `edge`"]);
        check(layers, "src/novel/a.rs", "", &["no rule says"]);
        check(layers, "src/edge/a.rs", "use crate::pipeline::ports::{Clock, Call}; // crate::cli\nuse super::config;", &[]);
        check(layers, "src/pipeline/a/b.rs", "use super::super::edge; #[cfg(test)] mod tests { use crate::edge::clock; }", &[]);
    }

    #[test]
    fn a_crate_in_the_wrong_layer_is_found() {
        check(crates, "src/pipeline/a.rs", "use rdkafka::message::Header;", &["only `edge` names `rdkafka`"]);
        check(crates, "src/cli/a.rs", "let a = 1;\nredis::Client::open(url)", &["a.rs:2: only `edge` names `redis`"]);
        check(crates, "src/app/a.rs", "use {axum::Router, hyper_util::rt};", &["`axum`", "`hyper_util`"]);
        check(crates, "src/machine/a.rs", "async fn f() { tokio::task::yield_now().await }", &["`machine` names `tokio`"]);
        check(crates, "src/event/a.rs", "use std::time::{Duration, SystemTime};", &["`event` names a clock"]);
        check(crates, "src/machine/a.rs", "fn f(now: Instant) {}", &["`machine` names a clock"]);
        check(crates, "src/edge/a.rs", "use rdkafka::message::Header; std::time::Instant::now()", &[]);
        check(crates, "src/app/a.rs", "use crate::edge::{kafka, redis}; let x = redis::open(config.redis);", &[]);
        check(crates, "src/config/a.rs", "struct Config { redis: Redis, now: fn() }", &[]);
        check(crates, "src/config/a.rs", "mod redis; redis::read(x)", &[]);
        check(crates, "src/machine/a.rs", "//! No tokio::x here.\nf(\"tokio::x\")", &[]);
    }
}
