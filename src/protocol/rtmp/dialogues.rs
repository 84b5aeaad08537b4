//! Whole sessions in memory: as known clients send them, as our own halves do, cut and spoilt at any byte.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::chunk::{self, ChunkLimits, ChunkReader};
use super::client::{Action, ClientConfig, ClientEvent, ClientSession, End};
use super::command;
use super::message::{Control, kind};
use super::server::{PlayStart, ServerEvent, ServerSession};
use crate::protocol::amf::{self, Value};

/// Writes a client's bytes by hand, with the header formats that client uses.
struct Wire {
    out: Vec<u8>,
    chunk_size: usize,
}

impl Wire {
    /// Begins with C0, C1 and C2.
    fn new(version: [u8; 4]) -> Self {
        let mut out = vec![3, 0, 0, 0, 0];
        out.extend_from_slice(&version);
        out.resize(1 + 2 * 1536, 0x55);
        Self { out, chunk_size: 128 }
    }

    fn put(&mut self, format: u8, csid: u8, time: u32, kind: u8, msid: u32, payload: &[u8]) -> &mut Self {
        self.out.push(format << 6 | csid);
        if format < 3 {
            self.out.extend_from_slice(&time.to_be_bytes()[1..]);
        }
        if format < 2 {
            self.out.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
            self.out.push(kind);
        }
        if format < 1 {
            self.out.extend_from_slice(&msid.to_le_bytes());
        }
        for (at, part) in payload.chunks(self.chunk_size).enumerate() {
            if at > 0 {
                self.out.push(0xC0 | csid);
            }
            self.out.extend_from_slice(part);
        }
        self
    }

    fn call(&mut self, format: u8, csid: u8, msid: u32, name: &str, transaction: u32, more: &[Value]) -> &mut Self {
        let (object, arguments) = match more {
            [object @ Value::Object(_)] => (object.clone(), &[][..]),
            arguments => (Value::Null, arguments),
        };
        self.put(format, csid, 0, 20, msid, &command::encode(name, transaction, object, arguments))
    }

    fn set_chunk_size(&mut self, format: u8, size: u32) -> &mut Self {
        self.put(format, 2, 0, 1, 0, &size.to_be_bytes());
        self.chunk_size = size as usize;
        self
    }
}

fn object(properties: &[(&str, Value)]) -> Value {
    Value::Object(properties.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect())
}

fn metadata() -> Vec<u8> {
    let value = Value::EcmaArray(vec![("duration".into(), 0.0.into()), ("width".into(), 640.0.into())]);
    amf::encode_all(&["@setDataFrame".into(), "onMetaData".into(), value])
}

/// Answers every question with yes, and notes what happened.
fn serve(session: &mut ServerSession, log: &mut Vec<String>) {
    while let Some(event) = session.poll() {
        log.push(describe(&event));
        match event {
            ServerEvent::Connect(_) => session.accept_connect().expect("legal"),
            ServerEvent::Publish { msid, .. } => session.accept_publish(msid).expect("legal"),
            ServerEvent::Play { msid, .. } => session.accept_play(msid, PlayStart::default()).expect("legal"),
            _ => {}
        }
    }
}

fn describe(event: &ServerEvent) -> String {
    match event {
        ServerEvent::Connect(request) => format!("connect {}", request.app),
        ServerEvent::Publish { msid, name, kind } => format!("publish {name} {kind} @{msid}"),
        ServerEvent::Play { msid, name, start, .. } => format!("play {name} {} @{msid}", start.unwrap_or(-2.0)),
        ServerEvent::Media { msid, video, time, payload } => {
            format!("{} {time} {} @{msid}", if *video { "video" } else { "audio" }, payload.len())
        }
        ServerEvent::Metadata { msid, time, .. } => format!("metadata {time} @{msid}"),
        ServerEvent::Unpublish { msid } => format!("unpublish @{msid}"),
        ServerEvent::CloseStream { msid } => format!("close @{msid}"),
        ServerEvent::BufferLength { msid, ms } => format!("buffer {ms} @{msid}"),
        other => format!("{other:?}"),
    }
}

/// Serves a client's bytes, split in many ways, and expects the same of each.
fn check(wire: &Wire, expected: &[&str]) {
    for step in [1, 7, 1536, wire.out.len()] {
        let mut session = ServerSession::new(Arc::default(), [1; 32]);
        let mut log = Vec::new();
        for part in wire.out.chunks(step) {
            session.receive(part, Duration::ZERO).expect("a legal client");
            serve(&mut session, &mut log);
        }
        assert_eq!(log, expected, "in parts of {step} bytes");
        assert_eq!(session.counters(), Default::default());
        assert!(!session.is_closing() && !session.is_midway());
    }
}

fn ffmpeg_publish() -> Wire {
    let mut wire = Wire::new([9, 0, 0x7C, 2]);
    let connect = object(&[
        ("app", "live".into()),
        ("type", "nonprivate".into()),
        ("flashVer", "FMLE/3.0 (compatible; Lavf59.27.100)".into()),
        ("tcUrl", "rtmp://127.0.0.1:1935/live".into()),
    ]);
    wire.call(0, 3, 0, "connect", 1, &[connect])
        .set_chunk_size(0, 4096)
        .call(1, 3, 0, "releaseStream", 2, &["cam".into()])
        .call(1, 3, 0, "FCPublish", 3, &["cam".into()])
        .call(1, 3, 0, "createStream", 4, &[])
        .call(0, 8, 1, "publish", 5, &["cam".into(), "live".into()])
        .put(0, 4, 0, 18, 1, &metadata())
        .put(0, 6, 0, 9, 1, &[0x17; 40])
        .put(1, 4, 0, 8, 1, &[0xAF; 7])
        .put(1, 6, 0, 9, 1, &[0x17; 4200])
        .put(1, 4, 23, 8, 1, &[0xAF; 100])
        .put(3, 4, 0, 8, 1, &[0xAF; 100])
        .put(1, 6, 40, 9, 1, &[0x27; 500])
        .put(2, 6, 41, 9, 1, &[0x27; 500])
        .call(0, 3, 0, "FCUnpublish", 6, &["cam".into()])
        .call(1, 3, 0, "deleteStream", 7, &[1.0.into()]);
    wire
}

const FFMPEG_PUBLISHED: [&str; 11] = [
    "connect live",
    "publish cam live @1",
    "metadata 0 @1",
    "video 0 40 @1",
    "audio 0 7 @1",
    "video 0 4200 @1",
    "audio 23 100 @1",
    "audio 46 100 @1",
    "video 40 500 @1",
    "video 81 500 @1",
    "unpublish @1",
];

#[test]
fn ffmpeg_publishes() {
    check(&ffmpeg_publish(), &FFMPEG_PUBLISHED);
}

#[test]
fn ffmpeg_plays() {
    let mut wire = Wire::new([9, 0, 0x7C, 2]);
    let connect = object(&[
        ("app", "live".into()),
        ("flashVer", "LNX 9,0,124,2".into()),
        ("tcUrl", "rtmp://127.0.0.1:1935/live".into()),
        ("fpad", false.into()),
        ("capabilities", 15.0.into()),
        ("audioCodecs", 4071.0.into()),
        ("videoCodecs", 252.0.into()),
        ("videoFunction", 1.0.into()),
    ]);
    wire.call(0, 3, 0, "connect", 1, &[connect])
        .put(0, 2, 0, 5, 0, &2_500_000u32.to_be_bytes())
        .call(1, 3, 0, "createStream", 2, &[])
        .call(0, 8, 0, "getStreamLength", 3, &["cam".into()])
        .call(0, 8, 1, "play", 4, &["cam".into(), (-2000.0).into()])
        .put(1, 2, 0, 4, 0, &[0, 3, 0, 0, 0, 1, 0, 0, 0x0B, 0xB8]);
    check(&wire, &["connect live", "play cam -2000 @1", "buffer 3000 @1"]);
}

#[test]
fn obs_publishes() {
    let mut wire = Wire::new([0; 4]);
    let connect = object(&[
        ("app", "live".into()),
        ("type", "nonprivate".into()),
        ("flashVer", "FMLE/3.0 (compatible; FMSc/1.0)".into()),
        ("swfUrl", "rtmp://127.0.0.1/live".into()),
        ("tcUrl", "rtmp://127.0.0.1/live".into()),
    ]);
    // Chunk size before connect; media of both kinds and metadata on chunk stream 4.
    wire.set_chunk_size(0, 4096)
        .call(0, 3, 0, "connect", 1, &[connect])
        .call(1, 3, 0, "releaseStream", 2, &["key".into()])
        .call(1, 3, 0, "FCPublish", 3, &["key".into()])
        .call(1, 3, 0, "createStream", 4, &[])
        .call(0, 4, 1, "publish", 5, &["key".into(), "live".into()])
        .put(0, 4, 0, 18, 1, &metadata())
        .put(0, 4, 0, 8, 1, &[0xAF; 7])
        .put(0, 4, 0, 9, 1, &[0x17; 45])
        .put(0, 4, 0, 9, 1, &[0x17; 20_000])
        .put(1, 4, 21, 8, 1, &[0xAF; 300])
        .put(1, 4, 12, 9, 1, &[0x27; 4097])
        .put(1, 4, 10, 8, 1, &[0xAF; 300])
        .put(2, 4, 21, 8, 1, &[0xAF; 300])
        .call(1, 3, 0, "FCUnpublish", 6, &["key".into()])
        .call(1, 3, 0, "deleteStream", 7, &[1.0.into()]);
    check(
        &wire,
        &[
            "connect live",
            "publish key live @1",
            "metadata 0 @1",
            "audio 0 7 @1",
            "video 0 45 @1",
            "video 0 20000 @1",
            "audio 21 300 @1",
            "video 33 4097 @1",
            "audio 43 300 @1",
            "audio 64 300 @1",
            "unpublish @1",
        ],
    );
}

#[test]
fn gstreamer_publishes_and_deletes_by_name() {
    let mut wire = Wire::new([0; 4]);
    let connect = object(&[
        ("app", "live".into()),
        ("type", "nonprivate".into()),
        ("flashVer", "FMLE/3.0".into()),
        ("tcUrl", "rtmp://127.0.0.1:1935/live".into()),
    ]);
    wire.call(0, 3, 0, "connect", 1, &[connect])
        .call(1, 3, 0, "releaseStream", 2, &["cam".into()])
        .call(1, 3, 0, "FCPublish", 3, &["cam".into()])
        .call(1, 3, 0, "createStream", 4, &[])
        .call(0, 8, 1, "publish", 5, &["cam".into(), "live".into()])
        .put(0, 6, 0, 9, 1, &[0x17; 300])
        .call(1, 3, 0, "FCUnpublish", 6, &["cam".into()])
        .call(1, 3, 0, "closeStream", 0, &[])
        .call(1, 3, 0, "deleteStream", 0, &["cam".into()]);
    check(&wire, &["connect live", "publish cam live @1", "video 0 300 @1", "unpublish @1"]);
}

#[test]
fn gstreamer_plays() {
    let mut wire = Wire::new([0; 4]);
    let connect = object(&[("app", "live".into()), ("tcUrl", "rtmp://127.0.0.1:1935/live".into())]);
    wire.call(0, 3, 0, "connect", 1, &[connect])
        .put(0, 2, 0, 5, 0, &2_500_000u32.to_be_bytes())
        .put(1, 2, 0, 4, 0, &[0, 3, 0, 0, 0, 0, 0, 0, 1, 0x2C])
        .call(1, 3, 0, "createStream", 2, &[])
        .call(0, 8, 1, "play", 3, &["cam".into(), (-2.0).into()])
        .put(1, 2, 0, 4, 0, &[0, 3, 0, 0, 0, 1, 0, 0, 0x75, 0x30]);
    check(&wire, &["connect live", "buffer 300 @0", "play cam -2 @1", "buffer 30000 @1"]);
}

#[test]
fn rtmpdump_plays() {
    let mut wire = Wire::new([0; 4]);
    let connect = object(&[
        ("app", "live".into()),
        ("flashVer", "LNX 10,0,32,18".into()),
        ("tcUrl", "rtmp://127.0.0.1:1935/live".into()),
        ("fpad", false.into()),
        ("capabilities", 15.0.into()),
        ("audioCodecs", 3191.0.into()),
        ("videoCodecs", 252.0.into()),
        ("videoFunction", 1.0.into()),
    ]);
    let buffer = |msid: u8, ms: u32| {
        let mut body = vec![0, 3, 0, 0, 0, msid];
        body.extend_from_slice(&ms.to_be_bytes());
        body
    };
    wire.call(0, 3, 0, "connect", 1, &[connect])
        .put(0, 2, 0, 5, 0, &5_000_000u32.to_be_bytes())
        .put(1, 2, 0, 4, 0, &buffer(0, 300))
        .call(1, 3, 0, "createStream", 2, &[])
        .call(1, 3, 0, "FCSubscribe", 3, &["cam".into()])
        .call(0, 8, 1, "play", 4, &["cam".into(), (-1000.0).into()])
        // The second buffer length repeats the header before it.
        .put(3, 2, 0, 4, 0, &buffer(1, 36_000_000));
    check(&wire, &["connect live", "buffer 300 @0", "play cam -1000 @1", "buffer 36000000 @1"]);
}

#[test]
fn librtmp_pings_on_a_fresh_chunk_stream() {
    let mut wire = Wire::new([0; 4]);
    wire.put(1, 2, 0, 4, 0, &[0, 6, 0, 0, 0, 1]);
    wire.call(0, 3, 0, "connect", 1, &[object(&[("app", "live".into())])]);
    check(&wire, &["connect live"]);
}

#[test]
fn flash_calls_in_amf3_messages() {
    let mut wire = Wire::new([0x80, 0, 7, 2]);
    let connect = object(&[("app", "live".into()), ("objectEncoding", 3.0.into())]);
    let amf3 = |name: &str, transaction, arguments: &[Value]| {
        [&[0][..], &command::encode(name, transaction, Value::Null, arguments)].concat()
    };
    let framed = [&[0][..], &metadata()].concat();
    wire.call(0, 3, 0, "connect", 1, &[connect])
        .put(1, 3, 0, 17, 0, &amf3("createStream", 2, &[]))
        .put(0, 8, 0, 17, 1, &amf3("publish", 3, &["cam".into(), "live".into()]))
        .put(0, 4, 0, 15, 1, &framed)
        .put(1, 4, 5, 9, 1, &[0x17; 10]);
    check(&wire, &["connect live", "publish cam live @1", "metadata 0 @1", "video 5 10 @1"]);
}

#[test]
fn haivision_announces_after_create_stream() {
    let mut wire = Wire::new([0; 4]);
    wire.call(0, 3, 0, "connect", 1, &[object(&[("app", "live".into())])])
        .call(1, 3, 0, "createStream", 2, &[])
        .call(1, 3, 0, "FCPublish", 3, &["cam".into()])
        .call(1, 3, 0, "releaseStream", 4, &["cam".into()])
        .call(0, 4, 1, "publish", 5, &["cam".into(), "live".into()])
        .put(0, 4, 9, 8, 1, &[0xAF; 5]);
    check(&wire, &["connect live", "publish cam live @1", "audio 9 5 @1"]);
}

#[test]
fn legal_session_may_be_cut_at_every_byte() {
    let wire = ffmpeg_publish();
    for end in 0..=wire.out.len() {
        let mut session = ServerSession::new(Arc::default(), [1; 32]);
        let mut log = Vec::new();
        let (bytes, _) = wire.out.split_at(end);
        session.receive(bytes, Duration::ZERO).expect("what came is legal");
        serve(&mut session, &mut log);
        assert!(FFMPEG_PUBLISHED.starts_with(&log.iter().map(String::as_str).collect::<Vec<_>>()), "{end}: {log:?}");
        // The driver must end what it began: it sees one publish, and one unpublish at most, and only after it.
        let count = |word: &str| log.iter().filter(|line| line.starts_with(word)).count();
        assert!(count("unpublish") <= count("publish") && count("publish") <= 1, "{end}");
    }
}

/// A server and a client joined by two pipes that split as they are told.
struct Pair {
    server: ServerSession,
    client: ClientSession,
    to_server: BytesMut,
    to_client: BytesMut,
    server_log: Vec<String>,
    client_log: Vec<ClientEvent>,
    /// What each side sends once it may.
    media: Vec<(u8, u32, Vec<u8>)>,
    sent: bool,
}

impl Pair {
    fn new(action: Action, media: &[(u8, u32, Vec<u8>)]) -> Self {
        let config = ClientConfig::new("live", "rtmp://host/live", "cam?key=x", action);
        Self {
            server: ServerSession::new(Arc::default(), [1; 32]),
            client: ClientSession::new(config, [2; 32]),
            to_server: BytesMut::new(),
            to_client: BytesMut::new(),
            server_log: Vec::new(),
            client_log: Vec::new(),
            media: media.to_vec(),
            sent: false,
        }
    }

    fn settle(&mut self) {
        serve(&mut self.server, &mut self.server_log);
        self.client_log.extend(std::iter::from_fn(|| self.client.poll()));
        while let Some(output) = self.server.take_output() {
            self.to_client.extend_from_slice(&output);
        }
        while let Some(output) = self.client.take_output() {
            self.to_server.extend_from_slice(&output);
        }
        let played = self.server_log.iter().any(|line| line.starts_with("play"));
        if !self.sent && (played || self.client.is_ready()) {
            self.sent = true;
            let (pipe, style, msid) = match played {
                true => (&mut self.to_client, self.server.wire_style(), 1),
                false => (&mut self.to_server, self.client.wire_style(), self.client.msid()),
            };
            for (kind, time, payload) in &self.media {
                chunk::write(pipe, style, 4 + u32::from(*kind), *time, *kind, msid, payload);
            }
        }
    }

    /// Moves bytes until none are left, so many at a time as `cuts` says.
    fn run(&mut self, cuts: &[usize]) {
        let mut cuts = cuts.iter().cycle();
        self.settle();
        while !(self.to_server.is_empty() && self.to_client.is_empty()) {
            let cut = (*cuts.next().expect("endless")).min(self.to_server.len());
            let part = self.to_server.split_to(cut);
            self.server.receive(&part, Duration::ZERO).expect("our client is legal");
            self.settle();
            let cut = (*cuts.next().expect("endless")).min(self.to_client.len());
            let part = self.to_client.split_to(cut);
            self.client.receive(&part, Duration::ZERO).expect("our server is legal");
            self.settle();
        }
    }
}

fn some_media() -> Vec<(u8, u32, Vec<u8>)> {
    vec![(18, 0, metadata()), (9, 0, vec![0x17; 60_000]), (8, 3, vec![0xAF; 200]), (9, 0x0100_0000, vec![0x27; 9_000])]
}

#[test]
fn our_client_publishes_to_our_server() {
    let mut pair = Pair::new(Action::publish_live(), &some_media());
    pair.run(&[100_000]);
    assert_eq!(
        pair.server_log,
        [
            "connect live",
            "publish cam?key=x live @1",
            "metadata 0 @1",
            "video 0 60000 @1",
            "audio 3 200 @1",
            "video 16777216 9000 @1"
        ]
    );
    assert_eq!(pair.client_log, [ClientEvent::Ready { msid: 1 }]);
    pair.client.close();
    pair.run(&[100_000]);
    assert_eq!(pair.server_log.last().map(String::as_str), Some("unpublish @1"));
    assert_eq!(pair.server.counters(), Default::default());
}

#[test]
fn our_client_plays_from_our_server() {
    let mut pair = Pair::new(Action::play_live(), &some_media());
    pair.run(&[100_000]);
    assert_eq!(pair.server_log, ["connect live", "play cam?key=x -1000 @1", "buffer 1000 @1"]);
    let brief: Vec<_> = pair
        .client_log
        .iter()
        .map(|event| match event {
            ClientEvent::Media { video, time, payload } => format!("{video} {time} {}", payload.len()),
            ClientEvent::Metadata { time, .. } => format!("metadata {time}"),
            other => format!("{other:?}"),
        })
        .collect();
    assert_eq!(brief, ["Ready { msid: 1 }", "metadata 0", "true 0 60000", "false 3 200", "true 16777216 9000"]);
    pair.server.stream_eof(1);
    pair.server.status(1, "status", "NetStream.Play.UnpublishNotify", "gone");
    pair.server.request_reconnect("rtmp://other/live", "moving");
    pair.server.ping(77);
    pair.run(&[100_000]);
    assert_eq!(
        pair.client_log.split_off(5),
        [
            ClientEvent::Ended(End::StreamEof),
            ClientEvent::Ended(End::UnpublishNotify),
            ClientEvent::Reconnect { tc_url: "rtmp://other/live".into() },
        ]
    );
    assert_eq!(pair.server_log.last().map(String::as_str), Some("PingResponse(77)"));
}

/// Runs a client against a server that answers by a script, one entry for each message of the client.
fn scripted(action: Action, answers: &[(u8, u32, Vec<u8>)]) -> (Vec<ClientEvent>, Vec<String>, ClientSession) {
    let config = ClientConfig::new("live", "rtmp://host/live", "cam", action);
    let mut client = ClientSession::new(config, [3; 32]);
    client.take_output();
    let mut hello = vec![3];
    hello.resize(1 + 2 * 1536, 0);
    client.receive(&hello, Duration::ZERO).expect("handshake");
    let mut out = Vec::new();
    for (kind, msid, payload) in answers {
        chunk::write(&mut out, Default::default(), 3, 0, *kind, *msid, payload);
    }
    let _ = client.receive(&out, Duration::ZERO);
    let output = client.take_output().unwrap_or_default().split_off(1536);
    let mut reader = ChunkReader::new(ChunkLimits::default());
    let (mut input, mut names) = (&output[..], Vec::new());
    while let Some(message) = reader.read(&mut input).expect("legal") {
        if let Ok(Some(Control::SetChunkSize(size))) = Control::parse(message.kind, &message.payload) {
            reader.set_chunk_size(size);
        }
        if message.kind == kind::COMMAND {
            names.push(
                command::Command::parse(&message.payload, &amf::Limits::COMMAND).expect("legal").expect("named").name,
            );
        }
    }
    (std::iter::from_fn(|| client.poll()).collect(), names, client)
}

fn answer(name: &str, transaction: u32, msid: u32, arguments: &[Value]) -> (u8, u32, Vec<u8>) {
    (20, msid, command::encode(name, transaction, Value::Null, arguments))
}

#[test]
fn client_asks_in_the_order_of_ffmpeg() {
    let connected = answer("_result", 1, 0, &[command::status("status", "NetConnection.Connect.Success", "")]);
    let created = |transaction| answer("_result", transaction, 0, &[1.0.into()]);
    let refused = answer("_error", 2, 0, &[command::status("error", "NetConnection.Call.Failed", "")]);
    let started = answer("onStatus", 0, 1, &[command::status("status", "NetStream.Publish.Start", "")]);
    let (events, names, client) = scripted(Action::publish_live(), &[connected.clone(), refused, created(4), started]);
    assert_eq!(names, ["connect", "releaseStream", "FCPublish", "createStream", "publish"]);
    assert_eq!(events, [ClientEvent::Ready { msid: 1 }], "an error to releaseStream means nothing");
    assert!(client.is_ready());
    let (_, names, _) = scripted(Action::play_live(), &[connected, created(3)]);
    assert_eq!(names, ["connect", "FCSubscribe", "createStream", "play"]);
}

#[test]
fn client_reports_a_no_wherever_it_comes() {
    let no = |code: &str| [command::status("error", code, "why")];
    let event = |code: &str| vec![ClientEvent::StatusError { code: code.into(), description: "why".into() }];
    let rejected = answer("_error", 1, 0, &no("NetConnection.Connect.Rejected"));
    assert_eq!(scripted(Action::play_live(), &[rejected]).0, event("NetConnection.Connect.Rejected"));
    let rejected = answer("_result", 1, 0, &no("NetConnection.Connect.InvalidApp"));
    assert_eq!(scripted(Action::play_live(), &[rejected]).0, event("NetConnection.Connect.InvalidApp"));
    let not_found = [command::status("status", "NetStream.Play.StreamNotFound", "why")];
    let answers =
        [answer("_result", 1, 0, &[]), answer("_result", 3, 0, &[1.0.into()]), answer("onStatus", 0, 1, &not_found)];
    assert_eq!(scripted(Action::play_live(), &answers).0, event("NetStream.Play.StreamNotFound"));
}

#[test]
fn client_is_ready_with_the_first_media_of_a_silent_server() {
    let answers = [answer("_result", 1, 0, &[]), answer("_result", 3, 0, &[5.0.into()]), (9, 5, vec![0x17; 9])];
    let (events, _, client) = scripted(Action::play_live(), &answers);
    let media = ClientEvent::Media { video: true, time: 0, payload: Bytes::from_static(&[0x17; 9]) };
    assert_eq!(events, [ClientEvent::Ready { msid: 5 }, media]);
    assert_eq!(client.msid(), 5);
}

#[test]
fn client_checks_bandwidth_once_and_takes_no_media_while_publishing() {
    let answers = [answer("onBWDone", 0, 0, &[]), answer("onBWDone", 0, 0, &[]), (9, 1, vec![1])];
    let (events, names, client) = scripted(Action::publish_live(), &answers);
    assert_eq!((events, names), (vec![], vec!["connect".to_owned(), "_checkbw".to_owned()]));
    assert_eq!(client.dropped_messages(), 1);
}

#[test]
fn client_gives_up_on_a_server_without_stream_ids() {
    for id in [Value::Null, 0.0.into(), f64::NAN.into()] {
        let answers = [answer("_result", 1, 0, &[]), answer("_result", 3, 0, &[id])];
        assert!(scripted(Action::play_live(), &answers).2.is_closing());
    }
}

#[test]
fn completed_recording_ends_the_play() {
    let complete = object(&[("code", "NetStream.Play.Complete".into())]);
    let body = amf::encode_all(&["onPlayStatus".into(), complete]);
    let answers = [answer("_result", 1, 0, &[]), answer("_result", 3, 0, &[1.0.into()]), (18, 1, body)];
    assert_eq!(scripted(Action::play_live(), &answers).0, [ClientEvent::Ended(End::PlayStop)]);
}

#[test]
fn errors_say_what_happened_in_one_line() {
    let mut wire = Wire::new([0; 4]);
    wire.put(0, 3, 0, 1, 0, &[0; 4]);
    let mut session = ServerSession::new(Arc::default(), [1; 32]);
    let error = session.receive(&wire.out, Duration::ZERO).expect_err("a chunk size of 0");
    assert_eq!((error.to_string().as_str(), error.reason()), ("chunk size 0x0 is not allowed", "bad_chunk_size"));
    let mut session = ServerSession::new(Arc::default(), [1; 32]);
    let error = session.receive(b"GET / HTTP/1.1\r\n", Duration::ZERO).expect_err("HTTP");
    assert_eq!(error.reason(), "wrong_protocol");
}

fn any_media() -> impl Strategy<Value = Vec<(u8, u32, Vec<u8>)>> {
    let one = (prop_oneof![Just(8u8), Just(9)], any::<u32>(), proptest::collection::vec(any::<u8>(), 1..9000));
    proptest::collection::vec(one, 0..8)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn published_media_arrive_whatever_the_split(
        media in any_media(),
        cuts in proptest::collection::vec(1..3000usize, 1..12),
    ) {
        let mut pair = Pair::new(Action::publish_live(), &media);
        pair.run(&cuts);
        let expected: Vec<_> = media
            .iter()
            .map(|(kind, time, payload)| {
                format!("{} {time} {} @1", if *kind == 9 { "video" } else { "audio" }, payload.len())
            })
            .collect();
        prop_assert_eq!(&pair.server_log[2..], &expected[..]);
        prop_assert_eq!(pair.server.counters(), Default::default());
    }

    #[test]
    fn played_media_arrive_whatever_the_split(
        media in any_media(),
        cuts in proptest::collection::vec(1..3000usize, 1..12),
    ) {
        let mut pair = Pair::new(Action::play_live(), &media);
        pair.run(&cuts);
        let expected = media.into_iter().map(|(kind, time, payload)| ClientEvent::Media {
            video: kind == 9,
            time,
            payload: payload.into(),
        });
        let expected: Vec<_> = std::iter::once(ClientEvent::Ready { msid: 1 }).chain(expected).collect();
        prop_assert_eq!(pair.client_log, expected);
    }

    #[test]
    fn spoilt_sessions_end_in_an_error_at_worst(
        spoils in proptest::collection::vec((3073..30_000usize, any::<u8>()), 1..8),
        cuts in proptest::collection::vec(1..5000usize, 1..8),
    ) {
        let mut bytes = ffmpeg_publish().out;
        for (at, value) in spoils {
            let at = at % bytes.len();
            bytes[at] = value;
        }
        let mut session = ServerSession::new(Arc::default(), [1; 32]);
        let mut rest = &bytes[..];
        for cut in cuts.iter().cycle() {
            let (part, more) = rest.split_at((*cut).min(rest.len()));
            rest = more;
            if session.receive(part, Duration::ZERO).is_err() {
                prop_assert!(session.is_closing());
                break;
            }
            while let Some(event) = session.poll() {
                let result = match event {
                    ServerEvent::Connect(_) => session.accept_connect(),
                    ServerEvent::Publish { msid, .. } => session.accept_publish(msid),
                    ServerEvent::Play { msid, .. } => session.accept_play(msid, PlayStart::default()),
                    _ => Ok(()),
                };
                prop_assert!(result.is_ok() || session.is_closing());
            }
            if rest.is_empty() {
                break;
            }
        }
    }

    #[test]
    fn hostile_server_cannot_break_a_client(
        bytes in proptest::collection::vec(any::<u8>(), 0..2000),
        created in any::<bool>(),
    ) {
        let answers = [answer("_result", 1, 0, &[]), answer("_result", 3, 0, &[1.0.into()])];
        let (_, _, mut client) = scripted(Action::play_live(), if created { &answers } else { &[] });
        let _ = client.receive(&bytes, Duration::ZERO);
        while client.poll().is_some() {}
    }

    #[test]
    fn garbage_after_the_handshake_cannot_break_a_server(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let mut session = ServerSession::new(Arc::default(), [1; 32]);
        session.receive(&Wire::new([0; 4]).out, Duration::ZERO).expect("handshake");
        let _ = session.receive(&bytes, Duration::ZERO);
    }
}

#[test]
fn acknowledgements_reach_both_sides() {
    let frame = vec![0x27; 60_000];
    let media: Vec<_> = (0..100).map(|n| (9u8, n * 40, frame.clone())).collect();
    let mut pair = Pair::new(Action::play_live(), &media);
    pair.run(&[65_536]);
    let acknowledged = pair.server_log.iter().filter(|line| line.starts_with("Acknowledged")).count();
    assert_eq!(acknowledged, 1, "6 MB at a window of 5 MB");
    assert_eq!(pair.client_log.len(), 101);
}

#[test]
fn client_ping_is_answered() {
    let mut pair = Pair::new(Action::publish_live(), &[]);
    pair.run(&[9_000]);
    pair.client.ping(5);
    pair.run(&[9_000]);
    assert_eq!(pair.client_log.last(), Some(&ClientEvent::PingResponse(5)));
}
