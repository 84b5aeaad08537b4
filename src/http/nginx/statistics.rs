//! `rtmp_stat`: what the whole server is doing, in the documents of nginx's RTMP modules.
//!
//! - [`mod@document`]: what is said, from a snapshot of the server.
//! - [`xml`]: how the modules write it.
//!
//! Documents are rendered on a thread that carries no media, never on a worker, and one is shared by all who asked at its moment: they
//! have a megabyte where there are thousands of clients, and whoever reads slowly holds what he reads.

use std::{
    mem,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use tokio::sync::OnceCell;

use crate::{
    actors::{control::Look, support::snapshot::Snapshot},
    config::{
        Config,
        http::statistics::{Form, Statistics},
    },
    http::Site,
};
use document::Document;

pub mod document;
pub mod xml;

/// The newest document of each kind, and how much memory those take that somebody still reads.
#[derive(Default)]
pub struct Renderings {
    newest: Mutex<Vec<Rendering>>,
    held: Arc<AtomicUsize>,
}

/// One document, once it has been asked for.
struct Rendering {
    rules: Statistics,
    of: Weak<Snapshot>,
    document: Arc<OnceCell<Bytes>>,
}

/// A document, counted for as long as anybody holds it.
struct Held {
    text: String,
    held: Arc<AtomicUsize>,
}

/// The document of a location. None: the server is ending.
pub async fn document(site: &Site, rules: &Statistics) -> Option<Bytes> {
    let snapshot = site.control.send(Look).await.ok()?;
    let document = site.statistics.document(&snapshot, rules);
    let render = || async {
        let (config, rules, held) = (Arc::clone(&site.config), rules.clone(), Arc::clone(&site.statistics.held));
        let rendered = site.aside(move || Held::new(render(&snapshot, &config, &rules), held)).await;
        rendered.map(Bytes::from_owner).ok_or(())
    };
    document.get_or_try_init(render).await.ok().cloned()
}

/// What a document is called.
pub fn content_type(rules: &Statistics) -> &'static str {
    match rules.form {
        Form::Rtmp | Form::HttpFlv => "text/xml",
        Form::Json => "application/json",
    }
}

/// The document as text.
pub fn render(snapshot: &Snapshot, config: &Config, rules: &Statistics) -> String {
    let document = Document::new(snapshot, config, rules);
    match rules.form {
        Form::Rtmp | Form::HttpFlv => xml::write(&document, rules),
        // Every key is a string, so there is nothing that could fail.
        Form::Json => serde_json::to_string(&document.named()).unwrap_or_default(),
    }
}

impl Renderings {
    /// Where the document of this snapshot is, or will be.
    fn document(&self, snapshot: &Arc<Snapshot>, rules: &Statistics) -> Arc<OnceCell<Bytes>> {
        let new =
            || Rendering { rules: rules.clone(), of: Arc::downgrade(snapshot), document: Arc::new(OnceCell::new()) };
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(at) = newest.iter().position(|rendering| rendering.rules == *rules) else {
            let rendering = new();
            let document = Arc::clone(&rendering.document);
            newest.push(rendering);
            return document;
        };
        let known = &mut newest[at];
        let is_of_now = std::ptr::eq(known.of.as_ptr(), Arc::as_ptr(snapshot));
        // Readers that take a byte a second would each hold another document: they get an old one.
        let is_too_much = self.held.load(Ordering::Relaxed) > MAX_HELD_BYTES && known.document.initialized();
        if !is_of_now && !is_too_much {
            drop(mem::replace(known, new()));
        }
        Arc::clone(&known.document)
    }
}

impl Held {
    fn new(text: String, held: Arc<AtomicUsize>) -> Self {
        held.fetch_add(text.len(), Ordering::Relaxed);
        Self { text, held }
    }
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        self.text.as_bytes()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.held.fetch_sub(self.text.len(), Ordering::Relaxed);
    }
}

/// Some dozens of documents of a large server.
const MAX_HELD_BYTES: usize = 32 << 20;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::document::ApplicationPart;
    use super::*;
    use crate::{
        actors::support::{
            counters::About,
            roll::{ClientNow, ClientRole, Pulse, Who},
            snapshot::{Client, ServerNow, StreamNow},
        },
        media::{
            codec::{AudioCodec, AudioInfo, VideoCodec, VideoInfo},
            key::StreamKey,
            meter::Readings,
            queue::Drops,
        },
    };

    fn rules(form: Form) -> Statistics {
        Statistics { live: true, clients: true, records: form != Form::Rtmp, form, stylesheet: String::new() }
    }

    fn config(text: &str) -> Config {
        Config::parse("x.conf", text.as_bytes()).unwrap_or_else(|error| panic!("{text}\n{error}"))
    }

    fn client(id: u64, role: ClientRole, protocol: &'static str, key: &StreamKey) -> Client {
        let who = Who {
            id,
            role,
            protocol,
            key: key.clone(),
            address: Some(([192, 0, 2, 7], 5000).into()),
            agent: "FMLE/3.0 <a & \"b\"> caf\u{e9}\t".to_owned(),
            page_url: String::new(),
            swf_url: String::new(),
            tc_url: String::new(),
            connected: Duration::from_secs(id),
            began: Duration::from_secs(id),
            is_relay: false,
        };
        let pulse = Pulse { queue_ms: 40, drops: Drops { video: 3, audio: 4, skips: 1 }, ..Pulse::default() };
        Client::new(ClientNow { who: Arc::new(who), pulse }, 0)
    }

    fn stream(key: &StreamKey) -> StreamNow {
        let video = VideoInfo {
            width: 1280,
            height: 720,
            fps: Some(29.97),
            interlaced: false,
            bit_depth: 8,
            profile: "High",
            compatibility: 0,
            level: 3.1,
            codec_string: String::new(),
        };
        let audio = AudioInfo { rate: 44_100, channels: Some(2), profile: "LC", codec_string: String::new() };
        let about = About {
            since: None,
            video: Some((VideoCodec::Avc, Some(video))),
            audio: Some((AudioCodec::Aac, Some(audio))),
        };
        let readings = Readings {
            bits_in: 1000,
            bits_audio: 100,
            bits_video: 900,
            bits_out: 3000,
            av_offset_ms: Some(-12),
            audio_ms: Some(9_988),
            video_ms: Some(10_000),
            ..Readings::default()
        };
        StreamNow {
            key: key.clone(),
            id: 1,
            publisher: Some(1),
            active: true,
            age: Duration::from_millis(12_345),
            published_for: None,
            about,
            readings,
            bytes_in: 5000,
            packets_in: 0,
            bytes_out: 15_000,
            clock_ms: 11_000,
            jumps: 0,
            refused_messages: 0,
            missed_deliveries: 0,
            players: Vec::new(),
            outputs: Vec::new(),
        }
    }

    /// One stream that is published and watched, and one for whose publisher somebody waits.
    fn snapshot() -> Snapshot {
        let key = |app: &str, name: &str| StreamKey::parse("default", app, name).expect("a good name");
        let (cam, waiting) = (key("live", "cam"), key("live", "soon"));
        let awaited = StreamNow {
            publisher: None,
            active: false,
            about: About::default(),
            readings: Readings::default(),
            ..stream(&waiting)
        };
        let clients = vec![
            client(4, ClientRole::Player, "hls", &cam),
            client(3, ClientRole::Player, "rtmp", &waiting),
            client(2, ClientRole::Player, "http-flv", &cam),
            client(1, ClientRole::Publisher, "rtmp", &cam),
        ];
        let server = ServerNow {
            uptime: Duration::from_millis(60_900),
            now: Duration::from_secs(61),
            accepted: 9,
            ..ServerNow::default()
        };
        Snapshot { server, streams: vec![stream(&cam), awaited], clients, ..Snapshot::default() }
    }

    /// What comes behind the lines about the process.
    fn behind_head(text: &str) -> &str {
        &text[text.find("<server>").expect("a server")..]
    }

    #[test]
    fn nginx_rtmps_document_is_written_to_the_byte() {
        let config = config("rtmp { server { listen 1935; application live { live on; } application off { } } }");
        let text = render(&snapshot(), &config, &rules(Form::Rtmp));
        let head = "<?xml version=\"1.0\" encoding=\"utf-8\" ?>\r\n<rtmp>\r\n<nginx_version>livemill/";
        assert!(text.starts_with(head), "{text}");
        let expected = "<server>\r\n<application>\r\n<name>live</name>\r\n<live>\r\n\
            <stream>\r\n<name>cam</name>\r\n<time>12345</time><bw_in>1000</bw_in>\r\n<bytes_in>5000</bytes_in>\r\n\
            <bw_out>3000</bw_out>\r\n<bytes_out>15000</bytes_out>\r\n<bw_audio>100</bw_audio>\r\n<bw_video>900</bw_video>\r\n\
            <client><id>4</id><address>192.0.2.7</address><time>57000</time><flashver>hls</flashver>\
            <dropped>7</dropped><avsync>-12</avsync><timestamp>9960</timestamp><active/></client>\r\n\
            <client><id>2</id><address>192.0.2.7</address><time>59000</time><flashver>flv_live 1.1</flashver>\
            <dropped>7</dropped><avsync>-12</avsync><timestamp>9960</timestamp><active/></client>\r\n\
            <client><id>1</id><address>192.0.2.7</address><time>60000</time>\
            <flashver>FMLE/3.0 &lt;a &amp; &quot;b&quot;&gt; caf   </flashver>\
            <dropped>7</dropped><avsync>-12</avsync><timestamp>11000</timestamp><publishing/><active/></client>\r\n\
            <meta><video><width>1280</width><height>720</height><frame_rate>29</frame_rate><codec>H264</codec>\
            <profile>High</profile><compat>0</compat><level>3.1</level></video><audio><codec>AAC</codec><profile>LC</profile>\
            <channels>2</channels><sample_rate>44100</sample_rate></audio></meta>\r\n\
            <nclients>3</nclients>\r\n<publishing/>\r\n<active/>\r\n</stream>\r\n\
            <stream>\r\n<name>soon</name>\r\n<time>12345</time><bw_in>0</bw_in>\r\n<bytes_in>5000</bytes_in>\r\n\
            <bw_out>0</bw_out>\r\n<bytes_out>15000</bytes_out>\r\n<bw_audio>0</bw_audio>\r\n<bw_video>0</bw_video>\r\n\
            <client><id>3</id><address>192.0.2.7</address><time>58000</time>\
            <flashver>FMLE/3.0 &lt;a &amp; &quot;b&quot;&gt; caf   </flashver>\
            <dropped>7</dropped><avsync>0</avsync><timestamp>0</timestamp></client>\r\n\
            <nclients>1</nclients>\r\n</stream>\r\n<nclients>4</nclients>\r\n</live>\r\n</application>\r\n\
            <application>\r\n<name>off</name>\r\n</application>\r\n</server>\r\n</rtmp>\r\n";
        assert_eq!(behind_head(&text), expected);
    }

    #[test]
    fn flags_and_interleaving_leave_out_what_they_say() {
        let text = "rtmp { server { listen 1935; application live { live on; interleave on; } } }";
        let (snapshot, config) = (snapshot(), config(text));
        let with = |live, clients, form| render(&snapshot, &config, &Statistics { live, clients, ..rules(form) });
        assert!(with(true, true, Form::Rtmp).contains("<avsync></avsync>"));
        assert!(with(true, true, Form::HttpFlv).contains("<avsync>0</avsync>"));
        let without_clients = with(true, false, Form::Rtmp);
        assert!(!without_clients.contains("<client>") && without_clients.contains("<nclients>3</nclients>"));
        assert!(
            behind_head(&with(false, true, Form::Rtmp))
                .starts_with("<server>\r\n<application>\r\n<name>live</name>\r\n</app")
        );
        assert!(!with(true, false, Form::Json).contains("\"clients\""));
    }

    #[test]
    fn nginx_http_flvs_document_has_a_line_for_each_element() {
        let config = config("rtmp { server { listen 1936; application live { live on; } } }");
        let text = render(&snapshot(), &config, &rules(Form::HttpFlv));
        assert!(text.contains("\r\n<http-flv>\r\n<nginx_version>"), "{text}");
        let server = "<server>\r\n<port>1936</port>\r\n<server_index>0</server_index>\r\n<application>\r\n";
        assert!(behind_head(&text).starts_with(server), "{text}");
        let client = "<client>\r\n<id>1</id>\r\n<address>192.0.2.7</address>\r\n<time>60000</time>\r\n<flashver>";
        assert!(text.contains(client), "{text}");
        let meta = "<records>\r\n</records>\r\n<meta>\r\n<video>\r\n<width>1280</width>\r\n<height>720</height>\r\n\
            <frame_rate>29.970</frame_rate>\r\n<codec>H264</codec>\r\n<profile>High</profile>\r\n<level>3.1</level>\r\n\
            </video>\r\n<audio>\r\n";
        assert!(text.contains(meta), "{text}");
        let end = "</live>\r\n<recorders>\r\n<count>0</count>\r\n</recorders>\r\n</application>\r\n</server>\r\n</http-flv>\r\n";
        assert!(text.ends_with(end), "{text}");
        let elements = text.replace("/>", ">").matches('>').count();
        assert!(text.lines().count() * 2 >= elements - 2, "{text}");
    }

    #[test]
    fn json_keeps_every_character_and_every_type() {
        let config = config("rtmp { server { listen 1936; application live { live on; interleave on; } } }");
        let text = render(&snapshot(), &config, &rules(Form::Json));
        let value: serde_json::Value = serde_json::from_str(&text).expect("well-formed");
        let live = &value["http-flv"]["servers"][0]["applications"][0]["live"];
        let cam = &live["streams"][0];
        let publisher = serde_json::json!({
            "id": 1, "address": "192.0.2.7", "time": 60_000, "flashver": "FMLE/3.0 <a & \"b\"> caf\u{e9}\t",
            "dropped": 7, "avsync": 0, "timestamp": 11_000, "publishing": true, "active": true
        });
        assert_eq!(cam["clients"][2], publisher);
        let meta = serde_json::json!({
            "video": { "width": 1280, "height": 720, "frame_rate": 29.97, "codec": "H264", "profile": "High", "level": 3.1 },
            "audio": { "codec": "AAC", "profile": "LC", "channels": 2, "sample_rate": 44_100 }
        });
        assert_eq!((&cam["meta"], &cam["records"]), (&meta, &serde_json::json!([])));
        assert_eq!((&cam["nclients"], &live["nclients"]), (&serde_json::json!(3), &serde_json::json!(4)));
        assert!(live["streams"][1].get("meta").is_none(), "nobody publishes it");
        assert_eq!(value["http-flv"]["servers"][0]["applications"][0]["recorders"]["count"], 0);
        let order =
            ["nginx_version", "nginx_http_flv_version", "pid", "bw_in", "bytes_out", "servers", "streams", "nclients"];
        let places: Vec<_> = order.iter().map(|key| text.find(&format!("\"{key}\"")).expect(key)).collect();
        assert!(places.is_sorted(), "{places:?}");
    }

    #[test]
    fn a_stream_is_listed_once_by_the_name_of_its_application() {
        let names = |text: &str| {
            let (config, snapshot) = (config(text), snapshot());
            let document = Document::new(&snapshot, &config, &rules(Form::Rtmp));
            let applications = document.servers.iter().flat_map(|server| &server.applications);
            let part = |application: &ApplicationPart<'_>| {
                (application.name.to_owned(), application.live.as_ref().map(|live| live.streams.len()))
            };
            applications.map(part).collect::<Vec<_>>()
        };
        let live = |count| ("live".to_owned(), Some(count));
        let twice = "rtmp { server { listen 1935; application live { live on; } }
            server { listen 1936; application live { live on; } } }";
        assert_eq!(names(twice), [live(2), live(0)], "servers without a name share their streams");
        assert_eq!(names("rtmp { server { application * { live on; } } }"), [live(2)]);
        let both = "rtmp { server { application * { live on; } application live { live on; } } }";
        assert_eq!(names(both), [live(2)]);
    }

    #[test]
    fn codecs_have_the_modules_names_and_those_they_have_none_for_their_own() {
        let config = config("rtmp { server { application live { live on; } } }");
        let meta = |video: VideoCodec, audio: AudioCodec| {
            let mut snapshot = snapshot();
            snapshot.streams[0].about = About { since: None, video: Some((video, None)), audio: Some((audio, None)) };
            snapshot.streams[0].readings.fps = 24.6;
            let text = render(&snapshot, &config, &rules(Form::Rtmp));
            let (_, meta) = text.split_once("<frame_rate>").expect("somebody publishes");
            meta.split_once("</meta>").expect("it ends").0.to_owned()
        };
        let check =
            |video, audio, expected: &str| assert_eq!(meta(video, audio), format!("25</frame_rate>{expected}</audio>"));
        let names = |video: &str, audio: &str| format!("<codec>{video}</codec></video><audio><codec>{audio}</codec>");
        check(VideoCodec::Hevc, AudioCodec::Flv(0), &names("H265", "Uncompressed"));
        check(VideoCodec::Flv(2), AudioCodec::Flv(14), &names("Sorenson-H263", "MP3-8K"));
        check(VideoCodec::Flv(9), AudioCodec::Flv(9), "</video><audio>");
    }

    #[test]
    fn addresses_are_those_that_control_is_asked_for() {
        let key = StreamKey::parse("default", "live", "cam").expect("a good name");
        let mut snapshot = snapshot();
        let mapped = "[::ffff:192.0.2.9]:1".parse().expect("an address");
        for (at, address) in [None, Some(mapped), Some(([0, 0, 0, 0, 0, 0, 0, 1], 5).into())].into_iter().enumerate() {
            let who = Who { address, ..Who::clone(&client(9, ClientRole::Player, "rtmp", &key).who) };
            snapshot.clients[at].who = Arc::new(who);
        }
        let config = config("rtmp { server { application live { live on; } } }");
        let text = render(&snapshot, &config, &rules(Form::Rtmp));
        for address in ["unix:", "192.0.2.9", "::1", "192.0.2.7"] {
            assert!(text.contains(&format!("<address>{address}</address>")), "{address}: {text}");
        }
    }

    #[test]
    fn a_stylesheet_is_named_as_it_was_written() {
        let rules = Statistics { stylesheet: "/a?b=1&\"c\"".to_owned(), ..rules(Form::Rtmp) };
        let text = render(&Snapshot::default(), &config("rtmp { }"), &rules);
        let line = "\r\n<?xml-stylesheet type=\"text/xsl\" href=\"/a?b=1&amp;&quot;c&quot;\" ?>\r\n<rtmp>\r\n";
        assert!(text.contains(line), "{text}");
    }

    fn fill(renderings: &Renderings, cell: &OnceCell<Bytes>, bytes: usize) {
        let held = Held::new("x".repeat(bytes), Arc::clone(&renderings.held));
        cell.set(Bytes::from_owner(held)).expect("it was not rendered yet");
    }

    #[test]
    fn who_asks_at_the_same_moment_shares_a_document() {
        let renderings = Renderings::default();
        let (first, second) = (Arc::new(Snapshot::default()), Arc::new(Snapshot::default()));
        let document = renderings.document(&first, &rules(Form::Rtmp));
        assert!(Arc::ptr_eq(&document, &renderings.document(&first, &rules(Form::Rtmp))));
        assert!(!Arc::ptr_eq(&document, &renderings.document(&first, &rules(Form::Json))));
        assert!(!Arc::ptr_eq(&document, &renderings.document(&second, &rules(Form::Rtmp))));
        assert_eq!(renderings.newest.lock().expect("nobody panics").len(), 2, "one of each kind is kept");
    }

    #[test]
    fn slow_readers_hold_so_many_documents_and_no_more() {
        let renderings = Renderings::default();
        let mut readers = Vec::new();
        for _ in 0..200 {
            let cell = renderings.document(&Arc::new(Snapshot::default()), &rules(Form::Rtmp));
            if !cell.initialized() {
                fill(&renderings, &cell, 1 << 20);
            }
            readers.push(cell.get().cloned());
        }
        let held = renderings.held.load(Ordering::Relaxed);
        assert!(held <= MAX_HELD_BYTES + (1 << 20), "{held}");
        drop(readers);
        let cell = renderings.document(&Arc::new(Snapshot::default()), &rules(Form::Rtmp));
        assert!(!cell.initialized(), "there is room again");
        assert_eq!(renderings.held.load(Ordering::Relaxed), 0);
    }
}
