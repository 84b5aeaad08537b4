//! Chunks: any bytes in any pieces are joined or refused alike and within bounds; what we write reads back.
#![no_main]

use libfuzzer_sys::fuzz_target;
use livemill::protocol::rtmp::chunk::{ChunkError, ChunkLimits, ChunkReader, WireStyle, wire_len, write};
use livemill::protocol::rtmp::message::Message;

const MAX_MESSAGE: usize = 64 * 1024;

fuzz_target!(|bytes: &[u8]| {
    let Some((&mode, rest)) = bytes.split_first() else { return };
    let Some((&pieces, rest)) = rest.split_first_chunk::<3>() else { return };
    if mode & 1 == 0 { hostile(rest, pieces) } else { round_trip(mode, rest, pieces) }
});

fn hostile(bytes: &[u8], pieces: [u8; 3]) {
    let whole = read(bytes, &[bytes.len().max(1)], true);
    assert_eq!(whole, read(bytes, &sizes(pieces), true));
    let payload: usize = whole.0.iter().map(|message| message.payload.len()).sum();
    assert!(payload <= bytes.len());
}

/// Ten bytes make a message; the last two of them say how long it is.
fn round_trip(mode: u8, bytes: &[u8], pieces: [u8; 3]) {
    let style = WireStyle { chunk_size: 1 + u32::from(mode >> 2) * 3, repeat_extended: mode & 2 != 0 };
    let mut wire = Vec::new();
    let mut messages = Vec::new();
    for (index, op) in bytes.chunks_exact(10).take(20).enumerate() {
        let &[csid, csid_high, t0, t1, t2, t3, kind, msid, len, len_high] = op else { return };
        let csid = 2 + u32::from(u16::from_be_bytes([csid_high, csid])) % 65_598;
        let mut time = u32::from_be_bytes([t0, t1, t2, t3]);
        if !style.repeat_extended {
            // Without the repetition a payload may look like one: nobody could tell.
            time %= 0xff_ffff;
        }
        let len = usize::from(len) + 256 * usize::from(len_high & 1);
        let payload: Vec<u8> = (0..len).map(|at| (at * 31 + index) as u8).collect();
        let before = wire.len();
        write(&mut wire, style, csid, time, kind, msid.into(), &payload);
        assert_eq!(wire.len() - before, wire_len(style, csid, time, len));
        messages.push(Message { csid, time, kind, msid: msid.into(), payload: payload.into() });
    }
    let mut reader = reader();
    reader.set_chunk_size(style.chunk_size);
    let (read, error) = feed(&mut reader, &wire, &sizes(pieces), false);
    assert_eq!(error, None);
    assert_eq!(read, messages);
    assert!(!reader.is_midway());
}

fn reader() -> ChunkReader {
    ChunkReader::new(ChunkLimits { max_message: MAX_MESSAGE, max_csids: 64, max_restarts: 10 })
}

fn sizes(pieces: [u8; 3]) -> [usize; 3] {
    pieces.map(|piece| 1 + usize::from(piece))
}

fn read(bytes: &[u8], sizes: &[usize], obey: bool) -> (Vec<Message>, Option<ChunkError>) {
    feed(&mut reader(), bytes, sizes, obey)
}

fn feed(reader: &mut ChunkReader, bytes: &[u8], sizes: &[usize], obey: bool) -> (Vec<Message>, Option<ChunkError>) {
    let (mut messages, mut rest, mut sizes) = (Vec::new(), bytes, sizes.iter().cycle());
    while !rest.is_empty() {
        let (mut piece, after) = rest.split_at(rest.len().min(*sizes.next().expect("endless")));
        loop {
            match reader.read(&mut piece) {
                Ok(Some(message)) => {
                    // As a session would: these two act on the reader.
                    let word = message.payload.first_chunk().map(|word| u32::from_be_bytes(*word));
                    match (obey, message.kind, word) {
                        (true, 1, Some(size)) => reader.set_chunk_size(size),
                        (true, 2, Some(csid)) => reader.abort(csid),
                        _ => {}
                    }
                    messages.push(message);
                }
                Ok(None) => break,
                Err(error) => return (messages, Some(error)),
            }
        }
        assert!(piece.is_empty(), "all of the input was needed");
        assert!(reader.held() <= MAX_MESSAGE);
        rest = after;
    }
    (messages, None)
}
