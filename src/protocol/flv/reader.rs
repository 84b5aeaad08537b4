//! Reads an FLV file that never ends, in pieces as they come.

use bytes::Bytes;

use super::stream::Tracks;
use crate::protocol::{
    amf::Limits,
    rtmp::{command::DataMessage, message::kind},
};

/// Takes a file in pieces of any size and gives its tags, one after another.
///
/// It keeps what is unfinished: at most one body, in a buffer that grows with what has come. After an error it must not be fed
/// again: nobody knows where the next tag begins.
#[derive(Debug)]
pub struct FlvReader {
    limits: FlvLimits,
    step: Step,
    /// The bytes of a header that ended with the input.
    head: Vec<u8>,
    tracks: Option<Tracks>,
    skipped: u64,
}

/// What a file may make a [`FlvReader`] hold.
#[derive(Debug, Clone, Copy)]
pub struct FlvLimits {
    /// The longest body of audio or video.
    pub max_body: usize,
    /// The longest metadata or other data; longer ones are passed over, as those of RTMP are.
    pub max_data: usize,
    pub amf: Limits,
}

/// One tag that means something, with its body as RTMP would carry it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlvTag {
    pub kind: TagKind,
    pub time: u32,
    pub body: Bytes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TagKind {
    Audio,
    Video,
    /// `onMetaData` and its value.
    Metadata,
    /// Any other data, with its name in front.
    Text,
}

/// Bytes that are no FLV file, or one that asks for more than it may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlvError {
    #[error("not an FLV file")]
    Signature,
    #[error("FLV of version {0}, 1 is the only one known")]
    Version(u8),
    #[error("an FLV header of {0} bytes")]
    Header(u32),
    #[error("an encrypted tag")]
    Encrypted,
    #[error("a tag of type {kind} announces {length} bytes where {limit} are allowed")]
    TooLong { kind: u8, length: usize, limit: usize },
}

#[derive(Debug)]
enum Step {
    FileHeader,
    TagHeader,
    Body {
        kind: u8,
        time: u32,
        length: usize,
        kept: Vec<u8>,
    },
    /// Bytes that mean nothing to us.
    Skip {
        left: usize,
    },
}

impl FlvReader {
    pub fn new(limits: FlvLimits) -> Self {
        Self { limits, step: Step::FileHeader, head: Vec::new(), tracks: None, skipped: 0 }
    }

    /// Takes bytes from `input` up to the end of one tag. `Ok(None)`: the input is used up.
    pub fn read(&mut self, input: &mut &[u8]) -> Result<Option<FlvTag>, FlvError> {
        loop {
            match &mut self.step {
                Step::FileHeader => {
                    let Some(header) = gather(&mut self.head, input) else { return Ok(None) };
                    self.begin_file(header)?;
                }
                Step::TagHeader => {
                    let Some(header) = gather(&mut self.head, input) else { return Ok(None) };
                    self.begin_tag(header)?;
                }
                Step::Skip { left } => {
                    *left -= take(input, *left).len();
                    if *left > 0 {
                        return Ok(None);
                    }
                    self.step = Step::TagHeader;
                }
                Step::Body { kind, time, length, kept } => {
                    let part = take(input, *length - kept.len());
                    let body = if part.len() == *length {
                        // What came in one piece is copied once, into a buffer of its size.
                        Bytes::copy_from_slice(part)
                    } else {
                        append(kept, part, *length);
                        if kept.len() < *length {
                            return Ok(None);
                        }
                        std::mem::take(kept).into()
                    };
                    let (kind, time) = (*kind, *time);
                    self.step = Step::Skip { left: BACK_POINTER_BYTES };
                    match self.tag(kind, time, body) {
                        Some(tag) => return Ok(Some(tag)),
                        None => self.skipped += 1,
                    }
                }
            }
        }
    }

    /// What the header of the file says is in it; none before it has come.
    pub fn tracks(&self) -> Option<Tracks> {
        self.tracks
    }

    /// Tags that led to nothing: of unknown types, and data that is too long or cannot be read.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Whether a header or a tag has begun and not ended.
    pub fn is_midway(&self) -> bool {
        !self.head.is_empty() || matches!(self.step, Step::Body { .. } | Step::Skip { .. })
    }

    /// Signature, version, flags, and the length of the whole header.
    fn begin_file(&mut self, header: [u8; FILE_HEADER_BYTES]) -> Result<(), FlvError> {
        let [f, l, v, version, flags, s0, s1, s2, s3] = header;
        if [f, l, v] != *b"FLV" {
            return Err(FlvError::Signature);
        }
        if version != 1 {
            return Err(FlvError::Version(version));
        }
        // E.2: 9 in version 1; later ones may have more fields, to be passed over.
        let length = u32::from_be_bytes([s0, s1, s2, s3]);
        let more = length.checked_sub(FILE_HEADER_BYTES as u32).filter(|more| *more <= MAX_MORE_HEADER);
        let more = more.ok_or(FlvError::Header(length))?;
        self.tracks = Some(Tracks { audio: flags & 4 != 0, video: flags & 1 != 0 });
        // The size of the tag before the first stands here as well.
        self.step = Step::Skip { left: more as usize + BACK_POINTER_BYTES };
        Ok(())
    }

    fn begin_tag(&mut self, header: [u8; TAG_HEADER_BYTES]) -> Result<(), FlvError> {
        // The number of its stream is always 0, and tells nobody anything.
        let [first, l0, l1, l2, t1, t2, t3, t0, ..] = header;
        // E.4.1: with the filter bit a body begins with what is needed to decrypt it.
        if first & 0x20 != 0 {
            return Err(FlvError::Encrypted);
        }
        let kind = first & 0x1F;
        let length = u32::from_be_bytes([0, l0, l1, l2]) as usize;
        let limit = self.limits.max_body;
        let is_wanted = match kind {
            kind::AUDIO | kind::VIDEO if length > limit => return Err(FlvError::TooLong { kind, length, limit }),
            kind::AUDIO | kind::VIDEO => true,
            kind::DATA => length <= self.limits.max_data,
            _ => false,
        };
        if !is_wanted {
            self.skipped += 1;
            self.step = Step::Skip { left: length + BACK_POINTER_BYTES };
            return Ok(());
        }
        let time = u32::from_be_bytes([t0, t1, t2, t3]);
        self.step = Step::Body { kind, time, length, kept: Vec::new() };
        Ok(())
    }

    /// None: data that nobody is to see, or that cannot be read.
    fn tag(&self, kind: u8, time: u32, body: Bytes) -> Option<FlvTag> {
        let (kind, body) = match kind {
            kind::AUDIO => (TagKind::Audio, body),
            kind::VIDEO => (TagKind::Video, body),
            _ => match DataMessage::parse(kind, &body, &self.limits.amf).ok()? {
                DataMessage::Metadata(body) => (TagKind::Metadata, body),
                DataMessage::Event { payload, .. } => (TagKind::Text, payload),
                DataMessage::Nothing => return None,
            },
        };
        Some(FlvTag { kind, time, body })
    }
}

/// A whole header of `N` bytes, over the seams of the input. None: more must come.
fn gather<const N: usize>(head: &mut Vec<u8>, input: &mut &[u8]) -> Option<[u8; N]> {
    head.extend_from_slice(take(input, N.saturating_sub(head.len())));
    let whole = head.as_slice().try_into().ok()?;
    head.clear();
    Some(whole)
}

/// Grows in proportion to what has come, whatever was announced.
fn append(kept: &mut Vec<u8>, part: &[u8], length: usize) {
    if !part.is_empty() && kept.capacity() - kept.len() < part.len() {
        let whole = length - kept.len();
        kept.reserve_exact(whole.min(part.len().max(kept.len()).max(AHEAD)));
    }
    kept.extend_from_slice(part);
}

fn take<'a>(input: &mut &'a [u8], most: usize) -> &'a [u8] {
    let (taken, rest) = input.split_at(most.min(input.len()));
    *input = rest;
    taken
}

const FILE_HEADER_BYTES: usize = 9;
const TAG_HEADER_BYTES: usize = 11;

/// Behind every tag its size, for those who read backwards. Some writers get it wrong, and nobody here needs it.
const BACK_POINTER_BYTES: usize = 4;

/// Nobody has ever written one with more; it is read past, not kept.
const MAX_MORE_HEADER: u32 = 4096;

/// What a tag that has begun may have reserved before its bytes have come.
const AHEAD: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::protocol::amf::{self, Value};

    const LIMITS: FlvLimits = FlvLimits { max_body: 1000, max_data: 200, amf: Limits::DATA };

    fn tag(kind: u8, time: u32, body: &[u8]) -> Vec<u8> {
        let [time_top, time_low @ ..] = time.to_be_bytes();
        let [_, size @ ..] = (body.len() as u32).to_be_bytes();
        let back = (body.len() as u32 + 11).to_be_bytes();
        [&[kind][..], &size, &time_low, &[time_top, 0, 0, 0], body, &back].concat()
    }

    fn file(tags: &[Vec<u8>]) -> Vec<u8> {
        [&b"FLV\x01\x05\0\0\0\x09\0\0\0\0"[..], &tags.concat()].concat()
    }

    fn read_in(sizes: &[usize], mut bytes: &[u8]) -> (Vec<FlvTag>, Option<FlvError>, FlvReader) {
        let (mut reader, mut tags) = (FlvReader::new(LIMITS), Vec::new());
        let mut sizes = sizes.iter().cycle();
        while !bytes.is_empty() {
            let mut piece = take(&mut bytes, *sizes.next().unwrap());
            loop {
                match reader.read(&mut piece) {
                    Ok(Some(tag)) => tags.push(tag),
                    Ok(None) => break,
                    Err(error) => return (tags, Some(error), reader),
                }
            }
            assert!(piece.is_empty());
        }
        (tags, None, reader)
    }

    fn read(bytes: &[u8]) -> (Vec<FlvTag>, Option<FlvError>, FlvReader) {
        read_in(&[usize::MAX], bytes)
    }

    fn said(kind: TagKind, time: u32, body: &[u8]) -> FlvTag {
        FlvTag { kind, time, body: Bytes::copy_from_slice(body) }
    }

    #[test]
    fn tags_become_what_rtmp_would_have_carried() {
        let metadata = amf::encode_all(&["onMetaData".into(), Value::EcmaArray(vec![("width".into(), 640.0.into())])]);
        let recorded = [&amf::encode_all(&["@setDataFrame".into()])[..], &metadata].concat();
        let text = amf::encode_all(&["onTextData".into(), "hi".into()]);
        let bytes = file(&[
            tag(18, 0, &metadata),
            tag(18, 1, &recorded),
            tag(18, 2, &text),
            tag(8, 0x01FF_FFFF, b"sound"),
            tag(9, u32::MAX, b""),
        ]);
        let (tags, error, reader) = read(&bytes);
        assert_eq!(error, None);
        assert_eq!(
            tags,
            [
                said(TagKind::Metadata, 0, &metadata),
                said(TagKind::Metadata, 1, &metadata),
                said(TagKind::Text, 2, &text),
                said(TagKind::Audio, 0x01FF_FFFF, b"sound"),
                said(TagKind::Video, u32::MAX, b""),
            ]
        );
        assert_eq!((reader.skipped(), reader.is_midway(), reader.tracks()), (0, false, Some(Tracks::BOTH)));
    }

    #[test]
    fn what_is_not_known_is_passed_over_without_being_kept() {
        let own = amf::encode_all(&["|RtmpSampleAccess".into(), true.into()]);
        let long = tag(15, 0, &[7; 100_000]);
        let bytes = file(&[long, tag(18, 0, &own), tag(18, 0, b"\x02\xFF"), tag(18, 0, &[0; 201]), tag(8, 5, b"a")]);
        let (tags, error, reader) = read_in(&[700], &bytes);
        assert_eq!((tags, error), (vec![said(TagKind::Audio, 5, b"a")], None));
        assert_eq!(reader.skipped(), 4);
    }

    #[test]
    fn a_longer_header_and_wrong_back_pointers_are_read_past() {
        let mut wrong = tag(9, 1, b"v");
        wrong.truncate(wrong.len() - 4);
        let bytes = [b"FLV\x01\x01\0\0\0\x0C???\0\0\0\0", &wrong[..], b"oops", &tag(9, 2, b"w")].concat();
        let (tags, error, reader) = read(&bytes);
        assert_eq!((tags.len(), error), (2, None));
        assert_eq!(reader.tracks(), Some(Tracks { audio: false, video: true }));
    }

    #[test]
    fn what_is_no_file_or_asks_for_too_much_is_refused_as_soon_as_it_shows() {
        for (bytes, error) in [
            (&b"<html><body>"[..], FlvError::Signature),
            (b"FLV\x02\x05\0\0\0\x09", FlvError::Version(2)),
            (b"FLV\x01\x05\0\0\0\x08", FlvError::Header(8)),
            (b"FLV\x01\x05\xFF\xFF\xFF\xFF", FlvError::Header(u32::MAX)),
        ] {
            assert_eq!(read(bytes).1, Some(error));
        }
        for (head, error) in [
            (&[0x28, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0][..], FlvError::Encrypted),
            (&[9, 0, 3, 233, 0, 0, 0, 0, 0, 0, 0], FlvError::TooLong { kind: 9, length: 1001, limit: 1000 }),
        ] {
            assert_eq!(read(&file(&[head.to_vec()])).1, Some(error));
        }
    }

    #[test]
    fn an_announcement_reserves_nothing_to_speak_of() {
        let mut reader = FlvReader::new(FlvLimits { max_body: 16 << 20, ..LIMITS });
        let bytes = file(&[[&[9, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0, 0, 0, 0][..], b"start"].concat()]);
        assert_eq!(reader.read(&mut &bytes[..]), Ok(None));
        let Step::Body { kept, .. } = &reader.step else { panic!("{reader:?}") };
        assert_eq!(kept, b"start");
        assert!(kept.capacity() <= AHEAD);
    }

    proptest! {
        #[test]
        fn it_does_not_matter_how_the_bytes_come(
            tags in prop::collection::vec((prop::sample::select(vec![8, 9, 18, 3]), any::<u32>(),
                                           prop::collection::vec(any::<u8>(), 0..300)), 0..8),
            sizes in prop::collection::vec(1_usize..400, 1..6),
        ) {
            let bytes = file(&tags.iter().map(|(kind, time, body)| tag(*kind, *time, body)).collect::<Vec<_>>());
            let (whole, pieces) = (read(&bytes), read_in(&sizes, &bytes));
            prop_assert_eq!((&whole.0, whole.1), (&pieces.0, pieces.1));
            let media = tags.iter().filter(|(kind, ..)| matches!(kind, 8 | 9)).count();
            if whole.1.is_none() {
                let read = whole.0.iter().filter(|tag| matches!(tag.kind, TagKind::Audio | TagKind::Video)).count();
                prop_assert_eq!(read, media);
            }
        }

        #[test]
        fn no_bytes_panic_and_nothing_more_is_kept_than_came(
            bytes in prop::collection::vec(any::<u8>(), 0..600), size in 1_usize..100,
        ) {
            let (tags, _, reader) = read_in(&[size], &[&b"FLV\x01\x05\0\0\0\x09\0\0\0\0"[..], &bytes].concat());
            prop_assert!(tags.iter().map(|tag| tag.body.len()).sum::<usize>() <= bytes.len());
            if let Step::Body { kept, .. } = &reader.step {
                prop_assert!(kept.len() <= bytes.len());
            }
        }
    }
}
