//! A far end that speaks RTMP: a push publishes there, a pull plays.

use std::time::Duration;

use bytes::Bytes;

use super::far_end::{Errand, FarEnd, Said};
use crate::{
    actors::{
        live_stream::{Incoming, Medium},
        support::{relay_plan::Direction, relay_status::Fate},
    },
    protocol::rtmp::{
        chunk::WireStyle,
        client::{Action, ClientConfig, ClientEvent, ClientSession, End},
        wire::PlayForm,
    },
};

pub(super) struct RtmpFarEnd {
    session: ClientSession,
    direction: Direction,
}

impl RtmpFarEnd {
    pub(super) fn new(errand: &Errand<'_>) -> Self {
        let Errand { direction, leg, route, session, buffer } = errand;
        let action = match direction {
            Direction::Push => Action::publish_live(),
            Direction::Pull => Action::Play {
                start: leg.start,
                duration: leg.duration,
                buffer_ms: u32::try_from(buffer.as_millis()).unwrap_or(u32::MAX),
            },
        };
        let usual = ClientConfig::new(&leg.app, &leg.tc_url, &leg.stream, action);
        let config = ClientConfig {
            flash_ver: if leg.flash_ver.is_empty() { FLASH_VER.to_owned() } else { leg.flash_ver.clone() },
            page_url: leg.page_url.clone(),
            swf_url: leg.swf_url.clone(),
            route: (*route).to_owned(),
            announce: CODECS.iter().map(|code| (*code).to_owned()).collect(),
            chunk_size: session.chunk_size,
            ack_window: session.ack_window,
            repeat_extended: session.repeat_extended,
            limits: session.limits.clone(),
            ..usual
        };
        Self { session: ClientSession::new(config, rand::random()), direction: *direction }
    }

    fn heard(&self, event: ClientEvent) -> Option<Said> {
        let media = |medium, time, body| Some(Said::Media(Incoming { medium, time, body }));
        match event {
            ClientEvent::Ready { .. } => Some(Said::Ready),
            ClientEvent::Media { video: true, time, payload } => media(Medium::Video, time, payload),
            ClientEvent::Media { video: false, time, payload } => media(Medium::Audio, time, payload),
            ClientEvent::Metadata { time, payload } => media(Medium::Metadata, time, payload),
            ClientEvent::Data { time, payload } => media(Medium::Text, time, payload),
            ClientEvent::StatusError { code, description } => {
                Some(Said::Over(fate_of(&code, &description), format!("it says {code}: {description}")))
            }
            ClientEvent::Reconnect { tc_url } => {
                Some(Said::Over(Fate::Moved(tc_url), "it asks to connect again".to_owned()))
            }
            ClientEvent::Ended(end) => Some(Said::Over(Fate::Retry, self.ended(end).to_owned())),
            ClientEvent::PingResponse(_) | ClientEvent::Acknowledged(_) => None,
        }
    }

    fn ended(&self, end: End) -> &'static str {
        match (self.direction, end) {
            (_, End::Closed) => "it closes the connection",
            (Direction::Pull, _) => "its publisher left",
            (Direction::Push, _) => "it ended the publish",
        }
    }
}

impl FarEnd for RtmpFarEnd {
    fn receive(&mut self, bytes: &[u8], now: Duration) -> Result<(), String> {
        self.session.receive(bytes, now).map_err(|error| error.to_string())
    }

    fn poll(&mut self) -> Option<Said> {
        loop {
            let event = self.session.poll()?;
            if let Some(said) = self.heard(event) {
                return Some(said);
            }
        }
    }

    fn take_output(&mut self) -> Option<Bytes> {
        self.session.take_output()
    }

    fn push_form(&self) -> Option<PlayForm> {
        let chunks = WireStyle { ..self.session.wire_style() };
        Some(PlayForm { msid: self.session.msid(), publishes: true, ..PlayForm::new(chunks, false) })
    }

    fn close(&mut self) {
        self.session.close();
    }
}

/// What a refusal means for the next attempt.
fn fate_of(code: &str, description: &str) -> Fate {
    let words = description.to_ascii_lowercase();
    let says = |word: &str| words.contains(word);
    match code.rsplit('.').next().unwrap_or_default() {
        // Two nodes that lead to each other do so until a configuration is changed.
        _ if says("loop") || says("relayed more than") => Fate::Refused,
        "BadName" => Fate::NameInUse,
        "Denied" | "Forbidden" | "InvalidApp" => Fate::Refused,
        _ if ["auth", "denied", "forbidden", "access", "key"].iter().any(|word| says(word)) => Fate::Refused,
        _ => Fate::Retry,
    }
}

/// By which relays of the family are known.
const FLASH_VER: &str = "LNX.11,1,102,55";

/// Every codec we can hand on.
const CODECS: [&str; 10] = ["av01", "vp09", "vp08", "avc1", "hvc1", "Opus", "fLaC", "ac-3", "ec-3", "mp4a"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_whether_it_may_mend() {
        let rows = [
            ("NetStream.Publish.BadName", "already publishing", Fate::NameInUse),
            ("NetStream.Publish.Denied", "access forbidden by rule", Fate::Refused),
            ("NetConnection.Connect.InvalidApp", "", Fate::Refused),
            ("NetConnection.Connect.Rejected", "[ AccessManager.Reject ] : [ authmod=adobe ] :", Fate::Refused),
            (
                "NetConnection.Connect.Rejected",
                "relay loop: the stream has come through this server before",
                Fate::Refused,
            ),
            ("NetStream.Play.StreamNotFound", "no such stream", Fate::Retry),
            ("NetStream.Publish.Rejected", "too many streams", Fate::Retry),
            ("", "", Fate::Retry),
        ];
        for (code, description, fate) in rows {
            assert_eq!(fate_of(code, description), fate, "{code} {description}");
        }
    }
}
