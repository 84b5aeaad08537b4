//! Reads one answer of an HTTP/1 server: its head, then its body without the framing.

/// Takes an answer in pieces of any size. The body is passed on as it lies in the input: nothing of it is kept.
///
/// After an error it must not be fed again.
#[derive(Debug, Default)]
pub struct AnswerReader {
    step: Step,
    /// The head, or a line of the framing, as far as it has come.
    kept: Vec<u8>,
}

/// What comes of an answer.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    Head(Head),
    Body(&'a [u8]),
    /// The answer is whole. Who has no length and no chunks ends with the connection instead.
    End,
}

/// What we look at in a head.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Head {
    pub status: u16,
    pub location: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    #[error("this is no answer of an HTTP/1 server")]
    NotHttp,
    #[error("the head of the answer is longer than {MAX_HEAD} bytes")]
    LongHead,
    #[error("the answer has a length that cannot be read")]
    Length,
    #[error("the answer has an encoding nobody asked for")]
    Encoding,
    #[error("the answer has a chunk that is none")]
    Chunk,
}

#[derive(Debug, Default)]
enum Step {
    #[default]
    Head,
    /// A body of which so much is to come; none: up to the end of the connection.
    Rest(Option<u64>),
    ChunkSize,
    Chunk {
        left: u64,
    },
    ChunkEnd,
    /// Lines behind the last chunk, until an empty one.
    Trailer {
        bytes: usize,
    },
    Over,
}

impl AnswerReader {
    /// Takes bytes from `input` up to the end of one piece. `Ok(None)`: the input is used up, or nothing more is to come.
    pub fn read<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Piece<'a>>, AnswerError> {
        loop {
            match self.step {
                Step::Head => {
                    let Some(head) = self.read_head(input)? else { return Ok(None) };
                    // Something said ahead of the answer (RFC 9110, 15.2).
                    if !(100..200).contains(&head.status) {
                        return Ok(Some(Piece::Head(head)));
                    }
                    self.step = Step::Head;
                }
                Step::Rest(Some(0)) => {
                    self.step = Step::Over;
                    return Ok(Some(Piece::End));
                }
                Step::Rest(left) => {
                    let body = take(input, left.unwrap_or(u64::MAX));
                    self.step = Step::Rest(left.map(|left| left - body.len() as u64));
                    return Ok(Some(Piece::Body(body)).filter(|_| !body.is_empty()));
                }
                Step::ChunkSize => {
                    let Some(line) = self.line(input)? else { return Ok(None) };
                    self.step = match chunk_size(&line)? {
                        0 => Step::Trailer { bytes: 0 },
                        left => Step::Chunk { left },
                    };
                }
                Step::Chunk { left: 0 } => self.step = Step::ChunkEnd,
                Step::Chunk { left } => {
                    let body = take(input, left);
                    self.step = Step::Chunk { left: left - body.len() as u64 };
                    return Ok(Some(Piece::Body(body)).filter(|_| !body.is_empty()));
                }
                Step::ChunkEnd => match self.line(input)?.as_deref() {
                    None => return Ok(None),
                    Some(b"") => self.step = Step::ChunkSize,
                    Some(_) => return Err(AnswerError::Chunk),
                },
                Step::Trailer { bytes } => {
                    let Some(line) = self.line(input)? else { return Ok(None) };
                    let bytes = bytes + line.len();
                    if bytes > MAX_HEAD {
                        return Err(AnswerError::LongHead);
                    }
                    self.step = Step::Trailer { bytes };
                    if line.is_empty() {
                        self.step = Step::Over;
                        return Ok(Some(Piece::End));
                    }
                }
                Step::Over => {
                    *input = &[];
                    return Ok(None);
                }
            }
        }
    }

    /// Whether the answer is over where its connection ends now.
    pub fn may_end(&self) -> bool {
        matches!(self.step, Step::Rest(None) | Step::Over)
    }

    fn read_head(&mut self, input: &mut &[u8]) -> Result<Option<Head>, AnswerError> {
        while let Some((byte, rest)) = input.split_first() {
            *input = rest;
            self.kept.push(*byte);
            if self.kept.ends_with(b"\r\n\r\n") || self.kept.ends_with(b"\n\n") {
                let (head, step) = parse_head(&self.kept)?;
                self.kept = Vec::new();
                self.step = step;
                return Ok(Some(head));
            }
            // What is not HTTP is known by its first bytes, and need not fill the head.
            let begin = self.kept.get(..MAGIC.len()).unwrap_or(&self.kept);
            if !MAGIC.starts_with(begin) {
                return Err(AnswerError::NotHttp);
            }
            if self.kept.len() >= MAX_HEAD {
                return Err(AnswerError::LongHead);
            }
        }
        Ok(None)
    }

    /// The next line without its end.
    fn line(&mut self, input: &mut &[u8]) -> Result<Option<Vec<u8>>, AnswerError> {
        while let Some((byte, rest)) = input.split_first() {
            *input = rest;
            if *byte == b'\n' {
                let mut line = std::mem::take(&mut self.kept);
                line.pop_if(|last| *last == b'\r');
                return Ok(Some(line));
            }
            if self.kept.len() >= MAX_LINE {
                return Err(AnswerError::Chunk);
            }
            self.kept.push(*byte);
        }
        Ok(None)
    }
}

fn parse_head(bytes: &[u8]) -> Result<(Head, Step), AnswerError> {
    let text = String::from_utf8_lossy(bytes);
    let mut lines = text.lines();
    let mut words = lines.next().unwrap_or_default().split(' ').filter(|word| !word.is_empty());
    let status = words.nth(1).filter(|word| word.len() == 3).and_then(|word| word.parse().ok());
    let mut head = Head { status: status.ok_or(AnswerError::NotHttp)?, location: None };
    let (mut length, mut is_chunked) = (None, false);
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "location" => head.location = Some(value.to_owned()),
            "content-length" => length = Some(number(value, 10).ok_or(AnswerError::Length)?),
            "transfer-encoding" if value.eq_ignore_ascii_case("chunked") => is_chunked = true,
            "transfer-encoding" | "content-encoding" if !value.eq_ignore_ascii_case("identity") => {
                return Err(AnswerError::Encoding);
            }
            _ => {}
        }
    }
    let step = match (head.status, is_chunked) {
        (100..200, _) => Step::Head,
        // RFC 9112, 6.3: these have no body, and chunks come before a length.
        (204 | 304, _) => Step::Rest(Some(0)),
        (_, true) => Step::ChunkSize,
        (_, false) => Step::Rest(length),
    };
    Ok((head, step))
}

/// RFC 9112, 7.1: a number in hexadecimal, and extensions that nobody needs to know.
fn chunk_size(line: &[u8]) -> Result<u64, AnswerError> {
    let text = std::str::from_utf8(line).map_err(|_| AnswerError::Chunk)?;
    let size = text.split(';').next().unwrap_or_default().trim();
    number(size, 16).ok_or(AnswerError::Chunk)
}

/// Digits only: Rust would take a sign as well.
fn number(text: &str, radix: u32) -> Option<u64> {
    let is_number = !text.is_empty() && text.chars().all(|c| c.is_digit(radix));
    u64::from_str_radix(text, radix).ok().filter(|_| is_number)
}

fn take<'a>(input: &mut &'a [u8], most: u64) -> &'a [u8] {
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let (taken, rest) = input.split_at(most.min(input.len()));
    *input = rest;
    taken
}

const MAGIC: &[u8] = b"HTTP/1.";

/// Twice what servers themselves allow their users.
const MAX_HEAD: usize = 16 * 1024;

/// Of a chunk's size with its extensions, and of a trailer.
const MAX_LINE: usize = 1024;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The head, the body, and whether the answer is whole; read in pieces of this size.
    fn read_in(size: usize, bytes: &[u8]) -> Result<(Head, Vec<u8>, bool), AnswerError> {
        let (mut reader, mut head, mut body, mut ended) = (AnswerReader::default(), Head::default(), Vec::new(), false);
        for mut piece in bytes.chunks(size) {
            while let Some(piece) = reader.read(&mut piece)? {
                match piece {
                    Piece::Head(said) => head = said,
                    Piece::Body(part) => body.extend_from_slice(part),
                    Piece::End => ended = true,
                }
            }
            assert!(piece.is_empty());
        }
        Ok((head, body, ended || reader.may_end()))
    }

    #[track_caller]
    fn check(answer: &str, expected: Result<(u16, &str, bool), AnswerError>) {
        for size in [1, 2, 3, 7, answer.len().max(1)] {
            let read = read_in(size, answer.as_bytes());
            let read = read.map(|(head, body, is_whole)| (head.status, String::from_utf8(body).unwrap(), is_whole));
            assert_eq!(
                read,
                expected.map(|(status, body, whole)| (status, body.to_owned(), whole)),
                "{answer:?} by {size}"
            );
        }
    }

    #[test]
    fn a_body_is_as_long_as_its_head_says() {
        check("HTTP/1.1 200 OK\r\n\r\nall of it", Ok((200, "all of it", true)));
        check("HTTP/1.0 200\nServer: x\n\nall", Ok((200, "all", true)));
        check("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nfoobar", Ok((200, "foo", true)));
        check("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nfoobar", Ok((200, "foobar", false)));
        check("HTTP/1.1 204 No Content\r\nContent-Length: 9\r\n\r\n", Ok((204, "", true)));
        check("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\nx", Ok((200, "x", true)));
    }

    #[test]
    fn chunks_are_joined() {
        let chunked =
            |rest: &str| format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\nContent-Length: 1\r\n\r\n{rest}");
        check(
            &chunked("3\r\nfoo\r\n00a;name=x\r\n0123456789\r\n0\r\nTrailer: y\r\n\r\n"),
            Ok((200, "foo0123456789", true)),
        );
        check(&chunked("3\r\nfo"), Ok((200, "fo", false)));
        check(&chunked("3\r\nfoobar\r\n"), Err(AnswerError::Chunk));
        for size in ["+3", "-1", "", "x", "10000000000000000"] {
            check(&chunked(&format!("{size}\r\n")), Err(AnswerError::Chunk));
        }
        check(&chunked(&"1".repeat(2000)), Err(AnswerError::Chunk));
        check(&chunked(&format!("0\r\n{}", "Trailer: y\r\n".repeat(5000))), Err(AnswerError::LongHead));
    }

    #[test]
    fn what_is_no_answer_is_refused_as_soon_as_it_shows() {
        check("RTMP", Err(AnswerError::NotHttp));
        check("HTTP/2.0 200 OK\r\n\r\n", Err(AnswerError::NotHttp));
        check("HTTP/1.1 OK\r\n\r\n", Err(AnswerError::NotHttp));
        check("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", Err(AnswerError::Length));
        check("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", Err(AnswerError::Encoding));
        check("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n", Err(AnswerError::Encoding));
        check(&format!("HTTP/1.1 200 OK\r\nX: {}", "y".repeat(MAX_HEAD)), Err(AnswerError::LongHead));
    }

    #[test]
    fn a_redirection_says_where_to() {
        let (head, _, _) = read_in(5, b"HTTP/1.1 302 Found\r\nlocation:  http://h/a \r\n\r\n").unwrap();
        assert_eq!(head, Head { status: 302, location: Some("http://h/a".to_owned()) });
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_how_they_come_makes_no_difference(
            chunked: bool, rest in prop::collection::vec(prop::sample::select(b"0123af;\r\n\0".to_vec()), 0..80),
            size in 1_usize..20,
        ) {
            let head = if chunked { "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" } else { "HTTP/1." };
            let bytes = [head.as_bytes(), &rest].concat();
            prop_assert_eq!(read_in(size, &bytes), read_in(bytes.len(), &bytes));
        }
    }
}
