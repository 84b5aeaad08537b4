//! An endless FLV file: any bytes in any pieces give the same tags or the same refusal, and none that did not come.
#![no_main]

use libfuzzer_sys::fuzz_target;
use livemill::protocol::amf::Limits;
use livemill::protocol::flv::reader::{FlvError, FlvLimits, FlvReader, FlvTag};

fuzz_target!(|bytes: &[u8]| {
    let Some((pieces, file)) = bytes.split_first_chunk::<3>() else { return };
    let whole = read(file, &[file.len().max(1)]);
    let sizes = pieces.map(|piece| 1 + usize::from(piece));
    assert_eq!(whole, read(file, &sizes));
    let bodies: usize = whole.0.iter().map(|tag| tag.body.len()).sum();
    assert!(bodies <= file.len());
});

fn read(file: &[u8], sizes: &[usize]) -> (Vec<FlvTag>, Option<FlvError>, u64, bool) {
    let mut reader = FlvReader::new(FlvLimits { max_body: 64 * 1024, max_data: 4096, amf: Limits::DATA });
    let (mut tags, mut rest, mut sizes) = (Vec::new(), file, sizes.iter().cycle());
    while !rest.is_empty() {
        let (mut piece, after) = rest.split_at(rest.len().min(*sizes.next().expect("endless")));
        loop {
            match reader.read(&mut piece) {
                Ok(Some(tag)) => tags.push(tag),
                Ok(None) => break,
                Err(error) => return (tags, Some(error), reader.skipped(), false),
            }
        }
        assert!(piece.is_empty(), "all of the input was needed");
        rest = after;
    }
    (tags, None, reader.skipped(), reader.is_midway())
}
