//! A folder as a page: nginx's autoindex.

use jiff::{Timestamp, tz::TimeZone};

use super::{files::Entry, pages::escape_html, uri::escape};
use crate::config::http::Autoindex;

/// The page of a folder at `uri`.
pub fn html(uri: &str, entries: &[Entry], how: Autoindex) -> String {
    let title = escape_html(uri);
    let mut out = format!(
        "<html>\r\n<head><title>Index of {title}</title></head>\r\n<body>\r\n<h1>Index of {title}</h1><hr><pre><a href=\"../\">../</a>\r\n"
    );
    for entry in entries {
        let slash = if entry.is_folder { "/" } else { "" };
        out.push_str(&format!("<a href=\"{}{slash}\">", escape_component(&entry.name)));
        let count = entry.name.chars().count();
        let width = count + slash.len();
        if width > NAME_LENGTH {
            let cut: String = entry.name.chars().take(NAME_LENGTH - 3).collect();
            out.push_str(&escape_html(&cut));
            out.push_str("..&gt;</a>");
        } else {
            out.push_str(&escape_html(&entry.name));
            out.push_str(slash);
            out.push_str("</a>");
            out.extend(std::iter::repeat_n(' ', NAME_LENGTH - width));
        }
        out.push_str(&format!(" {} {}\r\n", date(entry.modified, how.local_time), size(entry, how.exact_size)));
    }
    out.push_str("</pre><hr></body>\r\n</html>\r\n");
    out
}

/// The same as nginx's `autoindex_format json`.
pub fn json(entries: &[Entry]) -> String {
    let line = |entry: &Entry| {
        let name = serde_json::Value::from(entry.name.as_str());
        let kind = if entry.is_folder { "directory" } else { "file" };
        let time = time(entry.modified, false).strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        let size = if entry.is_folder { String::new() } else { format!(", \"size\":{}", entry.len) };
        format!("{{ \"name\":{name}, \"type\":\"{kind}\", \"mtime\":\"{time}\"{size} }}")
    };
    let lines: Vec<String> = entries.iter().map(line).collect();
    format!("[\r\n{}\r\n]", lines.join(",\r\n"))
}

fn size(entry: &Entry, is_exact: bool) -> String {
    if is_exact {
        return if entry.is_folder { format!("{:>19}", "-") } else { format!("{:>19}", entry.len) };
    }
    if entry.is_folder {
        return "      -".to_owned();
    }
    // nginx rounds to the nearest, and changes the unit where the number would be longer than it likes.
    let rounded = |length: u64, unit: u64| length / unit + u64::from(length % unit > unit / 2 - 1);
    match entry.len {
        length if length > (1 << 30) - 1 => format!("{:>6}G", rounded(length, 1 << 30)),
        length if length > (1 << 20) - 1 => format!("{:>6}M", rounded(length, 1 << 20)),
        length if length > 9999 => format!("{:>6}K", rounded(length, 1 << 10)),
        length => format!(" {length:>6}"),
    }
}

fn date(seconds: i64, is_local: bool) -> String {
    time(seconds, is_local).strftime("%d-%b-%Y %H:%M").to_string()
}

fn time(seconds: i64, is_local: bool) -> jiff::Zoned {
    let zone = if is_local { TimeZone::system() } else { TimeZone::UTC };
    Timestamp::from_second(seconds).unwrap_or(Timestamp::UNIX_EPOCH).to_zoned(zone)
}

/// A name that must not be read as anything else where an address is expected.
fn escape_component(name: &str) -> String {
    escape(name).replace(':', "%3A")
}

const NAME_LENGTH: usize = 50;

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, is_folder: bool, len: u64) -> Entry {
        Entry { name: name.to_owned(), is_folder, len, modified: 1_700_000_000 }
    }

    #[test]
    fn a_folder_looks_as_nginx_shows_it() {
        let how = Autoindex { exact_size: true, local_time: false, is_json: false };
        let page = html("/a<b>/", &[entry("d", true, 0), entry("x y.ts", false, 1234)], how);
        assert_eq!(
            page,
            "<html>\r\n<head><title>Index of /a&lt;b&gt;/</title></head>\r\n<body>\r\n<h1>Index of /a&lt;b&gt;/</h1><hr><pre>\
             <a href=\"../\">../</a>\r\n\
             <a href=\"d/\">d/</a>                                                 14-Nov-2023 22:13                   -\r\n\
             <a href=\"x%20y.ts\">x y.ts</a>                                             14-Nov-2023 22:13                1234\r\n\
             </pre><hr></body>\r\n</html>\r\n"
        );
    }

    #[test]
    fn sizes_are_short_where_nobody_wants_them_exact() {
        let short = |len| size(&entry("a", false, len), false);
        assert_eq!(short(999), "    999");
        assert_eq!(short(20_000), "    20K");
        assert_eq!(short(5 << 20), "     5M");
        assert_eq!(size(&entry("a", true, 0), false), "      -");
    }
}
