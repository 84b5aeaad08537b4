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
