//! Tables for people: columns as wide as what they hold, the last one open.

use std::fmt::Write;

/// Between columns.
const GAP: &str = "  ";

/// The lines of a table. Names that clients chose are shown without what would steer a terminal.
pub fn table(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let shown = |row: Vec<String>| row.iter().map(|cell| printable(cell)).collect();
    let head = head.iter().map(|&name| name.to_owned()).collect();
    let rows: Vec<Vec<String>> = std::iter::once(head).chain(rows.into_iter().map(shown)).collect();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..rows[0].len()).map(width).collect();
    rows.iter().fold(String::new(), |mut text, row| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        let line = cells.collect::<Vec<_>>().join(GAP);
        writeln!(text, "{}", line.trim_end()).expect("a string takes everything");
        text
    })
}

/// Without what would steer a terminal.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_what_they_hold() {
        let rows = [vec!["a".into(), "longer".into()], vec!["bcd".into(), String::new()]];
        assert_eq!(table(&["X", "Y"], rows), "X    Y\na    longer\nbcd\n");
    }

    #[test]
    fn nothing_steers_the_terminal() {
        assert_eq!(table(&["X"], [vec!["a\u{1b}[2J\nb".into()]]), "X\na\u{fffd}[2J\u{fffd}b\n");
    }
}
