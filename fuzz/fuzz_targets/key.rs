//! Stream names: whatever is accepted is plain, stays inside its folder, and shares its file with no other name.
#![no_main]

use std::path::{Component, Path};

use libfuzzer_sys::fuzz_target;
use livemill::media::key::StreamKey;
use livemill::protocol::rtmp::url::resolve_in;

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    let mut lines = text.splitn(3, '\n');
    let mut line = || lines.next().unwrap_or_default();
    let (app, one, other) = (line(), line(), line());
    let key = check(app, one);
    let other_key = check(app, other);
    if let (Some(key), Some(other_key)) = (key, other_key) {
        assert_eq!(key.name == other_key.name, key.file_stem() == other_key.file_stem(), "{key:?} {other_key:?}");
    }
    // The way a name really comes in.
    let target = resolve_in("rtmp://host/live", app, one, |app| app == "live");
    check(&target.app, &target.name);
});

fn check(app: &str, name: &str) -> Option<StreamKey> {
    let key = StreamKey::parse("default", app, name).ok()?;
    let stem = key.file_stem();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._~@+=,!-/".contains(&byte);
    assert!(key.app.bytes().chain(key.name.bytes()).all(plain), "{key:?}");
    assert!(!key.app.is_empty());
    assert!(stem.len() <= 255 && !stem.contains('/') && !stem.starts_with(['.', '-']), "{stem}");
    let components: Vec<Component<'_>> = Path::new(&*stem).components().collect();
    assert!(matches!(components.as_slice(), [Component::Normal(_)]), "{stem}");
    assert_eq!(StreamKey::parse("default", &key.app, &key.name).as_ref(), Ok(&key), "what was decoded is decoded");
    Some(key)
}
