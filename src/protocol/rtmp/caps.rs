//! What a client announces of Enhanced RTMP in connect.

use crate::protocol::amf::Value;

/// What a client announced of Enhanced RTMP. Most that can play a codec do not say so.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PlayerCaps {
    /// FourCCs it can decode or forward as video; `*` stands for all.
    pub video: Vec<[u8; 4]>,
    pub audio: Vec<[u8; 4]>,
    /// Whether it sent any list at all.
    pub announced: bool,
    /// 1 reconnect, 2 multitrack, 4 ModEx, 8 nanosecond offset.
    pub caps_ex: u32,
    /// 1 seek, 2 HDR, 4 metadata packet, 8 large-scale tile.
    pub video_function: u32,
}

impl PlayerCaps {
    /// Of a client that announced nothing.
    pub(super) const NONE: &Self =
        &Self { video: Vec::new(), audio: Vec::new(), announced: false, caps_ex: 0, video_function: 0 };

    /// Whether it said that it can take video of this FourCC.
    pub fn takes_video(&self, fourcc: [u8; 4]) -> bool {
        lists(&self.video, fourcc)
    }

    /// Whether it said that it can take audio of this FourCC.
    pub fn takes_audio(&self, fourcc: [u8; 4]) -> bool {
        lists(&self.audio, fourcc)
    }

    /// Whether it said that it can take several tracks.
    pub fn takes_multitrack(&self) -> bool {
        self.caps_ex & 2 != 0
    }

    pub(super) fn read(object: &Value) -> Self {
        let number = |name: &str| object.property(name).and_then(Value::as_u32).unwrap_or_default();
        let list = object.property("fourCcList");
        let video = object.property("videoFourCcInfoMap");
        let audio = object.property("audioFourCcInfoMap");
        Self {
            announced: [list, video, audio].iter().any(Option::is_some),
            video: fourccs(list, video),
            audio: fourccs(list, audio),
            caps_ex: number("capsEx"),
            video_function: number("videoFunction"),
        }
    }
}

/// The FourCCs of the list of E-RTMP v1, and of the map of v2 that are not only encoded.
fn fourccs(list: Option<&Value>, map: Option<&Value>) -> Vec<[u8; 4]> {
    let listed = match list {
        Some(Value::StrictArray(values)) => values.as_slice(),
        _ => &[],
    };
    let listed = listed.iter().filter_map(Value::as_str);
    let mapped = map.and_then(Value::properties).into_iter().flatten();
    let taken = |value: &Value| value.as_u32().unwrap_or_default() & (DECODE | FORWARD) != 0;
    let mapped = mapped.filter(|(_, value)| taken(value)).map(|(name, _)| name.as_str());
    let mut codes = Vec::new();
    for name in listed.chain(mapped) {
        let code = if name == "*" { Some(ANY) } else { name.as_bytes().try_into().ok() };
        if let Some(code) = code
            && !codes.contains(&code)
            && codes.len() < MAX_FOURCCS
        {
            codes.push(code);
        }
    }
    codes
}

fn lists(codes: &[[u8; 4]], fourcc: [u8; 4]) -> bool {
    codes.contains(&fourcc) || codes.contains(&ANY)
}

/// Bits of the masks in the maps of E-RTMP v2.
const DECODE: u32 = 1;
pub(super) const FORWARD: u32 = 4;
const ANY: [u8; 4] = *b"*\0\0\0";
/// Some ten codecs have a FourCC.
const MAX_FOURCCS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caps_of_version_2_are_read_by_their_masks() {
        let map = |entries: &[(&str, f64)]| {
            Value::Object(entries.iter().map(|&(name, mask)| (name.to_owned(), mask.into())).collect())
        };
        let object = Value::Object(vec![
            ("videoFourCcInfoMap".into(), map(&[("hvc1", 1.0), ("av01", 2.0), ("vp09", 4.0)])),
            ("audioFourCcInfoMap".into(), map(&[("*", 7.0)])),
            ("capsEx".into(), 2.0.into()),
        ]);
        let caps = PlayerCaps::read(&object);
        assert!(caps.takes_video(*b"hvc1") && caps.takes_video(*b"vp09"));
        assert!(!caps.takes_video(*b"av01"), "it only encodes that");
        assert!(caps.takes_audio(*b"fLaC"));
        assert!(caps.takes_multitrack() && caps.announced);
    }
}
