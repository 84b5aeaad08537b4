//! What a push writes at a time.
//!
//! Each write is carried to the far end by itself. So, while deliveries come fast, two of them are one write: that is one
//! frame's time of delay. Who asked for low latency is spared it, and so is a keyframe.

use crate::media::packet::{Batch, Packet};

pub(super) struct Pairs {
    is_wanted: bool,
    /// Deliveries since the last tick, and whether there were many before it: only then is the next one near.
    count: u32,
    is_fast: bool,
    /// Waits for the next, or for the tick; and whether something before it was lost.
    first: Option<(Batch, bool)>,
}

impl Pairs {
    pub(super) fn new(is_wanted: bool) -> Self {
        Self { is_wanted, count: 0, is_fast: false, first: None }
    }

    /// Takes a delivery; returns what is to be written now, and whether something before it was lost.
    pub(super) fn next(&mut self, batch: Batch, gap: bool) -> Option<(Batch, bool)> {
        self.count += 1;
        match self.first.take() {
            None if self.is_fast && !batch.packets().iter().any(Packet::is_keyframe) => {
                self.first = Some((batch, gap));
                None
            }
            None => Some((batch, gap)),
            Some((first, was_gap)) => {
                let both = first.packets().iter().chain(batch.packets()).cloned().collect();
                // A gap between the two is one before them: the queue leaves out, and counts, what is of no use then.
                Some((Batch::new(both), was_gap || gap))
            }
        }
    }

    /// What has waited.
    pub(super) fn take(&mut self) -> Option<(Batch, bool)> {
        self.first.take()
    }

    /// To be called once a second, and [`Pairs::take`] with it: nothing waits longer than that.
    pub(super) fn tick(&mut self) {
        self.is_fast = self.is_wanted && self.count >= FAST;
        self.count = 0;
    }
}

/// Deliveries a second from which on the next one is near.
const FAST: u32 = 15;

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::media::packet::{PacketKind, Track};

    fn batch(kind: PacketKind, time_ms: i64) -> Batch {
        Batch::new([Packet::new(Track::Video, kind, time_ms, Bytes::from_static(b"frame"))].into_iter().collect())
    }

    fn times(written: &Option<(Batch, bool)>) -> Vec<i64> {
        written.iter().flat_map(|(batch, _)| batch.packets()).map(Packet::time_ms).collect()
    }

    /// Of a stream that brought so many deliveries in the second before.
    fn pairs(is_wanted: bool, fps: i64) -> Pairs {
        let mut pairs = Pairs::new(is_wanted);
        for time in 0..fps {
            pairs.next(batch(PacketKind::Inter, time), false);
        }
        pairs.tick();
        pairs
    }

    fn written(mut pairs: Pairs) -> Vec<Vec<i64>> {
        (0..4).map(|time| times(&pairs.next(batch(PacketKind::Inter, time), false))).collect()
    }

    #[test]
    fn what_comes_fast_goes_in_twos() {
        assert_eq!(written(pairs(true, 25)), [vec![], vec![0, 1], vec![], vec![2, 3]]);
    }

    #[test]
    fn what_comes_slowly_or_is_urgent_goes_at_once() {
        let each = [vec![0], vec![1], vec![2], vec![3]];
        assert_eq!(written(pairs(true, 10)), each);
        assert_eq!(written(pairs(false, 25)), each);
        assert_eq!(written(Pairs::new(true)), each);
    }

    #[test]
    fn a_keyframe_waits_for_nothing() {
        let mut pairs = pairs(true, 25);
        assert_eq!(times(&pairs.next(batch(PacketKind::Key, 9), false)), [9]);
        assert!(pairs.next(batch(PacketKind::Inter, 10), false).is_none());
        assert_eq!(times(&pairs.next(batch(PacketKind::Key, 11), false)), [10, 11]);
    }

    #[test]
    fn what_waits_when_no_more_comes_is_taken() {
        let mut pairs = pairs(true, 25);
        assert!(pairs.next(batch(PacketKind::Inter, 1), true).is_none());
        let single = pairs.take();
        assert_eq!((times(&single), single.map(|(_, gap)| gap)), (vec![1], Some(true)));
        assert!(pairs.take().is_none());
    }

    #[test]
    fn a_gap_between_the_two_is_told() {
        let mut pairs = pairs(true, 25);
        pairs.next(batch(PacketKind::Inter, 1), false);
        let written = pairs.next(batch(PacketKind::Inter, 9), true);
        assert_eq!((times(&written), written.map(|(_, gap)| gap)), (vec![1, 9], Some(true)));
    }
}
