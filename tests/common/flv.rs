//! What is in an FLV file, frame by frame, and whether two of them carry the same media.

use std::fmt::Write as _;
use std::path::Path;

use super::wire::u24_at;

/// One coded frame, without what a muxer may legally write another way (header bytes that repeat the configuration).
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    pub video: bool,
    pub config: bool,
    pub key: bool,
    pub time_ms: i64,
    pub cts_ms: i64,
    pub codec: String,
    pub data: Vec<u8>,
}

/// All frames of a file in file order; panics on a file that is no FLV. A tag cut off at the end is left out.
pub fn frames(path: &Path) -> Vec<Frame> {
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert!(bytes.starts_with(b"FLV\x01"), "{} is no FLV file ({} bytes)", path.display(), bytes.len());
    let mut at = 9 + 4;
    let mut frames = Vec::new();
    while let Some(header) = bytes.get(at..at + 11) {
        let size = u24_at(header, 1) as usize;
        let time = i64::from(u24_at(header, 4) | u32::from(header[7]) << 24);
        let Some(body) = bytes.get(at + 11..at + 11 + size) else { break };
        frames.extend(frame(header[0] & 0x1f, time, body));
        at += 11 + size + 4;
    }
    frames
}

/// The frame in the body of an audio (8) or video (9) message; `None` for what carries no media.
pub fn frame(kind: u8, time_ms: i64, body: &[u8]) -> Option<Frame> {
    match kind {
        8 => audio(time_ms, body),
        9 => video(time_ms, body),
        _ => None,
    }
}

fn video(time_ms: i64, body: &[u8]) -> Option<Frame> {
    let first = *body.first()?;
    let cts = |at: usize| i64::from((u24_at(body, at) << 8).cast_signed() >> 8);
    let (codec, packet_type, cts_ms, data) = if first & 0x80 != 0 {
        let codec = String::from_utf8_lossy(body.get(1..5)?).into_owned();
        let packet_type = first & 0x0f;
        let has_cts = packet_type == 1 && matches!(codec.as_str(), "avc1" | "hvc1" | "vvc1");
        let start = if has_cts { 8 } else { 5 };
        let cts_ms = if has_cts { cts(5) } else { 0 };
        // CodedFramesX (3) is CodedFrames with a composition time of zero.
        (codec, if packet_type == 3 { 1 } else { packet_type }, cts_ms, body.get(start..)?)
    } else {
        let data = body.get(5..)?;
        let codec = if first & 0x0f == 7 { "avc1".to_owned() } else { format!("video {}", first & 0x0f) };
        (codec, body[1], cts(2), data)
    };
    // 0 is the configuration, 1 a frame; end of sequence, metadata and the rest are no media.
    let is_frame = packet_type <= 1 && !data.is_empty();
    let key = (first >> 4) & 7 == 1;
    is_frame.then(|| Frame { video: true, config: packet_type == 0, key, time_ms, cts_ms, codec, data: data.to_vec() })
}

fn audio(time_ms: i64, body: &[u8]) -> Option<Frame> {
    let first = *body.first()?;
    let (codec, config, data) = match first >> 4 {
        9 => (String::from_utf8_lossy(body.get(1..5)?).into_owned(), first & 0x0f == 0, body.get(5..)?),
        10 => ("mp4a".to_owned(), *body.get(1)? == 0, body.get(2..)?),
        other => (format!("audio {other}"), false, body.get(1..)?),
    };
    let is_frame = !data.is_empty() && (first >> 4 != 9 || first & 0x0f <= 1);
    is_frame.then(|| Frame { video: false, config, key: true, time_ms, cts_ms: 0, codec, data: data.to_vec() })
}

/// `Err` says where what was received first differs from what was sent: a frame lost, changed, added or moved in time.
///
/// Times are compared relative to the first frame, both tracks with one offset, to the millisecond that muxers round by.
///
/// `late` allows a player that came late: it must have begun with a keyframe and missed nothing from there on.
pub fn same_media(sent: &[Frame], received: &[Frame], late: bool) -> Result<(), String> {
    let mut offset = None;
    for video in [true, false] {
        let track = if video { "video" } else { "audio" };
        let pick = |frames: &[Frame], config: bool| -> Vec<Frame> {
            frames.iter().filter(|frame| frame.video == video && frame.config == config).cloned().collect()
        };
        let (was, is) = (pick(sent, true), pick(received, true));
        if was.first().map(|frame| &frame.data) != is.first().map(|frame| &frame.data) {
            return Err(format!("the {track} configuration differs: {:?} became {:?}", was.first(), is.first()));
        }
        let (mut was, is) = (pick(sent, false), pick(received, false));
        if late {
            let Some(first) = is.first() else { return Err(format!("no {track} frames were received")) };
            let Some(missed) = was.iter().position(|frame| frame.data == first.data) else {
                return Err(format!("the first {track} frame received was never sent"));
            };
            if video && !first.key {
                return Err(format!("the first frame received is no keyframe but frame {missed}"));
            }
            was.drain(..missed);
        }
        for (at, (was, is)) in was.iter().zip(&is).enumerate() {
            let offset = *offset.get_or_insert(is.time_ms - was.time_ms);
            let moved = is.time_ms - was.time_ms - offset;
            let same = was.data == is.data && was.codec == is.codec && was.key == is.key && was.cts_ms == is.cts_ms;
            if !same || moved.abs() > 1 {
                let mut report = format!("{track} frame {at} differs:\n");
                for (word, frame) in [("sent", was), ("received", is)] {
                    let _ = writeln!(
                        report,
                        "  {word}: {} bytes, {}, key {}, time {} ms, cts {} ms",
                        frame.data.len(),
                        frame.codec,
                        frame.key,
                        frame.time_ms,
                        frame.cts_ms
                    );
                }
                return Err(report);
            }
        }
        if was.len() != is.len() {
            return Err(format!("{} {track} frames were sent and {} received", was.len(), is.len()));
        }
    }
    Ok(())
}
