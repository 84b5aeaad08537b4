//! URLs and their pieces: three lines are tcUrl, app and name; each is also tried as a whole URL.
#![no_main]

use libfuzzer_sys::fuzz_target;
use livemill::protocol::rtmp::url::{MAX_ARGS, RtmpUrl, Target, resolve, resolve_in, split_app};

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    let mut lines = text.splitn(3, '\n');
    let mut line = || lines.next().unwrap_or_default();
    let (tc_url, app, name) = (line(), line(), line());

    check(&resolve(tc_url, app, name), tc_url, app, name);
    check(&resolve_in(tc_url, app, name, |app| app == "live" || app == "tv/hd"), tc_url, app, name);
    check(&resolve_in(tc_url, app, name, |_| true), tc_url, app, name);
    let (path, args) = split_app(app);
    assert!(path.len() + args.len() <= app.len());

    let base: RtmpUrl = "rtmps://example.com/live/foo?k=v".parse().expect("a URL");
    for text in [tc_url, app, name] {
        if let Ok(url) = text.parse::<RtmpUrl>() {
            assert_eq!(url.to_string().parse::<RtmpUrl>().as_ref(), Ok(&url));
            assert!(url.port != 0 && !url.host.is_empty());
            assert!(url.tc_url().starts_with("rtmp") && !url.to_string().contains(char::is_control));
        }
        if let Ok(moved) = base.reconnect(text) {
            assert_eq!(moved.stream(), base.stream());
            assert!(!moved.tc_url().contains(char::is_control));
        }
    }
});

fn check(target: &Target, tc_url: &str, app: &str, name: &str) {
    for path in [&target.app, &target.name] {
        assert!(!path.contains("//") && !path.starts_with('/') && !path.ends_with('/'), "{target:?}");
        assert!(!path.contains('?') || name.contains('?') || app.contains('?') || tc_url.contains('?'), "{target:?}");
    }
    assert!(target.host.len() <= 253 && target.host == target.host.to_lowercase(), "{target:?}");
    assert!(target.host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_:".contains(&byte)), "{target:?}");
    assert!(target.args.len() <= MAX_ARGS);
    let sent = tc_url.len() + app.len() + name.len();
    assert!(target.app.len() + target.name.len() + target.query.len() <= sent + 16, "{target:?}");
}
