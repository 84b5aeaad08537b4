//! The packets of one program, written by the `mpeg2ts` crate with its faults mended.
//!
//! The crate writes a packet; what goes into which packet, lengths and counters are ours. Mended here: it writes the reserved bits of a
//! PCR as zeros, and fills up tables with an adaptation field where everybody else puts stuffing behind the section.
//!
//! A loop by hand would be three times as fast. With the crate a core muxes more than 3 GB of video a second (`benches/mux.rs`), which is
//! thousands of streams: it is not what limits anything.

use mpeg2ts::es::{StreamId, StreamType};
use mpeg2ts::pes::PesHeader;
use mpeg2ts::time::{ClockReference, Timestamp};
use mpeg2ts::ts::payload::{Bytes, Pat, Pes, Pmt};
use mpeg2ts::ts::{
    AdaptationField, ContinuityCounter, Descriptor, EsInfo, Pid, ProgramAssociation, TransportScramblingControl,
    TsHeader, TsPacket, TsPacketWriter, TsPayload, VersionNumber, WriteTsPacket as _,
};

use super::audio::AudioStream;
use crate::media::codec::VideoCodec;

/// Tables, and a counter for each of the streams.
#[derive(Debug)]
pub(super) struct Packets {
    pat: Table,
    pmt: Table,
    version: VersionNumber,
    video: ContinuityCounter,
    audio: ContinuityCounter,
    has_video: bool,
}

/// One PES packet: an access unit, or some audio frames.
#[derive(Debug)]
pub(super) struct PesPacket<'a> {
    pub lane: Lane,
    pub stream_id: u8,
    /// All times are counts of 90 kHz that never wrap; they do on their way out.
    pub pts: i64,
    pub dts: Option<i64>,
    pub pcr: Option<i64>,
    /// Decoding can start here.
    pub random_access: bool,
    /// What comes from here on does not go on from what was before.
    pub discontinuity: bool,
    pub data: &'a [u8],
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Lane {
    Video,
    Audio,
}

impl Packets {
    pub(super) fn new() -> Self {
        let pat = TsPayload::Pat(Pat {
            transport_stream_id: 1,
            version_number: VersionNumber::new(),
            table: vec![ProgramAssociation { program_num: PROGRAM, program_map_pid: pid(PMT_PID) }],
        });
        let version = VersionNumber::new();
        Self {
            pat: Table::new(Pid::PAT, pat),
            pmt: Table::new(PMT_PID, pmt(version, None, None)),
            version,
            video: ContinuityCounter::new(),
            audio: ContinuityCounter::new(),
            has_video: false,
        }
    }

    /// What the tables declare from now on. Their version grows when that changes what they say.
    pub(super) fn declare(&mut self, video: Option<VideoCodec>, audio: Option<&AudioStream>) {
        self.has_video = video.is_some();
        let same = Table::new(PMT_PID, pmt(self.version, video, audio));
        if same.packet == self.pmt.packet {
            return;
        }
        self.version.increment();
        let counter = self.pmt.counter;
        self.pmt = Table { counter, ..Table::new(PMT_PID, pmt(self.version, video, audio)) };
    }

    pub(super) fn write_tables(&mut self, out: &mut Vec<u8>) {
        self.pat.write(out);
        self.pmt.write(out);
    }

    /// The tables as they would have been just before the next ones, without counting them.
    pub(super) fn write_tables_before(&self, out: &mut Vec<u8>) {
        self.pat.write_before(out);
        self.pmt.write_before(out);
    }

    /// The lane whose packets carry the clock.
    pub(super) fn clock_lane(&self) -> Lane {
        if self.has_video { Lane::Video } else { Lane::Audio }
    }

    pub(super) fn write_pes(&mut self, out: &mut Vec<u8>, pes: &PesPacket<'_>) {
        let pid = pid(pes.lane.pid());
        let counter = match pes.lane {
            Lane::Video => &mut self.video,
            Lane::Audio => &mut self.audio,
        };
        let adaptation = (pes.pcr.is_some() || pes.random_access || pes.discontinuity)
            .then(|| adaptation(pes.pcr, pes.random_access, pes.discontinuity));
        let adaptation_size = match (&adaptation, pes.pcr) {
            (None, _) => 0,
            (Some(_), None) => 2,
            (Some(_), Some(_)) => 8,
        };
        let optional_size = if pes.dts.is_some() { 3 + 5 + 5 } else { 3 + 5 };
        let room = Bytes::MAX_SIZE - adaptation_size - PES_START_SIZE - optional_size;
        let (head, rest) = pes.data.split_at(room.min(pes.data.len()));
        // 0 is "until the next one starts", which only video may say. Where the length fits it is told, so that a player of an
        // endless stream has the frame without waiting for the next.
        let pes_packet_len = u16::try_from(optional_size + pes.data.len()).unwrap_or(0);

        out.reserve((1 + rest.len().div_ceil(Bytes::MAX_SIZE)) * TsPacket::SIZE);
        let at = out.len();
        let start = Pes {
            header: PesHeader {
                stream_id: StreamId::new(pes.stream_id),
                priority: false,
                data_alignment_indicator: true,
                copyright: false,
                original_or_copy: false,
                pts: Some(timestamp(pes.pts)),
                dts: pes.dts.map(timestamp),
                escr: None,
            },
            pes_packet_len,
            data: bytes(head),
        };
        write(out, pid, *counter, adaptation, Some(TsPayload::PesStart(start)));
        counter.increment();
        if pes.pcr.is_some() {
            mend_pcr(out, at);
        }
        for piece in rest.chunks(Bytes::MAX_SIZE) {
            write(out, pid, *counter, None, Some(TsPayload::PesContinuation(bytes(piece))));
            counter.increment();
        }
    }

    /// A packet that says what time it is and nothing else. Such do not count.
    pub(super) fn write_clock(&mut self, out: &mut Vec<u8>, pcr: i64, discontinuity: bool) {
        let lane = self.clock_lane();
        let next = match lane {
            Lane::Video => self.video,
            Lane::Audio => self.audio,
        };
        let at = out.len();
        write(out, pid(lane.pid()), before(next), Some(adaptation(Some(pcr), false, discontinuity)), None);
        mend_pcr(out, at);
    }
}

impl Lane {
    fn pid(self) -> u16 {
        match self {
            Self::Video => VIDEO_PID,
            Self::Audio => AUDIO_PID,
        }
    }
}

/// A table that fits into one packet, built once.
#[derive(Debug)]
struct Table {
    packet: [u8; TsPacket::SIZE],
    counter: ContinuityCounter,
}

impl Table {
    fn new(table_pid: u16, payload: TsPayload) -> Self {
        let mut written = Vec::with_capacity(TsPacket::SIZE);
        write(&mut written, pid(table_pid), ContinuityCounter::new(), None, Some(payload));
        // The crate has put an adaptation field of stuffing in front of the section. Decoders expect it behind.
        let stuffing = written.get(HEADER_SIZE).map_or(0, |length| 1 + usize::from(*length));
        let section = written.get(HEADER_SIZE + stuffing..).unwrap_or_default();
        let mut packet = [0xff; TsPacket::SIZE];
        for (to, from) in packet.iter_mut().zip(written.iter().take(HEADER_SIZE - 1)) {
            *to = *from;
        }
        for (to, from) in packet.iter_mut().skip(HEADER_SIZE).zip(section) {
            *to = *from;
        }
        Self { packet, counter: ContinuityCounter::new() }
    }

    fn write(&mut self, out: &mut Vec<u8>) {
        self.write_as(self.counter, out);
        self.counter.increment();
    }

    fn write_before(&self, out: &mut Vec<u8>) {
        self.write_as(before(self.counter), out);
    }

    fn write_as(&self, counter: ContinuityCounter, out: &mut Vec<u8>) {
        let at = out.len();
        out.extend_from_slice(&self.packet);
        if let Some(byte) = out.get_mut(at + HEADER_SIZE - 1) {
            *byte = PAYLOAD_ONLY | counter.as_u8();
        }
    }
}

fn pmt(version: VersionNumber, video: Option<VideoCodec>, audio: Option<&AudioStream>) -> TsPayload {
    let mut es_info = Vec::new();
    let descriptor = |tag: u8, data: &[u8]| Descriptor { tag, data: data.to_vec() };
    if let Some(codec) = video {
        let (stream_type, descriptors) = match codec {
            VideoCodec::Hevc => (StreamType::H265, vec![descriptor(REGISTRATION, b"HEVC")]),
            _ => (StreamType::H264, Vec::new()),
        };
        es_info.push(EsInfo { stream_type, elementary_pid: pid(VIDEO_PID), descriptors });
    }
    if let Some(stream) = audio {
        let (stream_type, descriptors) = match stream {
            AudioStream::Adts => (StreamType::AdtsAac, Vec::new()),
            AudioStream::Mpeg1 => (StreamType::Mpeg1Audio, Vec::new()),
            AudioStream::Mpeg2 => (StreamType::Mpeg2HalvedSampleRateAudio, Vec::new()),
            AudioStream::Ac3 => (StreamType::DolbyDigitalUpToSixChannelAudio, vec![descriptor(REGISTRATION, b"AC-3")]),
            AudioStream::Eac3 => {
                (StreamType::DolbyDigitalPlusUpTo16ChannelAudioForAtsc, vec![descriptor(REGISTRATION, b"EAC3")])
            }
            // The DVB extension descriptor with Opus's own tag, and how many channels.
            AudioStream::Opus { channels } => (
                StreamType::Mpeg2PacketizedData,
                vec![descriptor(REGISTRATION, b"Opus"), descriptor(DVB_EXTENSION, &[0x80, *channels])],
            ),
        };
        es_info.push(EsInfo { stream_type, elementary_pid: pid(AUDIO_PID), descriptors });
    }
    let pcr_pid = if video.is_some() { VIDEO_PID } else { AUDIO_PID };
    TsPayload::Pmt(Pmt {
        program_num: PROGRAM,
        pcr_pid: Some(pid(pcr_pid)),
        version_number: version,
        program_info: Vec::new(),
        es_info,
    })
}

fn adaptation(pcr: Option<i64>, random_access: bool, discontinuity: bool) -> AdaptationField {
    AdaptationField {
        discontinuity_indicator: discontinuity,
        random_access_indicator: random_access,
        es_priority_indicator: false,
        pcr: pcr.map(|pcr| ClockReference::from(timestamp(pcr))),
        opcr: None,
        splice_countdown: None,
        transport_private_data: Vec::new(),
        extension: None,
    }
}

fn write(
    out: &mut Vec<u8>,
    pid: Pid,
    continuity_counter: ContinuityCounter,
    adaptation_field: Option<AdaptationField>,
    payload: Option<TsPayload>,
) {
    let header = TsHeader {
        transport_error_indicator: false,
        transport_priority: false,
        pid,
        transport_scrambling_control: TransportScramblingControl::NotScrambled,
        continuity_counter,
    };
    let packet = TsPacket { header, adaptation_field, payload };
    TsPacketWriter::new(out).write_ts_packet(&packet).expect("what goes into a packet was made to fit");
}

/// ISO/IEC 13818-1, 2.4.3.5: the six bits between base and extension are ones.
fn mend_pcr(out: &mut [u8], packet_at: usize) {
    if let Some(byte) = out.get_mut(packet_at + 10) {
        *byte |= 0x7e;
    }
}

/// The counter of the packet before.
fn before(counter: ContinuityCounter) -> ContinuityCounter {
    ContinuityCounter::from_u8(counter.as_u8().wrapping_sub(1) & ContinuityCounter::MAX).expect("four bits")
}

/// Times are 33 bits wide and start over, every 26 hours and a half; players know.
fn timestamp(count: i64) -> Timestamp {
    Timestamp::new(count.rem_euclid(1 << 33).unsigned_abs()).expect("33 bits")
}

fn pid(value: u16) -> Pid {
    Pid::new(value).expect("ours are below 0x2000")
}

fn bytes(piece: &[u8]) -> Bytes {
    Bytes::new(piece).expect("cut to the size of a packet")
}

/// The numbers that nginx-rtmp uses.
const PROGRAM: u16 = 1;
const PMT_PID: u16 = 0x1001;
const VIDEO_PID: u16 = 0x100;
const AUDIO_PID: u16 = 0x101;
const HEADER_SIZE: usize = 4;
const PAYLOAD_ONLY: u8 = 0x10;
/// Start code, stream id, length.
const PES_START_SIZE: usize = 6;
const REGISTRATION: u8 = 5;
const DVB_EXTENSION: u8 = 0x7f;
