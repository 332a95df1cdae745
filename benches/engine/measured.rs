//! A process that is measured: what the kernel has counted for it. Linux only.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// One process. Dropped, it is killed.
pub struct Measured {
    child: Child,
}

impl Measured {
    pub fn start(mut command: Command) -> Self {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit()).spawn().expect("it starts");
        Self { child }
    }

    /// User and system time of all its threads so far.
    pub fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("it runs");
        // Behind the name, which may hold anything but ends with the last parenthesis: fields 14 and 15, hundredths of a second.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().expect("ticks")).sum();
        Duration::from_millis(ticks * 10)
    }

    /// The most that it had resident so far, bytes.
    pub fn peak_resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let kilobytes = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
        kilobytes.trim().trim_end_matches("kB").trim().parse::<u64>().expect("kilobytes") * 1_024
    }
}

impl Drop for Measured {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
