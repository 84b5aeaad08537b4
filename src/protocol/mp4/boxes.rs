//! Writes boxes: a size, four letters, and what is inside.

/// Opens a box, writes what `inside` writes, and closes it with its size.
pub(super) fn boxed(out: &mut Vec<u8>, kind: &[u8; 4], inside: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(kind);
    inside(out);
    close(out, start);
}

/// A box that begins with a version and flags.
pub(super) fn full_box(out: &mut Vec<u8>, kind: &[u8; 4], version: u8, flags: u32, inside: impl FnOnce(&mut Vec<u8>)) {
    boxed(out, kind, |out| {
        u32(out, u32::from(version) << 24 | flags);
        inside(out);
    });
}

/// Fills in the size of what has been written since `start`.
fn close(out: &mut [u8], start: usize) {
    // Initialisations are a few KiB: nothing a peer sends makes them longer than 4 GiB.
    let size = u32::try_from(out.len() - start).unwrap_or(u32::MAX);
    if let Some(field) = out.get_mut(start..start + 4) {
        field.copy_from_slice(&size.to_be_bytes());
    }
}

pub(super) fn u8(out: &mut Vec<u8>, value: u8) {
    out.push(value);
}

pub(super) fn u16(out: &mut Vec<u8>, value: u16) {
    out.extend_from_slice(&value.to_be_bytes());
}

pub(super) fn u32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_be_bytes());
}

pub(super) fn u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_be_bytes());
}

pub(super) fn zeros(out: &mut Vec<u8>, count: usize) {
    out.resize(out.len() + count, 0);
}
