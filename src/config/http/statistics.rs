//! `rtmp_stat` and what belongs to it; who is told that a location with it, or with `rtmp_control`, lets everybody in.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::config::access::Rule;
use crate::config::build::Scope;
use crate::config::syntax::Directive;
use crate::config::{Access, Listen, ListenAddress};

/// What a location with `rtmp_stat` answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statistics {
    /// Streams are listed, and each of their clients. What is said of the server as a whole is always there.
    pub live: bool,
    pub clients: bool,
    pub records: bool,
    pub form: Form,
    /// `rtmp_stat_stylesheet`: where a browser finds what makes a page of the document.
    pub stylesheet: String,
}

/// Whose document it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// That of nginx-rtmp-module.
    Rtmp,
    /// Those of nginx-http-flv-module, which has other names for some things, and more of them.
    HttpFlv,
    Json,
}

impl Statistics {
    /// What these words in this block and around it ask for. None: they stand around it only, and there nginx has nothing
    /// that would answer here; or nothing is asked for.
    ///
    /// `has_flv_live`: the file was written for nginx-http-flv-module, because nobody else has `flv_live on`.
    pub(super) fn read(scope: &Scope<'_>, has_flv_live: bool) -> Option<Self> {
        let format = scope.written("rtmp_stat_format");
        scope.own("rtmp_stat").chain(scope.own("rtmp_stat_format")).next()?;
        let block =
            scope.blocks.iter().find(|block| block.iter().any(|directive| directive.name.text == "rtmp_stat"))?;
        let lines = block.iter().filter(|directive| directive.name.text == "rtmp_stat");
        let words: Vec<&str> = lines.flat_map(|line| line.args.iter().map(|word| word.text.as_str())).collect();
        let says = |flag: &str| words.iter().any(|word| word.eq_ignore_ascii_case(flag));
        let is_http_flv = format.is_some() || has_flv_live || says("record");
        let form = match format {
            Some(format) if format.eq_ignore_ascii_case("json") => Form::Json,
            _ if is_http_flv => Form::HttpFlv,
            _ => Form::Rtmp,
        };
        Some(Self {
            live: says("all") || says("live"),
            clients: says("all") || says("clients"),
            records: says("all") || says("record"),
            form,
            stylesheet: scope.written("rtmp_stat_stylesheet").unwrap_or_default().to_owned(),
        })
    }
}

/// Is `flv_live on` written anywhere here?
pub(super) fn has_flv_live(directives: &[Directive]) -> bool {
    directives.iter().any(|directive| {
        let is_on = || directive.args.first().is_some_and(|word| word.text.eq_ignore_ascii_case("on"));
        directive.name.text == "flv_live" && is_on() || directive.block.as_deref().is_some_and(has_flv_live)
    })
}

/// From where a server can be reached, beside the machine it runs on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Reach {
    v4: bool,
    v6: bool,
}

impl Reach {
    pub(super) fn of(listens: &[Listen]) -> Self {
        let mut reach = Self::default();
        for listen in listens {
            let ListenAddress::Tcp(address) = &listen.address else { continue };
            if address.ip().to_canonical().is_loopback() {
                continue;
            }
            let takes_both = address.is_ipv6() && address.ip().is_unspecified() && !listen.ipv6only;
            reach.v4 |= address.is_ipv4() || takes_both;
            reach.v6 |= address.is_ipv6();
        }
        reach
    }

    /// May anybody who reaches the server come in by these rules?
    pub(super) fn is_open(self, access: &Access) -> bool {
        let lets_in = |v6: bool| {
            let is_for_all = |rule: &&Rule| rule.network.is_none_or(|network| is_everything(&network, v6));
            access.rules().iter().find(is_for_all).is_none_or(|rule| rule.allow)
        };
        (self.v4 && lets_in(false)) || (self.v6 && lets_in(true))
    }
}

fn is_everything(network: &ipnet::IpNet, v6: bool) -> bool {
    let any = if v6 { Ipv6Addr::UNSPECIFIED.into() } else { std::net::IpAddr::from(Ipv4Addr::UNSPECIFIED) };
    network.prefix_len() == 0 && network.contains(&any)
}

#[cfg(test)]
mod tests {
    use super::super::Handler;
    use super::*;
    use crate::config::Config;

    fn config(text: &str) -> Config {
        let text = format!("http {{ {text} }}");
        Config::parse("x.conf", text.as_bytes()).unwrap_or_else(|error| panic!("{text}\n{error}"))
    }

    fn handler(text: &str) -> Handler {
        let config = config(text);
        let http = config.http.expect("it was written");
        http.servers[0].outermost.locations[0].handler.clone()
    }

    #[track_caller]
    fn statistics(text: &str) -> Statistics {
        match handler(text) {
            Handler::Statistics(statistics) => statistics,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn flags_add_up_in_a_block_and_answer_only_where_they_stand() {
        let flags = |text: &str| {
            let Statistics { live, clients, records, .. } = statistics(text);
            (live, clients, records)
        };
        assert_eq!(flags("server { location / { rtmp_stat all; } }"), (true, true, true));
        assert_eq!(flags("server { location / { rtmp_stat global; } }"), (false, false, false));
        assert_eq!(flags("server { location / { rtmp_stat live; rtmp_stat clients; } }"), (true, true, false));
        assert_eq!(handler("rtmp_stat all; server { rtmp_stat all; location / { } }"), Handler::Files);
        assert_eq!(handler("server { location / { rtmp_stat_format json; } }"), Handler::Files, "nothing is asked for");
        assert_eq!(flags("server { rtmp_stat live; location / { rtmp_stat_format json; } }"), (true, false, false));
    }

    #[test]
    fn the_dialect_is_that_of_the_module_the_file_was_written_for() {
        let form = |text: &str| statistics(text).form;
        assert_eq!(form("server { location / { rtmp_stat all; } }"), Form::Rtmp);
        assert_eq!(form("server { location / { rtmp_stat live record; } }"), Form::HttpFlv);
        assert_eq!(form("server { location / { rtmp_stat all; rtmp_stat_format xml; } }"), Form::HttpFlv);
        assert_eq!(form("rtmp_stat_format json; server { location / { rtmp_stat all; } }"), Form::Json);
        assert_eq!(form("server { location / { rtmp_stat all; } location /live { flv_live on; } }"), Form::HttpFlv);
        assert_eq!(form("server { location / { rtmp_stat all; } location /live { flv_live 1935; } }"), Form::Rtmp);
    }

    #[test]
    fn a_stylesheet_is_inherited() {
        let text = "rtmp_stat_stylesheet /a?b=1&c; server { location / { rtmp_stat all; } }";
        assert_eq!(statistics(text).stylesheet, "/a?b=1&c");
    }

    #[track_caller]
    fn check_open(text: &str, expected: &[&str]) {
        let config = config(text);
        let about: Vec<&str> = config
            .warnings
            .iter()
            .filter(|notice| notice.text.starts_with("is open to"))
            .map(|notice| notice.directive.as_str())
            .collect();
        assert_eq!(about, expected, "{text}");
    }

    #[test]
    fn who_leaves_statistics_or_control_open_is_told() {
        check_open("server { location /stat { rtmp_stat all; } }", &["rtmp_stat"]);
        check_open(
            "server { location /c { rtmp_control all; } location /s { rtmp_stat all; } }",
            &["rtmp_control", "rtmp_stat"],
        );
        check_open("server { rtmp_stat all; location / { } }", &["rtmp_stat"]);
        for listen in ["[::]:80", "192.0.2.1:80", "127.0.0.1:80; listen 8080"] {
            check_open(&format!("server {{ listen {listen}; location / {{ rtmp_stat all; }} }}"), &["rtmp_stat"]);
        }
        for rules in
            ["allow 127.0.0.1;", "allow all; deny all;", "deny 192.0.2.0/24;", "deny ::/0;", "allow 0.0.0.0/0;"]
        {
            check_open(&format!("server {{ location / {{ {rules} rtmp_control drop; }} }}"), &["rtmp_control"]);
        }
    }

    #[test]
    fn what_is_guarded_or_out_of_reach_is_no_warning() {
        for listen in ["127.0.0.1:80", "[::1]:80", "unix:/run/x.sock", "127.0.0.2:80; listen [::1]:81"] {
            check_open(&format!("server {{ listen {listen}; location / {{ rtmp_stat all; }} }}"), &[]);
        }
        for rules in
            ["allow 127.0.0.1; deny all;", "deny all;", "deny 0.0.0.0/0;", "auth_basic x;", "internal;", "return 404;"]
        {
            check_open(&format!("server {{ location / {{ {rules} rtmp_stat all; }} }}"), &[]);
        }
        check_open("deny all; server { location / { rtmp_stat all; rtmp_control all; } }", &[]);
        check_open("server { listen [::]:80; deny ::/0; location / { rtmp_stat all; } }", &[]);
    }
}
