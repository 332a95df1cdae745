//! The tree's own rules, held by reading it: which way imports point, who may name which crate, what a module opens with, how long a
//! file may be, and that what is written for people (tables of metrics and keys, alerts, dashboards) names what exists.
//!
//! A rule is a function from texts to violations, each a sentence with file and line that says what to do instead. The tests
//! beside each rule show it a text that breaks it: a rule that cannot fail holds nothing.

mod code;
mod imports;
mod published;
mod text;
mod tree;

use tree::Tree;

/// Fails with every violation at once.
fn hold(violations: Vec<String>) {
    assert!(violations.is_empty(), "{} violations:\n  {}", violations.len(), violations.join("\n  "));
}

#[test]
fn imports_point_one_way() {
    hold(Tree::read().sources().flat_map(imports::layers).collect());
}

#[test]
fn the_machine_names_no_runtime_and_no_clock_and_only_the_edge_names_client_crates() {
    hold(Tree::read().sources().flat_map(imports::crates).collect());
}

#[test]
fn every_module_opens_with_its_doc() {
    hold(Tree::read().rust().flat_map(text::opening).collect());
}

#[test]
fn nothing_is_left_undone_or_silenced() {
    hold(Tree::read().rust().flat_map(text::undone).collect());
}

#[test]
fn unsafe_code_is_the_embedded_kafkas_alone() {
    hold(Tree::read().sources().flat_map(text::unsafe_code).collect());
}

#[test]
fn files_hold_one_idea() {
    let tree = Tree::read();
    hold(text::lengths(&tree.sources().collect::<Vec<_>>(), text::LONG));
}

#[test]
fn the_files_for_people_name_what_exists() {
    let tree = Tree::read();
    let metrics = published::metrics();
    let keys = published::config_keys(tree.text("config/default.toml"));
    let tables = tree.files("md").flat_map(|(path, text)| {
        let mut violations = published::table(path, text, "metrics", &metrics);
        violations.extend(published::table(path, text, "config", &keys));
        violations
    });
    let deployed = ["yml", "yaml", "json"].into_iter().flat_map(|ext| tree.files(ext));
    let queries = deployed.flat_map(|(path, text)| published::names_in_queries(path, text, &metrics));
    hold(tables.chain(queries).collect());
}

#[test]
fn the_runbook_has_the_sections_that_alerts_send_people_to() {
    let tree = Tree::read();
    let runbook = tree.files("md").find_map(|(path, text)| (path == "docs/runbook.md").then_some(text));
    hold(
        runbook
            .map_or_else(Vec::new, |runbook| tree.files("yml").flat_map(|(path, text)| published::runbook(path, text, runbook)).collect()),
    );
}
