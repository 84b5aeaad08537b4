//! `listen` and `server_name`: each address and each name leads to its own server.

mod common;

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use common::peer::{RawPeer, RtmpPeer};
use common::server::TestServer;
use common::stream::{Publishing, answer_to, frame_numbers, playing};
use common::wait;
use common::wire::Amf;
use nix::sys::signal::Signal;

#[test]
fn servers_on_two_ports_are_two_worlds() {
    let server = TestServer::start(
        "rtmp { server { listen 127.0.0.1:@port@; application live { live on; } }
                server { listen 127.0.0.1:@port2@; application live { live on; } application other { live on; } } }",
    );
    let (one, two) = (server.port(), server.other_port(1));
    let (mut first_player, _) = playing(one, "live", "same");
    let (mut second_player, _) = playing(two, "live", "same");
    let mut first = Publishing::start_at(one, "live", "same");
    let mut second = Publishing::start_at(two, "live", "same");
    second.send_frames(100..103);
    first.send_frames(0..3);
    assert_eq!(frame_numbers(&mut first_player, 3), [0, 1, 2]);
    assert_eq!(frame_numbers(&mut second_player, 3), [100, 101, 102]);
    RtmpPeer::connect(two, "other");
    assert_eq!(connect(one, "127.0.0.1", "other").1, "NetConnection.Connect.InvalidApp");
}

#[test]
fn the_name_in_the_url_chooses_the_server_on_one_port() {
    let server = TestServer::start(
        "rtmp {
            server { listen 127.0.0.1:@port@; server_name a.example b.example; application a { live on; } application live { live on; } }
            server { listen 127.0.0.1:@port@; server_name *.wild.example; application wild { live on; } application live { live on; } }
            server { listen 127.0.0.1:@port@ default_server; server_name c.example; application rest { live on; } application live { live on; } }
        }",
    );
    let port = server.port();
    let cases = [
        ("a.example", "a"),
        ("B.EXAMPLE", "a"),
        ("b.example:1935", "a"),
        ("x.wild.example", "wild"),
        ("x.y.wild.example", "wild"),
        ("c.example", "rest"),
        ("unknown.example", "rest"),
        ("127.0.0.1", "rest"),
    ];
    for (host, app) in cases {
        for known in ["a", "wild", "rest"] {
            let expected =
                if known == app { "NetConnection.Connect.Success" } else { "NetConnection.Connect.InvalidApp" };
            assert_eq!(connect(port, host, known).1, expected, "{known} on {host}");
        }
    }
    // One application and name, three streams.
    let publishers = ["a.example", "x.wild.example", "c.example"].map(|host| {
        let (mut peer, code) = connect(port, host, "live");
        assert_eq!(code, "NetConnection.Connect.Success");
        let msid = peer.create_stream();
        peer.command(msid, "publish", &[Amf::Null, "cam".into(), "live".into()]);
        assert_eq!(peer.expect_status(msid), "NetStream.Publish.Start", "{host}");
        peer
    });
    // And one server is one server, whichever of its names is used.
    let (mut peer, _) = connect(port, "b.example", "live");
    let msid = peer.create_stream();
    peer.command(msid, "publish", &[Amf::Null, "cam".into(), "live".into()]);
    assert_eq!(peer.expect_status(msid), "NetStream.Publish.BadName");
    drop(publishers);
}

#[test]
fn a_socket_file_is_as_good_as_a_port() {
    let server = TestServer::start(
        "rtmp { server { listen 127.0.0.1:@port@; listen unix:@dir@/rtmp.sock; application live { live on; } } }",
    );
    let file = server.dir().join("rtmp.sock");
    let (mut player, _) = playing(server.port(), "live", "file");
    let (peer, msid) = publish_over(connect_file(&file), "file");
    Publishing::new(peer, msid).send_frames(0..3);
    assert_eq!(frame_numbers(&mut player, 3), [0, 1, 2]);
    server.wait_for_log(&["publishing", "unix:"], Duration::from_secs(5));
    let mut server = server;
    server.signal(Signal::SIGTERM);
    server.wait_for_exit(Duration::from_secs(5));
    assert!(!file.exists(), "the file goes with the server");
}

#[test]
fn addresses_of_ipv6_are_listened_on() {
    let server = TestServer::start(
        "rtmp { server { listen 127.0.0.1:@port@; listen [::1]:@port2@; application live { live on; } } }",
    );
    let (mut player, _) = playing(server.port(), "live", "six");
    let stream = TcpStream::connect(("::1", server.other_port(1))).expect("the server listens on ::1");
    let (peer, msid) = publish_over(stream, "six");
    Publishing::new(peer, msid).send_frames(0..3);
    assert_eq!(frame_numbers(&mut player, 3), [0, 1, 2]);
    server.wait_for_log(&["publishing", "[::1]:"], Duration::from_secs(5));
}

#[test]
fn one_wildcard_of_ipv6_may_serve_ipv4_too() {
    let server = TestServer::start(
        "rtmp { server { listen [::]:@port@ ipv6only=off; application live { live on; deny publish 127.0.0.1; } } }",
    );
    // An IPv4 peer on that socket is tested as IPv4.
    assert_eq!(answer_to("publish", server.port(), "live", "mapped").1, "NetStream.Publish.Denied");
    let stream = TcpStream::connect(("::1", server.port())).expect("the server listens on ::1");
    publish_over(stream, "mapped");
}

#[test]
fn both_versions_of_the_proxy_header_say_who_is_calling() {
    let server = TestServer::start(
        "rtmp { server { listen 127.0.0.1:@port@; listen 127.0.0.1:@port2@ proxy_protocol;
            application live { live on; deny 198.51.100.0/24; deny 2001:db8:bad::/48; } } }",
    );
    let v2_four = |source: [u8; 4]| {
        [&V2_SIGNATURE[..], &[0x21, 0x11, 0, 12], &source, &[127, 0, 0, 1], &[0x9c, 0x40, 0x07, 0x8f]].concat()
    };
    let v2_six = |third: u16| {
        let source = std::net::Ipv6Addr::new(0x2001, 0xdb8, third, 0, 0, 0, 0, 7).octets();
        // With a record behind the addresses, as proxies that end TLS send it.
        let record = [0x03, 0, 4, 1, 2, 3, 4];
        [&V2_SIGNATURE[..], &[0x21, 0x21, 0, 36 + 7], &source, &[0; 16], &[0x9c, 0x40, 0x07, 0x8f], &record].concat()
    };
    let cases: [(Vec<u8>, &str, bool); 8] = [
        (b"PROXY TCP4 203.0.113.7 127.0.0.1 40000 1935\r\n".to_vec(), "203.0.113.7:40000", true),
        (b"PROXY TCP4 198.51.100.7 127.0.0.1 40000 1935\r\n".to_vec(), "198.51.100.7:40000", false),
        (b"PROXY TCP6 2001:db8::7 ::1 40000 1935\r\n".to_vec(), "[2001:db8::7]:40000", true),
        (b"PROXY TCP6 ::ffff:198.51.100.8 ::1 40000 1935\r\n".to_vec(), "198.51.100.8", false),
        (v2_four([203, 0, 113, 9]), "203.0.113.9:40000", true),
        (v2_four([198, 51, 100, 9]), "198.51.100.9:40000", false),
        (v2_six(0), "[2001:db8::7]:40000", true),
        (v2_six(0xbad), "[2001:db8:bad::7]:40000", false),
    ];
    for (number, (header, source, allowed)) in cases.into_iter().enumerate() {
        let mut raw = RawPeer::connect(server.other_port(1));
        raw.send(&header);
        raw.shake();
        let mut peer = RtmpPeer::over(raw);
        peer.request_connect("live", &[]);
        let msid = peer.create_stream();
        peer.command(msid, "publish", &[Amf::Null, format!("p{number}").as_str().into(), "live".into()]);
        let expected = if allowed { "NetStream.Publish.Start" } else { "NetStream.Publish.Denied" };
        assert_eq!(peer.expect_status(msid), expected, "{source}");
        server.wait_for_log(&["publish", source], Duration::from_secs(5));
    }
    // A proxy's own health check, in both versions: the address of the socket holds.
    let local = [&V2_SIGNATURE[..], &[0x20, 0, 0, 0]].concat();
    for header in [&b"PROXY UNKNOWN\r\n"[..], &local] {
        let mut raw = RawPeer::connect(server.other_port(1));
        raw.send(header);
        raw.shake();
        RtmpPeer::over(raw).request_connect("live", &[]);
    }
    let unknown_command = [&V2_SIGNATURE[..], &[0x2f, 0x11, 0, 12]].concat();
    let version_three = [&V2_SIGNATURE[..], &[0x31, 0x11, 0, 12]].concat();
    for garbage in [&b"GET / HTTP/1.1\r\n"[..], b"PROXY TCP9 1 2 3 4\r\n", &unknown_command, &version_three, &[3; 200]]
    {
        let mut raw = RawPeer::connect(server.other_port(1));
        raw.try_send(garbage);
        raw.assert_closed_within(Duration::from_secs(2));
    }
}

#[test]
fn a_full_house_behind_a_proxy_counts_each_peer_once() {
    let server = TestServer::start(
        "rtmp { max_connections 2;
            server { listen 127.0.0.1:@port@; listen 127.0.0.1:@port2@ proxy_protocol; application live { live on; } } }",
    );
    wait_for_empty(&server);
    let _first = RtmpPeer::connect_from("203.0.113.1", server.other_port(1), "live");
    let _second = RtmpPeer::connect_from("203.0.113.2", server.other_port(1), "live");
    RawPeer::connect(server.other_port(1)).assert_closed_within(Duration::from_secs(2));
}

#[test]
fn keepalive_is_set_where_it_is_asked_for() {
    let server = TestServer::start(
        "rtmp { server { listen 127.0.0.1:@port@ so_keepalive=30m::10; application live { live on; } }
                server { listen 127.0.0.1:@port2@ so_keepalive=off; so_keepalive on; application live { live on; } }
                server { listen 127.0.0.1:@port3@; so_keepalive on; application live { live on; } } }",
    );
    for (index, expected) in [(0, true), (1, false), (2, true)] {
        let port = server.other_port(index);
        let peer = RtmpPeer::connect(port, "live");
        let local = peer.raw.stream.local_addr().expect("a connected socket has an address").port();
        // Answers that wait for their acknowledgement show another timer for a moment.
        let keeps_alive = wait::within(Duration::from_secs(1), || (timer(port, local) == Some(2)).then_some(()));
        assert_eq!(keeps_alive.is_some(), expected, "port {index}");
    }
}

#[test]
fn the_backlog_is_as_long_as_it_was_written() {
    let server =
        TestServer::start("rtmp { server { listen 127.0.0.1:@port@ backlog=2; application live { live on; } } }");
    wait_for_empty(&server);
    server.signal(Signal::SIGSTOP);
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, server.port()));
    let waiting: Vec<TcpStream> =
        (0..6).map_while(|_| TcpStream::connect_timeout(&address, Duration::from_millis(150)).ok()).collect();
    server.signal(Signal::SIGCONT);
    // Linux takes one more than it was told.
    assert!((2..=3).contains(&waiting.len()), "{} connections wait", waiting.len());
}

#[test]
fn a_port_may_be_shared_where_both_sides_ask_for_it() {
    let bind = |port: u16| {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        socket.set_reuse_port(true).expect("a socket option");
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into())
    };
    let server = TestServer::start(
        "rtmp { server { listen 127.0.0.1:@port@ reuseport; listen 127.0.0.1:@port2@; application live { live on; } } }",
    );
    assert!(bind(server.port()).is_ok());
    assert!(bind(server.other_port(1)).is_err());
}

// --- shared ------------------------------------------------------------------------------------------------------------------

/// `connect` to an application through a URL with this host, and the code of the answer.
fn connect(port: u16, host: &str, app: &str) -> (RtmpPeer, String) {
    let mut peer = RtmpPeer::shaken(port);
    let url = format!("rtmp://{host}/{app}");
    let answer = peer.request(0, "connect", &[Amf::object(&[("app", app.into()), ("tcUrl", url.as_str().into())])]);
    let code = answer[3].property("code").and_then(Amf::as_str).expect("an answer has a code").to_owned();
    (peer, code)
}

fn publish_over(mut stream: TcpStream, name: &str) -> (RtmpPeer, u32) {
    stream.flush().expect("nothing to flush");
    let mut raw = RawPeer { stream };
    raw.shake();
    let mut peer = RtmpPeer::over(raw);
    peer.request_connect("live", &[]);
    let msid = peer.create_stream();
    peer.command(msid, "publish", &[Amf::Null, name.into(), "live".into()]);
    assert_eq!(peer.expect_status(msid), "NetStream.Publish.Start");
    (peer, msid)
}

/// Reading and writing are the same for both kinds of socket, so the peers of these tests need not know.
fn connect_file(file: &std::path::Path) -> TcpStream {
    OwnedFd::from(UnixStream::connect(file).expect("the server listens on the file")).into()
}

/// The kind of timer that runs on the server's side of a connection, as the kernel tells it; 2 is keepalive.
fn timer(server: u16, client: u16) -> Option<u8> {
    let table = std::fs::read_to_string("/proc/net/tcp").expect("Linux tells its connections");
    table.lines().skip(1).find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let port = |word: &str| u16::from_str_radix(word.rsplit(':').next()?, 16).ok();
        let is_ours = port(words[1]) == Some(server) && port(words[2]) == Some(client);
        is_ours.then(|| words[5].split(':').next().and_then(|kind| u8::from_str_radix(kind, 16).ok())).flatten()
    })
}

/// The connection by which the harness found the server ready is gone.
fn wait_for_empty(server: &TestServer) {
    let port = format!(":{:04X}", server.port());
    wait::until("no connection is left", Duration::from_secs(5), || {
        let table = std::fs::read_to_string("/proc/net/tcp").expect("Linux tells its connections");
        let open = |line: &&str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            words[1].ends_with(&port) && words[3] != "0A" && words[3] != "06"
        };
        (table.lines().skip(1).filter(open).count() == 0).then_some(())
    });
}

const V2_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
