//! The generated stream: AVC and AAC in FLV message bodies, with the time of sending inside each frame.
//!
//! The frames are structurally right (a real SPS and PPS, length-prefixed NAL units, a SEI that any decoder skips) and hold
//! filler where a picture would be: servers look at the structure, and nothing here may cost the tool an encoder.

use crate::protocol::amf::{self, Value};

/// What a generated stream looks like.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// All media together, in bits a second.
    pub bits_per_second: u64,
    pub fps: f64,
    pub gop_seconds: f64,
    pub audio: bool,
}

/// One frame that is due: what to send, when, and with which RTMP time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    pub video: bool,
    pub keyframe: bool,
    pub sequence: u64,
    /// After the start of the stream.
    pub at_ns: u64,
    pub time_ms: u32,
    /// The length of the whole message body.
    pub len: usize,
}

/// The endless schedule of one stream, in the order of sending.
#[derive(Clone, Debug)]
pub struct Schedule {
    shape: Shape,
    frames_per_gop: u64,
    key_len: usize,
    inter_len: usize,
    video: u64,
    audio: u64,
}

impl Schedule {
    pub fn new(shape: Shape) -> Self {
        let frames_per_gop = (shape.fps * shape.gop_seconds).round().max(1.0) as u64;
        let audio_bits = if shape.audio { AUDIO_BITS_PER_SECOND } else { 0 };
        let video_bytes = shape.bits_per_second.saturating_sub(audio_bits) as f64 / 8.0;
        // A keyframe weighs as much as KEY_WEIGHT others, and a whole GOP what the bitrate says.
        let inter = video_bytes * (frames_per_gop as f64 / shape.fps) / (frames_per_gop as f64 - 1.0 + KEY_WEIGHT);
        Self {
            shape,
            frames_per_gop,
            key_len: ((inter * KEY_WEIGHT) as usize).clamp(VIDEO_HEAD, MAX_FRAME),
            inter_len: (inter as usize).clamp(VIDEO_HEAD, MAX_FRAME),
            video: 0,
            audio: 0,
        }
    }

    /// The next frame, without taking it.
    pub fn peek(&self) -> Due {
        let video_at = (self.video as f64 * 1e9 / self.shape.fps) as u64;
        let audio_at = self.audio * AUDIO_FRAME_SAMPLES * 1_000_000_000 / AUDIO_RATE;
        if self.shape.audio && audio_at < video_at {
            let len = (AUDIO_BITS_PER_SECOND * AUDIO_FRAME_SAMPLES / AUDIO_RATE / 8) as usize;
            Due { video: false, keyframe: false, sequence: self.audio, at_ns: audio_at, time_ms: ms(audio_at), len }
        } else {
            let keyframe = self.video.is_multiple_of(self.frames_per_gop);
            let len = if keyframe { self.key_len } else { self.inter_len };
            Due { video: true, keyframe, sequence: self.video, at_ns: video_at, time_ms: ms(video_at), len }
        }
    }

    pub fn advance(&mut self) {
        if self.peek().video { self.video += 1 } else { self.audio += 1 }
    }
}

/// What each frame carries so that the player can tell when it left, which one it is and whose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    pub publisher: u64,
    pub sequence: u64,
    pub sent_ns: u64,
}

/// Fills `body` with the message body of a frame.
pub fn write_frame(body: &mut Vec<u8>, due: &Due, stamp: &Stamp) {
    body.clear();
    if due.video {
        let slice_len = due.len.saturating_sub(VIDEO_HEAD).max(MIN_SLICE);
        // Keyframe or not, codec 7; NAL units; composition time 0.
        body.extend_from_slice(&[if due.keyframe { 0x17 } else { 0x27 }, 1, 0, 0, 0]);
        body.extend_from_slice(&(SEI_LEN as u32).to_be_bytes());
        body.extend_from_slice(&[0x06, 0x05, (UUID.len() + STAMP_LEN) as u8]);
        write_stamp(body, stamp);
        body.push(0x80);
        body.extend_from_slice(&(slice_len as u32).to_be_bytes());
        let slice_start = body.len();
        // An I slice of an IDR picture, or a P slice, of picture parameter set 0.
        body.extend_from_slice(if due.keyframe { &[0x65, 0x88, 0x84] } else { &[0x41, 0x9a, 0x24] });
        fill(body, slice_start + slice_len);
    } else {
        // AAC, 44 kHz, 16 bit, stereo; raw. The first raw byte opens a channel pair element.
        body.extend_from_slice(&[0xaf, 1, 0x21]);
        write_stamp(body, stamp);
        fill(body, due.len);
    }
}

/// Finds the stamp near the start of an audio or video message body. `None`: a configuration record, or not ours.
pub fn read_stamp(body: &[u8]) -> Option<Stamp> {
    let head = body.get(..HEAD).unwrap_or(body);
    // Where we put it; a server that repacks the frame may have moved it.
    let at = |offset: usize| head.get(offset..).and_then(|rest| rest.strip_prefix(UUID.as_slice()));
    let rest = at(VIDEO_STAMP_AT)
        .or_else(|| at(AUDIO_STAMP_AT))
        .or_else(|| head.windows(UUID.len()).position(|window| window == UUID).and_then(at))?;
    let (publisher, rest) = read_number(rest)?;
    let (sequence, rest) = read_number(rest)?;
    let (sent_ns, _) = read_number(rest)?;
    Some(Stamp { publisher, sequence, sent_ns })
}

/// Whether an FLV video body is a keyframe.
pub fn is_keyframe(body: &[u8]) -> bool {
    body.first().is_some_and(|byte| (byte >> 4) & 7 == 1)
}

/// The decoder configuration message of the video track: avcC with one SPS and one PPS.
pub fn video_config() -> Vec<u8> {
    let mut body = vec![0x17, 0, 0, 0, 0, 1];
    body.extend_from_slice(SPS.get(1..4).unwrap_or_default());
    // Four length bytes a NAL unit; one SPS.
    body.extend_from_slice(&[0xff, 0xe1]);
    body.extend_from_slice(&(SPS.len() as u16).to_be_bytes());
    body.extend_from_slice(&SPS);
    body.push(1);
    body.extend_from_slice(&(PPS.len() as u16).to_be_bytes());
    body.extend_from_slice(&PPS);
    body
}

/// The decoder configuration message of the audio track: AAC-LC, 44.1 kHz, stereo.
pub fn audio_config() -> Vec<u8> {
    vec![0xaf, 0, 0x12, 0x10]
}

/// The body of the data message an encoder sends first.
pub fn metadata(shape: &Shape) -> Vec<u8> {
    let video_bits = shape.bits_per_second.saturating_sub(if shape.audio { AUDIO_BITS_PER_SECOND } else { 0 });
    let mut properties = vec![
        ("width".to_owned(), Value::Number(f64::from(WIDTH))),
        ("height".to_owned(), Value::Number(f64::from(HEIGHT))),
        ("framerate".to_owned(), Value::Number(shape.fps)),
        ("videocodecid".to_owned(), Value::Number(7.0)),
        ("videodatarate".to_owned(), Value::Number(video_bits as f64 / 1000.0)),
    ];
    if shape.audio {
        properties.extend([
            ("audiocodecid".to_owned(), Value::Number(10.0)),
            ("audiodatarate".to_owned(), Value::Number(AUDIO_BITS_PER_SECOND as f64 / 1000.0)),
            ("audiosamplerate".to_owned(), Value::Number(AUDIO_RATE as f64)),
            ("stereo".to_owned(), Value::Boolean(true)),
        ]);
    }
    properties.push(("encoder".to_owned(), Value::String("livemill bench".to_owned())));
    amf::encode_all(&[
        Value::String("@setDataFrame".to_owned()),
        Value::String("onMetaData".to_owned()),
        Value::EcmaArray(properties),
    ])
}

fn write_stamp(body: &mut Vec<u8>, stamp: &Stamp) {
    body.extend_from_slice(&UUID);
    for number in [stamp.publisher, stamp.sequence, stamp.sent_ns] {
        // Seven bits a byte with the top bit set: no byte is zero, so no start code can arise inside the NAL unit.
        body.extend((0..NUMBER_LEN).map(|index| 0x80 | (number >> (7 * index)) as u8));
    }
}

fn read_number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (digits, rest) = bytes.split_at_checked(NUMBER_LEN)?;
    Some((digits.iter().rev().fold(0, |number, byte| (number << 7) | u64::from(byte & 0x7f)), rest))
}

/// Filler up to `len` bytes in all; none of it is zero, for the reason given in [`write_stamp`].
fn fill(body: &mut Vec<u8>, len: usize) {
    body.resize(len.max(body.len()), 0xb6);
}

fn ms(ns: u64) -> u32 {
    ((ns + 500_000) / 1_000_000) as u32
}

const WIDTH: u32 = 1280;
const HEIGHT: u32 = 720;
/// Main profile, level 3.1, 1280x720, one reference frame, no reordering.
const SPS: [u8; 9] = [0x67, 0x4d, 0x00, 0x1f, 0xda, 0x01, 0x40, 0x16, 0xe4];
const PPS: [u8; 4] = [0x68, 0xee, 0x3c, 0x80];
/// How many inter frames a keyframe weighs.
const KEY_WEIGHT: f64 = 8.0;
const AUDIO_RATE: u64 = 44_100;
const AUDIO_FRAME_SAMPLES: u64 = 1024;
const AUDIO_BITS_PER_SECOND: u64 = 96_000;

/// Marks our stamps; no byte is zero.
const UUID: [u8; 16] = *b"livemill-bench-1";
/// Ten times seven bits hold any u64.
const NUMBER_LEN: usize = 10;
const STAMP_LEN: usize = 3 * NUMBER_LEN;
/// NAL header, payload type, payload size, payload, stop bit.
const SEI_LEN: usize = 3 + UUID.len() + STAMP_LEN + 1;
/// FLV header, length of the SEI, its three bytes.
const VIDEO_STAMP_AT: usize = 5 + 4 + 3;
const AUDIO_STAMP_AT: usize = 3;
/// All of a video frame but its slice.
const VIDEO_HEAD: usize = 5 + 4 + SEI_LEN + 4;
const MIN_SLICE: usize = 8;
/// Where a stamp is looked for: enough for a server that puts a NAL unit or a longer header in front.
const HEAD: usize = 256;
/// An RTMP message cannot be longer than 16 MiB.
const MAX_FRAME: usize = 16_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { bits_per_second: 1_000_000, fps: 25.0, gop_seconds: 2.0, audio: true };

    fn frames(shape: Shape, seconds: u64) -> Vec<Due> {
        let mut schedule = Schedule::new(shape);
        let next = || {
            let due = schedule.peek();
            schedule.advance();
            Some(due)
        };
        std::iter::from_fn(next).take_while(|due| due.at_ns < seconds * 1_000_000_000).collect()
    }

    #[test]
    fn the_bitrate_is_what_was_asked_for() {
        for shape in [SHAPE, Shape { audio: false, ..SHAPE }, Shape { bits_per_second: 8_000_000, fps: 59.94, ..SHAPE }]
        {
            let bits: usize = frames(shape, 20).iter().map(|due| due.len * 8).sum();
            let asked = shape.bits_per_second * 20;
            assert!((bits as f64 / asked as f64 - 1.0).abs() < 0.02, "{bits} of {asked}");
        }
    }

    #[test]
    fn frames_come_in_the_order_of_their_times() {
        let frames = frames(SHAPE, 10);
        assert!(frames.is_sorted_by_key(|due| due.at_ns));
        assert_eq!(frames.iter().filter(|due| due.video).count(), 250);
        assert_eq!(frames.iter().filter(|due| due.keyframe).count(), 5);
        assert_eq!(frames.iter().filter(|due| !due.video).count(), 431);
        assert!(frames.first().is_some_and(|due| due.keyframe), "a stream begins with a keyframe");
    }

    #[test]
    fn a_stamp_is_found_where_it_was_put() {
        let mut body = Vec::new();
        for stamp in [
            Stamp { publisher: 0, sequence: 0, sent_ns: 0 },
            Stamp { publisher: 199, sequence: 1 << 40, sent_ns: u64::MAX },
        ] {
            for due in frames(SHAPE, 1) {
                write_frame(&mut body, &due, &stamp);
                assert_eq!(body.len(), due.len);
                assert_eq!(read_stamp(&body), Some(stamp));
                let moved = [&[0u8; 9], body.as_slice()].concat();
                assert_eq!(read_stamp(&moved), Some(stamp));
            }
        }
    }

    #[test]
    fn configuration_records_carry_no_stamp() {
        assert_eq!(read_stamp(&video_config()), None);
        assert_eq!(read_stamp(&audio_config()), None);
    }

    #[test]
    fn no_start_code_arises_inside_a_nal_unit() {
        let mut body = Vec::new();
        let due = Schedule::new(SHAPE).peek();
        write_frame(&mut body, &due, &Stamp { publisher: 0, sequence: 0, sent_ns: 0 });
        let mut rest = &body[5..];
        let mut kinds = Vec::new();
        while let Some((len, after)) = rest.split_first_chunk::<4>() {
            let (nal, after) = after.split_at(u32::from_be_bytes(*len) as usize);
            assert!(!nal.windows(2).any(|pair| pair == [0, 0]));
            kinds.push(nal[0] & 0x1f);
            rest = after;
        }
        assert_eq!(kinds, [6, 5], "a SEI, then the slice of an IDR picture");
    }
}
