//! Times, sizes, flags, addresses: types that cannot be wrong.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use super::{Keepalive, Level, Listen, ListenAddress, LogTarget, RTMP_PORT, ServerName};

/// `on` or `off`, in any case.
pub fn flag(text: &str) -> Option<bool> {
    match text {
        _ if text.eq_ignore_ascii_case("on") => Some(true),
        _ if text.eq_ignore_ascii_case("off") => Some(false),
        _ => None,
    }
}

/// Decimal digits only.
pub fn number(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

/// Bytes: a number with `k`, `m` or `g`, in any case. nginx knows no `g` here; nobody writes it and means something else.
pub fn size(text: &str) -> Option<u64> {
    let (digits, factor) = match text.chars().last()?.to_ascii_lowercase() {
        'k' => (text.get(..text.len() - 1)?, 1 << 10),
        'm' => (text.get(..text.len() - 1)?, 1 << 20),
        'g' => (text.get(..text.len() - 1)?, 1 << 30),
        _ => (text, 1),
    };
    number(digits)?.checked_mul(factor)
}

/// nginx's times: `1h30m`, `500ms`, `1m 30s`; units in falling order; a number without a unit is seconds and comes last.
pub fn time(text: &str) -> Option<Duration> {
    let mut total: u64 = 0;
    let mut last_rank = u8::MAX;
    let mut rest = text;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let value = number(rest.get(..digits)?)?;
        rest = rest.get(digits..)?;
        let (rank, unit_ms, len) = match rest.as_bytes() {
            [] => (1, 1000, 0),
            [b' ', ..] => return None,
            [b'm', b's', ..] => (0, 1, 2),
            [b's', ..] => (1, 1000, 1),
            [b'm', ..] => (2, 60_000, 1),
            [b'h', ..] => (3, 3_600_000, 1),
            [b'd', ..] => (4, 86_400_000, 1),
            [b'w', ..] => (5, 7 * 86_400_000, 1),
            [b'M', ..] => (6, 30 * 86_400_000, 1),
            [b'y', ..] => (7, 365 * 86_400_000, 1),
            _ => return None,
        };
        if rank >= last_rank {
            return None;
        }
        last_rank = rank;
        total = value.checked_mul(unit_ms)?.checked_add(total)?;
        rest = rest.get(len..)?.trim_start_matches(' ');
    }
    (total <= MAX_TIME_MS).then(|| Duration::from_millis(total))
}

/// nginx's log levels; `debug_core` and its kin mean debug.
pub fn level(text: &str) -> Option<Level> {
    Some(match text {
        "emerg" => Level::Emerg,
        "alert" => Level::Alert,
        "crit" => Level::Crit,
        "error" => Level::Error,
        "warn" => Level::Warn,
        "notice" => Level::Notice,
        "info" => Level::Info,
        "debug" => Level::Debug,
        "debug_core" | "debug_alloc" | "debug_mutex" | "debug_event" | "debug_http" | "debug_mail" | "debug_stream" => {
            Level::Debug
        }
        _ => return None,
    })
}

/// `stderr`, the devices that mean a stream of ours, or a file made absolute by `full`.
pub fn log_target(text: &str, full: impl Fn(&str) -> PathBuf) -> LogTarget {
    match text {
        "stderr" | "/dev/stderr" => LogTarget::Stderr,
        // Opening the device by name fails where it is a socket, as under systemd.
        "/dev/stdout" => LogTarget::Stdout,
        "/dev/null" => LogTarget::Off,
        _ => LogTarget::File(full(text)),
    }
}

/// A `server_name` word. Err: the reason, for patterns.
pub fn server_name(text: &str) -> Result<ServerName, String> {
    if let Some(pattern) = text.strip_prefix('~') {
        let pattern = regex_lite::RegexBuilder::new(pattern)
            .case_insensitive(true)
            .size_limit(1 << 20)
            .build()
            .map_err(|error| format!("invalid regular expression \"{text}\": {error}"))?;
        return Ok(ServerName::Pattern(pattern));
    }
    let name = text.to_ascii_lowercase();
    let invalid = || format!("invalid server name or wildcard \"{text}\" on \"server_name\"");
    let kind = match (name.strip_prefix("*."), name.strip_suffix(".*"), name.strip_prefix('.')) {
        (Some(end), _, _) if !end.is_empty() => ServerName::Suffix(format!(".{end}")),
        (_, Some(start), _) if !start.is_empty() => ServerName::Prefix(format!("{start}.")),
        (_, _, Some(end)) if !end.is_empty() => ServerName::Domain(format!(".{end}")),
        _ => ServerName::Exact(name.clone()),
    };
    let (ServerName::Exact(inner) | ServerName::Suffix(inner) | ServerName::Prefix(inner) | ServerName::Domain(inner)) =
        &kind
    else {
        return Ok(kind);
    };
    if inner.contains('*') || inner.contains("..") { Err(invalid()) } else { Ok(kind) }
}

/// The words of one `listen`. Err: nginx's message, and the index of the word it is about.
/// `resolve` is asked for names: a loader asks the system, a fuzzer nobody.
pub fn listen(words: &[&str], resolve: Resolve) -> Result<(Listen, Option<String>), (String, usize)> {
    listen_on(words, RTMP_PORT, resolve)
}

/// The same for a protocol with this port of its own.
pub fn listen_on(
    words: &[&str],
    usual_port: u16,
    resolve: Resolve,
) -> Result<(Listen, Option<String>), (String, usize)> {
    let Some((address, options)) = words.split_first() else {
        return Err(("invalid number of arguments in \"listen\" directive".to_owned(), 0));
    };
    let mut listen = Listen::new(listen_address(address, usual_port, resolve).map_err(|message| (message, 0))?);
    let mut remark = None;
    for (index, option) in options.iter().enumerate() {
        let value = option.split_once('=').map_or("", |(_, value)| value);
        let bad = |what: &str| (format!("invalid {what} \"{value}\""), index + 1);
        match option.split('=').next().unwrap_or_default() {
            "default_server" | "default" if value.is_empty() => listen.default_server = true,
            "bind" if value.is_empty() => listen.bind = true,
            "ssl" if value.is_empty() => listen.ssl = true,
            "proxy_protocol" if value.is_empty() => listen.proxy_protocol = true,
            "reuseport" if value.is_empty() => (listen.reuseport, listen.bind) = (true, true),
            "deferred" if value.is_empty() => (listen.deferred, listen.bind) = (true, true),
            "backlog" => {
                let backlog = number(value).and_then(|n| i32::try_from(n).ok()).filter(|n| *n > 0);
                listen.backlog = backlog.ok_or_else(|| bad("backlog"))?;
                listen.bind = true;
            }
            "fastopen" => {
                let queue = number(value).and_then(|n| i32::try_from(n).ok());
                listen.fastopen = Some(queue.ok_or_else(|| bad("fastopen"))?);
                listen.bind = true;
            }
            "rcvbuf" => {
                listen.rcvbuf = Some(buffer(value).ok_or_else(|| bad("rcvbuf"))?);
                listen.bind = true;
            }
            "sndbuf" => {
                listen.sndbuf = Some(buffer(value).ok_or_else(|| bad("sndbuf"))?);
                listen.bind = true;
            }
            "ipv6only" => {
                let only = flag(value).ok_or_else(|| bad("ipv6only flags"))?;
                match &listen.address {
                    ListenAddress::Tcp(address) if address.is_ipv6() => listen.ipv6only = only,
                    address => remark = Some(format!("ipv6only is not supported on addr \"{address}\", ignored")),
                }
                listen.bind = true;
            }
            "so_keepalive" => {
                let keepalive =
                    keepalive(value).ok_or_else(|| (format!("invalid so_keepalive value: \"{value}\""), index + 1))?;
                listen.so_keepalive = Some(keepalive);
                listen.bind = true;
            }
            // FreeBSD's; nginx refuses them on Linux, a configuration that was moved need not fail for them.
            "setfib" | "accept_filter" => remark = Some(format!("{option} has no meaning on Linux, ignored")),
            _ => return Err((format!("the invalid \"{option}\" parameter"), index + 1)),
        }
    }
    Ok((listen, remark))
}

/// `port`, `address`, `address:port`, `*:port`, `[v6]:port`, `name:port`, `unix:path`.
fn listen_address(text: &str, usual_port: u16, resolve: Resolve) -> Result<ListenAddress, String> {
    let of_the_listen = |what: &str| format!("{what} in \"{text}\" of the \"listen\" directive");
    if let Some(path) = text.strip_prefix("unix:") {
        // sockaddr_un holds 108 bytes with the closing NUL.
        return match path.len() {
            0 => Err(of_the_listen("no path in the unix domain socket")),
            1..=107 => Ok(ListenAddress::Unix(PathBuf::from(path))),
            _ => Err(of_the_listen("too long path in the unix domain socket")),
        };
    }
    let port = |text: &str| match text.parse::<u16>() {
        Ok(port) if port > 0 && text.bytes().all(|b| b.is_ascii_digit()) => Ok(port),
        _ => Err(of_the_listen("invalid port")),
    };
    let tcp = |ip: IpAddr, port: u16| Ok(ListenAddress::Tcp(SocketAddr::new(ip, port)));
    let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    if let Some(rest) = text.strip_prefix('[') {
        let (ip, rest) = rest.split_once(']').ok_or_else(|| of_the_listen("invalid host"))?;
        let ip: std::net::Ipv6Addr = ip.parse().map_err(|_| of_the_listen("invalid IPv6 address"))?;
        return match rest.strip_prefix(':') {
            None if rest.is_empty() => tcp(ip.into(), usual_port),
            Some(digits) => tcp(ip.into(), port(digits)?),
            None => Err(of_the_listen("invalid host")),
        };
    }
    let (host, port) = match text.rsplit_once(':') {
        None if text.bytes().all(|b| b.is_ascii_digit()) => return tcp(any, port(text)?),
        None => (text, usual_port),
        Some((host, digits)) => (host, port(digits)?),
    };
    match host {
        "" => Err(of_the_listen("no host")),
        "*" => tcp(any, port),
        _ => match host.parse::<Ipv4Addr>() {
            Ok(ip) => tcp(ip.into(), port),
            Err(_) => tcp(resolve(host).ok_or_else(|| of_the_listen("host not found"))?, port),
        },
    }
}

/// The address of a name.
pub type Resolve = fn(&str) -> Option<IpAddr>;

/// A name's address, IPv4 first as nginx takes it. `localhost` is known without asking anybody.
pub fn resolve(host: &str) -> Option<IpAddr> {
    if host == "localhost" {
        return Some(Ipv4Addr::LOCALHOST.into());
    }
    if host.contains(':') || host.contains('/') {
        return None;
    }
    let addresses: Vec<IpAddr> = (host, 0).to_socket_addrs().ok()?.map(|address| address.ip()).collect();
    addresses.iter().find(|ip| ip.is_ipv4()).or(addresses.first()).copied()
}

/// A socket buffer. The kernel takes a C int.
fn buffer(text: &str) -> Option<usize> {
    size(text).filter(|bytes| *bytes <= i32::MAX as u64).and_then(|bytes| usize::try_from(bytes).ok())
}

fn keepalive(text: &str) -> Option<Keepalive> {
    if let Some(on) = flag(text) {
        return Some(if on { Keepalive::On { idle: None, interval: None, count: None } } else { Keepalive::Off });
    }
    let parts: Vec<&str> = text.split(':').collect();
    let [idle, interval, count] = parts.as_slice() else { return None };
    if idle.is_empty() && interval.is_empty() && count.is_empty() {
        return None;
    }
    let seconds = |text: &str| if text.is_empty() { Some(None) } else { time(text).map(Some) };
    let count = if count.is_empty() { None } else { Some(u32::try_from(number(count)?).ok()?) };
    Some(Keepalive::On { idle: seconds(idle)?, interval: seconds(interval)?, count })
}

/// A hundred years: enough for everybody, and small enough that adding two never wraps.
const MAX_TIME_MS: u64 = 100 * 365 * 86_400_000;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn times_are_those_of_nginx() {
        for (text, ms) in [
            ("30", 30_000),
            ("0", 0),
            ("30s", 30_000),
            ("500ms", 500),
            ("1m30s", 90_000),
            ("1m30", 90_000),
            ("1m 30s", 90_000),
            ("1h", 3_600_000),
            ("1d", 86_400_000),
            ("1w", 604_800_000),
            ("1M", 2_592_000_000),
            ("1y", 31_536_000_000),
            ("1s500ms", 1500),
        ] {
            assert_eq!(time(text), Some(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "abc", "1s1m", "5.5s", "-1", "1 s", " 1", "s", "99999999999999999999", "1500ms2", "999999y"] {
            assert_eq!(time(text), None, "{text}");
        }
    }

    #[test]
    fn sizes_know_k_m_and_g() {
        for (text, bytes) in [("10", 10), ("8k", 8192), ("8K", 8192), ("1M", 1 << 20), ("2g", 2 << 30)] {
            assert_eq!(size(text), Some(bytes), "{text}");
        }
        for text in ["", "k", "1x", "-1", "1kk", "99999999999999999999", "99999999999999999m", "1é"] {
            assert_eq!(size(text), None, "{text}");
        }
    }

    #[test]
    fn flags_do_not_care_for_case() {
        assert_eq!(flag("ON"), Some(true));
        assert_eq!(flag("Off"), Some(false));
        assert_eq!(flag("yes"), None);
    }

    fn address(text: &str) -> String {
        listen(&[text], resolve).map_or_else(|(message, _)| message, |(listen, _)| listen.address.to_string())
    }

    #[test]
    fn every_form_of_address_is_read() {
        for (text, expected) in [
            ("1935", "0.0.0.0:1935"),
            ("*:1936", "0.0.0.0:1936"),
            ("*", "0.0.0.0:1935"),
            ("127.0.0.1", "127.0.0.1:1935"),
            ("127.0.0.1:1940", "127.0.0.1:1940"),
            ("localhost:1935", "127.0.0.1:1935"),
            ("[::]:1935", "[::]:1935"),
            ("[::1]", "[::1]:1935"),
            ("unix:/tmp/a.sock", "unix:/tmp/a.sock"),
            ("0", "invalid port in \"0\" of the \"listen\" directive"),
            ("99999", "invalid port in \"99999\" of the \"listen\" directive"),
            ("127.0.0.1:", "invalid port in \"127.0.0.1:\" of the \"listen\" directive"),
            ("no host:1935", "host not found in \"no host:1935\" of the \"listen\" directive"),
            ("[::1]x", "invalid host in \"[::1]x\" of the \"listen\" directive"),
            (":1935", "no host in \":1935\" of the \"listen\" directive"),
        ] {
            assert_eq!(address(text), expected, "{text}");
        }
    }

    #[test]
    fn every_option_of_listen_is_read() {
        let words = [
            "[::]:1935",
            "default_server",
            "bind",
            "ssl",
            "proxy_protocol",
            "reuseport",
            "deferred",
            "backlog=100",
            "fastopen=5",
            "rcvbuf=64k",
            "sndbuf=1m",
            "ipv6only=off",
            "so_keepalive=30m::10",
        ];
        let (read, remark) = listen(&words, resolve).unwrap();
        assert_eq!(remark, None);
        let keepalive = Keepalive::On { idle: Some(Duration::from_secs(1800)), interval: None, count: Some(10) };
        let expected = Listen {
            address: ListenAddress::Tcp("[::]:1935".parse().unwrap()),
            http2: false,
            ssl: true,
            proxy_protocol: true,
            backlog: 100,
            reuseport: true,
            so_keepalive: Some(keepalive),
            ipv6only: false,
            rcvbuf: Some(65536),
            sndbuf: Some(1 << 20),
            default_server: true,
            bind: true,
            fastopen: Some(5),
            deferred: true,
        };
        assert_eq!(read, expected);
    }

    #[test]
    fn bad_options_of_listen_are_named() {
        for (option, message) in [
            ("foo", "the invalid \"foo\" parameter"),
            ("ipv6only=oops", "invalid ipv6only flags \"oops\""),
            ("so_keepalive=foo", "invalid so_keepalive value: \"foo\""),
            ("so_keepalive=::", "invalid so_keepalive value: \"::\""),
            ("backlog=0", "invalid backlog \"0\""),
            ("rcvbuf=x", "invalid rcvbuf \"x\""),
            ("ssl=on", "the invalid \"ssl=on\" parameter"),
        ] {
            assert_eq!(listen(&["1935", option], resolve), Err((message.to_owned(), 1)), "{option}");
        }
    }

    #[test]
    fn names_of_servers_are_exact_wild_or_patterns() {
        assert!(matches!(server_name("Live.Example"), Ok(ServerName::Exact(name)) if name == "live.example"));
        assert!(matches!(server_name("*.x"), Ok(ServerName::Suffix(name)) if name == ".x"));
        assert!(matches!(server_name("x.*"), Ok(ServerName::Prefix(name)) if name == "x."));
        assert!(matches!(server_name(".x"), Ok(ServerName::Domain(name)) if name == ".x"));
        assert!(matches!(server_name("~^live\\d+"), Ok(ServerName::Pattern(_))));
        assert!(matches!(server_name("_"), Ok(ServerName::Exact(_))));
        assert!(server_name("a*b").is_err());
        assert!(server_name("~(").unwrap_err().starts_with("invalid regular expression \"~(\""));
    }

    proptest! {
        #[test]
        fn no_text_makes_a_value_panic(text in "[0-9a-zA-Z:./ =*\\[\\]~é-]{0,16}") {
            time(&text);
            size(&text);
            let _ = server_name(&text);
            let _ = listen(&["1935", &text], |_| None);
            let _ = listen(&[&text], |_| None);
            let _ = listen(&[&format!("[{text}")], |_| None);
        }
    }
}
