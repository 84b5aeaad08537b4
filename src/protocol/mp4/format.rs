//! What a track is: its codec as a sample entry, its timescale, and what a manifest says of it.

use std::borrow::Cow;

use super::boxes::{boxed, full_box, u8, u16, u32, zeros};
use crate::media::codec::{AudioCodec, AudioInfo, Codec, VideoCodec, VideoInfo, aac, ac3, flac};

/// The description of one track, made from its configuration record. Equal records make equal formats.
#[derive(Clone, PartialEq, Debug)]
pub struct Format {
    pub codec: Codec,
    /// Ticks a second.
    pub timescale: u32,
    /// RFC 6381.
    pub codecs: String,
    /// 0 where nothing tells.
    pub width: u32,
    pub height: u32,
    pub fps: Option<f32>,
    pub channels: Option<u8>,
    pub sample_rate: u32,
    /// The record as published.
    pub(super) record: bytes::Bytes,
    /// The box that goes into `stsd`.
    pub(super) entry: Vec<u8>,
}

impl Format {
    /// `None`: MP4 has no place for this codec, or the record is too short to mean anything.
    pub fn video(codec: VideoCodec, record: &bytes::Bytes, info: &VideoInfo) -> Option<Self> {
        let (kind, config_kind): (&[u8; 4], &[u8; 4]) = match codec {
            VideoCodec::Avc => (b"avc1", b"avcC"),
            VideoCodec::Hevc => (b"hvc1", b"hvcC"),
            VideoCodec::Av1 => (b"av01", b"av1C"),
            VideoCodec::Vp9 => (b"vp09", b"vpcC"),
            VideoCodec::Vp8 | VideoCodec::Vvc | VideoCodec::Flv(_) | VideoCodec::Other(_) => return None,
        };
        let config = match codec {
            VideoCodec::Hevc => Cow::Owned(complete_hevc_record(record)),
            _ => Cow::Borrowed(&record[..]),
        };
        let mut entry = Vec::new();
        boxed(&mut entry, kind, |out| {
            zeros(out, 6);
            u16(out, 1);
            zeros(out, 16);
            u16(out, u16::try_from(info.width).unwrap_or(0));
            u16(out, u16::try_from(info.height).unwrap_or(0));
            // 72 dots an inch, one frame a sample, no name for the compressor, colour without alpha.
            u32(out, 0x0048_0000);
            u32(out, 0x0048_0000);
            zeros(out, 4);
            u16(out, 1);
            zeros(out, 32);
            u16(out, 0x0018);
            u16(out, 0xffff);
            boxed(out, config_kind, |out| out.extend_from_slice(&config));
        });
        Some(Self {
            codec: Codec::Video(codec),
            timescale: VIDEO_TIMESCALE,
            codecs: info.codec_string.clone(),
            width: info.width,
            height: info.height,
            fps: info.fps,
            channels: None,
            sample_rate: 0,
            record: record.clone(),
            entry,
        })
    }

    /// As for video. The timescale is the rate, so that durations are exact.
    pub fn audio(codec: AudioCodec, record: &bytes::Bytes, info: &AudioInfo) -> Option<Self> {
        let mut config = Vec::new();
        let kind: &[u8; 4] = match codec {
            AudioCodec::Aac => {
                aac::parse(record)?;
                elementary_stream(&mut config, OBJECT_AAC, Some(record));
                b"mp4a"
            }
            AudioCodec::Mp3 => {
                let object = if info.rate > 24_000 { OBJECT_MPEG1_AUDIO } else { OBJECT_MPEG2_AUDIO };
                elementary_stream(&mut config, object, None);
                b"mp4a"
            }
            AudioCodec::Opus => {
                opus_specific(&mut config, record)?;
                b"Opus"
            }
            AudioCodec::Flac => {
                let block = flac::stream_info(record)?;
                full_box(&mut config, b"dfLa", 0, 0, |out| {
                    // The last block, of type STREAMINFO, and its length.
                    out.extend_from_slice(&[0x80, 0, 0, 34]);
                    out.extend_from_slice(block);
                });
                b"fLaC"
            }
            AudioCodec::Ac3 => {
                let head = ac3::parse(record).filter(|head| !head.is_enhanced)?;
                boxed(&mut config, b"dac3", |out| {
                    let bits = u32::from(head.rate_code) << 22
                        | u32::from(head.stream_identification) << 17
                        | u32::from(head.stream_mode) << 14
                        | u32::from(head.coding_mode) << 11
                        | u32::from(head.low_frequency) << 10
                        | u32::from(head.bit_rate_code) << 5;
                    out.extend(bits.to_be_bytes().into_iter().skip(1));
                });
                b"ac-3"
            }
            AudioCodec::Eac3 => {
                let head = ac3::parse(record).filter(|head| head.is_enhanced)?;
                let kbit = u64::from(head.bytes) * 8 * u64::from(head.rate) / u64::from(head.samples) / 1000;
                boxed(&mut config, b"dec3", |out| {
                    // One independent substream and none that depends on it, which is what live encoders send.
                    u16(out, u16::try_from(kbit.min(0x1fff)).unwrap_or(0) << 3);
                    u8(out, head.rate_code << 6 | head.stream_identification << 1);
                    u8(out, head.coding_mode << 1 | u8::from(head.low_frequency));
                    u8(out, 0);
                });
                b"ec-3"
            }
            AudioCodec::Flv(_) | AudioCodec::Other(_) => return None,
        };
        if info.rate == 0 {
            return None;
        }
        let mut entry = Vec::new();
        boxed(&mut entry, kind, |out| {
            zeros(out, 6);
            u16(out, 1);
            zeros(out, 8);
            u16(out, info.channels.map_or(2, u16::from));
            u16(out, 16);
            zeros(out, 4);
            // 16.16; rates that do not fit stand in the record alone.
            u32(out, if info.rate < 1 << 16 { info.rate << 16 } else { 0 });
            out.extend_from_slice(&config);
        });
        Some(Self {
            codec: Codec::Audio(codec),
            timescale: info.rate,
            codecs: info.codec_string.clone(),
            width: 0,
            height: 0,
            fps: None,
            channels: info.channels,
            sample_rate: info.rate,
            record: record.clone(),
            entry,
        })
    }

    pub fn is_video(&self) -> bool {
        matches!(self.codec, Codec::Video(_))
    }
}

/// `hvc1` says that parameter sets stand in the record alone, which each array of them must confirm (ISO/IEC 14496-15,
/// 8.3.3.1.2). Encoders that write for FLV leave the bit clear, and some leave the version 0.
fn complete_hevc_record(record: &[u8]) -> Vec<u8> {
    // A copy once a configuration: the published record is shared with the stream's other viewers.
    let mut record = record.to_vec();
    if let Some(version) = record.first_mut() {
        *version = 1;
    }
    let mut at = 23;
    let arrays = record.get(22).copied().unwrap_or(0);
    for _ in 0..arrays {
        let Some(&mut [ref mut kind, high, low]) = record.get_mut(at..).and_then(|rest| rest.first_chunk_mut()) else {
            break;
        };
        if PARAMETER_SETS.contains(&(*kind & 0x3f)) {
            *kind |= 0x80;
        }
        at += 3;
        for _ in 0..u16::from_be_bytes([high, low]) {
            let Some(size) = record.get(at..).and_then(|rest| rest.first_chunk()) else {
                return record;
            };
            at += 2 + usize::from(u16::from_be_bytes(*size));
        }
    }
    record
}

/// An `esds` box (ISO/IEC 14496-1, 7.2.6): the stream, its decoder, and what configures that.
fn elementary_stream(out: &mut Vec<u8>, object: u8, config: Option<&[u8]>) {
    let specific = config.map_or(0, |config| DESCRIPTOR_HEAD + config.len());
    let decoder = 13 + specific;
    full_box(out, b"esds", 0, 0, |out| {
        descriptor(out, 3, 3 + DESCRIPTOR_HEAD + decoder + DESCRIPTOR_HEAD + 1);
        // No number of its own, no flags.
        zeros(out, 3);
        descriptor(out, 4, decoder);
        u8(out, object);
        // An audio stream; buffer size and bit rates are not known.
        u8(out, 5 << 2 | 1);
        zeros(out, 3 + 4 + 4);
        if let Some(config) = config {
            descriptor(out, 5, config.len());
            out.extend_from_slice(config);
        }
        descriptor(out, 6, 1);
        u8(out, 2);
    });
}

/// Tag and size, in the four bytes that most write whatever the size.
fn descriptor(out: &mut Vec<u8>, tag: u8, size: usize) {
    u8(out, tag);
    for shift in [21, 14, 7] {
        u8(out, 0x80 | (size >> shift & 0x7f) as u8);
    }
    u8(out, (size & 0x7f) as u8);
}

/// `dOps`: an OpusHead without its magic, version 0, and in big-endian.
fn opus_specific(out: &mut Vec<u8>, record: &[u8]) -> Option<()> {
    let (&[_, channels, skip_low, skip_high, r0, r1, r2, r3, gain_low, gain_high], mapping) =
        record.strip_prefix(b"OpusHead")?.split_first_chunk()?;
    let (&family, table) = mapping.split_first()?;
    boxed(out, b"dOps", |out| {
        out.extend_from_slice(&[0, channels, skip_high, skip_low, r3, r2, r1, r0, gain_high, gain_low, family]);
        // Family 0 has no table.
        if family != 0 {
            out.extend_from_slice(table);
        }
    });
    Some(())
}

/// What MPEG-TS counts in, and everybody else with it.
pub const VIDEO_TIMESCALE: u32 = 90_000;

/// Video, sequence and picture parameter sets.
pub(super) const PARAMETER_SETS: [u8; 3] = [32, 33, 34];
const DESCRIPTOR_HEAD: usize = 5;
const OBJECT_AAC: u8 = 0x40;
const OBJECT_MPEG1_AUDIO: u8 = 0x6b;
const OBJECT_MPEG2_AUDIO: u8 = 0x69;
