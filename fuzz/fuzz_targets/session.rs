//! A server session against a hostile client: bounded, of one mind however the bytes are cut, and every start has its end.
#![no_main]

use std::sync::Arc;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use livemill::protocol::amf::{Value, encode_all};
use livemill::protocol::rtmp::chunk::{WireStyle, write};
use livemill::protocol::rtmp::error::SessionError;
use livemill::protocol::rtmp::server::{PlayStart, ServerEvent, ServerSession, SessionConfig};

fuzz_target!(|bytes: &[u8]| {
    let Some((&mode, rest)) = bytes.split_first() else { return };
    let Some((pieces, rest)) = rest.split_first_chunk::<3>() else { return };
    let mut input = Vec::new();
    if mode & RAW == 0 {
        input.push(3);
        input.resize(1 + 2 * 1536, 0);
    }
    if mode & OPS == 0 {
        input.extend_from_slice(rest)
    } else {
        speak(rest, &mut input)
    }
    let whole = run(mode, &input, &[input.len().max(1)]);
    let sizes = pieces.map(|piece| 1 + 5 * usize::from(piece));
    assert_eq!(whole, run(mode, &input, &sizes));
});

/// The input is all there is: the handshake is the fuzzer's, too.
const RAW: u8 = 1;
const REFUSE_CONNECT: u8 = 2;
const REFUSE_PUBLISH: u8 = 4;
const REFUSE_PLAY: u8 = 8;
/// The input is what to say, three bytes a message, and not the message itself.
const OPS: u8 = 16;

/// Messages as a client might send them, in an order that no client would choose.
fn speak(ops: &[u8], out: &mut Vec<u8>) {
    let style = WireStyle { chunk_size: 128, repeat_extended: true };
    for op in ops.chunks_exact(3).take(300) {
        let &[what, id, how] = op else { return };
        let msid = u32::from(id & 3);
        let number = Value::Number(f64::from(how));
        let text = |text: &str| Value::String(text.to_owned());
        let name = || text(["foo", "bar", "", "a/b?k=v"][usize::from(how & 3)]);
        let command = |name: &str, arguments: Vec<Value>| {
            let mut values = vec![text(name), Value::Number(f64::from(id >> 2))];
            values.extend(arguments);
            encode_all(&values)
        };
        let event =
            |event: u16| [&event.to_be_bytes()[..], &msid.to_be_bytes(), &u32::from(how).to_be_bytes()].concat();
        let (kind, payload) = match what % 28 {
            0 => {
                let app = if how == 255 { Value::Null } else { name() };
                (20, command("connect", vec![Value::Object(vec![("app".into(), app)])]))
            }
            1 | 2 => (20, command("createStream", vec![Value::Null])),
            3 | 4 => (20, command("publish", vec![Value::Null, name(), text("live")])),
            5 | 6 => (20, command("play", vec![Value::Null, name(), number])),
            7 => (20, command("closeStream", vec![Value::Null])),
            8 => (20, command("deleteStream", vec![Value::Null, Value::Number(f64::from(how & 3))])),
            9 => (20, command("FCUnpublish", vec![Value::Null, name()])),
            10 => (20, command("FCPublish", vec![Value::Null, name()])),
            11 => (20, command("pause", vec![Value::Null, Value::Boolean(how & 1 != 0), number])),
            12 => (20, command("seek", vec![Value::Null, number])),
            13 => (20, command("receiveAudio", vec![Value::Null, Value::Boolean(how & 1 != 0)])),
            14 => (20, command("receiveVideo", vec![Value::Null, Value::Boolean(how & 1 != 0)])),
            15 => (20, command("releaseStream", vec![Value::Null, name()])),
            16 => (17, [vec![0], command("getStreamLength", vec![Value::Null, name()])].concat()),
            17 => (8, vec![0xaf, how, 1, 2]),
            18 => (9, vec![0x17, how, 0, 0, 0, 1]),
            19 => (
                18,
                encode_all(&[text("@setDataFrame"), text("onMetaData"), Value::EcmaArray(vec![("k".into(), number)])]),
            ),
            20 => (18, encode_all(&[text("onTextData"), Value::Object(vec![("text".into(), name())])])),
            21 => (22, [&[8, 0, 0, how & 7, 0, 0, 0, 0, 0, 0, 0][..], &[0xaf; 7], &[0, 0, 0, 18]].concat()),
            22 => (4, event(3)),
            23 => (4, event(u16::from(how & 7))),
            24 => (5, (u32::from(how) << (id & 15)).to_be_bytes().to_vec()),
            25 => (3, vec![0, 0, id, how]),
            26 => (how, vec![id; usize::from(how)]),
            _ => (2, vec![0, 0, 0, id]),
        };
        write(out, style, u32::from(3 + (id >> 6)), u32::from(how) * 40, kind, msid, &payload);
    }
}

fn run(mode: u8, input: &[u8], sizes: &[usize]) -> (Vec<ServerEvent>, Option<SessionError>) {
    let mut session = ServerSession::new(Arc::new(SessionConfig::default()), [1; 32]);
    let (mut rest, mut sizes) = (input, sizes.iter().cycle());
    let mut log = Log { mode, ..Log::default() };
    let mut error = None;
    while !rest.is_empty() && error.is_none() && !session.is_closing() {
        let (piece, after) = rest.split_at(rest.len().min(*sizes.next().expect("endless")));
        rest = after;
        // Rates are counted by the second: time stands still, so that the cuts make no difference.
        error = session.receive(piece, Duration::from_secs(1)).err();
        while let Some(event) = session.poll() {
            if let Err(failed) = log.answer(&mut session, event) {
                error = error.or(Some(failed));
            }
        }
        assert!(!session.is_asking() || error.is_some() || session.is_closing(), "every question was answered");
        while let Some(out) = session.take_output() {
            log.output += out.len();
        }
    }
    assert!(log.output <= 16 * 1024 + 100 * input.len(), "{} bytes out for {} in", log.output, input.len());
    assert!(log.payload <= 2 * input.len() + 1024, "{} bytes of payload from {}", log.payload, input.len());
    (log.events, error)
}

#[derive(Default)]
struct Log {
    mode: u8,
    events: Vec<ServerEvent>,
    publishing: Vec<u32>,
    playing: Vec<u32>,
    connected: bool,
    output: usize,
    payload: usize,
}

impl Log {
    fn answer(&mut self, session: &mut ServerSession, event: ServerEvent) -> Result<(), SessionError> {
        let refused = |bit: u8| self.mode & bit != 0;
        let answered = match &event {
            ServerEvent::Connect(_) => {
                assert!(!self.connected, "connected twice");
                if refused(REFUSE_CONNECT) {
                    session.reject_connect("NetConnection.Connect.Rejected", "no");
                    Ok(())
                } else {
                    self.connected = true;
                    session.accept_connect()
                }
            }
            ServerEvent::Publish { msid, .. } => {
                assert!(self.connected && !self.publishing.contains(msid) && !self.playing.contains(msid));
                if refused(REFUSE_PUBLISH) {
                    session.refuse_publish(*msid, "NetStream.Publish.BadName", "no");
                    Ok(())
                } else {
                    self.publishing.push(*msid);
                    session.accept_publish(*msid)
                }
            }
            ServerEvent::Play { msid, .. } => {
                assert!(self.connected && !self.publishing.contains(msid) && !self.playing.contains(msid));
                if refused(REFUSE_PLAY) {
                    session.refuse_play(*msid, "NetStream.Play.StreamNotFound", "no");
                    Ok(())
                } else {
                    self.playing.push(*msid);
                    let start = PlayStart { stream_begin: true, reset: true, publish_notify: false, start: true };
                    session.accept_play(*msid, start)
                }
            }
            ServerEvent::Unpublish { msid } => {
                let place = self.publishing.iter().position(|known| known == msid);
                self.publishing.remove(place.expect("only what began ends"));
                Ok(())
            }
            ServerEvent::CloseStream { msid } => {
                let place = self.playing.iter().position(|known| known == msid);
                self.playing.remove(place.expect("only what began ends"));
                Ok(())
            }
            ServerEvent::Media { msid, payload, .. }
            | ServerEvent::Metadata { msid, payload, .. }
            | ServerEvent::Data { msid, payload, .. } => {
                assert!(self.publishing.contains(msid), "media of a stream that does not publish");
                self.payload += payload.len();
                Ok(())
            }
            _ => Ok(()),
        };
        self.events.push(event);
        answered
    }
}
