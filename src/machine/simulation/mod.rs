//! What breakers would have done: recorded calls run through settings that were not in force ([`run`]), and operations that another
//! breaker was led through as well ([`replay`]).
//!
//! Time is the trace's, chance a caller's; nothing is read or written. How traces are read and what is shown of them is the command's affair.

pub mod replay;
pub mod run;
pub mod truth;
