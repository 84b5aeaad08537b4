//! The initialisation segment: `ftyp` and `moov`, without a single sample.

use bytes::Bytes;

use super::boxes::{boxed, full_box, u16, u32, u64, zeros};
use super::format::Format;

/// One track of an initialisation.
#[derive(Clone, Copy, Debug)]
pub struct InitTrack<'a> {
    /// From 1.
    pub id: u32,
    pub format: &'a Format,
}

/// `ftyp` and `moov`. One track is CMAF; several are for formats that carry them together.
pub fn init(tracks: &[InitTrack<'_>]) -> Bytes {
    let mut out = Vec::with_capacity(1024);
    boxed(&mut out, b"ftyp", |out| {
        out.extend_from_slice(b"iso6");
        u32(out, 512);
        out.extend_from_slice(b"iso6mp41dashmsdhmsix");
        if tracks.len() == 1 {
            out.extend_from_slice(b"cmfchlsf");
        }
    });
    boxed(&mut out, b"moov", |out| {
        movie_header(out, tracks);
        for track in tracks {
            boxed(out, b"trak", |out| write_track(out, track));
        }
        boxed(out, b"mvex", |out| {
            for track in tracks {
                full_box(out, b"trex", 0, 0, |out| {
                    u32(out, track.id);
                    u32(out, 1);
                    u32(out, 0);
                    u32(out, 0);
                    u32(out, if track.format.is_video() { NON_SYNC_SAMPLE } else { SYNC_SAMPLE });
                });
            }
        });
    });
    out.into()
}

fn movie_header(out: &mut Vec<u8>, tracks: &[InitTrack<'_>]) {
    full_box(out, b"mvhd", 0, 0, |out| {
        zeros(out, 8);
        u32(out, 1000);
        u32(out, 0);
        // Rate and volume of 1.
        u32(out, 0x0001_0000);
        u16(out, 0x0100);
        zeros(out, 10);
        matrix(out);
        zeros(out, 24);
        u32(out, tracks.iter().map(|track| track.id).max().unwrap_or(0) + 1);
    });
}

fn write_track(out: &mut Vec<u8>, track: &InitTrack<'_>) {
    let format = track.format;
    let video = format.is_video();
    // Enabled, in the movie.
    full_box(out, b"tkhd", 0, 3, |out| {
        zeros(out, 8);
        u32(out, track.id);
        zeros(out, 4 + 4 + 8);
        u16(out, 0);
        // What is heard belongs together, and is an alternative to nothing.
        u16(out, if video { 0 } else { 1 });
        u16(out, if video { 0 } else { 0x0100 });
        u16(out, 0);
        matrix(out);
        u32(out, u32::from(u16::try_from(format.width).unwrap_or(0)) << 16);
        u32(out, u32::from(u16::try_from(format.height).unwrap_or(0)) << 16);
    });
    boxed(out, b"mdia", |out| {
        full_box(out, b"mdhd", 0, 0, |out| {
            zeros(out, 8);
            u32(out, format.timescale);
            u32(out, 0);
            // "und", five bits a letter.
            u16(out, 0x55c4);
            u16(out, 0);
        });
        full_box(out, b"hdlr", 0, 0, |out| {
            u32(out, 0);
            out.extend_from_slice(if video { b"vide" } else { b"soun" });
            zeros(out, 12);
            out.extend_from_slice(if video { b"video\0" } else { b"audio\0" });
        });
        boxed(out, b"minf", |out| {
            if video {
                full_box(out, b"vmhd", 0, 1, |out| u64(out, 0));
            } else {
                full_box(out, b"smhd", 0, 0, |out| u32(out, 0));
            }
            boxed(out, b"dinf", |out| {
                full_box(out, b"dref", 0, 0, |out| {
                    u32(out, 1);
                    // The media is in this file.
                    full_box(out, b"url ", 0, 1, |_| {});
                });
            });
            boxed(out, b"stbl", |out| {
                full_box(out, b"stsd", 0, 0, |out| {
                    u32(out, 1);
                    out.extend_from_slice(&format.entry);
                });
                full_box(out, b"stts", 0, 0, |out| u32(out, 0));
                full_box(out, b"stsc", 0, 0, |out| u32(out, 0));
                full_box(out, b"stsz", 0, 0, |out| u64(out, 0));
                full_box(out, b"stco", 0, 0, |out| u32(out, 0));
            });
        });
    });
}

/// The one that changes nothing.
fn matrix(out: &mut Vec<u8>) {
    for value in [0x0001_0000, 0, 0, 0, 0x0001_0000, 0, 0, 0, 0x4000_0000] {
        u32(out, value);
    }
}

/// Depends on no other sample.
pub(super) const SYNC_SAMPLE: u32 = 0x0200_0000;
/// Depends on others, and is no place to start.
pub(super) const NON_SYNC_SAMPLE: u32 = 0x0101_0000;

#[cfg(test)]
mod tests {
    use mp4_atom::{Codec as Entry, DecodeMaybe, FourCC, Ftyp, Moov};

    use super::*;
    use crate::media::codec::{AudioCodec, VideoCodec};
    use crate::protocol::mp4::tests::{aac, audio, avc, bytes, video};

    const HEVC: &str = "01016000000090000000000078f000fcfdf8f800000f03200001001840010c01ffff016000000300900000030000\
        030078958409210001002b420101016000000300900000030000030078a003c0801107cb965654a4c2f0168080000003008000000c8422\
        000100064401c073c189";
    const OPUS: &str = "4f707573486561640102380180bb0000000000";
    const FLAC: &str = "040004000000000010980bb802f00000000000000000000000000000000000000000";

    /// What another reader makes of the only track.
    fn read(format: &Format) -> (Ftyp, Moov) {
        let bytes = init(&[InitTrack { id: 1, format }]);
        let mut rest = &bytes[..];
        let ftyp = Ftyp::decode_maybe(&mut rest).unwrap().unwrap();
        let moov = Moov::decode_maybe(&mut rest).unwrap().unwrap();
        assert!(rest.is_empty());
        (ftyp, moov)
    }

    fn entry(format: &Format) -> Entry {
        let (_, moov) = read(format);
        let [entry] = &moov.trak[0].mdia.minf.stbl.stsd.codecs[..] else { panic!("one entry") };
        entry.clone()
    }

    #[test]
    fn a_track_says_what_it_is_and_has_no_samples() {
        let (ftyp, moov) = read(&avc());
        assert_eq!(ftyp.major_brand, FourCC::new(b"iso6"));
        assert!(ftyp.compatible_brands.iter().any(|brand| *brand == FourCC::new(b"cmfc")));
        let (trak, trex) = (&moov.trak[0], &moov.mvex.as_ref().unwrap().trex[0]);
        assert_eq!((trak.tkhd.track_id, trak.tkhd.enabled, trak.mdia.mdhd.timescale), (1, true, 90_000));
        assert_eq!((trak.tkhd.width.integer(), trak.tkhd.height.integer()), (1920, 1080));
        assert_eq!((trak.mdia.hdlr.handler, trak.mdia.mdhd.duration), (FourCC::new(b"vide"), 0));
        assert!(trak.mdia.minf.vmhd.is_some() && trak.mdia.minf.stbl.stts.entries.is_empty());
        assert_eq!((trex.track_id, trex.default_sample_flags), (1, NON_SYNC_SAMPLE));

        let (_, moov) = read(&aac());
        let (trak, trex) = (&moov.trak[0], &moov.mvex.as_ref().unwrap().trex[0]);
        assert_eq!((trak.mdia.mdhd.timescale, trak.mdia.hdlr.handler), (44_100, FourCC::new(b"soun")));
        assert!(trak.mdia.minf.smhd.is_some());
        assert_eq!(trex.default_sample_flags, SYNC_SAMPLE);
    }

    #[test]
    fn two_tracks_have_two_numbers() {
        let (video, audio) = (avc(), aac());
        let bytes = init(&[InitTrack { id: 1, format: &video }, InitTrack { id: 2, format: &audio }]);
        let mut rest = &bytes[..];
        Ftyp::decode_maybe(&mut rest).unwrap().unwrap();
        let moov = Moov::decode_maybe(&mut rest).unwrap().unwrap();
        assert_eq!(moov.trak.iter().map(|trak| trak.tkhd.track_id).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(moov.mvhd.next_track_id, 3);
    }

    #[test]
    fn records_of_video_are_the_publishers() {
        let Entry::Avc1(avc1) = entry(&avc()) else { panic!() };
        assert_eq!((avc1.visual.width, avc1.visual.height), (1920, 1080));
        assert_eq!((avc1.avcc.avc_profile_indication, avc1.avcc.avc_level_indication), (100, 40));
        let made = init(&[InitTrack { id: 1, format: &avc() }]);
        let record = bytes(crate::protocol::mp4::tests::AVC_RECORD);
        assert!(made.windows(record.len()).any(|window| window == record));

        let Entry::Hvc1(hvc1) = entry(&video(VideoCodec::Hevc, HEVC)) else { panic!() };
        assert!(hvc1.hvcc.arrays.len() == 3 && hvc1.hvcc.arrays.iter().all(|array| array.completeness));
        let Entry::Av01(av01) = entry(&video(VideoCodec::Av1, "81000c00 0a0b00000004456f9f3e2fcc08")) else { panic!() };
        assert_eq!(av01.av1c.config_obus.len(), 13);
        let Entry::Vp09(vp09) = entry(&video(VideoCodec::Vp9, "010000000015820202020000")) else { panic!() };
        assert_eq!((vp09.vpcc.level, vp09.vpcc.bit_depth), (0x15, 8));
    }

    #[test]
    fn records_of_audio_say_the_same_in_boxes() {
        let Entry::Mp4a(mp4a) = entry(&aac()) else { panic!() };
        let decoder = &mp4a.esds.es_desc.dec_config;
        assert_eq!((decoder.object_type_indication, mp4a.audio.sample_rate.integer()), (0x40, 44_100));
        let specific = decoder.dec_specific.as_ref().unwrap();
        assert_eq!((specific.profile, specific.freq_index, specific.chan_conf), (2, 4, 2));

        let Entry::Opus(opus) = entry(&audio(AudioCodec::Opus, OPUS)) else { panic!() };
        assert_eq!((opus.dops.output_channel_count, opus.dops.pre_skip), (2, 312));
        assert_eq!(opus.dops.input_sample_rate, 48_000);
        let Entry::Flac(flac) = entry(&audio(AudioCodec::Flac, FLAC)) else { panic!() };
        assert_eq!(flac.dfla.blocks.len(), 1);
        let Entry::Ac3(ac3) = entry(&audio(AudioCodec::Ac3, "0b7750b51e40ebf8403eff99")) else { panic!() };
        assert_eq!((ac3.dac3.bsid, ac3.dac3.acmod, ac3.dac3.lfeon), (8, 7, true));
        let Entry::Eac3(eac3) = entry(&audio(AudioCodec::Eac3, "0b77017f3487c0002084210838")) else { panic!() };
        assert_eq!((eac3.dec3.data_rate, eac3.dec3.substreams.len()), (192, 1));
        assert_eq!((eac3.dec3.substreams[0].acmod, eac3.dec3.substreams[0].bsid), (2, 16));
        let made = init(&[InitTrack { id: 1, format: &audio(AudioCodec::Mp3, "fffb9064") }]);
        assert!(made.windows(4).any(|four| four == [0x04, 0x80, 0x80, 0x80]));
        assert!(made.windows(2).any(|two| two == [0x6b, 0x15]));
    }

    #[test]
    fn high_efficiency_aac_counts_at_the_rate_that_comes_out() {
        // Explicit: SBR of 48 kHz over a core of 24.
        let format = audio(AudioCodec::Aac, "2b11880000");
        assert_eq!((format.timescale, &*format.codecs), (48_000, "mp4a.40.5"));
    }

    #[test]
    fn what_mp4_has_no_place_for_has_no_format() {
        use crate::media::codec::{audio_info, video_info};
        let record = bytes("0142c01effe1");
        let info = video_info(VideoCodec::Avc, &record).unwrap();
        assert_eq!(Format::video(VideoCodec::Flv(2), &record, &info), None);
        let info = audio_info(AudioCodec::Mp3, &bytes("fffb9064")).unwrap();
        assert_eq!(Format::audio(AudioCodec::Flv(11), &bytes("fffb9064"), &info), None);
        assert_eq!(Format::audio(AudioCodec::Opus, &bytes("4f707573"), &info), None);
    }
}
