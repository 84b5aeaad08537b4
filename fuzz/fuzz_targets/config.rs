//! Configuration files: read or refused with a message, and printed as what they were read as.
#![no_main]

use libfuzzer_sys::fuzz_target;
use livemill::config::Config;
use livemill::config::syntax::{Directive, parse, print};

fuzz_target!(|bytes: &[u8]| {
    let tree = parse("fuzz.conf", bytes);
    if tree.error.is_none() {
        let printed = print(&tree.directives);
        let again = parse("printed.conf", printed.as_bytes());
        assert!(again.error.is_none(), "{printed}");
        assert!(same(&tree.directives, &again.directives), "{printed}");
    }
    if let Err(error) = Config::parse("fuzz.conf", bytes) {
        assert!(!error.to_string().is_empty());
    }
});

/// The same words in the same blocks; where they stand has changed.
fn same(one: &[Directive], other: &[Directive]) -> bool {
    one.len() == other.len()
        && one.iter().zip(other).all(|(one, other)| {
            one.name.text == other.name.text
                && one.args.len() == other.args.len()
                && one.args.iter().zip(&other.args).all(|(one, other)| one.text == other.text)
                && match (&one.block, &other.block) {
                    (None, None) => true,
                    (Some(one), Some(other)) => same(one, other),
                    _ => false,
                }
        })
}
