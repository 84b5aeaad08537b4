//! A client session against a hostile server: bounded, of one mind however the bytes are cut, silent before it is ready.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use livemill::protocol::rtmp::client::{Action, ClientConfig, ClientEvent, ClientSession};
use livemill::protocol::rtmp::error::SessionError;
use livemill::protocol::rtmp::limits::SessionLimits;
use livemill::protocol::rtmp::url::RtmpUrl;

/// The input is all there is: the handshake is the fuzzer's, too.
const RAW: u8 = 1;
const PLAY: u8 = 2;

fuzz_target!(|bytes: &[u8]| {
    let Some((&mode, rest)) = bytes.split_first() else { return };
    let Some((pieces, rest)) = rest.split_first_chunk::<3>() else { return };
    let mut input = Vec::new();
    if mode & RAW == 0 {
        input.push(3);
        input.resize(1 + 2 * 1536, 0);
    }
    input.extend_from_slice(rest);
    let whole = run(mode, &input, &[input.len().max(1)]);
    let sizes = pieces.map(|piece| 1 + 5 * usize::from(piece));
    assert_eq!(whole, run(mode, &input, &sizes));
});

fn run(mode: u8, input: &[u8], sizes: &[usize]) -> (Vec<ClientEvent>, Option<SessionError>) {
    let base: RtmpUrl = "rtmp://host/live/foo".parse().expect("a URL");
    let mut session = ClientSession::new(config(mode & PLAY != 0, &base), [1; 32]);
    let (mut rest, mut sizes) = (input, sizes.iter().cycle());
    let (mut events, mut error, mut output, mut payload, mut was_ready) = (Vec::new(), None, 0, 0, false);
    while !rest.is_empty() && error.is_none() && !session.is_closing() {
        let (piece, after) = rest.split_at(rest.len().min(*sizes.next().expect("endless")));
        rest = after;
        // Rates are counted by the second: time stands still, so that the cuts make no difference.
        error = session.receive(piece, Duration::from_secs(1)).err();
        while let Some(event) = session.poll() {
            match &event {
                ClientEvent::Ready { msid } => {
                    assert!(*msid != 0 && !was_ready, "ready once, on a stream of its own");
                    was_ready = true;
                }
                ClientEvent::Media { payload: bytes, .. }
                | ClientEvent::Metadata { payload: bytes, .. }
                | ClientEvent::Data { payload: bytes, .. } => payload += bytes.len(),
                // What a relay does with it.
                ClientEvent::Reconnect { tc_url } => drop(base.reconnect(tc_url)),
                _ => {}
            }
            events.push(event);
        }
        assert!(!session.is_ready() || was_ready);
        while let Some(bytes) = session.take_output() {
            output += bytes.len();
        }
    }
    assert!(output <= 16 * 1024 + 20 * input.len(), "{output} bytes out for {} in", input.len());
    assert!(payload <= 2 * input.len() + 1024, "{payload} bytes of payload from {}", input.len());
    session.close();
    assert!(session.is_closing());
    (events, error)
}

fn config(play: bool, url: &RtmpUrl) -> ClientConfig {
    ClientConfig {
        app: url.app.clone(),
        tc_url: url.tc_url(),
        flash_ver: "FMLE/3.0 (compatible; livemill)".to_owned(),
        page_url: String::new(),
        route: String::new(),
        swf_url: String::new(),
        announce: vec!["*".to_owned()],
        name: url.stream(),
        action: if play {
            Action::Play { start: -1000.0, duration: None, buffer_ms: 1000 }
        } else {
            Action::Publish { kind: "live".to_owned() }
        },
        chunk_size: 4096,
        ack_window: 5_000_000,
        repeat_extended: true,
        limits: SessionLimits::default(),
    }
}
