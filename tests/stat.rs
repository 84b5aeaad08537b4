//! `rtmp_stat`: the same publisher and players seen by the real nginx and by livemill, element by element; what only livemill lists;
//! readers that take their time.

mod common;

use std::io::{Read, Write};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use common::exchange::{Reply, ask};
use common::fixtures::Fixture;
use common::http::{FlvViewer, connect, get};
use common::peer::{AAC_CONFIG, AVC_CONFIG, RtmpPeer};
use common::server::{Kind, TestServer};
use common::stream::Publishing;
use common::tools::{self, Player, Running};
use common::wait;
use common::wire::Amf;
use quick_xml::Reader;
use quick_xml::events::Event;
use serde_json::{Value, json};

const SITE: &str = "
    rtmp { server { listen 127.0.0.1:@port@;
        application live { live on; }
        application mixed { live on; interleave on; }
        application none { } } }
    http { access_log off; client_body_temp_path @dir@/body; default_type text/plain;
        server { listen 127.0.0.1:@port2@;
            location /stat { rtmp_stat all; rtmp_stat_stylesheet \"/stat.xsl?a=1&b=2\"; }
            location /live { rtmp_stat live; }
            location /global { rtmp_stat global; }
            location /clients { rtmp_stat clients; }
            location /around { rtmp_stat all; location /around/inner { } }
            location /plain { } } }";

/// livemill and nginx with one configuration.
fn both() -> [TestServer; 2] {
    [Kind::Livemill, Kind::Nginx].map(|kind| TestServer::start_http(kind, SITE))
}

fn stat(server: &TestServer, target: &str) -> String {
    let reply = ask(server.other_port(1), "GET", target, &[]);
    assert_eq!(reply.status, 200, "{target}");
    String::from_utf8(reply.body).expect("it says that it is UTF-8")
}

/// An element and the text in it; empty for those that hold others.
#[derive(Debug, Clone, PartialEq)]
struct Element {
    /// With the names of those around it.
    path: String,
    text: String,
}

fn elements(document: &str) -> Vec<Element> {
    let mut reader = Reader::from_str(document);
    let mut elements: Vec<Element> = Vec::new();
    let mut around: Vec<(String, usize)> = Vec::new();
    loop {
        let event = reader.read_event().unwrap_or_else(|error| panic!("{error}:\n{document}"));
        let mut enter = |name: &[u8], around: &[(String, usize)]| {
            let name = String::from_utf8(name.to_vec()).expect("names are ASCII");
            let path: Vec<&str> = around.iter().map(|(name, _)| name.as_str()).chain([name.as_str()]).collect();
            elements.push(Element { path: path.join("/"), text: String::new() });
            (name, elements.len() - 1)
        };
        match event {
            Event::Start(start) => {
                let entered = enter(start.name().as_ref(), &around);
                around.push(entered);
            }
            Event::Empty(start) => drop(enter(start.name().as_ref(), &around)),
            Event::End(_) => drop(around.pop()),
            Event::Text(text) => {
                let text = text.decode().expect("it is UTF-8").trim().to_owned();
                if let Some((_, at)) = around.last() {
                    elements[*at].text.push_str(&text);
                }
            }
            Event::GeneralRef(reference) => {
                let name = reference.decode().expect("it is UTF-8").into_owned();
                if let Some((_, at)) = around.last() {
                    elements[*at].text.push_str(&format!("&{name};"));
                }
            }
            Event::Eof => {
                assert!(around.is_empty(), "an element is not closed:\n{document}");
                return elements;
            }
            _ => {}
        }
    }
}

/// The document without its texts: tags, line ends and blanks as they came.
fn skeleton(document: &str) -> String {
    let mut kept = String::new();
    let mut rest = document;
    while let Some((text, tag)) = rest.split_once('<') {
        kept.extend(text.chars().filter(|character| character.is_ascii_whitespace() && text.trim().is_empty()));
        let (tag, after) = tag.split_once('>').expect("a tag ends");
        kept.push_str(&format!("<{tag}>"));
        rest = after;
    }
    kept + rest
}

/// nginx names its compiler where its build knew it, which Debian's does not.
fn without_compiler(document: &str) -> String {
    document.split_inclusive("\r\n").filter(|line| !line.starts_with("<compiler>")).collect()
}

/// What a stylesheet makes of a document.
fn page(document: &str) -> String {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), document).expect("a file of our own");
    let stylesheet = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/stat.xsl");
    let made = Command::new(tools::find("xsltproc", "xsltproc")).arg(stylesheet).arg(file.path()).output();
    let made = made.expect("xsltproc starts");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    String::from_utf8(made.stdout).expect("it is UTF-8")
}

fn texts<'a>(elements: &'a [Element], ending: &str) -> Vec<&'a str> {
    elements.iter().filter(|element| element.path.ends_with(ending)).map(|element| element.text.as_str()).collect()
}

fn numbers(elements: &[Element], ending: &str) -> Vec<f64> {
    let read = |text: &&str| text.parse().unwrap_or_else(|_| panic!("{ending} is {text:?}"));
    texts(elements, ending).iter().map(read).collect()
}

/// The same picture and sound to each of these addresses, for as long as it lives.
fn publish_without_end(urls: &[String]) -> Running {
    let mut command = Command::new(tools::ffmpeg_debian());
    command.args(["-nostdin", "-hide_banner", "-loglevel", "warning", "-re", "-stream_loop", "-1", "-i"]);
    let outputs: Vec<String> = urls.iter().map(|url| format!("[f=flv]{url}")).collect();
    command.arg(Fixture::H264Aac.path()).args(["-map", "0", "-c", "copy", "-f", "tee", &outputs.join("|")]);
    Running::start("publishing without end", command)
}

#[test]
fn one_publisher_and_its_players_make_the_same_document_as_in_nginx() {
    let servers = both();
    let urls: Vec<String> = servers.iter().map(|server| server.url("live/cam")).collect();
    let _publisher = publish_without_end(&urls);
    for server in &servers {
        wait::until("the publisher", PATIENCE, || stat(server, "/stat").contains("<active/>").then_some(()));
    }
    // One after the other: the newest comes first. The last one waits for somebody to publish.
    let folder = tempfile::tempdir().expect("a temporary directory");
    let mut players: Vec<Running> = Vec::new();
    let mut waiting: Vec<RtmpPeer> = Vec::new();
    for (at, server) in servers.iter().enumerate() {
        for number in 1..=2 {
            players.push(Player::FfmpegDebian.play(&urls[at], &folder.path().join(format!("{at}-{number}.flv"))));
            wait::until("a player more", PATIENCE, || {
                (stat(server, "/stat").matches("<client>").count() > number).then_some(())
            });
        }
        waiting.push(RtmpPeer::play(server.port(), "mixed", "soon").0);
        wait::until("one who waits", PATIENCE, || {
            (stat(server, "/stat").matches("<client>").count() == 4).then_some(())
        });
    }
    // nginx's rates are those of the last ten seconds by its clock, and nothing before.
    wait::until("nginx knows its rates", Duration::from_secs(40), || {
        let elements = elements(&stat(&servers[1], "/stat"));
        let known = |ending| numbers(&elements, ending)[0] > 100_000.0;
        (known("stream/bw_in") && known("stream/bw_out")).then_some(())
    });

    let documents = [stat(&servers[0], "/stat"), stat(&servers[1], "/stat")];
    let documents = documents.map(|document| without_compiler(&document));
    assert_eq!(skeleton(&documents[0]), skeleton(&documents[1]));
    let [ours, nginxs] = [elements(&documents[0]), elements(&documents[1])];
    let mut differences = Vec::new();
    for (our, nginx) in ours.iter().zip(&nginxs) {
        let name = our.path.rsplit('/').next().unwrap_or_default();
        let stated = || [our, nginx].map(|element| element.text.parse::<f64>().expect(&element.path));
        let apart = |[one, other]: [f64; 2]| (one - other).abs();
        let by_part = |part: f64| {
            let [one, other] = stated();
            apart([one, other]) <= part * one.max(other)
        };
        let is_server = our.path.matches('/').count() == 1;
        let is_alike = match name {
            "nginx_version" | "built" | "pid" | "nginx_rtmp_version" => !our.text.is_empty(),
            "uptime" => apart(stated()) <= 5.0,
            // Ours count HTTP as well, and this test asks each of them differently often.
            "bw_in" | "bw_out" | "bytes_in" | "bytes_out" if is_server => stated().iter().all(|value| *value > 0.0),
            // Windows of ten seconds each, not the same ones.
            "bw_in" | "bw_out" | "bw_audio" | "bw_video" => by_part(0.3),
            "bytes_in" | "bytes_out" => by_part(0.3),
            "time" | "timestamp" => apart(stated()) <= 5_000.0,
            "avsync" if our.text.is_empty() => nginx.text.is_empty(),
            "avsync" => apart(stated()) <= 100.0,
            // nginx keeps 31 bytes of it.
            "flashver" => our.text.starts_with(&nginx.text),
            "id" => stated().iter().all(|value| *value > 0.0),
            // Names, sizes, codecs, profiles, levels, addresses, counts, and what is only there or not.
            _ => our.text == nginx.text,
        };
        if !is_alike {
            differences.push(format!("{}: {:?}, nginx {:?}", our.path, our.text, nginx.text));
        }
    }
    assert!(differences.is_empty(), "{}\n{}", differences.join("\n"), documents[0]);
    assert_eq!(texts(&ours, "video/codec"), ["H264"]);
    assert_eq!(texts(&ours, "client/publishing").len(), 1);
    assert_eq!(texts(&ours, "live/nclients"), ["3", "1"]);
    let ids = numbers(&ours, "client/id");
    assert!(ids[0] > ids[1] && ids[1] > ids[2], "the newest first: {ids:?}");

    let tables = documents.each_ref().map(|document| page(document));
    assert_eq!(tables[0], tables[1], "what a stylesheet makes of both");
    assert_eq!(
        tables[0],
        "application live 3\nstream cam 3 H264 High 1.3 320x180 25 AAC LC 44100 2 active\nplaying 127.0.0.1 0\n\
         playing 127.0.0.1 0\npublishing 127.0.0.1 0\napplication mixed 1\nstream soon 1 idle\nplaying 127.0.0.1 0\n\
         application none \n"
    );

    for target in ["/live", "/global", "/clients", "/around"] {
        let [ours, nginxs] = [0, 1].map(|at| without_compiler(&stat(&servers[at], target)));
        assert_eq!(skeleton(&ours), skeleton(&nginxs), "{target}");
    }
    for player in &mut players {
        assert!(player.is_running(), "{}", player.output());
    }
}

#[test]
fn the_answer_around_the_document_is_nginxs() {
    let servers = both();
    for (method, target) in [
        ("GET", "/stat"),
        ("HEAD", "/stat"),
        ("POST", "/stat"),
        ("DELETE", "/stat?x"),
        ("GET", "/stat/below/it"),
        ("GET", "/around/inner"),
        ("GET", "/plain"),
    ] {
        let [ours, nginxs] = [0, 1].map(|at| {
            let Reply { status, headers, .. } = ask(servers[at].other_port(1), method, target, &[]);
            let mut kept: Vec<(String, String)> = headers
                .into_iter()
                .filter(|(name, _)| name != "date" && name != "server")
                .map(|(name, value)| (name.clone(), if name == "content-length" { String::new() } else { value }))
                .collect();
            kept.sort();
            (status, kept)
        });
        assert_eq!(ours, nginxs, "{method} {target}");
    }
    let reply = ask(servers[0].other_port(1), "GET", "/stat", &[]);
    let length = reply.header("content-length").and_then(|length| length.parse().ok());
    assert_eq!((reply.header("content-type"), length), (Some("text/xml"), Some(reply.body.len())));
}

#[test]
fn what_peers_say_of_themselves_is_escaped_as_in_nginx_and_holds_no_query() {
    let servers = both();
    let publishers = servers.each_ref().map(|server| {
        let mut peer = RtmpPeer::shaken(server.port());
        let extra = [
            ("swfUrl", Amf::from("http://a.example/<b>&\"c\"/é\u{1}.swf")),
            ("pageUrl", "http://p.example/?key=secret".into()),
        ];
        peer.request_connect("live", &extra);
        let msid = peer.create_stream();
        peer.command(msid, "publish", &[Amf::Null, "a-b_c.d?token=hidden".into(), "live".into()]);
        assert_eq!(peer.expect_status(msid), "NetStream.Publish.Start");
        (peer, msid)
    });
    let documents = servers.each_ref().map(|server| {
        wait::until("the publisher", PATIENCE, || {
            Some(stat(server, "/stat")).filter(|text| text.contains("<publishing/>"))
        })
    });
    let [ours, nginxs] = documents.each_ref().map(|document| elements(document));
    assert_eq!(texts(&ours, "client/swfurl"), texts(&nginxs, "client/swfurl"));
    assert_eq!(texts(&ours, "client/swfurl"), ["http://a.example/&lt;b&gt;&amp;&quot;c&quot;/   .swf"]);
    assert_eq!(texts(&ours, "stream/name"), texts(&nginxs, "stream/name"));
    assert_eq!(texts(&ours, "client/pageurl"), ["http://p.example/"], "nginx shows what is behind the question mark");
    assert!(!documents[0].contains("secret") && !documents[0].contains("hidden"));
    drop(publishers);
}

const EVERYBODY: &str = "
    rtmp {
        server { listen 127.0.0.1:@port@; application live { live on; push rtmp://127.0.0.1:@far@/far; } }
        server { listen 127.0.0.1:@port3@; server_name second; application * { live on; } } }
    http { access_log off;
        server { listen 127.0.0.1:@port2@;
            location / { player on; }
            location /stat { rtmp_stat all; }
            location /xml { rtmp_stat all; rtmp_stat_format xml; }
            location /json { rtmp_stat all; rtmp_stat_format json; } } }";

#[test]
fn viewers_of_every_protocol_and_relays_are_listed() {
    let far = TestServer::start_nginx("rtmp { server { listen 127.0.0.1:@port@; application far { live on; } } }");
    let text = EVERYBODY.replace("@far@", &far.port().to_string());
    let server = TestServer::start_http(Kind::Livemill, &text);
    let port = server.other_port(1);
    let _publisher = publish_without_end(&[
        server.url("live/cam"),
        format!("rtmp://127.0.0.1:{}/other/caught", server.other_port(2)),
    ]);
    wait::until("both streams", PATIENCE, || {
        (stat(&server, "/stat").matches("<publishing/><active/></client>").count() == 2).then_some(())
    });
    let _flv = FlvViewer::watch(port, "/live/cam.flv");
    let _websocket = FlvViewer::watch_over_websocket(port, "/live/cam.flv");
    let _endless = [get(port, "/live/cam.ts"), get(port, "/live/cam.mp4")];
    let wanted = ["flv_live 1.1", "ws-flv", "http-ts", "http-mp4", "hls", "dash", "ngx-local-relay"];
    let document = wait::until("all of them", PATIENCE, || {
        for target in ["/live/cam/index.m3u8", "/live/cam/manifest.mpd"] {
            let reply = ask(port, "GET", target, &[("User-Agent", "a test")]);
            // A viewer is who asks again, for what the first playlist names.
            for line in reply.text().lines().filter(|line| line.contains(".m3u8") && !line.starts_with('#')) {
                ask(port, "GET", &format!("/live/cam/{line}"), &[("User-Agent", "a test")]);
            }
        }
        let document = stat(&server, "/stat");
        let all = elements(&document);
        let seen = texts(&all, "client/flashver");
        wanted.iter().all(|word| seen.contains(word)).then_some(document)
    });
    let all = elements(&document);
    assert_eq!(texts(&all, "application/name"), ["live", "other"]);
    let counts = numbers(&all, "stream/nclients");
    assert_eq!(counts.iter().sum::<f64>() as usize, document.matches("<client>").count());
    for address in texts(&all, "client/address") {
        assert_eq!(address, "127.0.0.1");
    }
    assert_eq!(numbers(&all, "video/width"), [320.0, 320.0]);

    let reply = ask(port, "GET", "/json", &[]);
    assert_eq!(reply.header("content-type"), Some("application/json"));
    let value: Value = serde_json::from_slice(&reply.body).expect("it is well-formed");
    check_json(&value, &[server.port(), server.other_port(2)]);
    let dialect = elements(&stat(&server, "/xml"));
    assert_eq!(dialect[0].path, "http-flv");
    assert_eq!(numbers(&dialect, "server/port"), [server.port(), server.other_port(2)].map(f64::from));
    assert_eq!(texts(&dialect, "stream/records").len(), 2);
}

/// A key, and what its value is.
type Key = (&'static str, fn(&Value) -> bool);

/// Every key of nginx-http-flv-module's document, and of what type its value is.
#[track_caller]
fn check_json(value: &Value, ports: &[u16]) {
    let is = |value: &Value, keys: &[Key], optional: &[&str]| {
        let object = value.as_object().unwrap_or_else(|| panic!("no object: {value}"));
        for (key, has_type) in keys {
            match object.get(*key) {
                Some(value) => assert!(has_type(value), "{key}: {value}"),
                None => assert!(optional.contains(key), "there is no {key} in {value}"),
            }
        }
        let unknown = object.keys().find(|key| !keys.iter().any(|(known, _)| known == key));
        assert_eq!(unknown, None, "{value}");
    };
    let root = &value["http-flv"];
    assert_eq!(value.as_object().map(serde_json::Map::len), Some(1));
    is(
        root,
        &[
            ("nginx_version", Value::is_string),
            ("nginx_http_flv_version", Value::is_string),
            ("compiler", Value::is_string),
            ("built", Value::is_string),
            ("pid", Value::is_u64),
            ("uptime", Value::is_u64),
            ("naccepted", Value::is_u64),
            ("bw_in", Value::is_u64),
            ("bytes_in", Value::is_u64),
            ("bw_out", Value::is_u64),
            ("bytes_out", Value::is_u64),
            ("servers", Value::is_array),
        ],
        &[],
    );
    let servers = root["servers"].as_array().expect("it is one");
    assert_eq!(servers.len(), ports.len());
    for (index, (server, port)) in servers.iter().zip(ports).enumerate() {
        is(server, &[("port", Value::is_u64), ("server_index", Value::is_u64), ("applications", Value::is_array)], &[]);
        assert_eq!((&server["port"], &server["server_index"]), (&json!(port), &json!(index)));
        for application in server["applications"].as_array().expect("it is one") {
            is(
                application,
                &[("name", Value::is_string), ("live", Value::is_object), ("recorders", Value::is_object)],
                &[],
            );
            assert_eq!(application["recorders"], json!({ "count": 0, "lists": [] }));
            is(&application["live"], &[("streams", Value::is_array), ("nclients", Value::is_u64)], &[]);
            for stream in application["live"]["streams"].as_array().expect("it is one") {
                is(
                    stream,
                    &[
                        ("name", Value::is_string),
                        ("time", Value::is_u64),
                        ("bw_in", Value::is_u64),
                        ("bytes_in", Value::is_u64),
                        ("bw_out", Value::is_u64),
                        ("bytes_out", Value::is_u64),
                        ("bw_audio", Value::is_u64),
                        ("bw_video", Value::is_u64),
                        ("clients", Value::is_array),
                        ("records", Value::is_array),
                        ("meta", Value::is_object),
                        ("nclients", Value::is_u64),
                        ("publishing", Value::is_boolean),
                        ("active", Value::is_boolean),
                    ],
                    &[],
                );
                for client in stream["clients"].as_array().expect("it is one") {
                    is(
                        client,
                        &[
                            ("id", Value::is_u64),
                            ("address", Value::is_string),
                            ("time", Value::is_u64),
                            ("flashver", Value::is_string),
                            ("pageurl", Value::is_string),
                            ("swfurl", Value::is_string),
                            ("dropped", Value::is_u64),
                            ("avsync", Value::is_i64),
                            ("timestamp", Value::is_u64),
                            ("publishing", Value::is_boolean),
                            ("active", Value::is_boolean),
                        ],
                        &["pageurl", "swfurl"],
                    );
                }
                is(
                    &stream["meta"]["video"],
                    &[
                        ("width", Value::is_u64),
                        ("height", Value::is_u64),
                        ("frame_rate", Value::is_f64),
                        ("codec", Value::is_string),
                        ("profile", Value::is_string),
                        ("compat", Value::is_u64),
                        ("level", Value::is_f64),
                    ],
                    &["compat"],
                );
                is(
                    &stream["meta"]["audio"],
                    &[
                        ("codec", Value::is_string),
                        ("profile", Value::is_string),
                        ("channels", Value::is_u64),
                        ("sample_rate", Value::is_u64),
                    ],
                    &[],
                );
            }
        }
    }
}

#[test]
fn who_leaves_statistics_open_is_told_at_start_and_by_check() {
    let server = TestServer::start_http(
        Kind::Livemill,
        "rtmp { server { listen 127.0.0.1:@port@; application live { live on; } } }
http { access_log off; server { listen 127.0.0.1:@port2@; location /near { rtmp_stat all; } }
    server { listen @port3@;
        location /stat { rtmp_stat all; }
        location /control { rtmp_control drop; }
        location /kept { allow 127.0.0.1; deny all; rtmp_stat all; rtmp_control all; } } }",
    );
    let file = server.dir().join("conf/test.conf");
    let check = Command::new(env!("CARGO_BIN_EXE_livemill")).arg("check").arg(&file).output().expect("it starts");
    let report = String::from_utf8(check.stdout).expect("it is UTF-8");
    let told: Vec<&str> = report.lines().filter(|line| line.contains("is open to the world")).collect();
    let advice = "guard it with `allow 127.0.0.1; deny all;`";
    let notes = [(8, "rtmp_stat"), (9, "rtmp_control")]
        .map(|(line, name)| format!("{}:{line}: \"{name}\" is open to the world: {advice}", file.display()));
    assert_eq!(told, notes.each_ref().map(|note| format!("note: {note}")), "{report}");
    for note in &notes {
        server.wait_for_log(&[note], PATIENCE);
    }
    assert_eq!(server.log().matches("is open to the world").count(), 2);
    // It is said, and left as nginx has it.
    assert_eq!(ask(server.other_port(2), "GET", "/stat", &[]).status, 200);
}

/// Two hundred who ask for a large document and read next to nothing of it.
#[test]
fn slow_readers_share_what_they_read() {
    let server = TestServer::start_http(
        Kind::Livemill,
        "rtmp { max_connections 4096; server { listen 127.0.0.1:@port@; application live { live on; } } }
         http { access_log off; server { listen 127.0.0.1:@port2@; location /stat { rtmp_stat all; } } }",
    );
    let (peer, msid) = RtmpPeer::publish(server.port(), "live", "cam");
    let mut stream = Publishing::new(peer, msid);
    stream.peer.send_video(msid, 0, AVC_CONFIG);
    stream.peer.send_audio(msid, 0, AAC_CONFIG);
    // The names of streams are what makes the document large.
    let waiting: Vec<RtmpPeer> = (0..PLAYERS)
        .map(|number| {
            let mut peer = RtmpPeer::shaken(server.port());
            let page = format!("http://page.example/{}", "x".repeat(8_000));
            peer.request_connect("live", &[("pageUrl", Amf::from(page.as_str())), ("swfUrl", page.as_str().into())]);
            let msid = peer.create_stream();
            peer.command(msid, "play", &[Amf::Null, format!("s{number}").as_str().into(), Amf::Number(-2000.0)]);
            peer
        })
        .collect();
    let length = wait::until("all of them", PATIENCE, || {
        let document = stat(&server, "/stat");
        (document.matches("<client>").count() == PLAYERS + 1).then_some(document.len())
    });
    assert!(length > 500_000, "{length}");
    let before = server.rss_kib();
    let mut readers: Vec<_> = (0..200)
        .map(|_| {
            let mut socket = connect(server.other_port(1));
            socket.write_all(b"GET /stat HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("the server reads");
            socket
        })
        .collect();
    for socket in &mut readers {
        let mut byte = [0; 1];
        socket.read_exact(&mut byte).expect("the answer begins");
    }
    let grown = server.rss_kib().saturating_sub(before);
    assert!(grown * 1024 < 40 * length as u64, "{grown} KiB for 200 readers of {length} bytes");
    // The others notice nothing.
    assert_eq!(stat(&server, "/stat").matches("<client>").count(), PLAYERS + 1);
    stream.send_frames(0..5);
    drop((readers, waiting));
}

/// On a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

const PLAYERS: usize = 60;
