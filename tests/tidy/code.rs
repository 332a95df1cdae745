//! Rust's text without what is not code, every byte of code where it was, so that rules can look for words and give lines.

/// Blanks comments and the insides of texts and characters.
pub fn bare(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let Some(Blank { opens, closes, length }) = literal_or_comment(&bytes[at..]) else {
            // An identifier is stepped over whole: the `r` at the end of `for` begins no raw text.
            at += bytes[at..].iter().take_while(|byte| is_word(**byte)).count().max(1);
            continue;
        };
        // One that the file's end cuts off may have no closing part.
        blank(&mut out[at + opens..(at + length).saturating_sub(closes).max(at + opens)]);
        at += length;
    }
    String::from_utf8(out).expect("blanks in place of whole characters")
}

/// Blanks every `#[cfg(test)] mod name { … }` of bare code.
pub fn without_tests(code: &str) -> String {
    let mut out = code.as_bytes().to_vec();
    for (at, _) in code.match_indices("#[cfg(test)]") {
        let rest = &code[at..];
        let Some(open) = rest.find(['{', ';']) else { continue };
        if rest.as_bytes()[open] == b'{' && rest[..open].split_whitespace().any(|word| word == "mod") {
            let mut depth = 0_usize;
            let close = rest.bytes().enumerate().skip(open).find_map(|(index, byte)| {
                depth = match byte {
                    b'{' => depth + 1,
                    b'}' => depth - 1,
                    _ => depth,
                };
                (depth == 0).then_some(index + 1)
            });
            blank(&mut out[at..at + close.unwrap_or(rest.len())]);
        }
    }
    String::from_utf8(out).expect("blanks in place of whole characters")
}

/// The number of the line that holds the byte, from 1.
pub fn line(text: &str, at: usize) -> usize {
    text[..at].bytes().filter(|byte| *byte == b'\n').count() + 1
}

/// Where each word of code stands: identifiers and keywords.
pub fn words(code: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        at += code.as_bytes()[at..].iter().take_while(|byte| !is_word(**byte)).count();
        let length = code.as_bytes()[at..].iter().take_while(|byte| is_word(**byte)).count();
        let word = (at, &code[at..at + length]);
        at += length;
        (length > 0).then_some(word)
    })
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

fn blank(bytes: &mut [u8]) {
    for byte in bytes.iter_mut().filter(|byte| **byte != b'\n') {
        *byte = b' ';
    }
}

/// A literal or comment: its length, and how much of it at either end is its delimiters, which are kept.
struct Blank {
    opens: usize,
    closes: usize,
    length: usize,
}

/// The literal or comment that begins here.
fn literal_or_comment(bytes: &[u8]) -> Option<Blank> {
    let until = |from: usize, end: &[u8]| {
        let rest = bytes.get(from..).unwrap_or_default();
        rest.windows(end.len()).position(|window| window == end).map_or(bytes.len(), |index| from + index + end.len())
    };
    let blank = |opens, closes, length: usize| Some(Blank { opens, closes, length: length.min(bytes.len()) });
    match bytes {
        [b'/', b'/', ..] => blank(0, 0, bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len())),
        [b'/', b'*', ..] => blank(0, 0, block_comment(bytes)),
        [b'"', ..] => blank(1, 1, quoted(bytes, 1)),
        [b'b' | b'c', b'"', ..] => blank(2, 1, quoted(bytes, 2)),
        [b'r', b'"' | b'#', ..] | [b'b' | b'c', b'r', b'"' | b'#', ..] => {
            let prefix = if bytes[0] == b'r' { 1 } else { 2 };
            let hashes = bytes[prefix..].iter().take_while(|byte| **byte == b'#').count();
            let opens = prefix + hashes + 1;
            // `r#name` is an identifier.
            (bytes.get(opens - 1) == Some(&b'"')).then_some(())?;
            blank(opens, hashes + 1, until(opens, &[b"\"".as_slice(), &b"#".repeat(hashes)].concat()))
        }
        [b'\'', b'\\', ..] => blank(1, 1, until(3, b"'")),
        // A lifetime has no quote behind its first character.
        [b'\'', first, ..] => {
            let width = match first {
                0..0x80 => 1,
                0x80..0xe0 => 2,
                0xe0..0xf0 => 3,
                0xf0.. => 4,
            };
            (bytes.get(1 + width) == Some(&b'\'')).then_some(())?;
            blank(1, 1, width + 2)
        }
        _ => None,
    }
}

fn block_comment(bytes: &[u8]) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < bytes.len() {
        match &bytes[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    bytes.len()
}

fn quoted(bytes: &[u8], from: usize) -> usize {
    let mut at = from;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

#[test]
fn what_is_not_code_is_blanked() {
    let check = |text: &str, expect: &str| {
        let bare = bare(text);
        assert_eq!(bare.len(), text.len(), "{text}");
        assert_eq!(bare.split_whitespace().collect::<Vec<_>>().join(" "), expect, "{text}");
    };
    check("a // tokio\nb", "a b");
    check("a /* x /* tokio */ y */ b", "a b");
    check(r#"f("tok\"io", b"x") // "y"#, r#"f(" ", b" ")"#);
    check("g(r#\"a \" b\"#, r\"c\")", "g(r#\" \"#, r\" \")");
    check("'a' '\\'' 'é' <'a> 'static", "' ' ' ' ' ' <'a> 'static");
    check("for\"x\"; r#type; 'r'", "for\" \"; r#type; ' '");
    check("\"// no comment\" x", "\" \" x");
}

#[test]
fn test_modules_are_blanked_and_nothing_else() {
    let code = "a\n#[cfg(test)]\nmod tests { fn f() { b } }\nc\n#[cfg(test)]\nmod more;\n#[cfg(test)]\nfn d() {}";
    assert_eq!(
        without_tests(code).split_whitespace().collect::<Vec<_>>(),
        ["a", "c", "#[cfg(test)]", "mod", "more;", "#[cfg(test)]", "fn", "d()", "{}"]
    );
    assert_eq!(without_tests(code).lines().count(), code.lines().count());
}

#[test]
fn words_know_their_places() {
    assert_eq!(words("a::bc (d_1)").collect::<Vec<_>>(), [(0, "a"), (3, "bc"), (7, "d_1")]);
    assert_eq!(line("a\nb\nc", 4), 3);
}
