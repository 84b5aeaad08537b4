//! The manifest that nginx-rtmp writes below `dash_path`, its file names included.

use std::fmt::Write as _;

use super::manifest::{ClockScheme, Kind};
use crate::protocol::hls::date::iso;

/// Everything that such a manifest says. Made anew for each fragment that closes.
#[derive(Clone, Debug)]
pub struct NginxManifest<'a> {
    /// As it may stand in a file name.
    pub name: &'a str,
    pub nested: bool,
    /// When the stream was published, and now, in ms since 1970.
    pub start_ms: i64,
    pub now_ms: i64,
    /// `dash_fragment`.
    pub fragment_ms: u64,
    pub video: Option<NginxVideo<'a>>,
    pub audio: Option<NginxAudio<'a>>,
    /// When each fragment begins and how long it lasts, in ms: the same for both media.
    pub fragments: &'a [(u64, u64)],
    /// `dash_clock_compensation` and `dash_clock_helper_uri`.
    pub clock: Option<(ClockScheme, &'a str)>,
}

#[derive(Clone, Copy, Debug)]
pub struct NginxVideo<'a> {
    /// RFC 6381.
    pub codecs: &'a str,
    /// As nginx-rtmp's statistics spell it: `H264`.
    pub codec_name: &'a str,
    pub width: u32,
    pub height: u32,
    pub fps: u32,
    /// Bits a second.
    pub bandwidth: u64,
}

#[derive(Clone, Copy, Debug)]
pub struct NginxAudio<'a> {
    pub codecs: &'a str,
    pub codec_name: &'a str,
    pub sample_rate: u32,
    pub bandwidth: u64,
}

/// Below `dash_path`: `NAME.mpd`, or `NAME/index.mpd` with `dash_nested`.
pub fn manifest_file(name: &str, nested: bool) -> String {
    if nested { format!("{name}/index.mpd") } else { format!("{name}.mpd") }
}

/// `NAME-init.m4v`, or `NAME/init.m4v`.
pub fn init_file(name: &str, nested: bool, kind: Kind) -> String {
    format!("{name}{}init.{}", separator(nested), suffix(kind))
}

/// `NAME-MS.m4v`, or `NAME/MS.m4v`.
pub fn fragment_file(name: &str, nested: bool, kind: Kind, start_ms: u64) -> String {
    format!("{name}{}{start_ms}.{}", separator(nested), suffix(kind))
}

impl NginxManifest<'_> {
    /// Attribute by attribute and line by line as nginx-rtmp writes it, except that what it gets wrong for codecs it does not know is
    /// right here.
    pub fn render(&self) -> String {
        let mut out = String::with_capacity(2048 + self.fragments.len() * 80);
        let fragment_s = self.fragment_ms.div_ceil(1000).max(1);
        let _ = write!(
            out,
            "<?xml version=\"1.0\"?>\n\
             <MPD\n\
             \x20   type=\"dynamic\"\n\
             \x20   xmlns=\"urn:mpeg:dash:schema:mpd:2011\"\n\
             \x20   availabilityStartTime=\"{}\"\n\
             \x20   publishTime=\"{}\"\n\
             \x20   minimumUpdatePeriod=\"PT{fragment_s}S\"\n\
             \x20   minBufferTime=\"PT{fragment_s}S\"\n\
             \x20   timeShiftBufferDepth=\"PT{}S\"\n\
             \x20   profiles=\"urn:hbbtv:dash:profile:isoff-live:2012,urn:mpeg:dash:profile:isoff-live:2011\"\n\
             \x20   xmlns:xsi=\"http://www.w3.org/2011/XMLSchema-instance\"\n\
             \x20   xsi:schemaLocation=\"urn:mpeg:DASH:schema:MPD:2011 DASH-MPD.xsd\">\n\
             \x20 <Period start=\"PT0S\" id=\"dash\">\n",
            date(self.start_ms),
            date(self.now_ms),
            self.fragment_ms / 250 + 1,
        );
        if let Some(video) = &self.video {
            let _ = write!(
                out,
                "    <AdaptationSet\n\
                 \x20       id=\"1\"\n\
                 \x20       segmentAlignment=\"true\"\n\
                 \x20       maxWidth=\"{w}\"\n\
                 \x20       maxHeight=\"{h}\"\n\
                 \x20       maxFrameRate=\"{fps}\">\n\
                 \x20     <Representation\n\
                 \x20         id=\"{name}_{codec}\"\n\
                 \x20         mimeType=\"video/mp4\"\n\
                 \x20         codecs=\"{codecs}\"\n\
                 \x20         width=\"{w}\"\n\
                 \x20         height=\"{h}\"\n\
                 \x20         frameRate=\"{fps}\"\n\
                 \x20         startWithSAP=\"1\"\n\
                 \x20         bandwidth=\"{bandwidth}\">\n",
                w = video.width,
                h = video.height,
                fps = video.fps,
                name = self.name,
                codec = video.codec_name,
                codecs = video.codecs,
                bandwidth = video.bandwidth,
            );
            self.render_segments(Kind::Video, &mut out);
        }
        if let Some(audio) = &self.audio {
            let _ = write!(
                out,
                "    <AdaptationSet\n\
                 \x20       id=\"2\"\n\
                 \x20       segmentAlignment=\"true\">\n\
                 \x20     <AudioChannelConfiguration\n\
                 \x20         schemeIdUri=\"urn:mpeg:dash:23003:3:audio_channel_configuration:2011\"\n\
                 \x20         value=\"1\"/>\n\
                 \x20     <Representation\n\
                 \x20         id=\"{}_{}\"\n\
                 \x20         mimeType=\"audio/mp4\"\n\
                 \x20         codecs=\"{}\"\n\
                 \x20         audioSamplingRate=\"{}\"\n\
                 \x20         startWithSAP=\"1\"\n\
                 \x20         bandwidth=\"{}\">\n",
                self.name, audio.codec_name, audio.codecs, audio.sample_rate, audio.bandwidth,
            );
            self.render_segments(Kind::Audio, &mut out);
        }
        out.push_str("  </Period>\n");
        if let Some((scheme, value)) = self.clock {
            let _ = write!(
                out,
                "  <UTCTiming schemeIdUri=\"{}\"\n\x20      value=\"{}\" />\n",
                scheme.urn(),
                super::manifest::escape(value)
            );
        }
        out.push_str("</MPD>\n");
        out
    }

    fn render_segments(&self, kind: Kind, out: &mut String) {
        // Seen from the manifest: nested, it lies beside the fragments.
        let before = if self.nested { String::new() } else { format!("{}-", self.name) };
        let suffix = suffix(kind);
        let _ = write!(
            out,
            "        <SegmentTemplate\n\
             \x20           timescale=\"1000\"\n\
             \x20           media=\"{before}$Time$.{suffix}\"\n\
             \x20           initialization=\"{before}init.{suffix}\">\n\
             \x20         <SegmentTimeline>\n",
        );
        for (start, duration) in self.fragments {
            let _ = writeln!(out, "             <S t=\"{start}\" d=\"{duration}\"/>");
        }
        out.push_str(
            "          </SegmentTimeline>\n        </SegmentTemplate>\n      </Representation>\n    </AdaptationSet>\n",
        );
    }
}

fn suffix(kind: Kind) -> &'static str {
    match kind {
        Kind::Video => "m4v",
        Kind::Audio => "m4a",
    }
}

fn separator(nested: bool) -> char {
    if nested { '/' } else { '-' }
}

/// To the second, as nginx-rtmp writes it.
fn date(ms: i64) -> String {
    let mut text = iso(ms);
    text.truncate("2026-11-20T06:09:34".len());
    text.push('Z');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain_or_nested() {
        assert_eq!(manifest_file("cam", false), "cam.mpd");
        assert_eq!(manifest_file("cam", true), "cam/index.mpd");
        assert_eq!(init_file("cam", false, Kind::Video), "cam-init.m4v");
        assert_eq!(init_file("cam", true, Kind::Audio), "cam/init.m4a");
        assert_eq!(fragment_file("cam", false, Kind::Audio, 5040), "cam-5040.m4a");
        assert_eq!(fragment_file("cam", true, Kind::Video, 0), "cam/0.m4v");
    }

    #[test]
    fn the_manifest_is_written_as_nginx_rtmp_writes_it() {
        assert_eq!(
            manifest(false, None).render(),
            r#"<?xml version="1.0"?>
<MPD
    type="dynamic"
    xmlns="urn:mpeg:dash:schema:mpd:2011"
    availabilityStartTime="1970-01-01T00:00:01Z"
    publishTime="1970-01-01T00:00:11Z"
    minimumUpdatePeriod="PT5S"
    minBufferTime="PT5S"
    timeShiftBufferDepth="PT21S"
    profiles="urn:hbbtv:dash:profile:isoff-live:2012,urn:mpeg:dash:profile:isoff-live:2011"
    xmlns:xsi="http://www.w3.org/2011/XMLSchema-instance"
    xsi:schemaLocation="urn:mpeg:DASH:schema:MPD:2011 DASH-MPD.xsd">
  <Period start="PT0S" id="dash">
    <AdaptationSet
        id="1"
        segmentAlignment="true"
        maxWidth="1280"
        maxHeight="720"
        maxFrameRate="25">
      <Representation
          id="cam_H264"
          mimeType="video/mp4"
          codecs="avc1.64001f"
          width="1280"
          height="720"
          frameRate="25"
          startWithSAP="1"
          bandwidth="1000000">
        <SegmentTemplate
            timescale="1000"
            media="cam-$Time$.m4v"
            initialization="cam-init.m4v">
          <SegmentTimeline>
             <S t="0" d="5040"/>
             <S t="5040" d="4960"/>
          </SegmentTimeline>
        </SegmentTemplate>
      </Representation>
    </AdaptationSet>
    <AdaptationSet
        id="2"
        segmentAlignment="true">
      <AudioChannelConfiguration
          schemeIdUri="urn:mpeg:dash:23003:3:audio_channel_configuration:2011"
          value="1"/>
      <Representation
          id="cam_AAC"
          mimeType="audio/mp4"
          codecs="mp4a.40.2"
          audioSamplingRate="44100"
          startWithSAP="1"
          bandwidth="128000">
        <SegmentTemplate
            timescale="1000"
            media="cam-$Time$.m4a"
            initialization="cam-init.m4a">
          <SegmentTimeline>
             <S t="0" d="5040"/>
             <S t="5040" d="4960"/>
          </SegmentTimeline>
        </SegmentTemplate>
      </Representation>
    </AdaptationSet>
  </Period>
</MPD>
"#
        );
    }

    #[test]
    fn nested_fragments_lie_beside_the_manifest_and_a_clock_stands_at_its_end() {
        let text = manifest(true, Some((ClockScheme::HttpHead, "http://host/?a&b"))).render();
        assert!(text.contains("media=\"$Time$.m4v\"\n            initialization=\"init.m4v\""), "{text}");
        let end = "  <UTCTiming schemeIdUri=\"urn:mpeg:dash:utc:http-head:2014\"\n       value=\"http://host/?a&amp;b\" />\n</MPD>\n";
        assert!(text.ends_with(end), "{text}");
    }

    fn manifest<'a>(nested: bool, clock: Option<(ClockScheme, &'a str)>) -> NginxManifest<'a> {
        NginxManifest {
            name: "cam",
            nested,
            start_ms: 1234,
            now_ms: 11_999,
            fragment_ms: 5000,
            video: Some(NginxVideo {
                codecs: "avc1.64001f",
                codec_name: "H264",
                width: 1280,
                height: 720,
                fps: 25,
                bandwidth: 1_000_000,
            }),
            audio: Some(NginxAudio { codecs: "mp4a.40.2", codec_name: "AAC", sample_rate: 44_100, bandwidth: 128_000 }),
            fragments: &[(0, 5040), (5040, 4960)],
            clock,
        }
    }
}
