//! What a child process says: bytes become lines for the log, bounded in length and number.

use std::time::Duration;

/// Between the pipe of one child and the log.
#[derive(Debug)]
pub struct Said {
    line: Vec<u8>,
    /// The line is longer than what is kept of it.
    is_cut: bool,
    /// A carriage return came: what follows overwrites the line, unless it is a line feed.
    returned: bool,
    lines_per_second: u32,
    since: Duration,
    written: u32,
    left_out: u64,
    /// What was left out last: the reason why a child died comes at the end of its words.
    last_left_out: Vec<u8>,
}

impl Said {
    /// 0 lines a second mean no bound.
    pub fn new(lines_per_second: u32) -> Self {
        Self {
            line: Vec::new(),
            is_cut: false,
            returned: false,
            lines_per_second,
            since: Duration::ZERO,
            written: 0,
            left_out: 0,
            last_left_out: Vec::new(),
        }
    }

    /// Takes what came, and gives the lines that are to be written now.
    ///
    /// As on a terminal, what is overwritten after a carriage return was never a line: ffmpeg's progress stays out of the log.
    pub fn push(&mut self, bytes: &[u8], now: Duration) -> Vec<String> {
        let mut lines = Vec::new();
        for piece in bytes.split_inclusive(|byte| matches!(byte, b'\n' | b'\r')) {
            let (text, end) = match piece.split_last() {
                Some((end @ (b'\n' | b'\r'), text)) => (text, Some(end)),
                _ => (piece, None),
            };
            if !text.is_empty() {
                if std::mem::take(&mut self.returned) {
                    self.line.clear();
                    self.is_cut = false;
                }
                let room = MAX_LINE.saturating_sub(self.line.len());
                self.is_cut |= text.len() > room;
                self.line.extend_from_slice(text.get(..room).unwrap_or(text));
            }
            match end {
                Some(b'\n') => lines.extend(self.end_line(now)),
                Some(_) => self.returned = true,
                None => {}
            }
        }
        lines
    }

    /// The child will say no more: what stands at the end without a line feed, and the last of what was left out.
    pub fn finish(&mut self, now: Duration) -> Vec<String> {
        let mut lines: Vec<_> = self.end_line(now).into_iter().collect();
        // One line more than the bound, for it is the one that is looked for.
        let left_out = std::mem::take(&mut self.left_out);
        if left_out > 1 {
            lines.push(left_out_line(left_out - 1));
        }
        if left_out > 0 {
            lines.push(String::from_utf8_lossy(&self.last_left_out).into_owned());
        }
        lines
    }

    fn end_line(&mut self, now: Duration) -> Vec<String> {
        self.returned = false;
        if std::mem::take(&mut self.is_cut) {
            self.line.extend_from_slice("…".as_bytes());
        }
        let mut lines = Vec::new();
        if !self.line.trim_ascii().is_empty() {
            if now.saturating_sub(self.since) >= WINDOW {
                lines.extend((self.left_out > 0).then(|| left_out_line(self.left_out)));
                (self.since, self.written, self.left_out) = (now, 0, 0);
            }
            if self.lines_per_second == 0 || self.written < self.lines_per_second {
                self.written += 1;
                lines.push(String::from_utf8_lossy(&self.line).into_owned());
            } else {
                self.left_out += 1;
                std::mem::swap(&mut self.last_left_out, &mut self.line);
            }
        }
        self.line.clear();
        lines
    }
}

fn left_out_line(count: u64) -> String {
    format!("({count} lines left out)")
}

/// What is kept of one line.
const MAX_LINE: usize = 4 << 10;
const WINDOW: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn lines_come_whole_however_they_were_written() {
        let mut said = Said::new(0);
        assert_eq!(said.push(b"one\ntw", at(0)), ["one"]);
        assert_eq!(said.push(b"o\r\n\n  \nthr\xff", at(0)), ["two"]);
        assert_eq!(said.finish(at(0)), ["thr\u{fffd}"]);
        assert_eq!(said.finish(at(0)), [""; 0]);
    }

    #[test]
    fn progress_that_is_overwritten_is_no_line() {
        let mut said = Said::new(0);
        assert_eq!(said.push(b"frame= 1\rframe= 2\r", at(0)), [""; 0]);
        assert_eq!(said.push(b"frame= 3\rdone\n", at(0)), ["done"]);
        assert_eq!(said.push(b"frame= 9\r", at(0)), [""; 0]);
        assert_eq!(said.finish(at(0)), ["frame= 9"]);
    }

    #[test]
    fn a_line_without_an_end_costs_four_kilobytes() {
        let mut said = Said::new(0);
        for _ in 0..1000 {
            assert_eq!(said.push(&[b'x'; 4096], at(0)), [""; 0]);
        }
        assert!(said.line.capacity() <= 2 * MAX_LINE);
        assert_eq!(said.push(b"\n", at(0)), [format!("{}…", "x".repeat(MAX_LINE))]);
    }

    #[test]
    fn a_flood_is_counted_and_its_last_line_is_kept() {
        let mut said = Said::new(2);
        let flood = |from: u32, to: u32| (from..to).map(|i| format!("{i}\n")).collect::<String>();
        assert_eq!(said.push(flood(0, 100).as_bytes(), at(2000)), ["0", "1"]);
        assert_eq!(said.push(flood(100, 103).as_bytes(), at(3000)), ["(98 lines left out)", "100", "101"]);
        assert_eq!(said.push(flood(103, 110).as_bytes(), at(3500)), [""; 0]);
        assert_eq!(said.finish(at(3600)), ["(7 lines left out)", "109"]);
    }
}
