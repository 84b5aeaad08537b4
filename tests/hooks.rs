//! Hooks: what they are asked and told, held against the real nginx-rtmp, and what their answers and faults do.

mod common;

use std::time::Duration;

use common::hook_server::{HookServer, Request, answer};
use common::peer::{AVC_CONFIG, RtmpPeer, avc_frame};
use common::server::{Kind, TestServer};
use common::wire::Amf;

/// What a test asks of both servers in the same words.
fn conversation(kind: Kind, method: &str) -> Vec<Request> {
    let hooks = HookServer::start(|_| answer("200 OK"));
    let url = hooks.url("");
    let server = TestServer::start_http(
        kind,
        &format!(
            "rtmp {{ access_log off; on_connect {url}/connect; on_disconnect {url}/disconnect; notify_method {method};
               server {{ listen @port@; application live {{ live on; on_publish {url}/publish; on_play {url}/play;
                 on_publish_done {url}/publish_done; on_play_done {url}/play_done; on_done {url}/done;
                 on_update {url}/update; notify_update_timeout 1s; }} }} }}"
        ),
    );
    // nginx keeps 32 bytes of a flashVer, and 128 of the others.
    let odd = "\u{1}!\"#$%&'()*+,-./09:;<=>?@AZ[\\]^_`az{|}~\u{7f}\u{e9}";
    let mut publisher = RtmpPeer::shaken(server.port());
    let answer = publisher.request_connect(
        "live?a=b&c=%20d",
        &[
            ("swfUrl", odd.into()),
            ("tcUrl", "rtmp://127.0.0.1/live?a=b&c=%20d".into()),
            ("pageUrl", "http://page/x y".into()),
        ],
    );
    assert_eq!(answer[0].as_str(), Some("_result"), "{answer:?}");
    let msid = publisher.create_stream();
    publisher.command(msid, "publish", &[Amf::Null, "cam?key=1&name=x%2f".into(), "live".into()]);
    assert_eq!(publisher.expect_status(msid), "NetStream.Publish.Start");
    publisher.send_video(msid, 40, AVC_CONFIG);
    publisher.send_video(msid, 80, &avc_frame(true, 1, 20));
    hooks.wait_for("update_publish");
    let (mut player, stream) = RtmpPeer::play(server.port(), "live", "cam");
    assert!(player.expect_status(stream).starts_with("NetStream.Play."));
    publisher.send_video(msid, 120, &avc_frame(true, 2, 20));
    assert!(player.sees_keyframe(Duration::from_secs(5)));
    hooks.wait_for("update_play");
    player.command(0, "deleteStream", &[Amf::Null, Amf::Number(stream.into())]);
    hooks.wait_for("done");
    drop(player);
    hooks.wait_for("disconnect");
    drop(publisher);
    hooks.wait_for("publish_done");
    common::wait::until("all is told", Duration::from_secs(5), || {
        let calls = hooks.calls();
        let count = |wanted: &str| calls.iter().filter(|call| *call == wanted).count();
        (count("done") == 2 && count("disconnect") >= 2).then_some(())
    });
    hooks.requests()
}

/// What must be the same in each request: where to, and the arguments in their order. Numbers of sessions and clocks are not.
fn comparable(requests: &[Request]) -> Vec<String> {
    let mut lines: Vec<String> = requests
        .iter()
        .map(|request| {
            let args = request.args().into_iter().map(|(name, value)| match name.as_str() {
                "clientid" | "epoch" => format!("{name}=N"),
                _ => format!("{name}={value}"),
            });
            let path = request.target.split('?').next().unwrap_or_default().to_owned();
            format!("{} {path} {}", request.method, args.collect::<Vec<_>>().join("&"))
        })
        .collect();
    // Those of the two sessions come side by side, and an update more or less is a matter of a second.
    lines.sort();
    lines.dedup();
    lines.retain(|line| !line.contains("&time=") || line.contains("&time=1&"));
    // nginx tells of connections that never said a word, too.
    lines.retain(|line| !line.contains(" app=&"));
    lines
}

#[test]
fn every_event_is_told_in_the_words_of_nginx() {
    for method in ["post", "get"] {
        let [ours, nginxs] = [Kind::Livemill, Kind::Nginx].map(|kind| comparable(&conversation(kind, method)));
        assert_eq!(ours, nginxs, "{method}");
    }
}
