//! TS read back with the crate's reader, and held against the rules: for tests.

use std::collections::BTreeMap;

use bytes::Bytes;
use mpeg2ts::es::StreamType;
use mpeg2ts::ts::{ReadTsPacket as _, TsPacketReader, TsPayload};

use crate::media::codec::{AudioCodec, Codec, VideoCodec, audio_info};
use crate::media::packet::Track;
use crate::protocol::flv::sample::{MuxInput, Sample};

/// What was in some packets.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// The stream types of the last PMT, by PID, and its version.
    pub streams: BTreeMap<u16, StreamType>,
    pub descriptors: Vec<(u8, Vec<u8>)>,
    pub pcr_pid: u16,
    pub pmt_version: u8,
    pub pes: Vec<SeenPes>,
    /// Clock values in counts of 90 kHz, and where in `pes` they stand.
    pub pcrs: Vec<(u64, usize)>,
    pub discontinuities: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SeenPes {
    pub pid: u16,
    pub stream_id: u8,
    pub length: u16,
    pub pts: u64,
    pub dts: Option<u64>,
    pub random_access: bool,
    pub data: Vec<u8>,
}

impl Seen {
    pub(crate) fn pes_of(&self, pid: u16) -> Vec<&SeenPes> {
        self.pes.iter().filter(|pes| pes.pid == pid).collect()
    }
}

/// Counters of packets read so far, by PID: they go on from one segment to the next.
#[derive(Debug, Default)]
pub(crate) struct Oracle {
    counters: BTreeMap<u16, u8>,
}

impl Oracle {
    /// Reads whole packets, tables first; panics where they break a rule that holds for all.
    #[track_caller]
    pub(crate) fn read(&mut self, bytes: &[u8]) -> Seen {
        assert_eq!(bytes.len() % 188, 0);
        let mut seen = Seen::default();
        let mut reader = TsPacketReader::new(bytes);
        for raw in bytes.chunks(188) {
            let packet = reader.read_ts_packet().expect("the reader takes it").expect("as many as there are");
            let pid = packet.header.pid.as_u16();
            let counter = packet.header.continuity_counter.as_u8();
            let before = self.counters.insert(pid, counter);
            let expected = before.map(|before| if packet.payload.is_some() { (before + 1) & 15 } else { before });
            assert!(expected.is_none_or(|expected| expected == counter), "PID {pid}: {before:?}, then {counter}");
            let random_access = packet.adaptation_field.as_ref().is_some_and(|field| field.random_access_indicator);
            if let Some(field) = &packet.adaptation_field {
                seen.discontinuities += usize::from(field.discontinuity_indicator);
                if let Some(pcr) = field.pcr {
                    assert_eq!(pid, seen.pcr_pid, "the clock is where the tables say");
                    assert_eq!(raw[10] & 0x7e, 0x7e, "reserved bits are ones");
                    seen.pcrs.push((pcr.as_u64() / 300, seen.pes.len()));
                }
            }
            match packet.payload {
                Some(TsPayload::Pat(pat)) => {
                    assert_eq!(pat.table.len(), 1);
                    assert_table(raw);
                }
                Some(TsPayload::Pmt(pmt)) => {
                    assert_table(raw);
                    seen.pcr_pid = pmt.pcr_pid.expect("a clock").as_u16();
                    seen.pmt_version = pmt.version_number.as_u8();
                    seen.streams = pmt.es_info.iter().map(|es| (es.elementary_pid.as_u16(), es.stream_type)).collect();
                    let descriptors = pmt.es_info.into_iter().flat_map(|es| es.descriptors);
                    seen.descriptors = descriptors.map(|one| (one.tag, one.data)).collect();
                }
                Some(TsPayload::PesStart(pes)) => {
                    assert!(seen.streams.contains_key(&pid), "the tables come first");
                    assert!(pes.header.data_alignment_indicator);
                    seen.pes.push(SeenPes {
                        pid,
                        stream_id: pes.header.stream_id.as_u8(),
                        length: pes.pes_packet_len,
                        pts: pes.header.pts.expect("always told").as_u64(),
                        dts: pes.header.dts.map(|dts| dts.as_u64()),
                        random_access,
                        data: pes.data.to_vec(),
                    });
                }
                Some(TsPayload::PesContinuation(data)) => {
                    let pes = seen.pes.iter_mut().rev().find(|pes| pes.pid == pid).expect("it began");
                    pes.data.extend_from_slice(&data);
                }
                Some(other) => panic!("{other:?}"),
                None => {}
            }
        }
        for pes in &seen.pes {
            let header = if pes.dts.is_some() { 13 } else { 8 };
            let expected = u16::try_from(header + pes.data.len()).unwrap_or(0);
            assert_eq!(pes.length, expected, "the length is that of what follows");
            assert!(pes.length > 0 || pes.stream_id == 0xe0, "only video may leave it open");
        }
        seen
    }
}

/// Tables are stuffed behind the section, with ones, and nowhere else.
#[track_caller]
fn assert_table(raw: &[u8]) {
    assert_eq!(raw[3] & 0x30, 0x10, "no adaptation field");
    let length = usize::from(u16::from_be_bytes([raw[6] & 3, raw[7]]));
    assert!(raw[8 + length..].iter().all(|byte| *byte == 0xff));
}

pub(crate) const VIDEO: u16 = 0x100;
pub(crate) const AUDIO: u16 = 0x101;
pub(crate) const SPS: &[u8] = b"\x67\x64\x00\x28\xac";
pub(crate) const PPS: &[u8] = b"\x68\xee\x3c\x80";
/// With these two sets.
pub(crate) const AVC_RECORD: &[u8] =
    b"\x01\x64\x00\x28\xff\xe1\x00\x05\x67\x64\x00\x28\xac\x01\x00\x04\x68\xee\x3c\x80";

pub(crate) fn avc() -> MuxInput {
    MuxInput::VideoConfig { codec: VideoCodec::Avc, record: Bytes::from_static(AVC_RECORD), info: None }
}

/// 44.1 kHz, stereo.
pub(crate) fn aac() -> MuxInput {
    audio(AudioCodec::Aac, b"\x12\x10")
}

pub(crate) fn audio(codec: AudioCodec, record: &'static [u8]) -> MuxInput {
    MuxInput::AudioConfig { codec, record: Bytes::from_static(record), info: audio_info(codec, record) }
}

/// A frame of one unit: an IDR where it is `key`, else a slice.
pub(crate) fn video_frame(dts_ms: i64, cts_ms: i32, key: bool, size: usize) -> Sample {
    let unit = [&[if key { 0x65 } else { 0x41 }][..], &vec![0x88; size]].concat();
    frame_of(dts_ms, cts_ms, key, &[&unit])
}

/// A frame of these units.
pub(crate) fn frame_of(dts_ms: i64, cts_ms: i32, key: bool, units: &[&[u8]]) -> Sample {
    let data: Vec<u8> = units.iter().flat_map(|unit| [&(unit.len() as u32).to_be_bytes()[..], unit].concat()).collect();
    Sample { track: Track::Video, codec: Codec::Video(VideoCodec::Avc), dts_ms, cts_ms, key, data: data.into() }
}

pub(crate) fn audio_frame(codec: AudioCodec, dts_ms: i64, data: &[u8]) -> Sample {
    let data = Bytes::copy_from_slice(data);
    Sample { track: Track::Audio, codec: Codec::Audio(codec), dts_ms, cts_ms: 0, key: true, data }
}
