//! Encrypted segments: AES-128 over the whole of each.

use std::fmt;

use aes::Aes128;
use aes::cipher::block_padding::Pkcs7;
use aes::cipher::{BlockModeEncrypt as _, KeyIvInit as _};

/// Which key is in use, and for how many more segments.
#[derive(Debug)]
pub struct KeyRing {
    segments_per_key: u64,
    current: Option<(Key, u64)>,
}

/// A key and its number, which is that of the first segment it is used for.
#[derive(Clone, PartialEq, Eq)]
pub struct Key {
    pub id: u64,
    bytes: [u8; KEY_SIZE],
}

pub const KEY_SIZE: usize = 16;

impl KeyRing {
    /// 0: one key until [`KeyRing::restart`].
    pub fn new(segments_per_key: u64) -> Self {
        Self { segments_per_key, current: None }
    }

    /// The key of the next segment, which has the number `id`, and whether it is a new one. `random` is asked for a new key's bytes.
    pub fn next(&mut self, id: u64, random: impl FnOnce() -> [u8; KEY_SIZE]) -> (Key, bool) {
        if let Some((key, used)) = &mut self.current
            && (self.segments_per_key == 0 || *used < self.segments_per_key)
        {
            *used += 1;
            return (key.clone(), false);
        }
        let key = Key { id, bytes: random() };
        self.current = Some((key.clone(), 1));
        (key, true)
    }

    /// Another publish begins: with another key.
    pub fn restart(&mut self) {
        self.current = None;
    }
}

impl Key {
    pub fn new(id: u64, bytes: [u8; KEY_SIZE]) -> Self {
        Self { id, bytes }
    }

    /// What a player is given.
    pub fn bytes(&self) -> &[u8; KEY_SIZE] {
        &self.bytes
    }

    /// The initialisation vector: the key's number, as nginx-rtmp has it.
    pub fn iv(&self) -> [u8; KEY_SIZE] {
        u128::from(self.id).to_be_bytes()
    }

    /// A whole segment, in CBC with PKCS7 padding (RFC 8216, 4.3.2.4).
    pub fn encrypt(&self, segment: &[u8]) -> Vec<u8> {
        cbc::Encryptor::<Aes128>::new(&self.bytes.into(), &self.iv().into()).encrypt_padded_vec::<Pkcs7>(segment)
    }
}

/// Keys stay out of logs.
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_is_encrypted_as_the_standard_says() {
        // NIST SP 800-38A, F.2.1, whose vector is made to be the key's number here: recomputed with openssl enc -aes-128-cbc.
        let key = Key::new(0, *b"\x2b\x7e\x15\x16\x28\xae\xd2\xa6\xab\xf7\x15\x88\x09\xcf\x4f\x3c");
        let plain = *b"\x6b\xc1\xbe\xe2\x2e\x40\x9f\x96\xe9\x3d\x7e\x11\x73\x93\x17\x2a";
        let encrypted = key.encrypt(&plain);
        assert_eq!(encrypted[..16], *b"\x3a\xd7\x7b\xb4\x0d\x7a\x36\x60\xa8\x9e\xca\xf3\x24\x66\xef\x97");
        assert_eq!(encrypted.len(), 32, "a whole block of padding behind a whole block");
        assert_eq!(Key::new(0x1234, [0; 16]).iv()[14..], [0x12, 0x34]);
    }

    #[test]
    fn a_key_serves_as_many_segments_as_configured() {
        let mut ring = KeyRing::new(2);
        let ids: Vec<(u64, bool)> =
            (5..10).map(|id| ring.next(id, || [7; 16])).map(|(key, is_new)| (key.id, is_new)).collect();
        assert_eq!(ids, [(5, true), (5, false), (7, true), (7, false), (9, true)]);
    }

    #[test]
    fn without_a_number_a_key_serves_one_publish() {
        let mut ring = KeyRing::new(0);
        assert!(ring.next(0, || [1; 16]).1);
        assert!(!ring.next(1, || [2; 16]).1);
        ring.restart();
        assert_eq!(ring.next(2, || [3; 16]).0, Key::new(2, [3; 16]));
    }

    #[test]
    fn a_key_is_not_printed() {
        assert_eq!(format!("{:?}", Key::new(3, [9; 16])), "Key(3)");
    }
}
