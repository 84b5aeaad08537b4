//! The PROXY protocol header, versions 1 and 2: who is really calling.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use thiserror::Error;

/// Both ends of the connection that a proxy accepted. Without them the proxy speaks for itself (its health checks), or the
/// connection was none of TCP: the addresses of the socket hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Header {
    pub source: Option<SocketAddr>,
    pub destination: Option<SocketAddr>,
}

/// Why the bytes are no PROXY header. On a port that expects one, the connection ends here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ProxyError {
    #[error("the connection does not begin with a PROXY protocol header")]
    Missing,
    #[error("the text of the PROXY header is malformed")]
    Text,
    #[error("the PROXY header has no end within {MAX_TEXT} bytes")]
    Unending,
    #[error("the PROXY header is of version {0}, which does not exist")]
    Version(u8),
    #[error("the PROXY header has command {0}, which does not exist")]
    Command(u8),
    #[error("the PROXY header has address family {0:#04x}, which does not exist")]
    Family(u8),
    #[error("the PROXY header is {0} bytes long; {MAX_BINARY} are accepted")]
    TooLong(usize),
    #[error("the PROXY header is too short for its addresses")]
    TooShort,
}

/// Reads the header at the beginning of `input`, and says how many bytes it has. `None` while those bytes could still become one.
///
/// Only for peers that are trusted to say so: whoever may send this header chooses the address that access rules see.
pub fn parse(input: &[u8]) -> Result<Option<(Header, usize)>, ProxyError> {
    if let Some(body) = input.strip_prefix(BINARY_SIGNATURE) {
        return parse_binary(body);
    }
    if let Some(body) = input.strip_prefix(TEXT_SIGNATURE) {
        return parse_text(body);
    }
    if BINARY_SIGNATURE.starts_with(input) || TEXT_SIGNATURE.starts_with(input) {
        return Ok(None);
    }
    Err(ProxyError::Missing)
}

/// `PROXY TCP4 source destination port port\r\n`
fn parse_text(body: &[u8]) -> Result<Option<(Header, usize)>, ProxyError> {
    let most = MAX_TEXT - TEXT_SIGNATURE.len();
    let window = body.get(..most).unwrap_or(body);
    let Some(end) = window.iter().position(|byte| *byte == b'\n') else {
        return if body.len() < most { Ok(None) } else { Err(ProxyError::Unending) };
    };
    let line = window.get(..end).and_then(|line| line.strip_suffix(b"\r")).ok_or(ProxyError::Text)?;
    let line = std::str::from_utf8(line).map_err(|_| ProxyError::Text)?;
    let consumed = TEXT_SIGNATURE.len() + end + 1;
    // What follows UNKNOWN is to be ignored.
    if line == "UNKNOWN" || line.starts_with("UNKNOWN ") {
        return Ok(Some((Header::default(), consumed)));
    }
    let mut words = line.split(' ');
    let mut word = || words.next().ok_or(ProxyError::Text);
    let family = word()?;
    let (source, destination) = (word()?, word()?);
    let (source_port, destination_port) = (port(word()?)?, port(word()?)?);
    if word().is_ok() {
        return Err(ProxyError::Text);
    }
    let address = |text: &str| -> Result<IpAddr, ProxyError> {
        match family {
            "TCP4" => text.parse::<Ipv4Addr>().map(IpAddr::from).map_err(|_| ProxyError::Text),
            "TCP6" => text.parse::<Ipv6Addr>().map(IpAddr::from).map_err(|_| ProxyError::Text),
            _ => Err(ProxyError::Text),
        }
    };
    let header = Header {
        source: Some(SocketAddr::new(address(source)?, source_port)),
        destination: Some(SocketAddr::new(address(destination)?, destination_port)),
    };
    Ok(Some((header, consumed)))
}

/// A decimal number as the standard wants it: digits only, none of them a leading zero.
fn port(text: &str) -> Result<u16, ProxyError> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| plain).ok_or(ProxyError::Text)
}

/// Version and command, family, length, then addresses, then records that nobody here needs.
fn parse_binary(body: &[u8]) -> Result<Option<(Header, usize)>, ProxyError> {
    let Some((version, rest)) = body.split_first() else { return Ok(None) };
    if version >> 4 != 2 {
        return Err(ProxyError::Version(version >> 4));
    }
    let command = version & 0x0f;
    if command > 1 {
        return Err(ProxyError::Command(command));
    }
    let Some(([family, len @ ..], rest)) = rest.split_first_chunk::<3>() else { return Ok(None) };
    let len = usize::from(u16::from_be_bytes(*len));
    let consumed = BINARY_SIGNATURE.len() + 4 + len;
    if consumed > MAX_BINARY {
        return Err(ProxyError::TooLong(consumed));
    }
    let Some(rest) = rest.get(..len) else { return Ok(None) };
    // LOCAL: the proxy itself. Whatever addresses it sends are to be skipped.
    if command == 0 {
        return Ok(Some((Header::default(), consumed)));
    }
    let addresses = match family {
        0x11 => {
            let ends = rest.first_chunk::<12>().ok_or(ProxyError::TooShort)?;
            let [a, b, c, d, e, f, g, h, ports @ ..] = *ends;
            Some((IpAddr::from([a, b, c, d]), IpAddr::from([e, f, g, h]), ports))
        }
        0x21 => {
            let (source, rest) = rest.split_first_chunk::<16>().ok_or(ProxyError::TooShort)?;
            let (destination, rest) = rest.split_first_chunk::<16>().ok_or(ProxyError::TooShort)?;
            let ports = rest.first_chunk::<4>().ok_or(ProxyError::TooShort)?;
            Some((IpAddr::from(*source), IpAddr::from(*destination), *ports))
        }
        // Unspecified, datagrams, and sockets in the file system: no address that would mean anything here.
        0x00 | 0x12 | 0x22 | 0x31 | 0x32 => None,
        _ => return Err(ProxyError::Family(*family)),
    };
    let header = addresses.map_or(Header::default(), |(source, destination, [a, b, c, d])| Header {
        source: Some(SocketAddr::new(source, u16::from_be_bytes([a, b]))),
        destination: Some(SocketAddr::new(destination, u16::from_be_bytes([c, d]))),
    });
    Ok(Some((header, consumed)))
}

const TEXT_SIGNATURE: &[u8] = b"PROXY ";
const BINARY_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// The longest line that the standard allows: two IPv6 addresses in full.
const MAX_TEXT: usize = 107;
/// As in nginx. The addresses take 52 bytes; a proxy that ends TLS adds what it learnt of the client.
const MAX_BINARY: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header(source: &str, destination: &str) -> Header {
        let address = |text: &str| Some(text.parse().expect("an address"));
        Header { source: address(source), destination: address(destination) }
    }

    fn binary(version_and_command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let len = (body.len() as u16).to_be_bytes();
        [BINARY_SIGNATURE, &[version_and_command, family], &len, body].concat()
    }

    fn ipv4_body() -> Vec<u8> {
        vec![192, 0, 2, 1, 198, 51, 100, 2, 0xdc, 0x04, 0x07, 0x8f]
    }

    /// Whole, it is this header and what follows stays; cut anywhere, it asks for more.
    fn check(bytes: &[u8], expected: Header) {
        let followed = [bytes, b"\x03rtmp"].concat();
        assert_eq!(parse(&followed), Ok(Some((expected, bytes.len()))), "{}", bytes.escape_ascii());
        for cut in 0..bytes.len() {
            assert_eq!(parse(&bytes[..cut]), Ok(None), "{} cut at {cut}", bytes.escape_ascii());
        }
    }

    #[test]
    fn text_headers_are_read() {
        let v4 = header("192.0.2.1:56324", "198.51.100.2:1935");
        check(b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 1935\r\n", v4);
        check(b"PROXY TCP6 2001:db8::1 ::1 0 65535\r\n", header("[2001:db8::1]:0", "[::1]:65535"));
        check(b"PROXY UNKNOWN\r\n", Header::default());
        check(b"PROXY UNKNOWN whatever it \xc3\xa4 says\r\n", Header::default());
        let longest = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
        let line = format!("PROXY UNKNOWN {longest} {longest} 65535 65535\r\n");
        assert_eq!(line.len(), MAX_TEXT);
        check(line.as_bytes(), Header::default());
    }

    #[test]
    fn malformed_text_is_refused() {
        for line in [
            "PROXY TCP4 192.0.2.1 198.51.100.2 56324\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 56324 1935 \r\n",
            "PROXY TCP4 192.0.2.1  198.51.100.2 56324 1935\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 56324 1935\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 65536 1935\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 +1 1935\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 01 1935\r\n",
            "PROXY TCP4 ::1 ::1 1 1935\r\n",
            "PROXY TCP4 host 198.51.100.2 1 1935\r\n",
            "PROXY TCP6 192.0.2.1 198.51.100.2 1 1935\r\n",
            "PROXY UDP4 192.0.2.1 198.51.100.2 1 1935\r\n",
            "PROXY UNKNOWNS\r\n",
            "PROXY \r\n",
        ] {
            assert_eq!(parse(line.as_bytes()), Err(ProxyError::Text), "{line:?}");
        }
        assert_eq!(parse(b"PROXY TCP4 \xff\r\n"), Err(ProxyError::Text));
        let endless = [&b"PROXY UNKNOWN "[..], &[b'x'; 200]].concat();
        assert_eq!(parse(&endless), Err(ProxyError::Unending));
        assert_eq!(parse(&endless[..MAX_TEXT]), Err(ProxyError::Unending));
        assert_eq!(parse(&endless[..MAX_TEXT - 1]), Ok(None));
    }

    #[test]
    fn binary_headers_are_read_and_their_records_skipped() {
        let v4 = header("192.0.2.1:56324", "198.51.100.2:1935");
        check(&binary(0x21, 0x11, &ipv4_body()), v4);
        let with_records = [ipv4_body(), b"\x03\x00\x04\x12\x34\x56\x78\x04\xff\xff".to_vec()].concat();
        check(&binary(0x21, 0x11, &with_records), v4);
        let v6: Vec<u8> = [
            "2001:db8::1".parse::<Ipv6Addr>().expect("an address").octets(),
            "::1".parse::<Ipv6Addr>().expect("an address").octets(),
        ]
        .concat()
        .into_iter()
        .chain([0xdc, 0x04, 0x07, 0x8f])
        .collect();
        check(&binary(0x21, 0x21, &v6), header("[2001:db8::1]:56324", "[::1]:1935"));
    }

    #[test]
    fn local_and_unspecified_headers_leave_the_socket_s_addresses() {
        check(&binary(0x20, 0x00, &[]), Header::default());
        check(&binary(0x20, 0x11, &ipv4_body()), Header::default());
        check(&binary(0x20, 0xff, &[1, 2, 3]), Header::default());
        for family in [0x00, 0x12, 0x22, 0x31, 0x32] {
            check(&binary(0x21, family, &[0; 216]), Header::default());
        }
    }

    #[test]
    fn malformed_binary_is_refused() {
        for (bytes, error) in [
            (binary(0x11, 0x11, &ipv4_body()), ProxyError::Version(1)),
            (binary(0x31, 0x11, &ipv4_body()), ProxyError::Version(3)),
            (binary(0x22, 0x11, &ipv4_body()), ProxyError::Command(2)),
            (binary(0x21, 0x13, &ipv4_body()), ProxyError::Family(0x13)),
            (binary(0x21, 0x41, &ipv4_body()), ProxyError::Family(0x41)),
            (binary(0x21, 0x11, &ipv4_body()[..11]), ProxyError::TooShort),
            (binary(0x21, 0x21, &[0; 35]), ProxyError::TooShort),
            (binary(0x21, 0x11, &[0; 4081]), ProxyError::TooLong(4097)),
            (binary(0x20, 0x00, &[0; 65_535]), ProxyError::TooLong(65_551)),
        ] {
            assert_eq!(parse(&bytes), Err(error));
        }
        // The length alone is enough to refuse it: nobody waits for the rest.
        assert_eq!(parse(&binary(0x21, 0x11, &[0; 65_535])[..16]), Err(ProxyError::TooLong(65_551)));
        assert!(parse(&binary(0x21, 0x11, &[0; 4080])).is_ok());
    }

    #[test]
    fn anything_else_is_no_header() {
        for bytes in [&b"\x03"[..], b"GET / HTTP/1.1", b"PROXX", b"\r\n\r\n\x01", b"\x16\x03\x01"] {
            assert_eq!(parse(bytes), Err(ProxyError::Missing), "{}", bytes.escape_ascii());
        }
        assert_eq!(parse(b""), Ok(None));
    }

    proptest! {
        #[test]
        fn a_header_is_never_longer_than_its_input(
            signature in prop_oneof![Just(TEXT_SIGNATURE), Just(BINARY_SIGNATURE), Just(&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00"[..])],
            body in prop::collection::vec(any::<u8>(), 0..60),
        ) {
            let input = [signature, &body].concat();
            if let Ok(Some((_, consumed))) = parse(&input) {
                prop_assert!(consumed <= input.len());
                // What follows does not change what was read.
                prop_assert_eq!(parse(&input[..consumed]), parse(&input));
            }
        }

        #[test]
        fn any_pair_of_addresses_reads_back(source in any::<SocketAddr>(), destination in any::<SocketAddr>()) {
            let family = match (source, destination) {
                (SocketAddr::V4(_), SocketAddr::V4(_)) => "TCP4",
                (SocketAddr::V6(_), SocketAddr::V6(_)) => "TCP6",
                _ => return Ok(()),
            };
            let plain = |address: SocketAddr| SocketAddr::new(address.ip(), address.port());
            let (source, destination) = (plain(source), plain(destination));
            let line =
                format!("PROXY {family} {} {} {} {}\r\n", source.ip(), destination.ip(), source.port(), destination.port());
            let expected = Header { source: Some(source), destination: Some(destination) };
            prop_assert_eq!(parse(line.as_bytes()), Ok(Some((expected, line.len()))));
        }
    }
}
