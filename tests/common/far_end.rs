//! A server of the test's own, for relays to come to: it says yes to everything, and then does what a test wants.

use std::net::{Ipv4Addr, TcpListener};
use std::time::Duration;

use super::peer::{Next, RawPeer, RtmpPeer, c0_c1, command_of};
use super::wait;
use super::wire::{self, Amf};

pub struct FarEnd {
    listener: TcpListener,
}

/// A relay that was let in.
pub struct Guest {
    pub peer: RtmpPeer,
    /// What it said in `connect`.
    pub connect: Amf,
    /// What it publishes or plays.
    pub name: String,
}

impl FarEnd {
    pub fn bind() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        listener.set_nonblocking(true).expect("a socket option");
        Self { listener }
    }

    pub fn port(&self) -> u16 {
        self.listener.local_addr().expect("a bound listener has an address").port()
    }

    /// The next one that comes.
    #[track_caller]
    pub fn accept(&self) -> RawPeer {
        let stream = wait::until("a relay comes", COMES_WITHIN, || self.listener.accept().ok()).0;
        stream.set_nonblocking(false).expect("a socket option");
        RawPeer { stream }
    }

    /// Whether one comes within this time.
    pub fn is_called_within(&self, time: Duration) -> bool {
        wait::within(time, || self.listener.accept().ok()).is_some()
    }

    /// The next one, once it publishes or plays; it is told nothing yet.
    #[track_caller]
    pub fn guest(&self) -> Guest {
        let mut raw = self.accept();
        let greeting = raw.receive(1537);
        raw.send(&c0_c1());
        raw.send(&greeting[1..]);
        raw.receive(1536);
        let mut peer = RtmpPeer::over(raw);
        let mut connect = Amf::Null;
        let name = loop {
            let Next::Message(message) = peer.next(COMES_WITHIN) else { panic!("it neither publishes nor plays") };
            let Some(values) = command_of(&message) else { continue };
            let transaction = values[1].as_number().unwrap_or_default();
            match values[0].as_str().unwrap_or_default() {
                "connect" => {
                    connect = values[2].clone();
                    let info = Amf::object(&[("level", "status".into()), ("code", CONNECTED.into())]);
                    peer.send(&wire::command(0, "_result", transaction, &[Amf::object(&[]), info]));
                }
                "createStream" => {
                    peer.send(&wire::command(0, "_result", transaction, &[Amf::Null, Amf::Number(1.0)]));
                }
                "publish" | "play" => break values[3].as_str().unwrap_or_default().to_owned(),
                _ => {}
            }
        };
        Guest { peer, connect, name }
    }
}

impl Guest {
    pub fn status(&mut self, level: &str, code: &str) {
        let info = Amf::object(&[("level", level.into()), ("code", code.into())]);
        self.peer.send(&wire::command(1, "onStatus", 0.0, &[Amf::Null, info]));
    }

    pub fn lets_publish(mut self) -> Self {
        self.status("status", "NetStream.Publish.Start");
        self
    }

    pub fn lets_play(mut self) -> Self {
        self.status("status", "NetStream.Play.Start");
        self.peer.set_chunk_size(65_536);
        self
    }
}

const CONNECTED: &str = "NetConnection.Connect.Success";

/// With the longest wait that a test has configured.
const COMES_WITHIN: Duration = Duration::from_secs(10);
