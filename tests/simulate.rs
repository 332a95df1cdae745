//! `fusebox simulate` as its users run it: the picture in the docs, replays from standard input, and what it says to wrong input.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use serde_json::Value as Json;

const TRACE: &str = "docs/examples/outage.csv";

fn started(args: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_fusebox"))
        .args(args)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env_remove("FUSEBOX_CONFIG")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("runs")
}

fn fusebox(args: &[&str], input: &str) -> Output {
    let mut child = started(args);
    // It may have said no before it has read all.
    drop(child.stdin.take().expect("is piped").write_all(input.as_bytes()));
    child.wait_with_output().expect("ends")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("is text")
}

/// The arguments of the documented command that draws the picture, by the shell's own reading.
fn documented() -> Vec<String> {
    let guide = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/guide/breakers.md")).expect("is there");
    let begin = guide.find("fusebox simulate docs/examples/outage.csv").expect("the guide draws the outage");
    let command = guide[begin..].split("\n```").next().expect("the block ends").strip_prefix("fusebox").expect("begins so");
    let listed = Command::new("sh").arg("-c").arg(format!("printf '%s\\n' {command}")).output().expect("there is a shell");
    text(&listed.stdout).lines().map(ToOwned::to_owned).collect()
}

#[test]
fn the_guides_picture_is_what_its_command_draws() {
    let dir = tempfile::tempdir().expect("a directory");
    let drawn = dir.path().join("drawn.svg");
    let mut args = documented();
    let place = args.iter().position(|arg| arg == "--svg").expect("it draws") + 1;
    let committed = std::mem::replace(&mut args[place], drawn.to_str().expect("is text").to_owned());
    let done = fusebox(&args.iter().map(String::as_str).collect::<Vec<_>>(), "");
    assert_eq!((done.status.code(), text(&done.stderr)), (Some(0), String::new()));
    let drawn = fs::read_to_string(drawn).expect("was drawn");
    let known = fs::read_to_string(format!("{}/{committed}", env!("CARGO_MANIFEST_DIR"))).expect("the picture is committed");
    assert!(drawn == known, "the picture differs from what the guide's command draws: run the command again");
    assert!(drawn.starts_with("<svg") && !drawn.contains("<script"));
}

#[test]
fn what_was_done_is_the_same_as_table_and_json() {
    let candidate = "strict=fail_max = 3, recovery_timeout = \"10s\"";
    let table = fusebox(&["simulate", TRACE, "--candidate", candidate, "--timeline"], "");
    let table = text(&table.stdout);
    let json = fusebox(&["simulate", TRACE, "--candidate", candidate, "--output", "json"], "");
    let json: Json = serde_json::from_slice(&json.stdout).expect("is JSON");
    let tried = &json["services"][0]["candidates"][0];
    let row = table.lines().find(|line| line.starts_with("strict ")).expect("has a row");
    assert_eq!(row.split_whitespace().nth(1).expect("trips"), tried["score"]["trips"].to_string());
    assert_eq!(tried["breaker"]["fail_max"], 3);
    assert_eq!(tried["tripped_at"].as_array().expect("is a list").len() as u64, tried["score"]["trips"].as_u64().expect("a number"));
    assert!(table.contains("failing") && table.contains('#'), "{table}");
    let score = &tried["score"];
    let of = |key: &str| score[key].as_u64().expect("a number");
    assert_eq!(of("admitted") + of("refused_while_healthy") + of("refused_while_bad"), of("calls"));
}

#[test]
fn a_sweep_finds_the_cheapest() {
    let swept = fusebox(
        &["simulate", TRACE, "--service", "rag", "--sweep", "fail_max = 2..9, recovery_timeout = 5s..20s/5s", "--output", "json"],
        "",
    );
    let swept: Json = serde_json::from_slice(&swept.stdout).expect("is JSON");
    assert_eq!((&swept["combinations"], swept["best"].as_array().expect("a list").len()), (&32.into(), 10));
    let costs: Vec<f64> = swept["best"].as_array().expect("a list").iter().map(|one| one["cost"].as_f64().expect("a number")).collect();
    assert!(costs.is_sorted(), "{costs:?}");
    let best = &swept["best"][0]["breaker"];
    let candidate = format!("best=fail_max = {}, recovery_timeout = {}", best["fail_max"], best["recovery_timeout"]);
    let alone = fusebox(&["simulate", TRACE, "--candidate", &candidate, "--output", "json"], "");
    let alone: Json = serde_json::from_slice(&alone.stdout).expect("is JSON");
    assert_eq!(alone["services"][0]["candidates"][0]["cost"].as_f64(), Some(costs[0]));
}

#[test]
fn operations_are_completed_line_by_line() {
    let input = concat!(
        r#"{"t0":1000,"breaker":{"fail_max":1,"recovery_timeout":"1s"},"ops":[[0,"acq","a"],[5,"err","a"],[1,"acq","b"],[999,"acq","c"],[1,"ok","c"]]}"#,
        "\n",
        r#"{"ops":[[0,"force:forced_open",null],[0,"acq",1],[0,"release",null],[0,"wait"]]}"#,
        "\n"
    );
    let done = fusebox(&["simulate", "--replay", "-"], input);
    assert_eq!((done.status.code(), text(&done.stderr)), (Some(0), String::new()));
    assert_eq!(
        text(&done.stdout),
        concat!(
            r#"{"t0":1000,"breaker":{"fail_max":1,"recovery_timeout":"1s"},"ops":[[0,"acq","a",true,"closed",0,0,0,0],[5,"err","a",null,"open",1,1,0,0],[1,"acq","b",false,"open",1,1,0,1],[999,"acq","c",true,"half_open",0,0,0,1],[1,"ok","c",null,"closed",0,0,0,1]]}"#,
            "\n",
            r#"{"ops":[[0,"force:forced_open",null,null,"forced_open",0,0,0,0],[0,"acq",1,false,"forced_open",0,0,0,1],[0,"release",null,null,"half_open",0,0,0,1],[0,"wait",null,null,"half_open",0,0,0,1]]}"#,
            "\n"
        )
    );
}

#[test]
fn each_line_is_answered_before_the_next_is_written() {
    let mut child = started(&["simulate", "--replay"]);
    let mut input = child.stdin.take().expect("is piped");
    let output = BufReader::new(child.stdout.take().expect("is piped"));
    let (lines, answers) = mpsc::channel();
    let reader = thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| lines.send(line)));
    for id in 0..3 {
        writeln!(input, r#"{{"ops":[[0,"acq",{id}]]}}"#).expect("is read");
        let answer = answers.recv_timeout(Duration::from_secs(60)).expect("is answered, though more may come");
        assert_eq!(answer, format!(r#"{{"ops":[[0,"acq",{id},true,"closed",0,0,0,0]]}}"#));
    }
    drop(input);
    assert_eq!(child.wait().expect("ends").code(), Some(0));
    assert!(reader.join().expect("ends").is_ok());
}

#[test]
fn the_guides_lines_of_operations_are_what_is_printed() {
    let guide = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/guide/simulate.md")).expect("is there");
    let lines: Vec<&str> = guide.lines().filter(|line| line.starts_with('{') && line.contains("\"ops\"")).collect();
    let [given, printed] = lines[..] else { panic!("a line of operations and what is printed of it: {lines:?}") };
    let done = fusebox(&["simulate", "--replay"], &format!("{given}\n"));
    assert_eq!((done.status.code(), text(&done.stdout)), (Some(0), format!("{printed}\n")));
}

#[test]
fn the_guides_recorded_calls_are_read() {
    let guide = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/guide/simulate.md")).expect("is there");
    let lines: String = guide.lines().filter(|line| line.starts_with("{\"at\"")).map(|line| format!("{line}\n")).collect();
    let table: String = guide
        .lines()
        .skip_while(|line| !line.starts_with("at,"))
        .take_while(|line| *line != "```")
        .map(|line| format!("{line}\n"))
        .collect();
    let json = |trace: &str| text(&fusebox(&["simulate", "-", "--output", "json"], trace).stdout);
    assert!(json(&lines).contains("\"calls\""), "{lines}");
    assert_eq!(json(&lines), json(&table), "the same calls, written in two ways");
}

#[test]
fn a_byte_order_mark_is_passed_over() {
    let dir = tempfile::tempdir().expect("a directory");
    for (args, input) in [
        (&["simulate"][..], "{\"at\": 1, \"service\": \"a\", \"duration_ms\": 1, \"verdict\": \"ok\"}\n"),
        (&["simulate"], "at,service,duration_ms,verdict\n1,a,1,ok\n"),
        (&["simulate", "--replay"], "{\"ops\": [[0, \"acq\", 1]]}\n"),
    ] {
        let marked = format!("\u{feff}{input}");
        let file = dir.path().join("marked");
        fs::write(&file, &marked).expect("is written");
        let of = |place: &str, input: &str| {
            let done = fusebox(&[args, &[place]].concat(), input);
            (done.status.code(), text(&done.stdout), text(&done.stderr))
        };
        let plain = of("-", input);
        assert_eq!(plain.0, Some(0), "{plain:?}");
        assert_eq!(of("-", &marked), plain, "{args:?} {input}");
        assert_eq!(of(file.to_str().expect("is text"), ""), plain, "{args:?} {input}");
    }
}

#[test]
fn of_many_bad_periods_the_table_names_the_first() {
    let mut trace = String::from("at,service,duration_ms,verdict\n");
    for second in 0..125 {
        let verdict = if second / 5 % 2 == 1 { "failure" } else { "success" };
        trace.push_str(&format!("{},rag,1,{verdict}\n", second * 1_000));
    }
    let table = text(&fusebox(&["simulate", "-"], &trace).stdout);
    let first = table.lines().next().expect("says something");
    assert_eq!(first.matches(" to ").count(), 10, "{first}");
    assert!(first.ends_with("00:01:35 to 00:01:40, and 2 more"), "{first}");
    let json: Json = serde_json::from_slice(&fusebox(&["simulate", "-", "--output", "json"], &trace).stdout).expect("is JSON");
    assert_eq!(json["services"][0]["bad"].as_array().expect("is a list").len(), 12);
}

#[test]
fn wrong_input_is_exit_code_two_and_says_where() {
    for (args, input, expected) in [
        (&["simulate", "--replay", "-"][..], "{\"ops\": []}\n{\"ops\": [[0, \"go\"]]}\n", "standard input:2: operation 0"),
        (&["simulate", "nowhere.jsonl"], "", "nowhere.jsonl: cannot be read"),
        (&["simulate", "-"], "{\"at\": 1}\n", "standard input:1: is no recorded call"),
        (&["simulate", "-"], "", "there is no call in it"),
        (&["simulate", TRACE, "--service", "vms"], "", "there is no call of service \"vms\""),
        (&["simulate", TRACE, "--candidate", "x=fail_mx = 3"], "", "fail_mx: there is no such key; did you mean `fail_max`?"),
        (&["simulate", TRACE, "--candidate", "x=policy = \"count\", fail_max = 3"], "", "fail_max: has no effect"),
        (&["simulate", TRACE, "--candidate", "fail_max"], "", "has no name"),
        (&["simulate", TRACE, "--candidate", "x=fail_max = 3", "--candidate", "x=fail_max = 4"], "", "there is one named \"x\" already"),
        (&["simulate", TRACE, "--cost", "money=3"], "", "there is no \"money\""),
        (&["simulate"], "", "<TRACE>"),
        (&["simulate", TRACE, "--service", "rag", "--sweep", "fail_max = 1..3", "--timeline"], "", "cannot be used with"),
        (&["simulate", TRACE, "--service", "rag", "--sweep", "fail_max = 1..1000, permits = 1..1000"], "", "1000000 combinations"),
        (&["simulate", TRACE, "--sweep", "fail_max = 1..3"], "", "--service"),
        (
            &["simulate", TRACE, "--service", "rag", "--sweep", "recovery_timeout = 0s..18446744073709551615s/9223372036854775808s"],
            "",
            "goes beyond the longest time that can be",
        ),
        (&["simulate", TRACE, "--service", "rag", "--sweep", "failure_rate = 1e300..1e300"], "", "goes beyond what a number can be"),
        (&["simulate", TRACE, "--bad-share", "0"], "", "--bad-share"),
    ] {
        let done = fusebox(args, input);
        assert_eq!(done.status.code(), Some(2), "{args:?}");
        assert!(text(&done.stderr).contains(expected), "{args:?}: {}", text(&done.stderr));
    }
}
