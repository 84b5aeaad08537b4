//! A publisher of numbered frames, and what its players make of them.

use std::time::{Duration, Instant};

use super::peer::{AVC_CONFIG, Next, RtmpPeer, avc_frame, avc_frame_number, command_of};
use super::server::TestServer;
use super::wire::{self, Amf, Message};

/// A publisher whose picture is configured already.
pub struct Publishing {
    pub peer: RtmpPeer,
    pub msid: u32,
    pings: u32,
}

impl Publishing {
    /// Publishes in application `live`.
    pub fn start(server: &TestServer, name: &str) -> Self {
        Self::start_at(server.port(), "live", name)
    }

    pub fn start_at(port: u16, app: &str, name: &str) -> Self {
        let (peer, msid) = RtmpPeer::publish(port, app, name);
        let mut publisher = Self::new(peer, msid);
        publisher.peer.send_video(msid, 0, AVC_CONFIG);
        publisher
    }

    /// Goes on with a peer whose publish was accepted; it has sent nothing yet.
    pub fn new(mut peer: RtmpPeer, msid: u32) -> Self {
        peer.set_chunk_size(65_536);
        Self { peer, msid, pings: 0 }
    }

    /// 25 frames a second, each 25th a keyframe.
    pub fn send_frames(&mut self, numbers: std::ops::Range<u32>) {
        for number in numbers {
            self.video(number * 40, number % 25 == 0, number);
        }
    }

    pub fn video(&mut self, time: u32, key: bool, number: u32) {
        self.peer.send_video(self.msid, time, &avc_frame(key, number, 500));
    }

    pub fn audio(&mut self, time: u32, number: u8) {
        self.peer.send_audio(self.msid, time, &audio_frame(number));
    }

    /// Returns when the server has read all that was sent.
    pub fn settle(&mut self) {
        self.pings += 1;
        ping(&mut self.peer, self.pings);
    }
}

/// An AAC frame that says its number.
pub fn audio_frame(number: u8) -> [u8; 4] {
    [0xaf, 1, 0x21, number]
}

/// Asks for a sign of life and waits for it: the server has then read everything before.
pub fn ping(peer: &mut RtmpPeer, number: u32) {
    peer.send(&wire::control(wire::USER_CONTROL, &[&[0, 6][..], &number.to_be_bytes()].concat()));
    let answer = [&[0, 7][..], &number.to_be_bytes()].concat();
    peer.expect("the answer to a ping", |message| {
        (message.kind == wire::USER_CONTROL && message.payload == answer).then_some(())
    });
}

/// A player that has been told that it plays: from here on it misses nothing.
pub fn playing(port: u16, app: &str, name: &str) -> (RtmpPeer, u32) {
    let (mut peer, msid) = RtmpPeer::play(port, app, name);
    expect_code(&mut peer, "NetStream.Play.Start");
    (peer, msid)
}

/// What the server answers to a publish or play.
pub fn answer_to(command: &str, port: u16, app: &str, name: &str) -> (RtmpPeer, String) {
    let mut peer = RtmpPeer::connect(port, app);
    let msid = peer.create_stream();
    peer.command(msid, command, &[Amf::Null, name.into(), "live".into()]);
    let code = peer.expect_status(msid);
    (peer, code)
}

/// The code of an `onStatus`.
pub fn status_code(message: &Message) -> Option<String> {
    let values = command_of(message).filter(|values| values[0].as_str() == Some("onStatus"))?;
    values[3].property("code").and_then(Amf::as_str).map(str::to_owned)
}

pub fn expect_code(peer: &mut RtmpPeer, code: &str) {
    peer.expect(code, |message| status_code(message).filter(|said| said == code));
}

/// The numbers of the next video frames.
pub fn frame_numbers(player: &mut RtmpPeer, count: usize) -> Vec<u32> {
    let mut numbers = Vec::new();
    player.expect("frames", |message| {
        numbers.extend(frame_number(message));
        (numbers.len() >= count).then_some(())
    });
    numbers
}

pub fn frame_number(message: &Message) -> Option<u32> {
    avc_frame_number(&message.payload).filter(|_| message.kind == wire::VIDEO)
}

/// Everything up to the sound of this number, which is not among it.
pub fn until_audio(player: &mut RtmpPeer, number: u8) -> Vec<Message> {
    let mut before = Vec::new();
    player.expect("the sound that ends it", |message| {
        let last = message.payload == audio_frame(number);
        if !last {
            before.push(message.clone());
        }
        last.then_some(())
    });
    before
}

/// Everything until the server closes; panics when it does not, or only at the deadline for commands.
pub fn until_closed(peer: &mut RtmpPeer) -> Vec<Message> {
    let began = Instant::now();
    let mut messages = Vec::new();
    while let Some(left) = CLOSE_DEADLINE.checked_sub(began.elapsed()) {
        match peer.next(left) {
            Next::Message(message) => messages.push(message),
            Next::Closed => return messages,
            Next::Nothing => break,
        }
    }
    panic!("the server did not close within {CLOSE_DEADLINE:?}: {messages:?}");
}

/// Is it still open after this time?
pub fn stays_open(peer: &mut RtmpPeer, time: Duration) -> bool {
    !peer.collect(time).1
}

/// Well below the patience that a server has with somebody who only sits there.
const CLOSE_DEADLINE: Duration = Duration::from_secs(6);
