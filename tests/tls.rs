//! RTMP over TLS, with real clients and with rude ones.

mod common;

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Duration;

use common::fixtures::Fixture;
use common::health::unharmed;
use common::peer::{RawPeer, c0_c1};
use common::playing::Playing;
use common::server::{CLIENT_DEADLINE, Kind, TestServer};
use common::tools::{Player, Publisher};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

#[test]
fn real_clients_publish_and_play_over_tls() {
    let Some((server, _)) = server() else { return };
    let pairs = [
        (Publisher::FfmpegDebian, Player::FfmpegNewer),
        (Publisher::FfmpegNewer, Player::GstRtmp2Src),
        (Publisher::GstRtmp2Sink, Player::FfmpegDebian),
    ];
    for (publisher, player) in pairs {
        let name = format!("{publisher:?}");
        let url = format!("rtmps://127.0.0.1:{}/live/{name}", server.other_port(1));
        let mut playing = Playing::start(player, &url);
        server.wait_for_players(&name, 1);
        publisher.publish(Fixture::H264Aac, &url).wait_for_success(CLIENT_DEADLINE);
        playing.assert_same_as(Fixture::H264Aac, false, &format!("{publisher:?} to {player:?} over TLS"));
    }
}

#[test]
fn a_hello_that_comes_byte_by_byte_is_read() {
    let Some((mut server, certificate)) = server() else { return };
    unharmed(&mut server, |server| {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(certificate.as_bytes()).expect("our own PEM"))
            .expect("our own certificate");
        let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let name = "localhost".try_into().expect("a host name");
        let mut tls = ClientConnection::new(Arc::new(config), name).expect("a TLS client");
        let mut peer = RawPeer::connect(server.other_port(1));
        peer.stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a socket option");
        let mut hello = Vec::new();
        tls.write_tls(&mut hello).expect("a hello");
        for byte in hello {
            peer.send(&[byte]);
        }
        let mut stream = rustls::Stream::new(&mut tls, &mut peer.stream);
        stream.write_all(&c0_c1()).expect("TLS works");
        let mut answer = [0; 1 + 2 * 1536];
        stream.read_exact(&mut answer).expect("a handshake answered inside TLS");
        assert_eq!(answer[0], 3);
    });
}

#[test]
fn who_speaks_no_tls_is_cut_off() {
    let Some((mut server, _)) = server() else { return };
    unharmed(&mut server, |server| {
        let old_hello = b"\x16\x03\x01\x00\x2d\x01\x00\x00\x29\x03\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\
                          \x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x2f\x01\x00";
        for bytes in [&c0_c1()[..], b"GET / HTTP/1.1\r\n\r\n", &[0xff; 100], old_hello] {
            let mut peer = RawPeer::connect(server.other_port(1));
            let _ = peer.try_send(bytes);
            peer.assert_closed_within(Duration::from_secs(2));
        }
        // And who says nothing, or stops half-way, at the deadline.
        for bytes in [&[][..], b"\x16\x03\x01\x02\x00\x01"] {
            let mut peer = RawPeer::connect(server.other_port(1));
            peer.send(bytes);
            peer.assert_closed_within(Duration::from_secs(3));
        }
    });
}

#[test]
fn tls_on_a_plain_port_is_named_in_the_log() {
    let Some((mut server, _)) = server() else { return };
    unharmed(&mut server, |server| {
        let mut peer = RawPeer::connect(server.port());
        peer.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03");
        peer.assert_closed_within(Duration::from_secs(2));
        server.wait_for_log(&["TLS"], Duration::from_secs(2));
    });
}

/// A server with a plain port and one with TLS, and its certificate; nothing where the server under test has no TLS.
fn server() -> Option<(TestServer, String)> {
    if Kind::under_test() == Kind::Nginx {
        return None; // its RTMP module cannot do it
    }
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
    let certificate = made.cert.pem();
    let key = made.signing_key.serialize_pem();
    let server = TestServer::start_with_files(
        "rtmp {
            tls_handshake_timeout 1s;
            server {
                listen 127.0.0.1:@port@;
                listen 127.0.0.1:@port2@ ssl;
                ssl_certificate certificate.pem;
                ssl_certificate_key key.pem;
                application live { live on; idle_streams on; publish_notify on; }
            }
        }",
        &[("certificate.pem", &certificate), ("key.pem", &key)],
    );
    Some((server, certificate))
}
