//! What an endless format is to whoever makes it once for all its viewers.

use bytes::Bytes;
use smallvec::SmallVec;

use crate::media::packet::Packet;

/// An endless format made once for all its viewers: a stream's packets go in, chunks of the format come out.
///
/// A chunk is a [`Packet`] whose payload is the final bytes, so that caches and queues treat it as they treat media:
/// `Config` (what everybody needs first, such as an initialisation; track `Video`, so that the newest replaces the one
/// before), `Key` (track `Video`: somebody may begin here), `Inter` or `Disposable` (track `Video`) and `Audio`. Where
/// there is no video, audio chunks are where one begins. Times are those of the stream's line.
pub trait Endless: Send {
    fn content_type(&self) -> &'static str;

    /// What every joiner is sent first, ahead of any chunk; empty where the format has none, or where it is among the
    /// chunks as `Config`. None: not known yet, so nobody can begin.
    fn header(&self) -> Option<Bytes>;

    /// The stream's next packets.
    fn batch(&mut self, packets: &[Packet]) -> SmallVec<[Packet; 4]>;

    /// The publisher left, another one came, or packets were lost: what comes next does not go on from what was before.
    /// What was begun and not finished is forgotten.
    fn restart(&mut self);
}
