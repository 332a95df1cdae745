//! Tables for people: columns as wide as their widest cell, two blanks between.

use std::fmt::Write as _;

/// Writes rows under their headings.
pub(super) fn table<const N: usize>(headings: [&str; N], rows: &[[String; N]]) -> String {
    let mut widths = headings.map(|heading| heading.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    let mut line = |cells: [&str; N]| {
        let mut written = String::new();
        for (cell, width) in cells.iter().zip(widths) {
            // Writing to a string cannot fail.
            let _ = write!(written, "{cell:<width$}  ");
        }
        text.push_str(written.trim_end());
        text.push('\n');
    };
    line(headings);
    for row in rows {
        line(row.each_ref().map(|cell| cell.as_str()));
    }
    text
}

/// A JSON value as a cell: text as it is, null as a dash.
pub(super) fn cell(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::Null => "-".to_owned(),
        serde_json::Value::String(text) => text.replace(char::is_control, " "),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [["a".to_owned(), "long cell".to_owned()], ["longer".to_owned(), "é".to_owned()]];
        assert_eq!(table(["x", "y"], &rows), "x       y\na       long cell\nlonger  é\n");
    }

    #[test]
    fn cells_hold_no_control_characters() {
        assert_eq!(cell(&serde_json::json!("a\u{1b}[31mb\n")), "a [31mb ");
        assert_eq!(cell(&serde_json::Value::Null), "-");
    }
}
