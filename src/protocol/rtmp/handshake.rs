//! The handshake: simple, and digest in both layouts.
//!
//! Each side sends a version byte, a block of 1536 bytes, and an answer of 1536 bytes to the other's block. In the digest scheme of
//! Flash Player 9 a block hides an HMAC of itself, in one of two places, and the answer is signed with a key that depends on it.

use hmac::{Hmac, KeyInit, Mac};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{Rng, SeedableRng};
use sha2::Sha256;
use thiserror::Error;

/// The server's half: reads C0, C1 and C2, writes S0, S1 and S2.
#[derive(Debug)]
pub struct ServerHandshake {
    seed: [u8; 32],
    state: State,
}

/// The client's half: writes C0 and C1 when made, C2 when S1 is there, and ends after S2.
#[derive(Debug)]
pub struct ClientHandshake {
    seed: [u8; 32],
    digest: bool,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    NeedMore,
    /// What is left of the input belongs to the chunk layer.
    Done,
}

/// What the first byte was, when it was not RTMP's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum HandshakeError {
    #[error("the peer speaks TLS to a plain RTMP port")]
    Tls,
    #[error("the peer speaks HTTP or other text to an RTMP port")]
    Http,
    #[error("the peer asks for encrypted RTMP (version {0}), which is not supported")]
    Encrypted(u8),
    #[error("the peer asks for RTMP version {0}, which does not exist")]
    BadVersion(u8),
}

/// Where a block keeps its digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Behind the Diffie-Hellman field; its offset is computed from bytes 772 to 775. RTMPE clients use it.
    D772,
    /// In front; its offset is computed from bytes 8 to 11. ffmpeg and librtmp use it.
    D8,
}

impl ServerHandshake {
    /// `seed` is spent on the random parts of S1 and S2. They guard nothing, so that any unpredictable seed will do.
    pub fn new(seed: [u8; 32]) -> Self {
        Self { seed, state: State::Version }
    }

    /// Takes what it needs from `input` and appends what is to be sent to `out`. C2 is not compared with S1: real clients send
    /// anything there.
    pub fn receive(&mut self, input: &mut &[u8], out: &mut Vec<u8>) -> Result<Progress, HandshakeError> {
        let seed = self.seed;
        self.state.receive(input, |c1| answer_client(seed, c1, out))
    }
}

impl ClientHandshake {
    /// The simple handshake, which every server answers.
    pub fn new(seed: [u8; 32], out: &mut Vec<u8>) -> Self {
        let mut c1 = random_block(&mut Xoshiro256PlusPlus::from_seed(seed));
        set_head(&mut c1, [0; 4]);
        out.push(VERSION);
        out.extend_from_slice(&c1);
        Self { seed, digest: false, state: State::Version }
    }

    /// The digest handshake, for servers of the Flash era that send H.264 to nobody else.
    pub fn with_digest(seed: [u8; 32], layout: Layout, out: &mut Vec<u8>) -> Self {
        let mut c1 = random_block(&mut Xoshiro256PlusPlus::from_seed(seed));
        set_head(&mut c1, CLIENT_VERSION);
        layout.imprint(&mut c1, PLAYER_KEY_TEXT);
        out.push(VERSION);
        out.extend_from_slice(&c1);
        Self { seed, digest: true, state: State::Version }
    }

    /// As [`ServerHandshake::receive`]. A server that does not know the digest is answered simply.
    pub fn receive(&mut self, input: &mut &[u8], out: &mut Vec<u8>) -> Result<Progress, HandshakeError> {
        let (seed, digest) = (self.seed, self.digest);
        self.state.receive(input, |s1| answer_server(seed, digest, s1, out))
    }
}

/// What either side still waits for.
#[derive(Debug)]
enum State {
    Version,
    /// The peer's block, as far as it has come. Nothing is allocated for a peer that has sent nothing.
    Block(Vec<u8>),
    /// So many bytes of the peer's answer.
    Answer(usize),
}

impl State {
    fn receive(&mut self, input: &mut &[u8], answer: impl FnOnce(&Block)) -> Result<Progress, HandshakeError> {
        if matches!(self, Self::Version) {
            let Some((version, rest)) = input.split_first() else { return Ok(Progress::NeedMore) };
            check_version(*version)?;
            *input = rest;
            *self = Self::Block(Vec::new());
        }
        if let Self::Block(block) = self {
            if block.capacity() == 0 && !input.is_empty() {
                block.reserve_exact(BLOCK);
            }
            block.extend_from_slice(take(input, BLOCK - block.len()));
            let Some(block) = block.first_chunk() else { return Ok(Progress::NeedMore) };
            answer(block);
            // This also gives the block back: what follows is only counted.
            *self = Self::Answer(BLOCK);
        }
        if let Self::Answer(left) = self {
            *left -= take(input, *left).len();
            if *left > 0 {
                return Ok(Progress::NeedMore);
            }
        }
        Ok(Progress::Done)
    }
}

impl Layout {
    /// Where the 32 bytes of the digest begin. The sum of four bytes the peer chose, brought into range by the standard's own rule:
    /// at most 739 + 32 or 1503 + 32.
    fn offset(self, block: &Block) -> usize {
        let (field, base) = match self {
            Self::D772 => (772, 776),
            Self::D8 => (8, 12),
        };
        let sum: usize = block.iter().skip(field).take(4).map(|byte| usize::from(*byte)).sum();
        sum % 728 + base
    }

    fn digest_of(self, block: &Block, key: &[u8]) -> [u8; 32] {
        let (before, _, after) = self.split(block);
        hmac(key, &[before, after])
    }

    fn split(self, block: &Block) -> (&[u8], &[u8], &[u8]) {
        let (before, rest) = block.split_at(self.offset(block));
        let (digest, after) = rest.split_at(DIGEST);
        (before, digest, after)
    }

    fn imprint(self, block: &mut Block, key: &[u8]) {
        let (offset, digest) = (self.offset(block), self.digest_of(block, key));
        block.iter_mut().skip(offset).zip(digest).for_each(|(byte, digest)| *byte = digest);
    }

    /// The layout in which the block carries a valid digest, with the digest.
    fn find(block: &Block, key: &[u8]) -> Option<(Self, [u8; 32])> {
        [Self::D772, Self::D8].into_iter().find_map(|layout| {
            let digest = layout.digest_of(block, key);
            (layout.split(block).1 == digest).then_some((layout, digest))
        })
    }
}

/// S0, S1 and S2 at once: a client may wait for all of them before it sends C2.
fn answer_client(seed: [u8; 32], c1: &Block, out: &mut Vec<u8>) {
    let mut random = Xoshiro256PlusPlus::from_seed(seed);
    let mut s1 = random_block(&mut random);
    let found = if version_of(c1) == [0; 4] { None } else { Layout::find(c1, PLAYER_KEY_TEXT) };
    out.reserve(1 + 2 * BLOCK);
    out.push(VERSION);
    match found {
        Some((layout, digest)) => {
            set_head(&mut s1, SERVER_VERSION);
            layout.imprint(&mut s1, SERVER_KEY_TEXT);
            out.extend_from_slice(&s1);
            out.extend_from_slice(&signed_answer(&mut random, &[SERVER_KEY_TEXT, KEY_TAIL].concat(), &digest));
        }
        None => {
            // The version must be zero: a player that sees 3 or more there looks for a digest and gives up without.
            set_head(&mut s1, [0; 4]);
            out.extend_from_slice(&s1);
            out.extend_from_slice(c1);
        }
    }
}

fn answer_server(seed: [u8; 32], digest: bool, s1: &Block, out: &mut Vec<u8>) {
    match Layout::find(s1, SERVER_KEY_TEXT).filter(|_| digest) {
        Some((_, digest)) => {
            let mut random = Xoshiro256PlusPlus::from_seed(seed);
            out.extend_from_slice(&signed_answer(&mut random, &[PLAYER_KEY_TEXT, KEY_TAIL].concat(), &digest));
        }
        None => out.extend_from_slice(s1),
    }
}

/// Random bytes, and at their end a signature that only those can make who found the digest in the peer's block.
fn signed_answer(random: &mut impl Rng, key: &[u8], digest: &[u8]) -> Block {
    let mut answer = random_block(random);
    let (text, signature) = answer.split_at_mut(BLOCK - DIGEST);
    signature.copy_from_slice(&hmac(&hmac(key, &[digest]), &[text]));
    answer
}

fn check_version(version: u8) -> Result<(), HandshakeError> {
    match version {
        VERSION => Ok(()),
        6 | 8 | 9 => Err(HandshakeError::Encrypted(version)),
        // A ClientHello, or the alert of a TLS server that was sent RTMP.
        0x16 | 0x15 => Err(HandshakeError::Tls),
        b' '..=b'~' => Err(HandshakeError::Http),
        _ => Err(HandshakeError::BadVersion(version)),
    }
}

fn take<'a>(input: &mut &'a [u8], most: usize) -> &'a [u8] {
    let (taken, rest) = input.split_at(most.min(input.len()));
    *input = rest;
    taken
}

fn random_block(random: &mut impl Rng) -> Block {
    let mut block = [0; BLOCK];
    random.fill_bytes(&mut block);
    block
}

/// Time, always zero here because nobody reads it, then the version.
fn set_head(block: &mut Block, version: [u8; 4]) {
    let head = [0; 4].into_iter().chain(version);
    block.iter_mut().zip(head).for_each(|(byte, head)| *byte = head);
}

fn version_of(block: &Block) -> [u8; 4] {
    let [_, _, _, _, a, b, c, d, ..] = *block;
    [a, b, c, d]
}

fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

type Block = [u8; BLOCK];
const BLOCK: usize = 1536;
const DIGEST: usize = 32;
/// Plain RTMP, in C0 and S0.
const VERSION: u8 = 3;
/// What nginx-rtmp has sent for years, to clients of every kind.
const SERVER_VERSION: [u8; 4] = [0x0d, 0x0e, 0x0a, 0x0d];
/// Flash Player 9.0.124.2, as ffmpeg says it.
const CLIENT_VERSION: [u8; 4] = [0x09, 0x00, 0x7c, 0x02];
/// Digests are made with the words alone, signatures with the words and the tail.
const PLAYER_KEY_TEXT: &[u8] = b"Genuine Adobe Flash Player 001";
const SERVER_KEY_TEXT: &[u8] = b"Genuine Adobe Flash Media Server 001";
const KEY_TAIL: &[u8] = &[
    0xf0, 0xee, 0xc2, 0x4a, 0x80, 0x68, 0xbe, 0xe8, 0x2e, 0x00, 0xd0, 0xd1, 0x02, 0x9e, 0x7e, 0x57, 0x6e, 0xec, 0x5d,
    0x2d, 0x29, 0x80, 0x6f, 0xab, 0x93, 0xb8, 0xe6, 0x36, 0xcf, 0xeb, 0x31, 0xae,
];

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SEED: [u8; 32] = [7; 32];
    const OTHER_SEED: [u8; 32] = [8; 32];

    /// A C1 with every byte known, and the version that ffmpeg and Flash Player send.
    fn known_block() -> Block {
        let mut block = [0; BLOCK];
        for (index, byte) in block.iter_mut().enumerate() {
            *byte = (index * 7 + index / 256) as u8;
        }
        set_head(&mut block, CLIENT_VERSION);
        block
    }

    fn known_block_with_digest(layout: Layout) -> Block {
        let mut block = known_block();
        layout.imprint(&mut block, PLAYER_KEY_TEXT);
        block
    }

    fn serve(c1: &Block) -> (Block, Block) {
        let mut out = Vec::new();
        let input = [&[3], &c1[..]].concat();
        let progress = ServerHandshake::new(SEED).receive(&mut input.as_slice(), &mut out);
        assert_eq!(progress, Ok(Progress::NeedMore));
        assert_eq!((out.len(), out[0]), (1 + 2 * BLOCK, 3));
        (*out[1..].first_chunk().expect("S1"), *out[1 + BLOCK..].first_chunk().expect("S2"))
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn digests_are_those_of_an_independent_implementation() {
        for (layout, offset, digest, signature) in [
            (
                Layout::D772,
                942,
                "224775aec8580432def01c570d59e6eb5fe6ef248fff0ca9d99dff140d2772d4",
                "cff23dc53a3229eab5c1e8cf944a7b85fcf7ba877ec65da8492c5a7d61803020",
            ),
            (
                Layout::D8,
                278,
                "e707f6dca165b10b93c8327af0166d141c055c722eae47fb793fc0b58c5826e4",
                "7042bd80a4b9f0874be20013eba1231c5549c335c14838d345224a4b525df9ad",
            ),
        ] {
            let block = known_block();
            let found = layout.digest_of(&block, PLAYER_KEY_TEXT);
            assert_eq!((layout.offset(&block), hex(&found).as_str()), (offset, digest));
            let key = hmac(&[SERVER_KEY_TEXT, KEY_TAIL].concat(), &[&found]);
            assert_eq!(hex(&hmac(&key, &[&[0; BLOCK - DIGEST]])), signature);
        }
    }

    #[test]
    fn every_offset_a_peer_can_ask_for_is_inside_the_block() {
        for layout in [Layout::D772, Layout::D8] {
            for sum in 0..=4 * 255_usize {
                let mut block = [0; BLOCK];
                for (index, byte) in
                    block.iter_mut().skip(if layout == Layout::D8 { 8 } else { 772 }).take(4).enumerate()
                {
                    *byte = sum.saturating_sub(index * 255).min(255) as u8;
                }
                assert!(layout.offset(&block) + DIGEST <= BLOCK, "{layout:?} {sum}");
            }
        }
    }

    #[test]
    fn a_zero_version_is_answered_simply() {
        let mut c1 = known_block_with_digest(Layout::D8);
        set_head(&mut c1, [0; 4]);
        let (s1, s2) = serve(&c1);
        assert_eq!(version_of(&s1), [0; 4]);
        assert_eq!(s2, c1);
    }

    #[test]
    fn a_version_without_a_valid_digest_is_answered_simply_and_with_a_zero_version() {
        let mut broken = known_block_with_digest(Layout::D8);
        broken[1000] ^= 1;
        let swf_verify = {
            let mut block = known_block();
            set_head(&mut block, [0x0a, 0, 0x2d, 2]);
            block
        };
        for c1 in [known_block(), broken, swf_verify] {
            let (s1, s2) = serve(&c1);
            assert_eq!(version_of(&s1), [0; 4]);
            assert_eq!(s2, c1);
        }
    }

    #[test]
    fn a_digest_is_answered_in_its_own_layout_and_signed() {
        for layout in [Layout::D772, Layout::D8] {
            let c1 = known_block_with_digest(layout);
            let (s1, s2) = serve(&c1);
            assert!(s1[4] >= 3);
            assert_eq!(Layout::find(&s1, SERVER_KEY_TEXT).map(|(found, _)| found), Some(layout));
            // As ffmpeg checks it when it plays.
            let key =
                hmac(&[SERVER_KEY_TEXT, KEY_TAIL].concat(), &[&layout.digest_of(&known_block(), PLAYER_KEY_TEXT)]);
            assert_eq!(s2[BLOCK - DIGEST..], hmac(&key, &[&s2[..BLOCK - DIGEST]]));
        }
    }

    #[test]
    fn the_client_signs_for_a_digest_and_echoes_without() {
        for (layout, server_knows) in [(Layout::D772, true), (Layout::D8, true), (Layout::D8, false)] {
            let mut s1 = random_block(&mut Xoshiro256PlusPlus::from_seed(SEED));
            if server_knows {
                layout.imprint(&mut s1, SERVER_KEY_TEXT);
            }
            let mut out = Vec::new();
            let mut client = ClientHandshake::with_digest(SEED, Layout::D8, &mut out);
            out.clear();
            let input = [&[3], &s1[..]].concat();
            assert_eq!(client.receive(&mut input.as_slice(), &mut out), Ok(Progress::NeedMore));
            if server_knows {
                let key = hmac(&[PLAYER_KEY_TEXT, KEY_TAIL].concat(), &[layout.split(&s1).1]);
                assert_eq!(out[BLOCK - DIGEST..], hmac(&key, &[&out[..BLOCK - DIGEST]]));
            } else {
                assert_eq!(out, s1);
            }
        }
    }

    #[test]
    fn a_first_byte_that_is_not_rtmp_is_told_apart() {
        for (byte, error) in [
            (0x16, HandshakeError::Tls),
            (b'G', HandshakeError::Http),
            (b'P', HandshakeError::Http),
            (b'T', HandshakeError::Http),
            (6, HandshakeError::Encrypted(6)),
            (8, HandshakeError::Encrypted(8)),
            (9, HandshakeError::Encrypted(9)),
            (0, HandshakeError::BadVersion(0)),
            (2, HandshakeError::BadVersion(2)),
            (4, HandshakeError::BadVersion(4)),
            (255, HandshakeError::BadVersion(255)),
        ] {
            let mut out = Vec::new();
            let mut server = ServerHandshake::new(SEED);
            assert_eq!(server.receive(&mut &[byte, 3, 1][..], &mut out), Err(error), "{byte:#x}");
            assert!(out.is_empty());
        }
    }

    #[test]
    fn the_answer_to_s1_is_not_checked_and_what_follows_stays() {
        let input = [&[3], &known_block()[..], &[0xaa; BLOCK], b"\x02chunk"].concat();
        let (mut rest, mut out) = (input.as_slice(), Vec::new());
        let mut server = ServerHandshake::new(SEED);
        assert_eq!(server.receive(&mut rest, &mut out), Ok(Progress::Done));
        assert_eq!(rest, b"\x02chunk");
        // Whoever asks again is told again, and nothing is taken.
        assert_eq!(server.receive(&mut rest, &mut out), Ok(Progress::Done));
        assert_eq!((rest, out.len()), (&b"\x02chunk"[..], 1 + 2 * BLOCK));
    }

    #[test]
    fn memory_is_held_only_while_a_block_is_incomplete() {
        let held = |server: &ServerHandshake| match &server.state {
            State::Block(block) => block.capacity(),
            _ => 0,
        };
        assert!(size_of::<ServerHandshake>() <= 64, "{}", size_of::<ServerHandshake>());
        let mut server = ServerHandshake::new(SEED);
        let mut out = Vec::new();
        let _ = server.receive(&mut &[3][..], &mut out);
        assert_eq!(held(&server), 0);
        for _ in 0..BLOCK - 1 {
            let _ = server.receive(&mut &[1][..], &mut out);
            assert_eq!(held(&server), BLOCK);
        }
        assert!(out.is_empty());
        let _ = server.receive(&mut &[1][..], &mut out);
        assert_eq!((held(&server), out.len()), (0, 1 + 2 * BLOCK));
    }

    /// Runs both halves against each other, each fed in pieces of the given sizes in turn.
    fn shake(mut client: ClientHandshake, to_server: Vec<u8>, pieces: &[usize]) -> (Vec<u8>, Vec<u8>) {
        let mut server = ServerHandshake::new(OTHER_SEED);
        let (mut to_server, mut to_client) = (to_server, Vec::new());
        let (mut server_done, mut client_done) = (false, false);
        let mut pieces = pieces.iter().copied().cycle();
        let mut turns = 0;
        while !(server_done && client_done) {
            turns += 1;
            assert!(turns < 10_000, "the halves wait for each other");
            let mut step = |from: &mut Vec<u8>, receive: &mut dyn FnMut(&mut &[u8]) -> Progress| {
                let len = pieces.next().expect("endless").min(from.len());
                let mut piece = &from[..len];
                let done = receive(&mut piece) == Progress::Done;
                assert!(done || piece.is_empty());
                let left = piece.len();
                from.drain(..len - left);
                done
            };
            if !server_done {
                server_done = step(&mut to_server, &mut |piece| server.receive(piece, &mut to_client).expect("RTMP"));
            }
            if !client_done {
                client_done = step(&mut to_client, &mut |piece| client.receive(piece, &mut to_server).expect("RTMP"));
            }
        }
        (to_server, to_client)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn both_halves_agree_however_the_bytes_are_split(
            mode in prop_oneof![Just(None), Just(Some(Layout::D772)), Just(Some(Layout::D8))],
            pieces in prop::collection::vec(prop_oneof![1..4_usize, 1..1600_usize, Just(1), Just(1537), Just(3073)], 1..12),
            seed in any::<[u8; 32]>(),
        ) {
            let mut to_server = Vec::new();
            let client = match mode {
                None => ClientHandshake::new(seed, &mut to_server),
                Some(layout) => ClientHandshake::with_digest(seed, layout, &mut to_server),
            };
            prop_assert_eq!(to_server.len(), 1 + BLOCK);
            prop_assert_eq!(shake(client, to_server, &pieces), (vec![], vec![]));
        }

        #[test]
        fn the_answer_does_not_depend_on_the_split(layout in prop_oneof![Just(Layout::D772), Just(Layout::D8)], cut in 0..2 * BLOCK + 1) {
            let input = [&[3], &known_block_with_digest(layout)[..], &[0; BLOCK], b"rest"].concat();
            let run = |parts: &[&[u8]]| {
                let (mut server, mut out, mut left) = (ServerHandshake::new(SEED), Vec::new(), Vec::new());
                for part in parts {
                    let mut part = *part;
                    server.receive(&mut part, &mut out).expect("RTMP");
                    left.extend_from_slice(part);
                }
                (out, left)
            };
            let (head, tail) = input.split_at(cut);
            prop_assert_eq!(run(&[head, tail]), run(&[&input]));
        }
    }

    #[test]
    fn byte_by_byte_works() {
        let mut to_server = Vec::new();
        let client = ClientHandshake::with_digest(SEED, Layout::D772, &mut to_server);
        assert_eq!(shake(client, to_server, &[1]), (vec![], vec![]));
    }
}
