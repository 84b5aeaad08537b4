//! Who is slow, and why: one player among five hundred that does not keep up, found in one call.

mod common;

use std::io::{ErrorKind, Read};
use std::time::Duration;

use common::exchange::ask;
use common::live_source::{Crowd, LiveSource};
use common::peer::RtmpPeer;
use common::server::TestServer;
use common::wait;
use serde_json::Value;
use socket2::SockRef;

const OTHERS: usize = 499;

fn clients(server: &TestServer, query: &str) -> Vec<Value> {
    let target = format!("/api/v1/clients?{query}");
    let reply = ask(server.api_port(), "GET", &target, &[("Authorization", &format!("Bearer {}", server.token()))]);
    assert_eq!(reply.status, 200, "{}", reply.text());
    let page: Value = serde_json::from_slice(&reply.body).expect("the API speaks JSON");
    page["items"].as_array().expect("a list").clone()
}

#[test]
fn a_player_that_does_not_keep_up_is_found_in_one_call_and_the_others_lose_nothing() {
    let text = "rtmp { access_log off; server { listen @port@; application live { live on; } } }";
    let server = TestServer::start_with_api(text);
    let rtmp = server.port();
    let source = LiveSource::publish(rtmp, "live", "cam");
    let crowd = Crowd::play(rtmp, "live", "cam", OTHERS);
    crowd.wait_for(0, Duration::from_secs(60));

    // It takes a tenth of what comes, and tells so by its window.
    let (mut slow, _) = RtmpPeer::play(rtmp, "live", "cam");
    assert!(slow.sees_keyframe(Duration::from_secs(20)));
    let socket = &mut slow.raw.stream;
    SockRef::from(&*socket).set_recv_buffer_size(4096).expect("a socket option");
    socket.set_nonblocking(true).expect("a socket option");
    let own = socket.local_addr().expect("it is connected").to_string();
    let found = wait::until("it is at the head of the list", Duration::from_secs(60), || {
        let mut some = [0; 100];
        match socket.read(&mut some) {
            Ok(read) => assert!(read > 0, "it was closed"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        let first = clients(&server, "sort=slowest&limit=1").into_iter().next().expect("there are players");
        (first["address"] == own.as_str() && first["behind_ms"].as_u64() >= Some(2000)).then_some(first)
    });
    assert_eq!(found["reason"], "window_full", "{found}");
    assert_eq!((&found["app"], &found["name"], &found["role"]), (&"live".into(), &"cam".into(), &"player".into()));
    assert!(found["kernel"]["unsent_bytes"].as_u64() > Some(0), "{found}");

    let all = clients(&server, "role=player&limit=1000");
    assert_eq!(all.len(), OTHERS + 1);
    for client in all.iter().filter(|client| client["address"] != own.as_str()) {
        let drops = &client["drops"];
        assert_eq!((&drops["video"], &drops["audio"], &drops["skips"]), (&0.into(), &0.into(), &0.into()), "{client}");
        assert_eq!(client["reason"], Value::Null, "{client}");
        assert!(client["first_frame_ms"].is_u64() || client["first_frame_ms"].is_f64(), "{client}");
    }
    crowd.wait_for(source.next_number(), Duration::from_secs(10));
    assert_eq!(crowd.closed(), 0);
}
