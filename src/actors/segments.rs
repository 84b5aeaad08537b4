//! Outputs made of segments: who starts them, and for whom.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use actix::prelude::*;
use futures_util::future::join_all;

use super::{
    cmaf_muxer::CmafMuxer,
    feed,
    hls_muxer::{FinishFiles, HlsMuxer},
    house::{House, Venue},
    router::Opened,
    support::{
        link::{Exited, Link},
        segment_store::{SegmentStore, StoreLimits},
        sessions::Sessions,
        shelf::Format,
    },
};
use crate::media::key::StreamKey;

/// Outputs that write files: one for each stream that is published and each format that is configured.
#[derive(Default)]
pub struct Files(HashMap<(StreamKey, Format), Writing>);

/// A muxer that writes files. It ends by itself some time after its publisher left.
struct Writing {
    id: u64,
    finish: Recipient<FinishFiles>,
}

impl Files {
    /// Somebody publishes: starts what the configuration asks for and is not there yet.
    pub fn begin(
        &mut self,
        house: &House,
        key: &StreamKey,
        opened: &Opened,
        home: &ArbiterHandle,
        parent: &Recipient<Exited>,
    ) {
        let Some(venue) = house.venue_of(key) else { return };
        let outputs = &venue.application.outputs;
        // One that is there hears of the new publisher from the stream.
        if let Some(files) = outputs.hls.as_ref().filter(|_| !self.has(key, Format::Ts)) {
            let (id, end_after) = (feed::next_id(), outputs.memory.end_after);
            let link = Link::new(id, parent.clone());
            let source = opened.source();
            let muxer = HlsMuxer::start_on_disk(key.clone(), source, files, end_after, &house.disk, link, home);
            self.0.insert((key.clone(), Format::Ts), Writing { id, finish: muxer.recipient() });
        }
        if let Some(files) = outputs.dash.as_ref().filter(|_| !self.has(key, Format::Cmaf)) {
            let (id, end_after) = (feed::next_id(), outputs.memory.end_after);
            let link = Link::new(id, parent.clone());
            let source = opened.source();
            let muxer = CmafMuxer::start_on_disk(key.clone(), source, files, end_after, &house.disk, link, home);
            self.0.insert((key.clone(), Format::Cmaf), Writing { id, finish: muxer.recipient() });
        }
    }

    /// The muxer of this id is gone. None: it was none of these.
    pub fn forget(&mut self, id: u64) -> Option<StreamKey> {
        let known = self.0.iter().find(|(_, writing)| writing.id == id).map(|(name, _)| name.clone())?;
        self.0.remove(&known);
        Some(known.0)
    }

    /// What is written, of which stream.
    pub fn list(&self) -> impl Iterator<Item = (&StreamKey, Format)> {
        self.0.iter().filter(|(_, writing)| writing.finish.connected()).map(|((key, format), _)| (key, *format))
    }

    /// Writes what has come, and is done when it lies on the disk.
    pub fn finish(&self) -> ResponseFuture<()> {
        let finishing: Vec<_> = self.0.values().map(|writing| writing.finish.send(FinishFiles)).collect();
        Box::pin(async {
            // Who is gone has written all it had.
            join_all(finishing).await;
        })
    }

    fn has(&self, key: &StreamKey, format: Format) -> bool {
        self.0.get(&(key.clone(), format)).is_some_and(|writing| writing.finish.connected())
    }
}

/// The stream of this name, if somebody publishes it.
pub fn published(house: &House, key: &StreamKey) -> Option<Opened> {
    let entry = house.directory.find(key)?;
    let is_published = entry.counters.publishing.load(Ordering::Relaxed);
    let stream = entry.stream.upgrade().filter(|stream| is_published && stream.connected())?;
    Some(Opened { stream, counters: entry.counters })
}

/// The output of a stream in memory, for somebody who wants its playlist; it is started if it is not there yet. None: nobody
/// publishes under this name. To be called on the arbiter where a new one is to live.
pub fn open(house: &House, key: &StreamKey, venue: &Venue, format: Format) -> Option<Arc<SegmentStore>> {
    let opened = published(house, key)?;
    let rules = venue.application.outputs.memory.clone();
    let limits = StoreLimits {
        blocked_requests: rules.blocked_requests,
        // The first segment must be whole, and it must be known that it is.
        patience: rules.max_fragment.saturating_add(rules.fragment).saturating_add(SLACK),
    };
    let numbers = house.numbers();
    let sessions = Sessions::new(rules.viewer_timeout, Arc::clone(&opened.counters), move || numbers.next());
    match house.shelf.put(key, format, || SegmentStore::new(limits, sessions)) {
        Err(known) => Some(known),
        Ok(shelved) => {
            let store = Arc::clone(shelved.store());
            let source = opened.source();
            match format {
                Format::Cmaf => CmafMuxer::start_in_memory(key.clone(), source, rules, shelved),
                Format::Ts => HlsMuxer::start_in_memory(key.clone(), source, rules, shelved),
            }
            Some(store)
        }
    }
}

/// What the first viewer waits beyond the length of the first segment.
const SLACK: Duration = Duration::from_secs(5);
