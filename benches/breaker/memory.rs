//! What a subject costs in memory, by what a process of its own has resident.

use std::process::{Command, Stdio};

use super::MEMORY;

/// Resident bytes of this process; `None` where the system does not tell.
pub fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let kilobytes = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.trim().strip_suffix("kB")?.trim();
    kilobytes.parse::<u64>().ok().map(|kilobytes| kilobytes * 1_024)
}

/// Says, to the process that asked by [`of`], what each of `count` subjects takes that were made since `before`.
pub fn say(before: Option<u64>, count: usize) {
    if let Some((before, after)) = before.zip(resident()) {
        println!("{}", after.saturating_sub(before) / count as u64);
    }
}

/// The bytes that a subject of that name takes, asked of this program, run again.
pub fn of(name: &str) -> Option<u64> {
    let program = std::env::current_exe().ok()?;
    let output = Command::new(program).args([MEMORY, name]).stderr(Stdio::inherit()).output().ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}
