//! The `http {}` block: what livemill answers is held against what the real nginx answers to the same request.

mod common;

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use common::exchange::{Reply, ask};
use common::server::{Kind, TestServer};
use flate2::read::GzDecoder;

/// livemill and nginx with one configuration and the same files, each in a folder of its own.
struct Both {
    servers: [TestServer; 2],
    differences: Vec<String>,
}

impl Both {
    /// `http` is the inside of the block.
    fn start(http: &str) -> Self {
        Self::start_whole(&format!("http {{ access_log off; client_body_temp_path @dir@/body; {http} }}"))
    }

    fn start_whole(text: &str) -> Self {
        let servers = [Kind::Livemill, Kind::Nginx].map(|kind| {
            let server = TestServer::start_http(kind, text);
            plant(server.dir());
            server
        });
        Self { servers, differences: Vec::new() }
    }

    fn get(&mut self, target: &str) -> Reply {
        self.ask("GET", target, &[])
    }

    /// Asks both, notes where they differ, and gives livemill's answer.
    fn ask(&mut self, method: &str, target: &str, headers: &[(&str, &str)]) -> Reply {
        let [ours, nginxs] = [0, 1].map(|at| {
            let server = &self.servers[at];
            let reply = ask(server.port(), method, target, headers);
            comparable(reply, server)
        });
        let (ours, nginxs) = alike(ours, nginxs);
        if ours != nginxs {
            let shown = |reply: &Reply| format!("{} {:?}\n{}", reply.status, reply.headers, reply.text());
            self.differences.push(format!(
                "{method} {target} {headers:?}\n--- livemill: {}\n--- nginx: {}\n",
                shown(&ours),
                shown(&nginxs)
            ));
        }
        ours
    }

    #[track_caller]
    fn finish(self) {
        assert!(
            self.differences.is_empty(),
            "{} differences:\n{}",
            self.differences.len(),
            self.differences.join("\n")
        );
    }
}

/// Where one server knows a length and the other sends chunks, both are right.
fn alike(mut ours: Reply, mut nginxs: Reply) -> (Reply, Reply) {
    if [&ours, &nginxs].iter().any(|reply| reply.header("content-length").is_none()) {
        for reply in [&mut ours, &mut nginxs] {
            reply.headers.retain(|(name, _)| name != "content-length");
        }
    }
    (ours, nginxs)
}

/// What must be the same: the status, the headers that mean something, the body; without names, ports and dates of today.
fn comparable(mut reply: Reply, server: &TestServer) -> Reply {
    let is_compared =
        |name: &str| COMPARED.contains(&name) || name.starts_with("x-") || name.starts_with("access-control-");
    reply.headers.retain(|(name, _)| is_compared(name));
    reply.headers.sort();
    // On a 416 nginx says `always` headers twice.
    reply.headers.dedup();
    if reply.header("content-encoding") == Some("gzip") && !reply.body.is_empty() {
        let mut plain = Vec::new();
        GzDecoder::new(&reply.body[..]).read_to_end(&mut plain).expect("a whole gzip body");
        reply.body = plain;
        // How well somebody compresses is nobody's business.
        reply.headers.retain(|(name, _)| name != "content-length");
    }
    let boundary =
        reply.header("content-type").and_then(|kind| kind.split_once("boundary=")).map(|(_, it)| it.to_owned());
    let dir = server.dir().display().to_string();
    let host = format!("localhost:{}", server.port());
    let plain = |text: &str| {
        let text = text.replace("nginx/1.22.1", "livemill/0.1.0").replace("nginx", "livemill");
        let text = text.replace(&dir, "DIR").replace(&host, "HOST");
        match &boundary {
            Some(boundary) => text.replace(boundary.as_str(), "BOUNDARY"),
            None => text,
        }
    };
    // Pages name the server, and the names have different lengths.
    if reply.status >= 300 {
        reply.headers.retain(|(name, _)| name != "content-length");
    }
    for (name, value) in &mut reply.headers {
        *value = plain(value);
        // Today's; what it is relative to is told by Cache-Control.
        if name == "expires" && !value.contains("1970") && !value.contains("2037") {
            *value = "a date".to_owned();
        }
    }
    if let Ok(text) = String::from_utf8(reply.body.clone()) {
        let plain = plain(&text);
        reply.body = plain.into_bytes();
    }
    reply
}

const COMPARED: &[&str] = &[
    "accept-ranges",
    "allow",
    "cache-control",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "etag",
    "expires",
    "last-modified",
    "location",
    "server",
    "vary",
];

/// The files of every test, all of one age.
fn plant(dir: &Path) {
    let text = "0123456789abcdefghijklmnopqrstuvwxyz\n".repeat(40);
    for (name, contents) in [
        ("www/index.html", "<p>index</p>\n"),
        ("www/a.txt", "0123456789"),
        ("www/empty.txt", ""),
        ("www/long.txt", &text),
        ("www/page.css", &text),
        ("www/x y.txt", "blank"),
        ("www/直播.txt", "letters"),
        ("www/50x.html", "<p>sorry</p>\n"),
        ("www/noext", "no extension"),
        ("www/.hidden", "hidden"),
        ("www/sub/index.html", "<p>sub</p>\n"),
        ("www/sub/b.ts", "ts"),
        ("www/list/one.m3u8", "#EXTM3U\n"),
        ("www/list/two two.ts", "2"),
        ("www/list/a-very-long-name-that-does-not-fit-the-column-of-a-listing.mp4", "3"),
        ("www/list/inner/x", "4"),
        ("www/crossdomain.xml", "<cross-domain-policy/>\n"),
        ("www/stat.xsl", "<xsl/>\n"),
        ("data/hls/test/index.m3u8", "#EXTM3U\n#EXT-X-VERSION:3\n"),
        ("data/hls/test/0.ts", "0000"),
        ("data/hls/test.m3u8", "#EXTM3U\n"),
        ("other/o.txt", "other"),
    ] {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().expect("a file has a folder")).expect("a folder in the temporary directory");
        fs::write(&path, contents).expect("a file in the temporary directory");
    }
    set_age(&dir.join("www"));
    set_age(&dir.join("data"));
    set_age(&dir.join("other"));
}

fn set_age(path: &Path) {
    if path.is_dir() {
        for entry in fs::read_dir(path).expect("a folder of our own") {
            set_age(&entry.expect("an entry of our own folder").path());
        }
    }
    let file = File::open(path).expect("a file of our own");
    file.set_modified(UNIX_EPOCH + Duration::from_secs(1_700_000_000)).expect("our own file takes a time");
}

const SITE: &str = "include mime.types; default_type application/octet-stream; root @dir@/www;";

fn server(inside: &str) -> String {
    format!("{SITE} server {{ listen 127.0.0.1:@port@; server_name localhost; {inside} }}")
        .replace("include mime.types;", TYPES)
}

/// nginx has no table where there is no file; both get the same.
const TYPES: &str = "types { text/html html htm; text/css css; text/plain txt; text/xml xml xsl; video/mp2t ts; \
                     application/vnd.apple.mpegurl m3u8; video/mp4 mp4; }";

#[test]
fn files_conditions_and_ranges_are_those_of_nginx() {
    let mut both = Both::start(&server("location / { index index.html; }"));
    for target in [
        "/",
        "/index.html",
        "/a.txt",
        "/empty.txt",
        "/long.txt",
        "/noext",
        "/x%20y.txt",
        "/%E7%9B%B4%E6%92%AD.txt",
        "/none",
        "/sub",
        "/sub/",
        "/sub?a=b",
        "/sub/b.ts",
        "/list",
        "/list/",
        "/a.txt/",
        "/a.txt/b",
        "/a.txt?x=1",
        "//a.txt",
        "/./a.txt",
        "/sub/../a.txt",
        "/..",
        "/../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/%",
        "/%zz",
        "/a%00.txt",
        "/.hidden",
        "/sub/%2e%2e/a.txt",
        "/sub%2fb.ts",
        "/a.TXT",
    ] {
        both.get(target);
        both.ask("HEAD", target, &[]);
    }
    let tag = "\"6553f100-a\"";
    let date = "Tue, 14 Nov 2023 22:13:20 GMT";
    for headers in [
        [("If-None-Match", tag)],
        [("If-None-Match", "W/\"6553f100-a\"")],
        [("If-None-Match", "\"x\", \"6553f100-a\"")],
        [("If-None-Match", "*")],
        [("If-None-Match", "\"x\"")],
        [("If-Match", tag)],
        [("If-Match", "\"x\"")],
        [("If-Match", "*")],
        [("If-Modified-Since", date)],
        [("If-Modified-Since", "Tue, 14 Nov 2023 22:13:21 GMT")],
        [("If-Modified-Since", "Tue, 14 Nov 2023 22:13:19 GMT")],
        [("If-Modified-Since", "nonsense")],
        [("If-Unmodified-Since", date)],
        [("If-Unmodified-Since", "Tue, 14 Nov 2023 22:13:19 GMT")],
        [("Range", "bytes=0-0")],
        [("Range", "bytes=2-")],
        [("Range", "bytes=-3")],
        [("Range", "bytes=0-1,8-9")],
        [("Range", "bytes=5-2")],
        [("Range", "bytes=10-")],
        [("Range", "bytes=0-99")],
        [("Range", "bytes=0-9,0-9")],
        [("Range", "bytes=")],
        [("Range", "bytes=99999999999999999999-")],
        [("Range", "lines=1-2")],
    ] {
        both.ask("GET", "/a.txt", &headers);
        both.ask("HEAD", "/a.txt", &headers);
    }
    both.ask("GET", "/a.txt", &[("Range", "bytes=0-1"), ("If-Range", tag)]);
    both.ask("GET", "/a.txt", &[("Range", "bytes=0-1"), ("If-Range", "\"x\"")]);
    both.ask("GET", "/a.txt", &[("Range", "bytes=0-1"), ("If-Range", date)]);
    both.ask("GET", "/a.txt", &[("Range", "bytes=0-1"), ("If-None-Match", tag)]);
    both.ask("GET", "/a.txt", &[("If-None-Match", "\"x\""), ("If-Modified-Since", date)]);
    both.ask("GET", "/empty.txt", &[("Range", "bytes=0-1")]);
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"] {
        both.ask(method, "/a.txt", &[]);
        both.ask(method, "/none", &[]);
        both.ask(method, "/list/", &[]);
    }
    both.finish();
}

#[test]
fn locations_are_found_as_nginx_finds_them() {
    let mut both = Both::start(&server(
        r#"location = /exact { return 200 "exact"; }
           location /pre { return 200 "pre $uri $args"; location /pre/in { return 200 "in"; } }
           location ^~ /final { return 200 "final"; }
           location ~ \.php$ { return 200 "case"; }
           location ~* \.PhP$ { return 200 "any"; }
           location ~ ^/cap/(\w+)/(\d+)?$ { return 200 "$1-$2-$3"; }
           location /int { internal; }
           location /al { alias @dir@/other; }
           location /al2/ { alias @dir@/other/; }
           location = /al3.txt { alias @dir@/other/o.txt; }
           location ~ ^/al4/(.*)$ { alias @dir@/other/$1; }
           location /nested/ { root @dir@/none; location /nested/deep/ { alias @dir@/www/sub/; } }"#,
    ));
    for target in [
        "/exact",
        "/exact/",
        "/exactly",
        "/pre",
        "/prefix?a=b",
        "/pre/in/x",
        "/pre/x.php",
        "/final/x.php",
        "/x.php",
        "/x.PHP",
        "/cap/abc/12",
        "/cap/abc/",
        "/cap/",
        "/int/a",
        "/al/o.txt",
        "/al/",
        "/al",
        "/al2/o.txt",
        "/al2",
        "/al2/../a.txt",
        "/al3.txt",
        "/al4/o.txt",
        "/al4/none",
        "/alo.txt",
        "/nested/deep/b.ts",
        "/nested/deep/",
        "/nested/x",
        "/%65xact",
    ] {
        both.get(target);
    }
    both.finish();
}

#[test]
fn headers_are_added_and_inherited_as_nginx_does_it() {
    let mut both = Both::start(&server(
        r#"add_header X-Outer outer; add_header X-Always always always;
           location /own/ { alias @dir@/www/; add_header X-Own "$request_method $arg_a"; add_header Cache-Control no-cache; }
           location /none/ { alias @dir@/www/; }
           location /exp/ { alias @dir@/www/; expires 24h; }
           location /exp0/ { alias @dir@/www/; expires 0; }
           location /neg/ { alias @dir@/www/; expires -1; add_header Cache-Control private; }
           location /epoch/ { alias @dir@/www/; expires epoch; }
           location /max/ { alias @dir@/www/; expires max; }
           location /mod/ { alias @dir@/www/; expires modified 30y; etag off; }
           location /char/ { alias @dir@/www/; charset utf-8; }
           location /cors/ { alias @dir@/www/; add_header Access-Control-Allow-Origin *; }
           location /ret { return 200 "x"; } location /ret2 { return 302 /a?b=c; } location /err { return 500; }"#,
    ));
    for folder in ["own", "none", "exp", "exp0", "neg", "epoch", "max", "mod", "char", "cors"] {
        for file in ["a.txt?a=1", "index.html", "nothing", "", "noext"] {
            both.get(&format!("/{folder}/{file}"));
        }
        both.ask("GET", &format!("/{folder}/a.txt"), &[("Range", "bytes=0-1")]);
        both.ask("GET", &format!("/{folder}/a.txt"), &[("Range", "bytes=50-")]);
        both.ask("GET", &format!("/{folder}/a.txt"), &[("If-Modified-Since", "Tue, 14 Nov 2023 22:13:20 GMT")]);
    }
    for target in ["/ret", "/ret2", "/err"] {
        both.get(target);
    }
    both.finish();
}

#[test]
fn errors_and_redirects_look_as_nginxs() {
    let mut both = Both::start(&server(
        r#"error_page 404 /404.html; error_page 403 =200 /a.txt; error_page 500 502 503 504 /50x.html;
           error_page 410 = /a.txt; error_page 402 http://elsewhere.example/; error_page 409 @named; error_page 418 /50x.html;
           location = /50x.html { internal; }
           location @named { return 200 "named $uri"; }
           location /500 { return 500; } location /503 { return 503; } location /403 { deny all; } location /410 { return 410; }
           location /402 { return 402; } location /409 { return 409; } location /418 { return 418; } location /429 { return 429; }
           location /text { return 404 "text"; } location /204 { return 204; } location /200 { return 200; }
           location /301 { return 301 /new$request_uri; } location /302 { return http://other.example$uri; }
           location /307 { return 307 https://$host/; } location /308 { return 308 /x; } location /303 { return 303 /y; }
           location /304 { return 304; }
           location /deny { deny 127.0.0.1; allow all; } location /allow { allow 127.0.0.1; deny all; return 200 "in"; }
           location /allowfile/ { allow 127.0.0.1; deny all; alias @dir@/www/; }
           location /own { error_page 404 /a.txt; }
           location /plain { error_page 599 /x; deny all; }
           location /relative { absolute_redirect off; return 301 /x; }
           location /noport { port_in_redirect off; return 301 /x; }
           location /named { server_name_in_redirect on; return 301 /x; }"#,
    ));
    for target in [
        "/nothing",
        "/500",
        "/503",
        "/403",
        "/410",
        "/402",
        "/409",
        "/418",
        "/429",
        "/text",
        "/204",
        "/200",
        "/301?a=b",
        "/302",
        "/307",
        "/308",
        "/303",
        "/304",
        "/deny",
        "/allow",
        "/allowfile/a.txt",
        "/own/none",
        "/50x.html",
        "/plain",
        "/relative",
        "/noport",
        "/named",
        "/list/",
    ] {
        both.get(target);
        both.ask("HEAD", target, &[]);
    }
    both.ask("POST", "/500", &[]);
    both.ask("POST", "/409", &[]);
    both.finish();
}

#[test]
fn folders_are_listed_as_nginx_lists_them() {
    let mut both = Both::start(&server(
        "autoindex on; location /short { alias @dir@/www/list; autoindex_exact_size off; }
         location /json/ { alias @dir@/www/list/; autoindex_format json; } location /off/ { alias @dir@/www/list/; autoindex off; }",
    ));
    for target in ["/list/", "/list", "/short/", "/json/", "/off/", "/sub/", "/none/"] {
        both.get(target);
        both.ask("HEAD", target, &[]);
    }
    both.finish();
}

#[test]
fn try_files_and_index_end_where_nginx_ends() {
    let mut both = Both::start(&server(
        r#"location /try/ { try_files $uri $uri/ /fallback?x=$uri; }
           location /code/ { try_files /none =404; } location /code2/ { try_files /a.txt =404; }
           location /name/ { try_files /none @name; } location @name { return 200 "named $uri $args"; }
           location = /fallback { return 200 "fallback $args"; }
           location /spa { root @dir@/www/sub; try_files $uri /index.html; }
           location /args/ { try_files /x /pass; } location = /pass { return 200 "pass $args"; }
           location /idx/ { alias @dir@/www/; index none.html a.txt; }
           location /idx2/ { alias @dir@/www/; index none.html /exact; } location = /exact { return 200 "index"; }"#,
    ));
    for target in [
        "/try/x",
        "/code/x",
        "/code2/x",
        "/name/x?a=b",
        "/spa/x/y",
        "/args/x?q=1",
        "/idx/",
        "/idx2/",
        "/idx/sub/",
        "/list/../",
    ] {
        both.get(target);
    }
    both.finish();
}

#[test]
fn gzip_is_given_to_those_who_get_it_from_nginx() {
    let mut both = Both::start(&server(
        "gzip on; gzip_types text/css; gzip_min_length 100; location /vary/ { alias @dir@/www/; gzip_vary on; gzip_types text/plain; }
         location /off/ { alias @dir@/www/; gzip off; } location /text { default_type text/html; return 200 'a text that is long enough to be compressed, if only anybody asked for it to be, which is what this is about'; }",
    ));
    for target in [
        "/page.css",
        "/long.txt",
        "/a.txt",
        "/index.html",
        "/vary/long.txt",
        "/vary/page.css",
        "/off/page.css",
        "/none",
        "/text",
    ] {
        for accepted in ["gzip", "gzip;q=0", "deflate, gzip;q=0.5", "identity", "*", "br"] {
            both.ask("GET", target, &[("Accept-Encoding", accepted)]);
        }
        both.get(target);
        both.ask("HEAD", target, &[("Accept-Encoding", "gzip")]);
        both.ask("GET", target, &[("Accept-Encoding", "gzip"), ("Range", "bytes=0-9")]);
        both.ask("GET", target, &[("Accept-Encoding", "gzip"), ("Via", "1.1 x")]);
    }
    both.finish();
}

#[test]
fn servers_are_told_apart_as_nginx_tells_them() {
    let name = |name: &str, default: &str| {
        let shown = name.trim_end_matches('$');
        format!("server {{ listen 127.0.0.1:@port@ {default}; server_name {name}; return 200 '{shown}'; }}")
    };
    let servers = [
        name("a.example www.a.example", ""),
        name("b.example", "default_server"),
        name("*.c.example", ""),
        name("d.*", ""),
        name("~^e[0-9]+[.]example$", ""),
        name(".f.example", ""),
        "server { listen 127.0.0.1:@port@; server_name _; return 200 'underscore'; }".to_owned(),
    ];
    let mut both = Both::start(&servers.join(" "));
    for host in [
        "a.example",
        "www.a.example",
        "A.EXAMPLE",
        "a.example:80",
        "b.example",
        "x.c.example",
        "c.example",
        "d.org",
        "d.co.uk",
        "e12.example",
        "e.example",
        "f.example",
        "x.f.example",
        "nobody",
        "a.example.",
        "_",
    ] {
        both.ask("GET", "/", &[("Host", host)]);
    }
    both.finish();
}

#[test]
fn document_a_is_served_as_nginx_serves_it() {
    let text = fixture("document_a.conf")
        .replace("include       mime.types;", TYPES)
        .replace("listen       8080;", "listen 127.0.0.1:@port@;")
        .replace("/usr/data/video", "@dir@/data")
        .replace("root   html;", "root   @dir@/www;");
    let http = text.split_once("\nhttp {").expect("the http block").1;
    let mut both = Both::start_whole(&format!("http {{ access_log off; {http}"));
    for target in [
        "/",
        "/hls/test/index.m3u8",
        "/hls/test/0.ts",
        "/hls/test.m3u8",
        "/hls/test/",
        "/hls/none/index.m3u8",
        "/hls",
        "/50x.html",
        "/list/",
        "/none",
        "/hls/test/9.ts",
    ] {
        both.get(target);
        both.ask("GET", target, &[("Origin", "http://other.example"), ("Accept-Encoding", "gzip")]);
        both.ask("HEAD", target, &[]);
    }
    both.ask("GET", "/hls/test/0.ts", &[("Range", "bytes=1-2")]);
    both.ask("OPTIONS", "/hls/test/index.m3u8", &[("Origin", "http://other.example")]);
    both.finish();
}

#[test]
fn document_c_is_served_as_nginx_serves_it() {
    let text = fixture("document_c.conf")
        .replace("listen 80;", "listen 127.0.0.1:@port@;")
        .replace("/opt/data", "@dir@/data")
        .replace("/www/static", "@dir@/www")
        .replace("access_log /dev/stdout combined;", "access_log @dir@/logs/http.log combined;");
    let http = text.split_once("\nhttp {").expect("the http block").1;
    let mut both = Both::start_whole(&format!("http {{ {TYPES} {http}"));
    for target in [
        "/hls/test/index.m3u8",
        "/live/test/index.m3u8",
        "/live/test.m3u8",
        "/live/test/0.ts",
        "/live/none.m3u8",
        "/live",
        "/live/",
        "/stat.xsl",
        "/crossdomain.xml",
        "/",
        "/hls/",
        "/none",
    ] {
        let reply = both.get(target);
        if reply.status == 200 && (target.starts_with("/hls/") || target.starts_with("/live/")) {
            assert_eq!(reply.header("access-control-allow-origin"), Some("*"), "{target}");
        }
        both.ask("GET", target, &[("Origin", "http://other.example"), ("User-Agent", "a \"b\"")]);
        both.ask("HEAD", target, &[]);
    }
    let log = |at: usize| {
        let path = both.servers[at].dir().join("logs/http.log");
        common::wait::until("the access log", Duration::from_secs(5), || {
            let text = fs::read_to_string(&path).ok()?;
            (text.lines().count() >= 36).then(|| {
                // Without dates, and without sizes of pages that name the server.
                text.lines()
                    .take(36)
                    .map(|line| {
                        let (before, rest) = line.split_once('[').expect("a time");
                        let rest = rest.split_once("] ").expect("the end of the time").1;
                        let is_page = ["404", "403", "301"].iter().any(|code| rest.contains(&format!("\" {code} ")));
                        let shown: Vec<&str> = rest.splitn(2, " \"-\" ").collect();
                        let head = if is_page { shown[0].rsplit_once(' ').expect("a size").0 } else { shown[0] };
                        format!("{before}{head} {}", shown.get(1).unwrap_or(&""))
                    })
                    .collect::<Vec<_>>()
            })
        })
    };
    assert_eq!(log(0), log(1));
    both.finish();
}

#[test]
fn a_folder_that_was_moved_away_is_a_404_and_nothing_else() {
    let server = TestServer::start_http(Kind::Livemill, &format!("http {{ access_log off; {} }}", server("")));
    plant(server.dir());
    assert_eq!(ask(server.port(), "GET", "/list/one.m3u8", &[]).status, 200);
    fs::rename(server.dir().join("www/list"), server.dir().join("kept")).expect("a rename within a folder");
    assert_eq!(ask(server.port(), "GET", "/list/one.m3u8", &[]).status, 404);
    fs::rename(server.dir().join("www"), server.dir().join("gone")).expect("a rename within a folder");
    assert_eq!(ask(server.port(), "GET", "/a.txt", &[]).status, 404);
}

fn fixture(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    fs::read_to_string(path).expect("the fixture is in the repository")
}
