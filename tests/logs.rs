//! What stands in the logs after a session, and what signals do to them.

mod common;

use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::peer::RtmpPeer;
use common::server::TestServer;
use common::stream::{Publishing, answer_to, frame_numbers, playing};
use common::wait;
use common::wire::Amf;
use nix::sys::signal::Signal;
use rustls::pki_types::ServerName;

#[test]
fn the_line_of_a_session_is_the_one_of_nginx_rtmp() {
    let server = server("access_log @dir@/logs/access.log;", "");
    a_publisher_and_a_player(&server);
    let lines = lines(&server.dir().join("logs/access.log"), 2);
    for (command, args) in [("PUBLISH", "k=1"), ("PLAY", "t=2")] {
        let line = lines.iter().find(|line| line.contains(&format!(" {command} "))).expect("each has a line");
        let (address, rest) = line.split_once(" [").expect("the address");
        let (time, rest) = rest.split_once("] ").expect("the time");
        assert_eq!(address, "127.0.0.1");
        assert!(jiff::fmt::strtime::parse("%d/%b/%Y:%H:%M:%S %z", time).is_ok(), "{time}");
        let (said, rest) = rest.split_once(" - ").expect("a dash");
        assert_eq!(said, format!("{command} \"live\" \"cam\" \"{args}\""));
        let words: Vec<&str> = rest.splitn(3, ' ').collect();
        let [received, sent] = [words[0], words[1]].map(|number| number.parse::<u64>().expect("a number of bytes"));
        assert!(received > 3073 && sent > 3073, "the handshake and more: {line}");
        assert_eq!(words[2], "\"http://page.example/\" \"FMLE/3.0 (compatible; test)\" (0s)");
    }
}

#[test]
fn a_format_of_ones_own_says_what_it_asks_for() {
    let server = TestServer::start(
        "rtmp {
            log_format mine '$command|$app|$name|$args|$arg_k|$protocol|$serverid|$tcurl|$reason|$connection$remote_port';
            server { listen 127.0.0.1:@port@; server_name here.example; access_log @dir@/logs/mine.log mine;
                application live { live on; } }
        }",
    );
    a_publisher_and_a_player(&server);
    let lines = lines(&server.dir().join("logs/mine.log"), 2);
    let publisher = lines.iter().find(|line| line.starts_with("PUBLISH")).expect("each has a line");
    let expected = "PUBLISH|live|cam|k=1|1|rtmp|here.example|rtmp://127.0.0.1/live|the peer closed the connection|";
    assert!(publisher.starts_with(expected), "{publisher}");
}

#[test]
fn an_inner_access_log_replaces_the_outer_one_and_off_ends_it() {
    let server = TestServer::start(
        "rtmp { access_log @dir@/logs/outer.log;
            server { listen 127.0.0.1:@port@;
                application live { live on; }
                application own { live on; access_log @dir@/logs/own.log; access_log @dir@/logs/second.log; }
                application silent { live on; access_log off; } } }",
    );
    for app in ["silent", "own", "live"] {
        answer_to("publish", server.port(), app, "cam");
    }
    for (file, app) in [("outer", "live"), ("own", "own"), ("second", "own")] {
        let lines = lines(&server.dir().join(format!("logs/{file}.log")), 1);
        assert!(lines[0].contains(&format!("PUBLISH \"{app}\"")), "{lines:?}");
    }
}

#[test]
fn each_session_has_one_opening_and_one_closing_line() {
    let server = server("", "");
    a_publisher_and_a_player(&server);
    for (command, number) in [("publishing", 1), ("playing", 1), ("connect, ", 2), ("disconnect, ", 2)] {
        let count = || server.log().lines().filter(|line| line.contains(&format!(" {command}"))).count();
        wait::within(Duration::from_secs(2), || (count() == number).then_some(()));
        assert_eq!(count(), number, "{command}: {}", server.log());
    }
    let log = server.log();
    for line in log.lines().filter(|line| line.contains(" disconnect, ")) {
        for field in ["client: 127.0.0.1:", "app: live", "name: cam", "received: ", "sent: ", "seconds: ", "reason: "] {
            assert!(line.contains(field), "{field} in {line}");
        }
    }
}

#[test]
fn the_error_log_may_be_json() {
    let whole = "worker_processes 1; error_log stderr info; error_log_format json; events {}
        rtmp { server { listen 127.0.0.1:@port@; application live { live on; } } }";
    let server = TestServer::start_whole(whole, &[]);
    a_publisher_and_a_player(&server);
    server.wait_for_log(&["disconnect"], Duration::from_secs(5));
    let log = server.log();
    let events: Vec<&str> = log.lines().filter(|line| !line.starts_with("livemill: [warn]")).collect();
    assert!(events.len() >= 5, "{log}");
    for line in events {
        let values: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(values.is_object(), "{line}");
    }
    assert!(log.contains("127.0.0.1:"), "{log}");
}

#[test]
fn usr1_opens_the_logs_anew() {
    let whole = "worker_processes 1; error_log logs/error.log info; error_log stderr info; events {}
        rtmp { server { listen 127.0.0.1:@port@; access_log logs/access.log; application live { live on; } } }";
    let server = TestServer::start_whole(whole, &[]);
    let logs = server.dir().join("logs");
    a_publisher_and_a_player(&server);
    lines(&logs.join("access.log"), 2);
    for name in ["access.log", "error.log"] {
        fs::rename(logs.join(name), logs.join(format!("{name}.1"))).expect("the log is there");
    }
    server.signal(Signal::SIGUSR1);
    wait::until("the new files", Duration::from_secs(5), || logs.join("access.log").exists().then_some(()));
    a_publisher_and_a_player(&server);
    lines(&logs.join("access.log"), 2);
    wait::until("the new error log", Duration::from_secs(5), || {
        fs::read_to_string(logs.join("error.log")).is_ok_and(|text| text.contains("publishing")).then_some(())
    });
    assert_eq!(fs::read_to_string(logs.join("access.log.1")).expect("the old log").lines().count(), 2);
}

#[test]
fn hup_reads_certificates_again_and_says_what_it_leaves() {
    let [(first, first_key), (second, second_key)] = [(); 2].map(|()| {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
        (made.cert.pem(), made.signing_key.serialize_pem())
    });
    let server = TestServer::start_with_files(
        "rtmp { server { listen 127.0.0.1:@port@; listen 127.0.0.1:@port2@ ssl;
            ssl_certificate certificate.pem; ssl_certificate_key key.pem; application live { live on; } } }",
        &[("certificate.pem", &first), ("key.pem", &first_key)],
    );
    let mut publisher = Publishing::start(&server, "through");
    let (mut player, _) = playing(server.port(), "live", "through");
    assert_eq!(shown_certificate(server.other_port(1)), der(&first));
    let conf = server.dir().join("conf");
    // A pair that does not work changes nothing.
    fs::write(conf.join("certificate.pem"), &second).expect("the folder is writable");
    server.signal(Signal::SIGHUP);
    server.wait_for_log(&["reloading the configuration is not supported yet"], Duration::from_secs(5));
    server.wait_for_log(&["the old certificate stays in use"], Duration::from_secs(5));
    assert_eq!(shown_certificate(server.other_port(1)), der(&first));
    fs::write(conf.join("key.pem"), &second_key).expect("the folder is writable");
    server.signal(Signal::SIGHUP);
    server.wait_for_log(&["certificate read again"], Duration::from_secs(5));
    assert_eq!(shown_certificate(server.other_port(1)), der(&second));
    // And sessions noticed nothing.
    publisher.send_frames(0..3);
    assert_eq!(frame_numbers(&mut player, 3), [0, 1, 2]);
}

// --- shared ------------------------------------------------------------------------------------------------------------------

fn server(server_options: &str, options: &str) -> TestServer {
    TestServer::start(&format!(
        "rtmp {{ server {{ listen 127.0.0.1:@port@; {server_options} application live {{ live on; {options} }} }} }}"
    ))
}

/// A publisher of `live/cam?k=1` and a player of `live/cam?t=2`, who leave.
fn a_publisher_and_a_player(server: &TestServer) {
    let open = |command: &str, name: &str| {
        let mut peer = RtmpPeer::shaken(server.port());
        peer.request_connect("live", &[("pageUrl", "http://page.example/".into())]);
        let msid = peer.create_stream();
        peer.command(msid, command, &[Amf::Null, name.into()]);
        peer
    };
    let mut publisher = open("publish", "cam?k=1");
    assert_eq!(publisher.expect_status(1), "NetStream.Publish.Start");
    let mut player = open("play", "cam?t=2");
    player.expect("Play.Start", |message| {
        common::stream::status_code(message).filter(|code| code == "NetStream.Play.Start")
    });
    let before = server.log().matches("disconnect").count();
    drop((publisher, player));
    wait::within(Duration::from_secs(5), || (server.log().matches("disconnect").count() >= before + 2).then_some(()));
}

/// The lines of a file, once there are so many.
fn lines(file: &Path, count: usize) -> Vec<String> {
    let lines = || -> Vec<String> { fs::read_to_string(file).unwrap_or_default().lines().map(str::to_owned).collect() };
    wait::within(Duration::from_secs(5), || (lines().len() >= count).then_some(()));
    let found = lines();
    assert_eq!(found.len(), count, "{}: {found:?}", file.display());
    found
}

/// The certificate that a TLS port shows, whoever signed it.
fn shown_certificate(port: u16) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = Arc::new(Anybody(Arc::clone(&provider)));
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions of TLS")
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").expect("a name");
    let mut tls = rustls::ClientConnection::new(Arc::new(config), name).expect("a client");
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the server accepts");
    while tls.is_handshaking() {
        tls.complete_io(&mut stream).expect("the handshake goes through");
    }
    tls.peer_certificates().and_then(|chain| chain.first()).expect("a server shows one").to_vec()
}

fn der(pem: &str) -> Vec<u8> {
    use rustls::pki_types::pem::PemObject;
    rustls::pki_types::CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate").to_vec()
}

/// Believes every certificate: the test wants to see it, not to trust it.
#[derive(Debug)]
struct Anybody(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &rustls::pki_types::CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &rustls::pki_types::CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
