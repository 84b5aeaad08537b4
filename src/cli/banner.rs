//! What a server that was started with nothing says first: what listens where, and what to copy into OBS and a shell.

use std::net::{IpAddr, UdpSocket};
use std::path::Path;

use super::publish_key::Origin;
use crate::config::ListenAddress;

/// Everything the text depends on.
#[derive(Debug, Clone)]
pub struct Banner<'a> {
    pub listens: &'a [ListenAddress],
    /// What HTTP listens on; empty: it does not.
    pub http: &'a [ListenAddress],
    pub app: &'a str,
    /// How others reach this machine, as far as it can tell.
    pub host: Option<IpAddr>,
    /// None: `--open`.
    pub key: Option<(&'a str, &'a Origin)>,
    /// There is an API, which `livemill ctl` speaks.
    pub has_api: bool,
}

impl Banner<'_> {
    /// The text, with its last line feed.
    pub fn text(&self) -> String {
        let mut text = format!("livemill {} takes RTMP on {}", env!("CARGO_PKG_VERSION"), addresses(self.listens));
        if !self.http.is_empty() {
            text.push_str(&format!("\n  and is watched over HTTP on {}", addresses(self.http)));
        }
        text.push('\n');
        let port = port_of(self.listens, crate::config::RTMP_PORT);
        let local = format!("rtmp://127.0.0.1{port}/{}", self.app);
        let host = self.host.map_or_else(|| "HOST".to_owned(), bracketed);
        let remote = format!("rtmp://{host}{port}/{}", self.app);
        match self.key {
            None => {
                text.push_str("\nPublish, from anywhere and without a key (--open)\n");
                publish(&mut text, &remote, STREAM);
            }
            Some((key, origin)) => {
                let shown = if matches!(origin, Origin::Kept(_) | Origin::Environment) { "KEY" } else { key };
                text.push_str("\nPublish from this machine\n");
                publish(&mut text, &local, STREAM);
                text.push_str("\nPublish from another machine\n");
                publish(&mut text, &remote, &format!("{STREAM}?key={shown}"));
                text.push_str(&about_key(origin));
            }
        }
        text.push_str(&format!("\nPlay\n  ffplay {remote}/{STREAM}\n  vlc {remote}/{STREAM}\n"));
        if !self.http.is_empty() {
            let site = format!("http://{host}{}", port_of(self.http, 80));
            text.push_str(&format!(
                "\nWatch in a browser, on a phone\n  {site}/\n  {site}/{app}/{STREAM}/index.m3u8   (HLS; DASH: manifest.mpd)\n  \
                 {site}/{app}/{STREAM}.flv          (also .ts and .mp4, over HTTP and WebSocket)\n",
                app = self.app
            ));
        }
        if self.has_api {
            text.push_str(
                "\nSee and steer, on this machine\n  livemill ctl stat   (also streams, slowest, drop and more)\n",
            );
        }
        text.push_str(&format!(
            "\n\"{STREAM}\" is the name of the stream: any other will do. Ctrl-C stops the server.\n"
        ));
        text
    }
}

fn addresses(listens: &[ListenAddress]) -> String {
    let all = listens.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ");
    let open = |address: &ListenAddress| matches!(address, ListenAddress::Tcp(tcp) if tcp.ip().is_unspecified());
    if listens.iter().any(open) { format!("{all} (all addresses)") } else { all }
}

/// What follows the host in an address: nothing where the port is the protocol's own.
fn port_of(listens: &[ListenAddress], usual: u16) -> String {
    let port = listens.iter().find_map(|address| match address {
        ListenAddress::Tcp(tcp) => Some(tcp.port()),
        ListenAddress::Unix(_) => None,
    });
    match port {
        Some(port) if port != usual => format!(":{port}"),
        _ => String::new(),
    }
}

/// The address this machine would use towards the world. Asks the routing table; nothing is sent.
pub fn own_address() -> Option<IpAddr> {
    // Addresses for documentation: they route as the internet does and belong to nobody.
    [("0.0.0.0:0", "192.0.2.1:9"), ("[::]:0", "[2001:db8::1]:9")].into_iter().find_map(|(from, to)| {
        let socket = UdpSocket::bind(from).ok()?;
        socket.connect(to).ok()?;
        let ip = socket.local_addr().ok()?.ip();
        (!ip.is_unspecified()).then_some(ip)
    })
}

fn publish(text: &mut String, server: &str, stream: &str) {
    text.push_str(&format!(
        "  OBS: Settings > Stream > Service \"Custom...\"\n    Server      {server}\n    Stream Key  {stream}\n"
    ));
    text.push_str(&format!(
        "  ffmpeg -re -f lavfi -i testsrc2=s=1280x720:r=25 -f lavfi -i sine -c:v libx264 -tune zerolatency \\\n    \
         -pix_fmt yuv420p -g 50 -c:a aac -f flv \"{server}/{stream}\"\n"
    ));
}

fn about_key(origin: &Origin) -> String {
    let file = |path: &Path| path.display().to_string();
    match origin {
        Origin::Environment => "  KEY is what LIVEMILL_PUBLISH_KEY says.\n".to_owned(),
        Origin::Kept(path) => format!("  KEY is in {}\n", file(path)),
        Origin::Made(path) => {
            format!("  The key was made now and is shown this once. It is kept in {}\n", file(path))
        }
        Origin::NotKept { path, reason } => format!(
            "  The key holds for this run only: {} cannot be written ({reason}).\n  \
             Set LIVEMILL_PUBLISH_KEY, or STATE_DIRECTORY to a folder that can be written.\n",
            file(path)
        ),
    }
}

fn bracketed(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    }
}

const STREAM: &str = "test";

#[cfg(test)]
mod tests {
    use super::*;

    fn listens(port: u16) -> Vec<ListenAddress> {
        vec![ListenAddress::Tcp(([0, 0, 0, 0], port).into())]
    }

    fn text(port: u16, key: Option<(&str, &Origin)>) -> String {
        let host = Some("192.168.1.7".parse().unwrap());
        Banner { listens: &listens(port), http: &listens(8080), app: "live", host, key, has_api: true }.text()
    }

    #[test]
    fn it_says_what_listens_and_what_to_copy() {
        let text = text(1935, Some(("0123abcd", &Origin::Made("/state/publish.key".into()))));
        assert_eq!(
            text,
            format!(
                r#"livemill {} takes RTMP on 0.0.0.0:1935 (all addresses)
  and is watched over HTTP on 0.0.0.0:8080 (all addresses)

Publish from this machine
  OBS: Settings > Stream > Service "Custom..."
    Server      rtmp://127.0.0.1/live
    Stream Key  test
  ffmpeg -re -f lavfi -i testsrc2=s=1280x720:r=25 -f lavfi -i sine -c:v libx264 -tune zerolatency \
    -pix_fmt yuv420p -g 50 -c:a aac -f flv "rtmp://127.0.0.1/live/test"

Publish from another machine
  OBS: Settings > Stream > Service "Custom..."
    Server      rtmp://192.168.1.7/live
    Stream Key  test?key=0123abcd
  ffmpeg -re -f lavfi -i testsrc2=s=1280x720:r=25 -f lavfi -i sine -c:v libx264 -tune zerolatency \
    -pix_fmt yuv420p -g 50 -c:a aac -f flv "rtmp://192.168.1.7/live/test?key=0123abcd"
  The key was made now and is shown this once. It is kept in /state/publish.key

Play
  ffplay rtmp://192.168.1.7/live/test
  vlc rtmp://192.168.1.7/live/test

Watch in a browser, on a phone
  http://192.168.1.7:8080/
  http://192.168.1.7:8080/live/test/index.m3u8   (HLS; DASH: manifest.mpd)
  http://192.168.1.7:8080/live/test.flv          (also .ts and .mp4, over HTTP and WebSocket)

See and steer, on this machine
  livemill ctl stat   (also streams, slowest, drop and more)

"test" is the name of the stream: any other will do. Ctrl-C stops the server.
"#,
                env!("CARGO_PKG_VERSION")
            )
        );
    }

    #[test]
    fn a_key_that_is_kept_is_not_shown_again() {
        for origin in [Origin::Kept("/state/publish.key".into()), Origin::Environment] {
            let text = text(1935, Some(("0123abcd", &origin)));
            assert!(!text.contains("0123abcd") && text.contains("test?key=KEY"), "{text}");
        }
    }

    #[test]
    fn an_open_server_says_so() {
        let text = text(1935, None);
        assert!(text.contains("--open") && !text.contains("?key="), "{text}");
    }

    #[test]
    fn another_port_stands_in_every_address() {
        let text = text(19_350, None);
        assert!(text.contains("rtmp://192.168.1.7:19350/live/test"), "{text}");
    }
}
