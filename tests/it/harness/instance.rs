//! One running `fusebox run`.

use std::fs::File;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::http::{Answer, ask, ask_over};
use super::world::{command, free_port};
use super::{DEADLINE, eventually, until, within};

/// Lines of an instance's log that are shown when its test fails.
const LINES_SHOWN: usize = 60;

/// A process that runs Fusebox. Dropped, it is killed.
#[derive(Debug)]
pub struct Instance {
    child: Child,
    addr: SocketAddr,
    log: PathBuf,
    operator: String,
}

impl Instance {
    /// Starts one and waits until its API answers. A port that somebody else took meanwhile is changed for another.
    pub(super) fn spawn(arguments: &[String], log: PathBuf, operator: String) -> Self {
        for _ in 0..5 {
            let addr = SocketAddr::from(([127, 0, 0, 1], free_port()));
            let child = command()
                .arg("run")
                .args(arguments)
                .args(["--set", &format!("http.listen={addr}")])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(File::create(&log).expect("a log file"))
                .spawn();
            let mut instance = Self { child: child.expect("the binary starts"), addr, log: log.clone(), operator: operator.clone() };
            let lives = eventually("the API answers, or the process has ended", || {
                if instance.exited().is_some() {
                    return Some(false);
                }
                ask(addr, "GET", "/livez", None, None).is_ok().then_some(true)
            });
            if lives {
                return instance;
            }
            let port_was_taken = instance.log().contains("cannot listen");
            assert!(port_was_taken, "the instance ended at once:\n{}", instance.log());
        }
        panic!("no port is free")
    }

    /// Waits until everything that it needs is there.
    pub fn wait_ready(&self) {
        until("the instance is ready", || self.get("/readyz").json()["status"] == "ok");
    }

    /// Its API's URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// GET, without a token.
    #[track_caller]
    pub fn get(&self, path: &str) -> Answer {
        ask(self.addr, "GET", path, None, None).expect("the API answers")
    }

    /// GET with this token.
    #[track_caller]
    pub fn get_as(&self, token: Option<&str>, path: &str) -> Answer {
        ask(self.addr, "GET", path, token, None).expect("the API answers")
    }

    /// POST with this token.
    #[track_caller]
    pub fn post(&self, path: &str, token: Option<&str>, body: &Value) -> Answer {
        ask(self.addr, "POST", path, token, Some(body)).expect("the API answers")
    }

    /// Forces a breaker, as an operator.
    #[track_caller]
    pub fn force(&self, service: &str, body: &Value) -> Answer {
        self.post(&format!("/api/v1/circuit-breakers/{service}/force-state"), Some(&self.operator), body)
    }

    /// Changes a breaker's settings, as an operator, with this `If-Match`.
    #[track_caller]
    pub fn change_settings(&self, service: &str, if_match: Option<&str>, changes: &Value) -> Answer {
        self.settings("PATCH", service, Some(&self.operator), if_match, Some(changes))
    }

    /// Takes a breaker's settings back to the config's, as an operator.
    #[track_caller]
    pub fn reset_settings(&self, service: &str, if_match: Option<&str>) -> Answer {
        self.settings("DELETE", service, Some(&self.operator), if_match, None)
    }

    /// A request about a breaker's settings.
    #[track_caller]
    pub fn settings(&self, method: &str, service: &str, token: Option<&str>, if_match: Option<&str>, body: Option<&Value>) -> Answer {
        let path = format!("/api/v1/circuit-breakers/{service}/settings");
        ask_over(self.addr, method, &path, token, if_match, body).expect("the API answers")
    }

    /// A breaker, as the API shows it.
    #[track_caller]
    pub fn breaker(&self, service: &str) -> Value {
        self.get(&format!("/api/v1/circuit-breakers/{service}")).json()
    }

    /// Waits until a breaker is in this state.
    #[track_caller]
    pub fn wait_for_state(&self, service: &str, state: &str) {
        until(&format!("{service} is {state}"), || self.breaker(service)["state"] == state);
    }

    /// One part of its readiness: state, and what it says.
    #[track_caller]
    pub fn part(&self, name: &str) -> (String, String) {
        let readiness = self.get("/readyz").json();
        let parts = readiness["parts"].as_array().expect("a list");
        let part = parts.iter().find(|part| part["name"] == name).unwrap_or_else(|| panic!("no part {name}: {readiness}"));
        (part["state"].as_str().unwrap_or_default().to_owned(), part["detail"].as_str().unwrap_or_default().to_owned())
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal: `TERM`, `INT`, `KILL`, `STOP`, `CONT`.
    pub fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([&format!("-{signal}"), &self.pid().to_string()]).status();
        assert!(sent.expect("kill runs").success(), "the process is gone");
    }

    /// SIGTERM, and the exit code.
    #[track_caller]
    pub fn stop(&mut self) -> i32 {
        self.signal("TERM");
        self.wait_exit(DEADLINE)
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }

    /// The exit code of a process that ends within this time.
    #[track_caller]
    pub fn wait_exit(&mut self, deadline: Duration) -> i32 {
        within(deadline, "the instance ends", || self.exited())
    }

    /// Its exit code, if it has ended; -1: by a signal.
    pub fn exited(&mut self) -> Option<i32> {
        self.child.try_wait().expect("a child of this process").map(|status| status.code().unwrap_or(-1))
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let shown = lines[lines.len().saturating_sub(LINES_SHOWN)..].join("\n");
            eprintln!("--- the last lines of {} ---\n{shown}\n---", self.log.file_name().unwrap_or_default().to_string_lossy());
        }
    }
}
