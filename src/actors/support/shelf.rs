//! Which outputs made of segments can be fetched: written by those who make them, read by every request.

use std::sync::Arc;

use dashmap::DashMap;

use super::segment_store::SegmentStore;
use crate::media::key::StreamKey;

/// All stores of the process. A clone is another handle on the same table; no guard leaves this file.
#[derive(Clone, Default)]
pub struct Shelf(Arc<DashMap<StreamKey, Stores>>);

/// What the segments of an output are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// Fragmented MP4, for HLS and DASH.
    Cmaf,
    /// MPEG-TS, for HLS.
    Ts,
}

impl Format {
    /// The word for it in statistics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cmaf => "cmaf",
            Self::Ts => "hls-ts",
        }
    }
}

/// Those of one stream.
#[derive(Default)]
struct Stores {
    cmaf: Option<Arc<SegmentStore>>,
    ts: Option<Arc<SegmentStore>>,
}

/// A store as it is found.
pub struct OnShelf {
    pub key: StreamKey,
    pub format: Format,
    pub store: Arc<SegmentStore>,
}

/// A store that is on the shelf until this is dropped. Whoever waits for something in it is answered then.
pub struct Shelved {
    shelf: Shelf,
    key: StreamKey,
    format: Format,
    store: Arc<SegmentStore>,
}

impl Shelf {
    pub fn find(&self, key: &StreamKey, format: Format) -> Option<Arc<SegmentStore>> {
        self.0.get(key).and_then(|stores| stores.open(format))
    }

    /// Puts a store on the shelf, unless there is one: then that is given back, and nothing is to be started.
    pub fn put(
        &self,
        key: &StreamKey,
        format: Format,
        make: impl FnOnce() -> SegmentStore,
    ) -> Result<Shelved, Arc<SegmentStore>> {
        let mut stores = self.0.entry(key.clone()).or_default();
        if let Some(known) = stores.open(format) {
            return Err(known);
        }
        let store = Arc::new(make());
        *stores.place(format) = Some(Arc::clone(&store));
        Ok(Shelved { shelf: self.clone(), key: key.clone(), format, store })
    }

    /// All stores that are open, in no order.
    pub fn all(&self) -> Vec<OnShelf> {
        let of = |key: &StreamKey, format, stores: &Stores| {
            stores.open(format).map(|store| OnShelf { key: key.clone(), format, store })
        };
        let both = [Format::Cmaf, Format::Ts];
        self.0.iter().flat_map(|entry| both.map(|format| of(entry.key(), format, &entry))).flatten().collect()
    }

    /// Streams that have something here.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Stores {
    fn open(&self, format: Format) -> Option<Arc<SegmentStore>> {
        let store = match format {
            Format::Cmaf => &self.cmaf,
            Format::Ts => &self.ts,
        };
        store.as_ref().filter(|store| store.is_open()).map(Arc::clone)
    }

    fn place(&mut self, format: Format) -> &mut Option<Arc<SegmentStore>> {
        match format {
            Format::Cmaf => &mut self.cmaf,
            Format::Ts => &mut self.ts,
        }
    }
}

impl Shelved {
    pub fn store(&self) -> &Arc<SegmentStore> {
        &self.store
    }
}

impl Drop for Shelved {
    fn drop(&mut self) {
        self.store.close();
        self.shelf.0.remove_if_mut(&self.key, |_, stores| {
            // A newer one of the same name stays.
            stores.place(self.format).take_if(|known| Arc::ptr_eq(known, &self.store));
            stores.cmaf.is_none() && stores.ts.is_none()
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{segment_store::StoreLimits, sessions::Sessions};
    use super::*;

    fn store() -> SegmentStore {
        let limits = StoreLimits { blocked_requests: 1, patience: Duration::ZERO };
        SegmentStore::new(limits, Sessions::new(Duration::ZERO, Arc::default(), || 1))
    }

    #[test]
    fn the_first_who_asks_makes_it_and_the_next_finds_it() {
        let shelf = Shelf::default();
        let key = StreamKey::parse("default", "live", "a").expect("a good name");
        let first = shelf.put(&key, Format::Cmaf, store).ok().expect("nothing is there");
        let second = shelf.put(&key, Format::Cmaf, || panic!("it is there already")).err().expect("it is there");
        assert!(Arc::ptr_eq(first.store(), &second));
        assert!(shelf.find(&key, Format::Ts).is_none());
        first.store().close();
        let newer = shelf.put(&key, Format::Cmaf, store).ok().expect("the old one is closed");
        drop(first);
        assert!(shelf.find(&key, Format::Cmaf).is_some(), "the newer one stays");
        drop(newer);
        assert!(shelf.is_empty());
    }
}
