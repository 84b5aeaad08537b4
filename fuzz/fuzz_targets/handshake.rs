//! Both halves of the handshake: any bytes in any pieces, and the same answer however they are cut.
#![no_main]

use libfuzzer_sys::fuzz_target;
use livemill::protocol::rtmp::handshake::{ClientHandshake, HandshakeError, Layout, Progress, ServerHandshake};

const BLOCK: usize = 1536;

fuzz_target!(|bytes: &[u8]| {
    let Some((&mode, rest)) = bytes.split_first() else { return };
    let Some((pieces, rest)) = rest.split_first_chunk::<4>() else { return };
    let layout = if mode & 1 == 0 { Layout::D8 } else { Layout::D772 };
    // The fuzzer cannot guess a digest: on demand its bytes are laid over a good block.
    let mut input = Vec::new();
    if mode & 2 != 0 {
        if mode & 4 != 0 {
            ServerHandshake::new([1; 32])
                .receive(&mut client(mode, layout).1.as_slice(), &mut input)
                .expect("our own C1");
        } else {
            input = client(mode | 8, layout).1;
        }
        input.resize(1 + 2 * BLOCK, 0xaa);
        let start = usize::from(pieces[0]) * 8;
        input.iter_mut().skip(start).zip(rest).for_each(|(byte, change)| *byte ^= change);
        input.extend_from_slice(b"chunk");
    } else {
        input.extend_from_slice(rest);
    }

    for half in [Half::Server, Half::Client] {
        let whole = run(half, mode, layout, &input, &[input.len().max(1)]);
        let sizes: Vec<usize> = pieces.iter().map(|piece| 1 + usize::from(*piece) * 7).collect();
        assert_eq!(whole, run(half, mode, layout, &input, &sizes));
        if let Ok((progress, left, out)) = whole {
            match half {
                Half::Server => assert!([0, 1 + 2 * BLOCK].contains(&out.len())),
                Half::Client => assert!([0, BLOCK].contains(&out.len())),
            }
            assert_eq!(progress == Progress::Done, input.len() > 2 * BLOCK);
            assert_eq!(left, input.get(1 + 2 * BLOCK..).unwrap_or_default());
        }
    }
});

#[derive(Clone, Copy)]
enum Half {
    Server,
    Client,
}

type Outcome = Result<(Progress, Vec<u8>, Vec<u8>), HandshakeError>;

fn run(half: Half, mode: u8, layout: Layout, input: &[u8], sizes: &[usize]) -> Outcome {
    let mut server = ServerHandshake::new([2; 32]);
    let (mut client, _) = client(mode, layout);
    let (mut rest, mut out, mut sizes) = (input, Vec::new(), sizes.iter().cycle());
    let mut progress = Progress::NeedMore;
    while !rest.is_empty() && progress == Progress::NeedMore {
        let (piece, after) = rest.split_at(rest.len().min(*sizes.next().expect("endless")));
        let mut piece_left = piece;
        progress = match half {
            Half::Server => server.receive(&mut piece_left, &mut out)?,
            Half::Client => client.receive(&mut piece_left, &mut out)?,
        };
        assert!(progress == Progress::Done || piece_left.is_empty(), "all of it was needed");
        rest = &rest[rest.len() - after.len() - piece_left.len()..];
    }
    Ok((progress, rest.to_vec(), out))
}

fn client(mode: u8, layout: Layout) -> (ClientHandshake, Vec<u8>) {
    let mut out = Vec::new();
    let client = if mode & 8 != 0 {
        ClientHandshake::with_digest([3; 32], layout, &mut out)
    } else {
        ClientHandshake::new([3; 32], &mut out)
    };
    (client, out)
}
