//! How deep an expression's tree can be, judged before anything recurses over it.
//!
//! The parser bounds how deep brackets are nested, but not how long operators are chained: `1+1+1+…` is a tree as deep as
//! it is long, and parsing, and even dropping it would run off the stack. The estimate is never too low: each
//! operator, dot and bracket between two commas counts, in every bracket around.

/// The deepest estimate that is compiled; real expressions stay below 60. The parser takes up to 130 kB of its stack for each.
pub(super) const MAX_DEPTH: usize = 250;

/// The byte at which the source becomes too deep.
pub(super) fn too_deep(source: &str) -> Option<usize> {
    let chars: Vec<char> = source.chars().collect();
    // Operators since the last comma, for each bracket that is open.
    let mut open = vec![0_usize];
    let mut total = 0;
    let mut at = 0;
    while let Some(&c) = chars.get(at) {
        let counts = match c {
            '(' | '[' | '{' | '+' | '-' | '*' | '/' | '%' | '!' | '<' | '>' | '=' | '&' | '|' | '?' | ':' | '.' => true,
            'i' => is_in(&chars, at),
            _ => false,
        };
        if c == '/' && chars.get(at + 1) == Some(&'/') {
            at += chars[at..].iter().position(|&c| c == '\n').unwrap_or(chars.len() - at);
            continue;
        }
        if let Some(end) = string_end(&chars, at) {
            at = end;
            continue;
        }
        if counts {
            total += 1;
            if let Some(last) = open.last_mut() {
                *last += 1;
            }
        }
        match c {
            '(' | '[' | '{' => open.push(0),
            ')' | ']' | '}' if open.len() > 1 => total -= open.pop().unwrap_or(0),
            ',' => total -= open.last_mut().map_or(0, std::mem::take),
            _ => {}
        }
        if total > MAX_DEPTH {
            return Some(chars[..at].iter().map(|c| c.len_utf8()).sum());
        }
        at += 1;
    }
    None
}

/// Whether the operator `in` stands here.
fn is_in(chars: &[char], at: usize) -> bool {
    let part_of_name = |c: Option<&char>| c.is_some_and(|c| c.is_alphanumeric() || *c == '_');
    chars.get(at + 1) == Some(&'n') && !part_of_name(chars.get(at + 2)) && !part_of_name(at.checked_sub(1).and_then(|at| chars.get(at)))
}

/// The end of the string literal that begins here. `None` where none does, or where it has no end: then the parser, too,
/// reads on behind the quote.
fn string_end(chars: &[char], at: usize) -> Option<usize> {
    let quote = *chars.get(at).filter(|c| matches!(c, '"' | '\''))?;
    let raw = chars[..at].iter().rev().take(2).take_while(|c| c.is_alphabetic()).any(|c| matches!(c, 'r' | 'R'));
    let length = if chars[at..].starts_with(&[quote; 3]) { 3 } else { 1 };
    let mut inside = at + length;
    while let Some(&c) = chars.get(inside) {
        if c == '\\' && !raw {
            inside += 2;
        } else if c == '\n' && length == 1 {
            return None;
        } else if c == quote && chars[inside..].iter().take(length).filter(|c| **c == quote).count() == length {
            return Some(inside + length);
        } else {
            inside += 1;
        }
    }
    None
}
