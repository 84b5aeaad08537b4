//! Text for a terminal: columns that line up, numbers with units, and nothing of a peer's that a terminal would obey.

use std::fmt;

/// Rows below a head. Cells are cleaned and cut as they come in.
#[derive(Debug)]
pub struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
}

/// One column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    head: &'static str,
    side: Side,
    /// Characters; longer cells are cut.
    widest: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Left,
    Right,
}

/// Words.
pub const fn text(head: &'static str, widest: usize) -> Column {
    Column { head, side: Side::Left, widest }
}

/// Numbers, so that their ends line up.
pub const fn number(head: &'static str) -> Column {
    Column { head, side: Side::Right, widest: WIDEST_NUMBER }
}

impl Table {
    pub fn new(columns: &[Column]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new() }
    }

    pub fn row<const CELLS: usize>(&mut self, cells: [String; CELLS]) {
        debug_assert_eq!(CELLS, self.columns.len(), "a cell for each column");
        let cells = self.columns.iter().zip(cells).map(|(column, cell)| cut(&clean(&cell), column.widest));
        self.rows.push(cells.collect());
    }

    fn width(&self, index: usize, column: &Column) -> usize {
        let cells = self.rows.iter().filter_map(|row| row.get(index)).map(|cell| cell.chars().count());
        cells.max().unwrap_or_default().max(column.head.chars().count())
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widths: Vec<usize> =
            self.columns.iter().enumerate().map(|(index, column)| self.width(index, column)).collect();
        let head: Vec<String> = self.columns.iter().map(|column| column.head.to_owned()).collect();
        for row in std::iter::once(&head).chain(&self.rows) {
            let mut line = String::new();
            for ((cell, column), width) in row.iter().zip(&self.columns).zip(&widths) {
                match column.side {
                    Side::Left => line.push_str(&format!("{cell:<width$}  ")),
                    Side::Right => line.push_str(&format!("{cell:>width$}  ")),
                }
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// A name and what it is, one below the other.
#[derive(Debug, Default)]
pub struct Facts(Vec<(&'static str, String)>);

impl Facts {
    pub fn add(&mut self, name: &'static str, value: impl AsRef<str>) {
        self.0.push((name, cut(&clean(value.as_ref()), WIDEST_FACT)));
    }
}

impl fmt::Display for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.0.iter().map(|(name, _)| name.chars().count()).max().unwrap_or_default();
        for (name, value) in &self.0 {
            writeln!(f, "{}", format!("{name:<width$}  {value}").trim_end())?;
        }
        Ok(())
    }
}

/// Without what moves a cursor, changes a colour, or turns the line around: all of that a peer may put into its name.
pub fn clean(text: &str) -> String {
    text.chars().map(|c| if is_unfit(c) { REPLACEMENT } else { c }).collect()
}

/// The same for text with lines.
pub fn clean_lines(text: &str) -> String {
    text.chars().map(|c| if c != '\n' && is_unfit(c) { REPLACEMENT } else { c }).collect()
}

/// JSON that says the same, with escapes in the place of what a terminal would obey. Outside of strings there is none of it
/// but lines and spaces.
pub fn clean_json(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for c in text.chars() {
        if c == '\n' || !is_unfit(c) {
            clean.push(c);
        } else {
            let mut units = [0; 2];
            c.encode_utf16(&mut units).iter().for_each(|unit| clean.push_str(&format!("\\u{unit:04x}")));
        }
    }
    clean
}

/// Control characters (C0, C1, delete) and what Unicode has of the same kind: marks without a width, of direction, of lines, tags.
fn is_unfit(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

fn cut(text: &str, widest: usize) -> String {
    if text.chars().count() <= widest {
        return text.to_owned();
    }
    text.chars().take(widest.saturating_sub(1)).chain(['…']).collect()
}

/// `1.25 Mbit/s`; nothing where there is none.
pub fn bits(bits: u64) -> String {
    match bits {
        0 => NONE.to_owned(),
        1..1000 => format!("{bits} bit/s"),
        1000..1_000_000 => format!("{} kbit/s", short(bits as f64 / 1e3)),
        1_000_000..1_000_000_000 => format!("{} Mbit/s", short(bits as f64 / 1e6)),
        _ => format!("{} Gbit/s", short(bits as f64 / 1e9)),
    }
}

/// `12.5 KiB`.
pub fn bytes(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    // What would be rounded to 1024 belongs to the next.
    while value >= 1023.5 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    let unit = units.get(unit).copied().unwrap_or_default();
    if unit == "B" { format!("{bytes} B") } else { format!("{} {unit}", short(value)) }
}

/// `3m12s`: the two largest parts.
pub fn seconds(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{:02}s", seconds % 60),
        (0, _, _) => format!("{hours}h{minutes:02}m"),
        _ => format!("{days}d{hours:02}h"),
    }
}

/// `120 ms`, `3.2 s`, then as [`seconds`].
pub fn milliseconds(ms: u64) -> String {
    match ms {
        0..1000 => format!("{ms} ms"),
        1000..60_000 => format!("{} s", short(ms as f64 / 1e3)),
        _ => seconds(ms / 1000),
    }
}

/// What is, or a dash.
pub fn or_none<T>(value: Option<T>, show: impl FnOnce(T) -> String) -> String {
    value.map_or_else(|| NONE.to_owned(), show)
}

/// Three digits.
fn short(value: f64) -> String {
    let digits = if value < 9.995 {
        2
    } else if value < 99.95 {
        1
    } else {
        0
    };
    format!("{value:.digits$}")
}

/// There is none of it.
pub const NONE: &str = "-";
const REPLACEMENT: char = '\u{fffd}';
/// What has units is shorter.
const WIDEST_NUMBER: usize = 12;
const WIDEST_FACT: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;

    fn words(cells: [&str; 3]) -> [String; 3] {
        cells.map(str::to_owned)
    }

    #[test]
    fn columns_line_up_and_long_cells_are_cut() {
        let mut table = Table::new(&[text("NAME", 8), number("PLAYERS"), text("WHY", 5)]);
        table.row(words(["live/a", "7", ""]));
        table.row(words(["live/much-too-long", "1234", "hello"]));
        table.row(words(["live/ä€", "", "a b"]));
        let lines = [
            "NAME      PLAYERS  WHY",
            "live/a          7",
            "live/mu…     1234  hello",
            "live/ä€            a b", //
        ];
        assert_eq!(table.to_string(), lines.join("\n") + "\n");
    }

    #[test]
    fn nothing_of_a_peer_reaches_the_terminal_that_a_terminal_would_obey() {
        let hostile = "a\x1b[2Jb\u{9b}31mc\rd\ne\u{202e}f\u{7}\u{7f}\u{200b}\u{e0041}g";
        let mut table = Table::new(&[text("NAME", 100)]);
        table.row([hostile.to_owned()]);
        let mut facts = Facts::default();
        facts.add("name", hostile);
        let r = REPLACEMENT;
        let shown = format!("a{r}[2Jb{r}31mc{r}d{r}e{r}f{r}{r}{r}{r}g");
        assert_eq!(table.to_string(), format!("NAME\n{shown}\n"));
        assert_eq!(facts.to_string(), format!("name  {shown}\n"));
        assert_eq!(clean_lines("a\x1b\nb"), format!("a{r}\nb"));
    }

    #[test]
    fn json_that_is_cleaned_says_the_same() {
        let text = serde_json::to_string_pretty(&["a\u{9b}b\u{202e}\u{e0041}\x1b", "ä"]).unwrap();
        let cleaned = clean_json(&text);
        assert!(!cleaned.chars().any(|c| c != '\n' && is_unfit(c)), "{cleaned}");
        let parse = |text: &str| serde_json::from_str::<Vec<String>>(text).unwrap();
        assert_eq!(parse(&cleaned), parse(&text));
    }

    #[test]
    fn numbers_have_units_of_their_size() {
        assert_eq!(
            [0, 999, 1250, 1_249_999, 25_000_000, 1_500_000_000].map(bits),
            ["-", "999 bit/s", "1.25 kbit/s", "1.25 Mbit/s", "25.0 Mbit/s", "1.50 Gbit/s"]
        );
        assert_eq!(
            [0, 1023, 1024, 12_800, 1_048_575, 1 << 40, u64::MAX].map(bytes),
            ["0 B", "1023 B", "1.00 KiB", "12.5 KiB", "1.00 MiB", "1.00 TiB", "16777216 TiB"]
        );
        assert_eq!([0, 59, 192, 3600, 7500, 90_000].map(seconds), ["0s", "59s", "3m12s", "1h00m", "2h05m", "1d01h"]);
        assert_eq!([0, 999, 3200, 59_999, 60_000].map(milliseconds), ["0 ms", "999 ms", "3.20 s", "60.0 s", "1m00s"]);
    }
}
