//! What players ask of a playlist: whatever the query says, it is answered, held or refused, and only what is sensible is held.
#![no_main]

use std::time::Duration;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use livemill::protocol::hls::playlist::{Answer, Encoding, Query, Refusal};
use livemill::protocol::hls::window::{Container, File, Part, Window, WindowRules};

fuzz_target!(|bytes: &[u8]| {
    // First what the window has gone through, then the query, then a name.
    let Some((&[life, parts], text)) = bytes.split_first_chunk() else { return };
    let text = String::from_utf8_lossy(text);
    let (query_text, name) = text.split_once('\n').unwrap_or((&text, ""));
    let mut window = window(life, parts);
    if !matches!(window.file(name), File::Unknown) {
        assert!(name.starts_with("s-"), "{name}");
    }
    let query = match Query::parse(query_text) {
        Ok(query) => query,
        Err(refusal) => return assert_eq!(refusal, Refusal::BadRequest),
    };
    let at_once = window.answer(&query, Encoding::Plain, Duration::ZERO);
    assert_eq!(
        at_once,
        window.answer(&query, Encoding::Plain, Duration::ZERO),
        "the same question has the same answer"
    );
    match at_once {
        Answer::Wait => {
            // Where nobody is held for a number, all are held alike until there is something to list.
            let number = query.number.filter(|_| blocks(life)).unwrap_or(0);
            assert!(number <= u64::from(life >> 4) + 8, "nobody is held for segment {number}");
            let late = window.answer(&query, Encoding::Plain, window.hold_limit());
            assert_eq!(late, Answer::Refused(Refusal::Unavailable));
            window.end();
            assert!(
                matches!(window.answer(&query, Encoding::Plain, Duration::ZERO), Answer::Ready(_)),
                "all are released"
            );
        }
        Answer::Ready(list) => assert!(list.starts_with(b"#EXTM3U\n")),
        Answer::Refused(_) => assert!(query.number.is_some(), "a plain request is never refused"),
    }
});

fn blocks(life: u8) -> bool {
    life & 2 == 0
}

fn window(life: u8, parts: u8) -> Window {
    let mut window = Window::new(WindowRules {
        part_target_ms: (life & 1 != 0).then_some(500),
        blocking: blocks(life),
        leading_gaps: u32::from(life >> 2 & 1) * 3,
        ..WindowRules::new(Container::Ts, "s", 2)
    });
    for number in 0..u64::from(life >> 4) {
        push(&mut window, number * 4, 4);
        window.end_segment(true);
    }
    push(&mut window, 64, u64::from(parts % 5));
    if life & 8 != 0 {
        window.end();
    }
    window
}

fn push(window: &mut Window, first: u64, parts: u64) {
    for number in first..first + parts {
        window.push_part(Part {
            bytes: Bytes::from_static(b"media"),
            start: number * 45_000,
            duration: 45_000,
            timescale: 90_000,
            independent: true,
            date_ms: 0,
        });
    }
}
