//! Which location an address means: nginx's order.

use std::sync::Arc;

use crate::config::http::{Location, Pattern};

/// A location, and what its pattern caught: `$0`, `$1`, …
#[derive(Debug, Clone)]
pub struct Match {
    pub location: Arc<Location>,
    pub captures: Vec<String>,
}

/// The location of this address: an exact one; else the longest prefix, and what is nested in it; unless that prefix says
/// `^~`, the first pattern that matches takes it away again. None: the server itself answers.
pub fn find(locations: &[Arc<Location>], uri: &str) -> Option<Match> {
    search(locations, uri).map(|(found, _)| found)
}

/// The location of this name on the server's level.
pub fn named(locations: &[Arc<Location>], name: &str) -> Option<Match> {
    let is_it = |location: &&Arc<Location>| matches!(&location.pattern, Pattern::Named(known) if known == name);
    let location = locations.iter().find(is_it)?;
    Some(Match { location: Arc::clone(location), captures: Vec::new() })
}

/// The second value: nothing may take this away again.
fn search(locations: &[Arc<Location>], uri: &str) -> Option<(Match, bool)> {
    let plain = |location: &Arc<Location>| Match { location: Arc::clone(location), captures: Vec::new() };
    let exact = locations.iter().find(|location| matches!(&location.pattern, Pattern::Exact(text) if text == uri));
    if let Some(exact) = exact {
        return Some((plain(exact), true));
    }
    let prefixes = locations.iter().filter_map(|location| match &location.pattern {
        Pattern::Prefix { text, is_final } if uri.starts_with(text.as_str()) => Some((text.len(), *is_final, location)),
        _ => None,
    });
    let longest = prefixes.max_by_key(|(length, ..)| *length);
    let mut found = None;
    let mut tries_patterns = true;
    if let Some((_, is_final, location)) = longest {
        match search(&location.locations, uri) {
            Some((inner, true)) => return Some((inner, true)),
            inner => found = Some(inner.map_or_else(|| plain(location), |(inner, _)| inner)),
        }
        tries_patterns = !is_final;
    }
    for location in locations.iter().filter(|_| tries_patterns) {
        let Pattern::Regex(pattern) = &location.pattern else { continue };
        let Some(caught) = pattern.captures(uri) else { continue };
        let captures = caught.iter().map(|text| text.map_or(String::new(), |text| text.as_str().to_owned())).collect();
        let inner = search(&location.locations, uri).map(|(inner, _)| inner);
        return Some((inner.unwrap_or(Match { location: Arc::clone(location), captures }), true));
    }
    found.map(|found| (found, false))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    /// Each location returns its own name.
    #[track_caller]
    fn check(locations: &str, cases: &[(&str, &str)]) {
        let text = format!("http {{ server {{ {locations} }} }}");
        let config = Config::parse("x.conf", text.as_bytes()).unwrap_or_else(|error| panic!("{error}"));
        let http = config.http.unwrap();
        let outermost = &http.servers[0].outermost;
        for (uri, expected) in cases {
            let name = find(&outermost.locations, uri).map_or_else(String::new, |found| {
                let answer = found.location.answer.as_ref().and_then(|answer| answer.text.as_ref());
                answer.and_then(|text| text.as_plain()).unwrap_or_default().to_owned()
            });
            assert_eq!(name, *expected, "{uri}");
        }
    }

    #[test]
    fn the_longest_prefix_wins_and_exact_beats_all() {
        check(
            "location / { return 200 root; } location /a { return 200 a; } location /a/b { return 200 b; }
             location = /a { return 200 exact; } location = / { return 200 top; }",
            &[("/", "top"), ("/x", "root"), ("/a", "exact"), ("/ab", "a"), ("/a/b/c", "b")],
        );
    }

    #[test]
    fn patterns_come_in_order_and_final_prefixes_keep_them_out() {
        check(
            r"location /a { return 200 prefix; } location ^~ /b { return 200 final; }
              location ~ \.TS$ { return 200 case; } location ~* \.ts$ { return 200 any; } location ~ /b { return 200 b; }",
            &[
                ("/a/x.ts", "any"),
                ("/a/x.TS", "case"),
                ("/b/x.ts", "final"),
                ("/a", "prefix"),
                ("/c/b", "b"),
                ("/c", ""),
            ],
        );
    }

    #[test]
    fn nested_locations_are_searched_before_the_patterns_around_them() {
        check(
            r"location /a { return 200 a; location /a/b { return 200 b; } location ~ \.m3u8$ { return 200 inner; } }
              location ~ \.(m3u8|ts)$ { return 200 outer; }",
            &[("/a/x", "a"), ("/a/b", "b"), ("/a/x.m3u8", "inner"), ("/a/x.ts", "outer"), ("/a/b/x.ts", "outer")],
        );
    }

    #[test]
    fn patterns_catch() {
        let text = r"http { server { location ~ ^/(\w+)/(x)?(.*)$ { } } }";
        let http = Config::parse("x.conf", text.as_bytes()).unwrap().http.unwrap();
        let found = find(&http.servers[0].outermost.locations, "/live/y").unwrap();
        assert_eq!(found.captures, ["/live/y", "live", "", "y"]);
    }
}
