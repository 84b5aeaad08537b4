//! Answers of HTTP/1 servers: any bytes in any pieces give the same head and body, or the same refusal.
#![no_main]

use libfuzzer_sys::fuzz_target;
use livemill::protocol::http_answer::{AnswerError, AnswerReader, Head, Piece};

fuzz_target!(|bytes: &[u8]| {
    let Some((pieces, answer)) = bytes.split_first_chunk::<3>() else { return };
    let whole = read(answer, &[answer.len().max(1)]);
    assert_eq!(whole, read(answer, &pieces.map(|piece| 1 + usize::from(piece))));
    assert!(whole.1.len() <= answer.len());
});

type Read = (Option<Head>, Vec<u8>, bool, bool, Option<AnswerError>);

fn read(answer: &[u8], sizes: &[usize]) -> Read {
    let mut reader = AnswerReader::default();
    let (mut head, mut body, mut is_whole) = (None, Vec::new(), false);
    let (mut rest, mut sizes) = (answer, sizes.iter().cycle());
    while !rest.is_empty() {
        let (mut piece, after) = rest.split_at(rest.len().min(*sizes.next().expect("endless")));
        loop {
            match reader.read(&mut piece) {
                Ok(Some(Piece::Head(said))) => assert!(head.replace(said).is_none(), "one head"),
                Ok(Some(Piece::Body(part))) => {
                    assert!(!part.is_empty() && head.is_some() && !is_whole);
                    body.extend_from_slice(part);
                }
                Ok(Some(Piece::End)) => is_whole = true,
                Ok(None) => break,
                Err(error) => return (head, body, is_whole, false, Some(error)),
            }
        }
        assert!(piece.is_empty(), "all of the input was needed");
        rest = after;
    }
    (head, body, is_whole, reader.may_end(), None)
}
