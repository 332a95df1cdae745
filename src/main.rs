//! The binary: hands over to the command line.

use std::process::ExitCode;

/// Bodies of a kilobyte and more come and go with each call, on threads other than their maker's: the system's allocator spends a sixth of
/// an event on that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    fusebox::cli::main()
}
