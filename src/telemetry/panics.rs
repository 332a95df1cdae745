//! A panic is a line of the log, once, with its place, and not a page on stderr that no collector can parse.
//!
//! A panic's message may hold anything: `unwrap` prints the error it met, and that may hold what a producer sent. So a message that was
//! formatted is written only where `debug` is on, as event bodies are; one that stands in the source as it is, always.

use std::any::Any;
use std::panic::PanicHookInfo;

/// Installs the hook in place of the standard one, for the whole process.
pub(super) fn install() {
    std::panic::set_hook(Box::new(report));
}

fn report(panic: &PanicHookInfo<'_>) {
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let thread = std::thread::current();
    let message = said(panic.payload(), tracing::enabled!(target: super::facts::TARGET, tracing::Level::DEBUG));
    tracing::error!(target: super::facts::TARGET, place, thread = thread.name(), panic = message, "panicked");
}

fn said(payload: &(dyn Any + Send), debug: bool) -> Option<&str> {
    match payload.downcast_ref::<&'static str>() {
        Some(literal) => Some(literal),
        None => payload.downcast_ref::<String>().filter(|_| debug).map(String::as_str),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_formatted_message_is_for_debug_only() {
        let formatted: Box<dyn Any + Send> = Box::new(String::from("bad value: secret"));
        let literal: Box<dyn Any + Send> = Box::new("the queue is gone");
        let other: Box<dyn Any + Send> = Box::new(7);
        for (payload, debug, expected) in [
            (&formatted, false, None),
            (&formatted, true, Some("bad value: secret")),
            (&literal, false, Some("the queue is gone")),
            (&other, true, None),
        ] {
            assert_eq!(said(payload.as_ref(), debug), expected);
        }
    }
}
