//! One viewer of the load tool over HTTP-FLV, without a socket: bytes in, events and bytes out.
//!
//! As the RTMP client it forgives nothing: what is no HTTP, no chunk or no FLV ends it.

use super::client::{ClientError, Event};

/// Where viewers go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// As the `Host` header says it.
    pub host: String,
    pub path: String,
}

/// A viewer in its answer.
pub struct HttpViewer {
    state: State,
    is_chunked: bool,
    /// Part of a head, of the size of a chunk, or of a tag: what is not whole yet.
    line: Vec<u8>,
    file: Vec<u8>,
    has_header: bool,
}

/// What the next bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Head,
    /// The size of a chunk, up to the end of its line.
    Size,
    Data {
        left: usize,
    },
    /// The end of the line after a chunk.
    Gap {
        left: usize,
    },
}

impl HttpViewer {
    /// Asks for the stream: the request goes to `out`.
    pub fn new(page: &Page, out: &mut Vec<u8>) -> Self {
        let Page { host, path } = page;
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: livemill-bench\r\nAccept: */*\r\n\r\n");
        out.extend_from_slice(request.as_bytes());
        Self { state: State::Head, is_chunked: false, line: Vec::new(), file: Vec::new(), has_header: false }
    }

    /// Takes in what the server sent.
    pub fn receive(&mut self, mut bytes: &[u8], mut on_event: impl FnMut(Event<'_>)) -> Result<(), ClientError> {
        while !bytes.is_empty() {
            match self.state {
                State::Head => {
                    let Some(rest) = self.take_until(b"\r\n\r\n", bytes)? else { return Ok(()) };
                    bytes = rest;
                    self.read_head()?;
                    on_event(Event::Connected);
                    on_event(Event::PlayAsked);
                }
                State::Size => {
                    let Some(rest) = self.take_until(b"\r\n", bytes)? else { return Ok(()) };
                    bytes = rest;
                    let text = std::str::from_utf8(&self.line).unwrap_or_default().trim_end();
                    let left = usize::from_str_radix(text, 16)
                        .map_err(|_| ClientError::Refused(format!("a chunk of size {text:?}")))?;
                    self.line.clear();
                    if left == 0 {
                        return Err(ClientError::Ended("the answer".to_owned()));
                    }
                    self.state = State::Data { left };
                }
                State::Data { left } => {
                    let (data, rest) = bytes.split_at(left.min(bytes.len()));
                    bytes = rest;
                    self.read_file(data, &mut on_event)?;
                    let left = left - data.len();
                    self.state = if left > 0 { State::Data { left } } else { State::Gap { left: 2 } };
                }
                State::Gap { left } => {
                    let (gap, rest) = bytes.split_at(left.min(bytes.len()));
                    bytes = rest;
                    let left = left - gap.len();
                    self.state = if left > 0 { State::Gap { left } } else { State::Size };
                }
            }
        }
        Ok(())
    }

    /// Gathers a line, without its end; gives what follows it.
    fn take_until<'a>(&mut self, end: &[u8], bytes: &'a [u8]) -> Result<Option<&'a [u8]>, ClientError> {
        for (at, byte) in bytes.iter().enumerate() {
            self.line.push(*byte);
            if self.line.ends_with(end) {
                self.line.truncate(self.line.len() - end.len());
                return Ok(bytes.get(at + 1..));
            }
        }
        if self.line.len() > MAX_LINE_BYTES {
            return Err(ClientError::Refused("a head without an end".to_owned()));
        }
        Ok(None)
    }

    fn read_head(&mut self) -> Result<(), ClientError> {
        let head = String::from_utf8_lossy(&self.line).to_ascii_lowercase();
        let status = head.lines().next().unwrap_or_default();
        if status.split(' ').nth(1) != Some("200") {
            return Err(ClientError::Refused(status.to_owned()));
        }
        self.is_chunked = head.lines().any(|line| line.replace(' ', "") == "transfer-encoding:chunked");
        self.state = if self.is_chunked { State::Size } else { State::Data { left: usize::MAX } };
        self.line.clear();
        Ok(())
    }

    fn read_file(&mut self, data: &[u8], on_event: &mut impl FnMut(Event<'_>)) -> Result<(), ClientError> {
        // Nearly always what comes begins and ends with a tag: then nothing is copied.
        if self.file.is_empty() {
            let used = self.read_tags(data, on_event)?;
            self.file.extend_from_slice(data.get(used..).unwrap_or_default());
            return Ok(());
        }
        let mut file = std::mem::take(&mut self.file);
        file.extend_from_slice(data);
        let used = self.read_tags(&file, on_event)?;
        file.drain(..used);
        self.file = file;
        Ok(())
    }

    /// Reads whole tags, and gives how many bytes they took.
    fn read_tags(&mut self, file: &[u8], on_event: &mut impl FnMut(Event<'_>)) -> Result<usize, ClientError> {
        let mut rest = file;
        if !self.has_header {
            let Some((header, tags)) = rest.split_at_checked(FILE_HEADER_BYTES) else { return Ok(0) };
            if !header.starts_with(b"FLV\x01") {
                return Err(ClientError::Refused("no FLV file".to_owned()));
            }
            self.has_header = true;
            rest = tags;
        }
        while let [kind, s1, s2, s3, _, _, _, _, 0, 0, 0, tag @ ..] = rest {
            let size = u32::from_be_bytes([0, *s1, *s2, *s3]);
            let Some((body, after)) = tag.split_at_checked(size as usize) else { break };
            let Some((back, next)) = after.split_at_checked(4) else { break };
            if back != (size + 11).to_be_bytes() {
                return Err(ClientError::Refused("a tag whose size is not repeated behind it".to_owned()));
            }
            if matches!(kind, 8 | 9) {
                on_event(Event::Media { video: *kind == 9, body });
            }
            rest = next;
        }
        Ok(file.len() - rest.len())
    }
}

/// A longer head is none.
const MAX_LINE_BYTES: usize = 16 * 1024;

/// With the size of the tag before the first.
const FILE_HEADER_BYTES: usize = 13;

#[cfg(test)]
mod tests {
    use super::*;

    fn viewer() -> HttpViewer {
        HttpViewer::new(&Page { host: "h".to_owned(), path: "/live/x.flv".to_owned() }, &mut Vec::new())
    }

    fn tag(kind: u8, body: &[u8]) -> Vec<u8> {
        let size = body.len() as u8;
        [&[kind, 0, 0, size, 0, 0, 0, 0, 0, 0, 0], body, &[0, 0, 0, size + 11]].concat()
    }

    fn answer() -> Vec<u8> {
        let file =
            [&b"FLV\x01\x05\0\0\0\x09\0\0\0\0"[..], &tag(18, b"meta"), &tag(9, b"video"), &tag(8, b"a")].concat();
        let mut answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        for chunk in file.chunks(20) {
            answer.extend(format!("{:X}\r\n", chunk.len()).bytes().chain(chunk.iter().copied()).chain(*b"\r\n"));
        }
        answer
    }

    #[test]
    fn frames_are_seen_however_the_bytes_come() {
        for piece in [1, 7, 1000] {
            let mut viewer = viewer();
            let mut seen = Vec::new();
            for bytes in answer().chunks(piece) {
                let note = |event: Event<'_>| {
                    if let Event::Media { video, body } = event {
                        seen.push((video, body.to_vec()));
                    }
                };
                viewer.receive(bytes, note).unwrap();
            }
            assert_eq!(seen, [(true, b"video".to_vec()), (false, b"a".to_vec())]);
        }
    }

    #[test]
    fn a_refusal_and_an_end_are_errors() {
        assert!(viewer().receive(b"HTTP/1.1 404 Not Found\r\n\r\n", |_| {}).is_err());
        let mut ended = viewer();
        ended.receive(&answer(), |_| {}).unwrap();
        assert!(ended.receive(b"0\r\n\r\n", |_| {}).is_err());
    }
}
