//! HTTP over TLS: the certificate that the name asks for, and HTTP/2 only where it is asked for.

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use common::exchange::replies;
use common::http::connect;
use common::server::{Kind, TestServer};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

/// Two names with a certificate each, on a port without HTTP/2 and on one with it.
struct Site {
    server: TestServer,
    certificates: Vec<CertificateDer<'static>>,
}

impl Site {
    fn start() -> Self {
        let pairs = ["a.example", "b.example"].map(|name| {
            let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).expect("a certificate");
            (made.cert.pem(), made.signing_key.serialize_pem())
        });
        let server = |name: &str| {
            format!(
                "server {{ listen 127.0.0.1:@port@ ssl; listen 127.0.0.1:@port2@ ssl http2; server_name {name}.example;
                   ssl_certificate {name}.pem; ssl_certificate_key {name}.key; return 200 '{name} $https $scheme'; }}"
            )
        };
        let http = format!("http {{ access_log off; {} {} }}", server("a"), server("b"));
        let [(a, a_key), (b, b_key)] = &pairs;
        let files = [("a.pem", a.as_str()), ("a.key", a_key), ("b.pem", b), ("b.key", b_key)];
        let certificate = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).expect("our own PEM");
        Self {
            server: TestServer::start_http_with(Kind::Livemill, &http, &files),
            certificates: vec![certificate(a), certificate(b)],
        }
    }

    fn connect(&self, port: usize, name: &'static str, protocols: &[&str]) -> StreamOwned<ClientConnection, TcpStream> {
        let mut roots = RootCertStore::empty();
        for certificate in &self.certificates {
            roots.add(certificate.clone()).expect("our own certificate");
        }
        let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        let name = ServerName::try_from(name).expect("a host name");
        let mut tls = ClientConnection::new(Arc::new(config), name).expect("a TLS client");
        let mut socket = connect(self.server.other_port(port));
        while tls.is_handshaking() {
            tls.complete_io(&mut socket).expect("the server's certificate is the one for this name");
        }
        StreamOwned::new(tls, socket)
    }
}

#[test]
fn each_name_gets_its_own_certificate_and_server() {
    let site = Site::start();
    for (at, name) in ["a.example", "b.example"].into_iter().enumerate() {
        let mut stream = site.connect(0, name, &["h2", "http/1.1"]);
        assert_eq!(stream.conn.peer_certificates().and_then(|all| all.first()), site.certificates.get(at));
        assert_eq!(stream.conn.alpn_protocol(), Some(&b"http/1.1"[..]), "nobody asked for HTTP/2 on this port");
        let request = format!("GET / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("TLS works");
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let reply = &replies(&answer, &["GET"])[0];
        let letter = &name[..1];
        assert_eq!((reply.status, reply.text()), (200, format!("{letter} on https")));
    }
}

#[test]
fn http2_is_spoken_where_the_listen_says_so() {
    let site = Site::start();
    let mut stream = site.connect(1, "a.example", &["h2", "http/1.1"]);
    assert_eq!(stream.conn.alpn_protocol(), Some(&b"h2"[..]));
    // The preface and empty settings; the server's first frame is its settings.
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00").expect("TLS works");
    let mut frame = [0; 9];
    stream.read_exact(&mut frame).expect("a frame");
    assert_eq!(frame[3], 4, "settings");
    let plain = site.connect(1, "b.example", &["http/1.1"]);
    assert_eq!(plain.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
}
