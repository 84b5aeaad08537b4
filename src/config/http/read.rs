//! The tree below `http {}` to the structs of [`super`], with nginx's rules of inheritance.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use regex_lite::RegexBuilder;

use super::statistics::{Reach, Statistics, has_flv_live};
use super::{
    Autoindex, ControlSections, ErrorPage, Expires, Gzip, HEADER_TIMEOUT, Handler, Header, Http, HttpLog, HttpServer,
    IfModifiedSince, KEEPALIVE, LastTry, Location, Pattern, Precompressed, Regex2, Return, Root, ServerTokens,
    Settings, TryFiles, Types,
};
use crate::config::access::{Rule, parse_network};
use crate::config::build::{Paths, Scope, is_elsewhere, oclp};
use crate::config::diagnose::{Problem, nearest};
use crate::config::directives::Contexts;
use crate::config::hosts::{self, Written};
use crate::config::syntax::{self, Directive, Word};
use crate::config::template::{self, Template};
use crate::config::values::{self, Resolve};
use crate::config::{Access, AccessLog, Listen, ListenAddress, LogFormat, LogTarget, Notice, ServerName, TlsFiles};

/// Reads what the table cannot check by type, so that errors come in the order of the file.
pub fn check(directive: &Directive, context: Contexts, resolve: Resolve) -> Result<(), Problem> {
    match (directive.name.text.as_str(), context) {
        ("listen", Contexts::HTTP_SERVER) => listen(directive, resolve).map(drop),
        ("server_name", Contexts::HTTP_SERVER) => server_names(directive).map(drop),
        ("location", _) => pattern(directive).map(drop),
        ("allow" | "deny", _) => rule(directive).map(drop),
        ("expires", _) => expires(directive).map(drop),
        ("return", _) => answer(directive).map(drop),
        ("error_page", _) => error_page(directive).map(drop),
        ("add_header", _) => header(directive).map(drop),
        ("try_files", _) => try_files(directive).map(drop),
        ("keepalive_timeout", _) => keepalive(directive).map(drop),
        ("flv_live", _) => flv_live(directive).map(drop),
        ("scheduler_push", _) => oclp::push_rule(directive).map(drop),
        ("gzip_disable", _) => gzip_disable(directive).map(drop),
        ("root" | "alias" | "index", _) => {
            directive.args.iter().try_for_each(|word| template(directive, word).map(drop))
        }
        _ => Ok(()),
    }
}

/// The whole block. `scope` is its inside.
pub(in crate::config) fn http(
    scope: &Scope<'_>,
    paths: &Paths,
    resolve: Resolve,
    warnings: &mut Vec<Notice>,
) -> Result<Http, Problem> {
    let outer = scope.blocks.first().copied().unwrap_or_default();
    let mut reader = Reader {
        paths,
        warnings,
        formats: Vec::new(),
        types: HashMap::new(),
        defined: Vec::new(),
        has_flv_live: has_flv_live(outer),
        reach: Reach::default(),
    };
    reader.define(outer);
    reader.format("combined", COMBINED);
    for directive in scope.own("log_format") {
        reader.log_format(directive)?;
    }
    reader.check_variables(outer)?;
    let mut servers = Vec::new();
    let mut written = Vec::new();
    for directive in scope.own("server") {
        let server = reader.server(servers.len(), &scope.inside(Some(directive)), resolve, &mut written)?;
        servers.push(server);
    }
    hosts::agree(&mut servers, &written)?;
    hosts::share_port(&mut servers, &written);
    // One timeout for all connections: it begins before it is known which server is meant.
    let first = |name: &str| first_time(outer, name);
    Ok(Http {
        servers: servers.into_iter().map(Arc::new).collect(),
        is_built_in: false,
        client_header_timeout: first("client_header_timeout").unwrap_or(HEADER_TIMEOUT),
        keepalive_timeout: first("keepalive_timeout").unwrap_or(KEEPALIVE),
    })
}

/// The first value in the order of the file, outer blocks before inner ones.
fn first_time(directives: &[Directive], name: &str) -> Option<Duration> {
    let own = directives.iter().filter(|directive| directive.name.text == name);
    let own = own.filter_map(|directive| values::time(&directive.args.first()?.text)).find(|time| !time.is_zero());
    own.or_else(|| directives.iter().find_map(|directive| first_time(directive.block.as_deref()?, name)))
}

struct Reader<'a> {
    paths: &'a Paths,
    warnings: &'a mut Vec<Notice>,
    /// `combined` first.
    formats: Vec<(Arc<LogFormat>, Arc<Template>)>,
    /// Tables that were read, by where they stand: the outermost is shared by most locations.
    types: HashMap<usize, Arc<Types>>,
    /// Variables that a directive nginx knows brings into being.
    defined: Vec<String>,
    /// The file has `flv_live on`.
    has_flv_live: bool,
    /// Of the server that is being read.
    reach: Reach,
}

impl Reader<'_> {
    fn server<'a>(
        &mut self,
        index: usize,
        scope: &Scope<'a>,
        resolve: Resolve,
        written: &mut Vec<Written<'a>>,
    ) -> Result<HttpServer, Problem> {
        let mut listens = Vec::new();
        let http2 = scope.flag("http2");
        for directive in scope.own("listen") {
            written.push(Written { server: index, index: listens.len(), directive });
            let (mut listen, remark) = listen(directive, resolve)?;
            listen.http2 |= http2 && listen.ssl;
            if let Some(text) = remark {
                self.warn(directive, text);
            }
            listens.push(listen);
        }
        if listens.is_empty() {
            let any = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), PORT);
            listens.push(Listen::new(ListenAddress::Tcp(any)));
            written.extend(scope.directive.map(|directive| Written { server: index, index: 0, directive }));
        }
        let mut names = Vec::new();
        for directive in scope.own("server_name") {
            names.append(&mut server_names(directive)?);
        }
        let name = scope.own("server_name").next().and_then(|directive| directive.args.first());
        self.reach = Reach::of(&listens);
        Ok(HttpServer {
            index,
            names,
            name: name.map(|word| word.text.clone()).unwrap_or_default(),
            tls: self.tls(scope, &listens)?,
            listens,
            merge_slashes: scope.flag("merge_slashes"),
            outermost: Arc::new(self.location(Pattern::Server, scope, None)?),
        })
    }

    fn location(&mut self, pattern: Pattern, scope: &Scope<'_>, around: Option<&Root>) -> Result<Location, Problem> {
        let settings = self.settings(scope, &pattern, around)?;
        let mut locations: Vec<Arc<Location>> = Vec::new();
        for directive in scope.own("location") {
            let inner = self::pattern(directive)?;
            nested(&pattern, &inner, directive)?;
            if locations.iter().any(|known| known.pattern.is_same(&inner)) {
                let name = directive.args.last().map_or("", |word| word.text.as_str());
                return Err(Problem::at(format!("duplicate location \"{name}\""), directive));
            }
            locations.push(Arc::new(self.location(inner, &scope.inside(Some(directive)), Some(&settings.root))?));
        }
        let location = Location {
            settings,
            answer: scope.own("return").next().map(answer).transpose()?,
            try_files: scope.own("try_files").next().map(try_files).transpose()?,
            handler: handler(scope, &pattern, self.has_flv_live)?,
            is_internal: scope.own("internal").next().is_some(),
            locations,
            pattern,
        };
        self.warn_if_open(scope, &location);
        Ok(location)
    }

    /// Statistics and control are for those who run the server, and modules of nginx let in whom nobody keeps out.
    fn warn_if_open(&mut self, scope: &Scope<'_>, location: &Location) {
        let is_closed =
            matches!(location.handler, Handler::Guarded(_)) || location.is_internal || location.answer.is_some();
        if is_closed || !self.reach.is_open(&location.settings.access) {
            return;
        }
        for name in ["rtmp_stat", "rtmp_control"] {
            if let Some(directive) = scope.own(name).next() {
                let text = "is open to the world: guard it with `allow 127.0.0.1; deny all;`";
                self.warn(directive, text.to_owned());
            }
        }
    }

    fn settings(&mut self, scope: &Scope<'_>, pattern: &Pattern, around: Option<&Root>) -> Result<Settings, Problem> {
        let usual = Settings::default();
        Ok(Settings {
            root: self.root(scope, pattern, around)?,
            index: match list(scope, &["index"]).first() {
                Some(_) => words(scope, "index")
                    .map(|(directive, word)| template(directive, word))
                    .collect::<Result<_, _>>()?,
                None => usual.index,
            },
            autoindex: scope.flag("autoindex").then(|| Autoindex {
                exact_size: scope.flag("autoindex_exact_size"),
                local_time: scope.flag("autoindex_localtime"),
                is_json: !scope.word("autoindex_format").eq_ignore_ascii_case("html"),
            }),
            types: self.types(scope),
            default_type: scope.word("default_type").to_owned(),
            charset: scope.written("charset").filter(|charset| *charset != "off").map(str::to_owned),
            charset_types: match list(scope, &["charset_types"]).is_empty() {
                true => usual.charset_types,
                false => Arc::new(words(scope, "charset_types").map(|(_, word)| word.text.to_lowercase()).collect()),
            },
            headers: list(scope, &["add_header"]).into_iter().map(header).collect::<Result<_, _>>()?,
            expires: scope.effective("expires").map(expires).transpose()?.unwrap_or(Expires::Off),
            error_pages: list(scope, &["error_page"]).into_iter().map(error_page).collect::<Result<_, _>>()?,
            access: {
                let rules: Result<Vec<Rule>, Problem> = list(scope, &["allow", "deny"]).into_iter().map(rule).collect();
                Access::new(rules?)
            },
            access_log: self.access_log(scope)?,
            gzip: gzip(scope)?,
            client_max_body_size: scope.size("client_max_body_size") as u64,
            server_tokens: match scope.word("server_tokens") {
                "off" => ServerTokens::Off,
                "build" => ServerTokens::Build,
                _ => ServerTokens::On,
            },
            closes: scope.effective("keepalive_timeout").map(keepalive).transpose()?.is_some_and(|time| time.is_zero()),
            etag: scope.flag("etag"),
            if_modified_since: match scope.word("if_modified_since") {
                "off" => IfModifiedSince::Off,
                "before" => IfModifiedSince::Before,
                _ => IfModifiedSince::Exact,
            },
            max_ranges: scope.written("max_ranges").map_or(usual.max_ranges, |_| scope.number("max_ranges") as usize),
            absolute_redirect: scope.flag("absolute_redirect"),
            port_in_redirect: scope.flag("port_in_redirect"),
            server_name_in_redirect: scope.flag("server_name_in_redirect"),
            log_not_found: scope.flag("log_not_found"),
            chunked: scope.flag("chunked_transfer_encoding"),
            follows_links: scope.written("disable_symlinks").is_some_and(|word| word == "off"),
        })
    }

    /// Relative paths are relative to the prefix, as in nginx.
    fn root(&self, scope: &Scope<'_>, pattern: &Pattern, around: Option<&Root>) -> Result<Root, Problem> {
        let find = |block: &&'_ [Directive]| {
            block.iter().rposition(|directive| ["root", "alias"].contains(&directive.name.text.as_str()))
        };
        let written = match around {
            // What the server takes over is looked for once; a location knows what is around it.
            None => scope.blocks.iter().find_map(|block| block.get(find(block)?)),
            Some(_) => scope.blocks.first().and_then(|block| block.get(find(block)?)),
        };
        let below = |text: &str| {
            let prefix = self.paths.prefix.to_string_lossy();
            if text.starts_with('/') { String::new() } else { format!("{}/", prefix.trim_end_matches('/')) }
        };
        let Some((directive, word)) = written.and_then(|directive| Some((directive, directive.args.first()?))) else {
            let usual = || Root::Root(Template::plain(format!("{}html", below("html"))));
            return Ok(around.cloned().unwrap_or_else(usual));
        };
        let text = word.text.as_str();
        let path = template(directive, word)?;
        // A path that begins with a variable is taken to be absolute, as nginx documents it for `$document_root`.
        let path = if text.starts_with('$') { path } else { path.after(&below(text)) };
        if directive.name.text == "root" {
            return Ok(Root::Root(path));
        }
        Ok(match pattern {
            Pattern::Exact(text) | Pattern::Prefix { text, .. } => Root::Alias(path, Some(text.len())),
            Pattern::Named(name) => {
                let message = "the \"alias\" directive cannot be used inside the named location";
                return Err(Problem::at(message, directive).help(format!("write `root` in `@{name}`")));
            }
            Pattern::Regex(_) | Pattern::Server => Root::Alias(path, None),
        })
    }

    fn types(&mut self, scope: &Scope<'_>) -> Arc<Types> {
        let found = scope.blocks.iter().find(|block| block.iter().any(|directive| directive.name.text == "types"));
        let Some(block) = found else {
            // In memory, includes stay unread.
            let included = list(scope, &["include"]);
            let is_mime =
                |directive: &&Directive| directive.args.first().is_some_and(|word| word.text.ends_with("mime.types"));
            if included.iter().any(is_mime) {
                return built_in_types();
            }
            let usual = [("html", "text/html"), ("gif", "image/gif"), ("jpg", "image/jpeg")];
            return Arc::new(Types::new(usual.map(|(ending, kind)| (ending.to_owned(), kind.to_owned()))));
        };
        // Blocks live as long as the reading, so their address tells them apart.
        let place = block.as_ptr() as usize;
        if let Some(known) = self.types.get(&place) {
            return Arc::clone(known);
        }
        let types = Arc::new(read_types(block));
        self.types.insert(place, Arc::clone(&types));
        types
    }

    fn tls(&self, scope: &Scope<'_>, listens: &[Listen]) -> Result<Option<TlsFiles>, Problem> {
        let file = |name: &str| scope.written(name).map(|text| self.paths.conf.join(text));
        match (file("ssl_certificate"), file("ssl_certificate_key")) {
            (Some(certificate), Some(key)) => Ok(Some(TlsFiles { certificate, key })),
            (Some(_), None) => {
                let message = "no \"ssl_certificate_key\" is defined for the \"ssl_certificate\" directive";
                let directive = scope.effective("ssl_certificate").or(scope.directive);
                directive.map_or(Ok(None), |directive| Err(Problem::at(message, directive)))
            }
            (None, _) => {
                let position = listens.iter().position(|listen| listen.ssl);
                let directive = position.and_then(|index| scope.own("listen").nth(index));
                let message = "no \"ssl_certificate\" is defined for the \"listen ... ssl\" directive";
                directive.map_or(Ok(None), |directive| Err(Problem::at(message, directive)))
            }
        }
    }

    fn log_format(&mut self, directive: &Directive) -> Result<(), Problem> {
        let Some((name, words)) = directive.args.split_first() else { return Ok(()) };
        if self.formats.iter().any(|(format, _)| format.name == name.text) {
            let message = format!("duplicate \"log_format\" name \"{}\"", name.text);
            return Err(Problem::at_word(message, directive, name));
        }
        let texts = words.iter().enumerate().filter(|(at, word)| *at > 0 || !word.text.starts_with("escape="));
        let mut template = String::new();
        for (_, word) in texts {
            self.known_variables(directive, word)?;
            template.push_str(&word.text);
        }
        self.format(&name.text, &template);
        Ok(())
    }

    fn format(&mut self, name: &str, text: &str) {
        let format = LogFormat { name: name.to_owned(), template: text.to_owned() };
        // Its words were checked one by one.
        let template = Template::parse(text).unwrap_or_default();
        self.formats.push((Arc::new(format), Arc::new(template)));
    }

    fn access_log(&mut self, scope: &Scope<'_>) -> Result<Vec<HttpLog>, Problem> {
        let lines = list(scope, &["access_log"]);
        let log = |target: LogTarget, named: &(Arc<LogFormat>, Arc<Template>), is_written| HttpLog {
            log: AccessLog { target, format: Arc::clone(&named.0), is_written },
            template: Arc::clone(&named.1),
        };
        if lines.is_empty() {
            let target = LogTarget::File(self.paths.prefix.join("logs/access.log"));
            return Ok(self.formats.first().map(|combined| log(target, combined, false)).into_iter().collect());
        }
        let mut logs = Vec::new();
        for directive in lines {
            let Some(path) = directive.args.first() else { continue };
            if path.text == "off" {
                return Ok(Vec::new());
            }
            let options = ["buffer=", "flush=", "gzip", "if="];
            let is_option = |word: &&Word| options.iter().any(|option| word.text.starts_with(option));
            let word = directive.args.get(1).filter(|word| !is_option(word));
            let name = word.map_or("combined", |word| word.text.as_str());
            let Some(format) = self.formats.iter().find(|(format, _)| format.name == name).cloned() else {
                let meant = nearest(name, self.formats.iter().map(|(known, _)| known.name.as_str()));
                let message = format!("unknown log format \"{name}\"");
                return Err(Problem::at_word(message, directive, word.unwrap_or(&directive.name))
                    .maybe_help(meant.map(|meant| format!("did you mean `{meant}`?"))));
            };
            if directive.args.iter().any(|word| word.text.starts_with("if=")) {
                self.warn(directive, "every request is logged: if= is not looked at".to_owned());
            }
            if path.text.contains('$') {
                self.warn(directive, "is off: a log's name cannot hold variables here".to_owned());
            } else if !is_elsewhere(&path.text) {
                let target = values::log_target(&path.text, |text| self.paths.prefix.join(text));
                logs.push(log(target, &format, true));
            }
        }
        Ok(logs)
    }

    /// Collects the variables that come into being by directives.
    fn define(&mut self, directives: &[Directive]) {
        for directive in directives {
            let words = directive.args.iter().map(|word| word.text.as_str());
            match directive.name.text.as_str() {
                "map" | "geo" | "split_clients" | "set" | "auth_request_set" | "js_set" | "js_var" | "perl_set" => {
                    self.defined.extend(words.filter_map(|word| word.strip_prefix('$')).map(str::to_ascii_lowercase));
                }
                // Names that patterns catch.
                "location" | "server_name" => {
                    let caught = words.flat_map(|word| word.split("(?<").skip(1).chain(word.split("(?P<").skip(1)));
                    let names = caught.filter_map(|rest| rest.split('>').next());
                    self.defined.extend(names.map(str::to_ascii_lowercase));
                }
                _ => {}
            }
            // The inside of `map` is data.
            if let Some(block) = directive.block.as_deref().filter(|_| is_directives(directive)) {
                self.define(block);
            }
        }
    }

    /// nginx's error for a variable that nobody knows, in whatever takes variables.
    fn check_variables(&self, directives: &[Directive]) -> Result<(), Problem> {
        for directive in directives {
            if WITH_VARIABLES.contains(&directive.name.text.as_str()) {
                for word in &directive.args {
                    self.known_variables(directive, word)?;
                }
            }
            if let Some(block) = directive.block.as_deref().filter(|_| is_directives(directive)) {
                self.check_variables(block)?;
            }
        }
        Ok(())
    }

    fn known_variables(&self, directive: &Directive, word: &Word) -> Result<(), Problem> {
        let text = template(directive, word)?;
        for name in text.variables() {
            if !template::is_known(name) && !self.defined.iter().any(|defined| defined == name) {
                return Err(Problem::at_word(format!("unknown \"{name}\" variable"), directive, word));
            }
        }
        Ok(())
    }

    fn warn(&mut self, directive: &Directive, text: String) {
        let notice = Notice { place: directive.name.place.clone(), directive: directive.name.text.clone(), text };
        if !self.warnings.contains(&notice) {
            self.warnings.push(notice);
        }
    }
}

impl Pattern {
    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(one), Self::Exact(two)) | (Self::Named(one), Self::Named(two)) => one == two,
            (Self::Prefix { text: one, .. }, Self::Prefix { text: two, .. }) => one == two,
            _ => false,
        }
    }
}

/// Directives of the innermost block that has one of these names: such lists are replaced, never joined.
fn list<'a>(scope: &Scope<'a>, names: &[&str]) -> Vec<&'a Directive> {
    let named = |block: &&'a [Directive]| -> Vec<&'a Directive> {
        block.iter().filter(|directive| names.contains(&directive.name.text.as_str())).collect()
    };
    scope.blocks.iter().map(named).find(|found| !found.is_empty()).unwrap_or_default()
}

/// All words of such a list.
fn words<'a>(scope: &Scope<'a>, name: &str) -> impl Iterator<Item = (&'a Directive, &'a Word)> + use<'a> {
    list(scope, &[name]).into_iter().flat_map(|directive| directive.args.iter().map(move |word| (directive, word)))
}

fn is_directives(directive: &Directive) -> bool {
    ["server", "location", "if", "limit_except"].contains(&directive.name.text.as_str())
}

fn template(directive: &Directive, word: &Word) -> Result<Template, Problem> {
    Template::parse(&word.text).map_err(|message| Problem::at_word(message, directive, word))
}

fn listen(directive: &Directive, resolve: Resolve) -> Result<(Listen, Option<String>), Problem> {
    // The words of `http` alone are taken out; the rest reads as in `rtmp`.
    let own = ["http2", "spdy", "quic", "http3"];
    let taken: Vec<(usize, &str)> = directive.args.iter().map(|word| word.text.as_str()).enumerate().collect();
    let kept: Vec<(usize, &str)> = taken.iter().filter(|(_, word)| !own.contains(word)).copied().collect();
    let words: Vec<&str> = kept.iter().map(|(_, word)| *word).collect();
    let read = values::listen_on(&words, PORT, resolve);
    let (mut listen, remark) = read.map_err(|(message, at)| {
        let word = kept.get(at).and_then(|(at, _)| directive.args.get(*at)).unwrap_or(&directive.name);
        Problem::at_word(message, directive, word)
    })?;
    listen.http2 = taken.iter().any(|(_, word)| *word == "http2") && listen.ssl;
    // nginx's own http has IPv6 sockets to themselves since 1.3.4.
    let says = directive.args.iter().any(|word| word.text.starts_with("ipv6only="));
    if matches!(&listen.address, ListenAddress::Tcp(address) if address.is_ipv6()) && !says {
        listen.ipv6only = true;
    }
    if listen.proxy_protocol {
        let message = "\"proxy_protocol\" is not supported in http";
        return Err(Problem::at(message, directive).help("it works in rtmp; keep nginx in front of http for it"));
    }
    Ok((listen, remark))
}

fn server_names(directive: &Directive) -> Result<Vec<ServerName>, Problem> {
    let read =
        |word: &Word| values::server_name(&word.text).map_err(|message| Problem::at_word(message, directive, word));
    directive.args.iter().map(read).collect()
}

/// `location [= | ~ | ~* | ^~] uri`; the sign may stick to the address.
fn pattern(directive: &Directive) -> Result<Pattern, Problem> {
    let prefix = |text: &str, is_final| Ok(Pattern::Prefix { text: text.to_owned(), is_final });
    let regex = |text: &str, any_case: bool, word: &Word| {
        let built = RegexBuilder::new(text).case_insensitive(any_case).size_limit(MAX_REGEX).build();
        built.map(Pattern::Regex).map_err(|error| {
            let message = format!("invalid regular expression \"{text}\": {error}");
            Problem::at_word(message, directive, word).help("look-around and back references are not known here")
        })
    };
    match directive.args.as_slice() {
        [sign, word] => match sign.text.as_str() {
            "=" => Ok(Pattern::Exact(word.text.clone())),
            "^~" => prefix(&word.text, true),
            "~" => regex(&word.text, false, word),
            "~*" => regex(&word.text, true, word),
            other => Err(Problem::at_word(format!("invalid location modifier \"{other}\""), directive, sign)),
        },
        [word] => {
            let text = word.text.as_str();
            if let Some(name) = text.strip_prefix('@') {
                Ok(Pattern::Named(name.to_owned()))
            } else if let Some(uri) = text.strip_prefix('=') {
                Ok(Pattern::Exact(uri.to_owned()))
            } else if let Some(uri) = text.strip_prefix("^~") {
                prefix(uri, true)
            } else if let Some(pattern) = text.strip_prefix("~*") {
                regex(pattern, true, word)
            } else if let Some(pattern) = text.strip_prefix('~') {
                regex(pattern, false, word)
            } else {
                prefix(text, false)
            }
        }
        _ => Err(Problem::at("invalid number of arguments in \"location\" directive", directive)),
    }
}

/// What nginx says about a location inside another.
fn nested(outer: &Pattern, inner: &Pattern, directive: &Directive) -> Result<(), Problem> {
    let shown = directive.args.last().map_or("", |word| word.text.as_str());
    let error = |message: String| Err(Problem::at(message, directive));
    match (outer, inner) {
        (Pattern::Server, _) => Ok(()),
        (Pattern::Exact(around), _) => {
            error(format!("location \"{shown}\" cannot be inside the exact location \"{around}\""))
        }
        (Pattern::Named(around), _) => {
            error(format!("location \"{shown}\" cannot be inside the named location \"@{around}\""))
        }
        (_, Pattern::Named(_)) => error(format!("named location \"{shown}\" can be on the server level only")),
        (Pattern::Prefix { text: around, .. }, Pattern::Exact(text) | Pattern::Prefix { text, .. })
            if !text.starts_with(around.as_str()) =>
        {
            error(format!("location \"{shown}\" is outside location \"{around}\""))
        }
        _ => Ok(()),
    }
}

/// What answers in this block: handlers are never inherited, guards are.
fn handler(scope: &Scope<'_>, pattern: &Pattern, has_flv_live: bool) -> Result<Handler, Problem> {
    let own = scope.blocks.first().copied().unwrap_or_default();
    if let Some(guard) = guard(scope) {
        return Ok(Handler::Guarded(guard));
    }
    for directive in own {
        let name = directive.name.text.as_str();
        let is_off = directive.args.first().is_some_and(|word| word.text.eq_ignore_ascii_case("off"));
        match name {
            _ if is_off => {}
            "rtmp_stat" | "rtmp_stat_format" => {
                if let Some(statistics) = Statistics::read(scope, has_flv_live) {
                    return Ok(Handler::Statistics(statistics));
                }
            }
            "rtmp_control" => return Ok(Handler::Control(control(own))),
            "sys_stat" => return Ok(Handler::NotBuilt("sys_stat")),
            "stub_status" => return Ok(Handler::NotBuilt("stub_status")),
            "ts_live" => return Ok(Handler::NotBuilt("ts_live")),
            "hls2_live" => return Ok(Handler::NotBuilt("hls2_live")),
            "player" => return Ok(Handler::Player),
            "flv_live" => return flv_live(directive),
            "scheduler" => return oclp::scheduler(scope).map(|scheduler| Handler::Scheduler(Arc::new(scheduler))),
            _ if name.ends_with("_pass") || name.starts_with("content_by_lua") || name == "js_content" => {
                return Ok(Handler::Elsewhere(name.to_owned()));
            }
            "perl" | "empty_gif" | "random_index" | "dav_methods" if !matches!(pattern, Pattern::Server) => {
                return Ok(Handler::Elsewhere(name.to_owned()));
            }
            _ => {}
        }
    }
    Ok(Handler::Files)
}

/// Several `rtmp_control` add up.
fn control(own: &[Directive]) -> ControlSections {
    let written = own.iter().filter(|directive| directive.name.text == "rtmp_control");
    let words: Vec<_> = written.flat_map(|directive| &directive.args).map(|word| word.text.to_lowercase()).collect();
    let has = |name: &str| words.iter().any(|word| word == name || word == "all");
    ControlSections { record: has("record"), drop: has("drop"), redirect: has("redirect") }
}

/// Something that keeps people out and that livemill does not do. Leaving it out would open what somebody closed.
fn guard(scope: &Scope<'_>) -> Option<String> {
    let own = scope.blocks.first().copied().unwrap_or_default();
    let server = scope.blocks.len().checked_sub(2).and_then(|at| scope.blocks.get(at)).copied().unwrap_or_default();
    let on = |name: &&&str| scope.written(name).is_some_and(|word| word != "off" && word != "optional_no_ca");
    if let Some(name) = ["auth_basic", "auth_request", "auth_jwt", "ssl_verify_client", "secure_link"].iter().find(on) {
        return Some((*name).to_owned());
    }
    let refuses = |directive: &Directive| {
        let name = directive.name.text.as_str();
        let block = directive.block.as_deref().unwrap_or_default();
        let inside = |name: &str| block.iter().any(|inner| inner.name.text == name);
        let returns = block.iter().any(|inner| {
            let code = inner.args.first().and_then(|word| values::number(&word.text));
            inner.name.text == "return" && code.is_some_and(|code| (400..500).contains(&code))
        });
        match name {
            "if" => inside("deny") || returns,
            "limit_except" => inside("deny") && !directive.args.iter().any(|word| word.text == "GET"),
            _ => name.starts_with("access_by_lua"),
        }
    };
    own.iter().chain(server).find(|directive| refuses(directive)).map(|directive| directive.name.text.clone())
}

/// W's flag, or X's and P's port with what they add to it.
fn flv_live(directive: &Directive) -> Result<Handler, Problem> {
    let Some((first, options)) = directive.args.split_first() else { return Ok(Handler::Files) };
    if let Some(on) = values::flag(&first.text) {
        return Ok(if on { Handler::FlvByQuery } else { Handler::Files });
    }
    // X takes an address as well; its port is what tells servers apart.
    let port = first.text.rsplit(':').next().and_then(|port| port.parse::<u16>().ok());
    if port.is_none() && !first.text.starts_with("unix:") {
        let message = format!("invalid value \"{}\" in \"flv_live\" directive", first.text);
        return Err(Problem::at_word(message, directive, first)
            .help("it takes `on`, or the port of RTMP with `app=`, `audio=`, `video=`"));
    }
    let (mut app, mut audio, mut video) = (None, true, true);
    for word in options {
        match word.text.split_once('=') {
            Some(("app", name)) => app = Some(name.to_owned()),
            Some(("audio", value)) => audio = value != "0" && value != "off",
            Some(("video", value)) => video = value != "0" && value != "off",
            _ => {
                let message = format!("invalid parameter \"{}\"", word.text);
                return Err(Problem::at_word(message, directive, word));
            }
        }
    }
    Ok(Handler::FlvByPath { port, app, audio, video })
}

fn rule(directive: &Directive) -> Result<Rule, Problem> {
    let invalid = |word: &Word| Problem::at_word(format!("invalid parameter \"{}\"", word.text), directive, word);
    let Some(word) = directive.args.first() else {
        return Err(Problem::at(
            format!("invalid number of arguments in \"{}\" directive", directive.name.text),
            directive,
        ));
    };
    let network = parse_network(&word.text)
        .ok_or_else(|| invalid(word).help("it takes an address, a network like 192.0.2.0/24, or `all`"))?;
    Ok(Rule { allow: directive.name.text == "allow", action: None, network })
}

fn expires(directive: &Directive) -> Result<Expires, Problem> {
    let invalid = |word: &Word| Problem::at_word("invalid value", directive, word);
    let (text, word, is_modified) = match directive.args.as_slice() {
        [word] => (word.text.as_str(), word, false),
        [first, word] if first.text == "modified" => (word.text.as_str(), word, true),
        [first, ..] => return Err(invalid(first)),
        [] => return Err(Problem::at("invalid number of arguments in \"expires\" directive", directive)),
    };
    let seconds = |text: &str| {
        values::time(text).and_then(|time| i64::try_from(time.as_secs()).ok()).ok_or_else(|| invalid(word))
    };
    Ok(match (text, is_modified) {
        ("off", false) => Expires::Off,
        ("epoch", false) => Expires::Epoch,
        ("max", false) => Expires::Max,
        _ => {
            match (text.strip_prefix('@'), text.strip_prefix('-')) {
                (Some(time), _) if !is_modified => {
                    let second = seconds(time)?;
                    let second = u32::try_from(second).ok().filter(|second| *second <= 86_400);
                    Expires::Daily(second.ok_or_else(|| {
                        Problem::at_word("daily time value must be less than 24 hours", directive, word)
                    })?)
                }
                (_, Some(time)) if is_modified => Expires::Modified(-seconds(time)?),
                (_, Some(time)) => Expires::Access(-seconds(time)?),
                _ => {
                    let time = seconds(text.strip_prefix('+').unwrap_or(text))?;
                    if is_modified { Expires::Modified(time) } else { Expires::Access(time) }
                }
            }
        }
    })
}

fn answer(directive: &Directive) -> Result<Return, Problem> {
    let is_address = |text: &str| {
        ["http://", "https://", "$scheme"].iter().any(|start| text.to_ascii_lowercase().starts_with(start))
    };
    let Some((first, rest)) = directive.args.split_first() else {
        return Err(Problem::at("invalid number of arguments in \"return\" directive", directive));
    };
    if rest.is_empty() && is_address(&first.text) {
        return Ok(Return { code: 302, text: Some(template(directive, first)?) });
    }
    let code = values::number(&first.text).and_then(|code| u16::try_from(code).ok()).filter(|code| *code <= 999);
    let code =
        code.ok_or_else(|| Problem::at_word(format!("invalid return code \"{}\"", first.text), directive, first))?;
    Ok(Return { code, text: rest.first().map(|word| template(directive, word)).transpose()? })
}

fn error_page(directive: &Directive) -> Result<ErrorPage, Problem> {
    let Some((target, words)) = directive.args.split_last() else {
        return Err(Problem::at("invalid number of arguments in \"error_page\" directive", directive));
    };
    let mut page = ErrorPage { codes: Vec::new(), becomes: None, target: template(directive, target)? };
    for word in words {
        let invalid = || Problem::at_word(format!("invalid value \"{}\"", word.text), directive, word);
        if let Some(code) = word.text.strip_prefix('=') {
            let code = if code.is_empty() { None } else { Some(status(code).ok_or_else(invalid)?) };
            page.becomes = Some(code);
            continue;
        }
        let code = status(&word.text).ok_or_else(invalid)?;
        if !(300..=599).contains(&code) {
            let message = format!("value \"{}\" must be between 300 and 599", word.text);
            return Err(Problem::at_word(message, directive, word));
        }
        page.codes.push(code);
    }
    Ok(page)
}

fn status(text: &str) -> Option<u16> {
    values::number(text).and_then(|code| u16::try_from(code).ok()).filter(|code| (100..=999).contains(code))
}

fn header(directive: &Directive) -> Result<Header, Problem> {
    let [name, value, rest @ ..] = directive.args.as_slice() else {
        return Err(Problem::at("invalid number of arguments in \"add_header\" directive", directive));
    };
    if let Some(word) = rest.first().filter(|word| word.text != "always") {
        return Err(Problem::at_word(format!("invalid parameter \"{}\"", word.text), directive, word));
    }
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if name.text.is_empty() || !name.text.bytes().all(is_token) {
        return Err(Problem::at_word(format!("invalid header name \"{}\"", name.text), directive, name));
    }
    Ok(Header { name: name.text.clone(), value: template(directive, value)?, always: !rest.is_empty() })
}

fn try_files(directive: &Directive) -> Result<TryFiles, Problem> {
    let Some((last, files)) = directive.args.split_last().filter(|(_, files)| !files.is_empty()) else {
        return Err(Problem::at("invalid number of arguments in \"try_files\" directive", directive));
    };
    let mut tried = Vec::new();
    for word in files {
        let is_folder = word.text.len() > 1 && word.text.ends_with('/');
        tried.push((template(directive, word)?, is_folder));
    }
    let last = if let Some(code) = last.text.strip_prefix('=') {
        let invalid = || Problem::at_word(format!("invalid code \"{}\"", last.text), directive, last);
        LastTry::Code(
            values::number(code)
                .and_then(|code| u16::try_from(code).ok())
                .filter(|code| *code <= 999)
                .ok_or_else(invalid)?,
        )
    } else if let Some(name) = last.text.strip_prefix('@') {
        LastTry::Named(name.to_owned())
    } else {
        LastTry::Uri(template(directive, last)?)
    };
    Ok(TryFiles { files: tried, last })
}

fn keepalive(directive: &Directive) -> Result<Duration, Problem> {
    let mut first = None;
    for word in &directive.args {
        let time = values::time(&word.text)
            .ok_or_else(|| Problem::at_word("\"keepalive_timeout\" directive invalid value", directive, word))?;
        first.get_or_insert(time);
    }
    Ok(first.unwrap_or(KEEPALIVE))
}

fn gzip(scope: &Scope<'_>) -> Result<Gzip, Problem> {
    let usual = Gzip::default();
    let types = words(scope, "gzip_types").map(|(_, word)| word.text.to_ascii_lowercase());
    let disable = list(scope, &["gzip_disable"]).into_iter().map(gzip_disable).collect::<Result<Vec<_>, _>>()?;
    Ok(Gzip {
        on: scope.flag("gzip"),
        types: Arc::new(usual.types.iter().cloned().chain(types).collect()),
        min_length: scope.size("gzip_min_length") as u64,
        level: scope.number("gzip_comp_level").clamp(1, 9),
        vary: scope.flag("gzip_vary"),
        http_1_0: scope.word("gzip_http_version") == "1.0",
        proxied: words(scope, "gzip_proxied").any(|(_, word)| word.text != "off"),
        precompressed: match scope.word("gzip_static") {
            "on" => Precompressed::On,
            "always" => Precompressed::Always,
            _ => Precompressed::Off,
        },
        disable: disable.into_iter().flatten().collect(),
    })
}

fn gzip_disable(directive: &Directive) -> Result<Vec<Regex2>, Problem> {
    let read = |word: &Word| {
        let text = if word.text == "msie6" { MSIE6 } else { word.text.as_str() };
        let built = RegexBuilder::new(text).case_insensitive(true).size_limit(MAX_REGEX).build();
        built.map(Regex2).map_err(|error| {
            Problem::at_word(format!("invalid regular expression \"{text}\": {error}"), directive, word)
        })
    };
    directive.args.iter().map(read).collect()
}

fn read_types(block: &[Directive]) -> Types {
    let tables = block.iter().filter(|directive| directive.name.text == "types");
    let lines = tables.flat_map(|table| table.block.as_deref().unwrap_or_default());
    Types::new(
        lines.flat_map(|line| line.args.iter().map(|word| (word.text.to_ascii_lowercase(), line.name.text.clone()))),
    )
}

/// The table of a start without a file, and of an include that found none.
pub fn built_in_types() -> Arc<Types> {
    Arc::new(read_types(&syntax::parse("mime.types", syntax::BUILT_IN_TYPES.as_bytes()).directives))
}

/// What takes variables, as far as livemill fills them in.
const WITH_VARIABLES: &[&str] = &["root", "alias", "index", "add_header", "return", "try_files", "error_page"];

/// nginx's own format.
const COMBINED: &str = "$remote_addr - $remote_user [$time_local] \"$request\" $status $body_bytes_sent \
                        \"$http_referer\" \"$http_user_agent\"";

/// A server without `listen`.
const PORT: u16 = 80;

/// What a pattern may cost.
const MAX_REGEX: usize = 1 << 20;

/// What `gzip_disable msie6` means.
const MSIE6: &str = "MSIE [4-6]\\.";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn load(text: &str) -> Http {
        let config = Config::parse("x.conf", format!("http {{ {text} }}").as_bytes());
        let http = config.unwrap_or_else(|error| panic!("{text}\n{error}")).http.expect("it was written");
        Arc::unwrap_or_clone(http)
    }

    fn location(text: &str) -> Arc<Location> {
        let http = load(&format!("server {{ {text} }}"));
        Arc::clone(&http.servers[0].outermost.locations[0])
    }

    #[track_caller]
    fn check_error(text: &str, message: &str) {
        let error = Config::parse("x.conf", format!("http {{ {text} }}").as_bytes()).expect_err(text);
        assert_eq!(error.message, format!("{message} in x.conf:1"), "{text}");
    }

    #[test]
    fn lists_are_replaced_and_never_joined() {
        let http = load(
            "add_header a 1; add_header b 2; error_page 404 /x; index a b; allow 192.0.2.1;
             server { location /1 { } location /2 { add_header c 3 always; error_page 500 /y; index c; deny all; } }",
        );
        let settings = |at: usize| http.servers[0].outermost.locations[at].settings.clone();
        let names = |at: usize| settings(at).headers.iter().map(|header| header.name.clone()).collect::<Vec<_>>();
        assert_eq!((names(0), names(1)), (vec!["a".to_owned(), "b".to_owned()], vec!["c".to_owned()]));
        assert_eq!(settings(0).error_pages[0].codes, [404]);
        assert_eq!(settings(1).error_pages[0].codes, [500]);
        assert_eq!((settings(0).index.len(), settings(1).index.len()), (2, 1));
        assert_eq!((settings(0).access.rules().len(), settings(1).access.rules().len()), (1, 1));
    }

    #[test]
    fn a_root_takes_over_from_an_alias_and_the_other_way_round() {
        let http = load(
            "root /r; server { location /a/ { alias /x/; location /a/b/ { } location /a/c/ { root y; } } location /d { } }",
        );
        let locations = &http.servers[0].outermost.locations;
        let alias = Root::Alias(Template::plain("/x/"), Some(3));
        assert_eq!(locations[0].settings.root, alias);
        assert_eq!(locations[0].locations[0].settings.root, alias, "it keeps the length it was written for");
        assert_eq!(locations[0].locations[1].settings.root, Root::Root(Template::plain("./y")));
        assert_eq!(locations[1].settings.root, Root::Root(Template::plain("/r")));
    }

    #[test]
    fn types_of_a_location_take_the_place_of_all_others() {
        let http = load("include mime.types; server { location /a { types { a/b c d; } } location /b { } }");
        let locations = &http.servers[0].outermost.locations;
        assert_eq!(locations[0].settings.types.of("D"), Some("a/b"));
        assert_eq!(locations[0].settings.types.of("html"), None);
        assert_eq!(locations[1].settings.types.of("m3u8"), Some("application/vnd.apple.mpegurl"));
        assert_eq!(
            location("location / { }").settings.types.of("css"),
            None,
            "nginx knows html, gif and jpg by itself"
        );
    }

    #[test]
    fn what_guards_and_is_not_built_closes() {
        let guarded = |text: &str| location(&format!("location / {{ {text} }}")).handler.clone();
        assert_eq!(guarded("auth_basic x;"), Handler::Guarded("auth_basic".to_owned()));
        assert_eq!(guarded("auth_basic off;"), Handler::Files);
        assert_eq!(guarded("if ($arg_key) { return 403; }"), Handler::Guarded("if".to_owned()));
        assert_eq!(guarded("if ($arg_key) { return 204; }"), Handler::Files);
        assert_eq!(guarded("limit_except GET { deny all; }"), Handler::Files);
        assert_eq!(guarded("proxy_pass http://a;"), Handler::Elsewhere("proxy_pass".to_owned()));
        assert_eq!(guarded("ts_live on;"), Handler::NotBuilt("ts_live"));
        let inner = location("auth_request /x; location / { }").handler.clone();
        assert_eq!(inner, Handler::Guarded("auth_request".to_owned()), "guards are inherited");
    }

    #[test]
    fn flv_live_is_read_in_both_forms() {
        let read = |text: &str| location(&format!("location / {{ flv_live {text}; }}")).handler.clone();
        assert_eq!(read("on"), Handler::FlvByQuery);
        assert_eq!(read("off"), Handler::Files);
        let app = Some("live".to_owned());
        assert_eq!(
            read("1935 app=live audio=0"),
            Handler::FlvByPath { port: Some(1935), app, audio: false, video: true }
        );
    }

    #[test]
    fn values_are_read_as_nginx_reads_them() {
        let expires = |text: &str| location(&format!("location / {{ expires {text}; }}")).settings.expires;
        assert_eq!(expires("24h"), Expires::Access(86_400));
        assert_eq!(expires("-1"), Expires::Access(-1));
        assert_eq!(expires("modified 1m"), Expires::Modified(60));
        assert_eq!(expires("@15h30m"), Expires::Daily(55_800));
        let answer = |text: &str| location(&format!("location / {{ return {text}; }}")).answer.clone().unwrap();
        assert_eq!(answer("404"), Return { code: 404, text: None });
        assert_eq!(answer("http://a/$uri").code, 302);
        assert_eq!(answer("301 /b").text.unwrap().as_plain(), Some("/b"));
        let page = load("error_page 404 403 =200 /x; server { }").servers[0].outermost.settings.error_pages[0].clone();
        assert_eq!((page.codes, page.becomes), (vec![404, 403], Some(Some(200))));
        let server = load("server { listen [::]:80; listen 81 ssl http2; ssl_certificate a; ssl_certificate_key b; }");
        let listens = &server.servers[0].listens;
        assert!(listens[0].ipv6only && listens[1].http2 && !listens[0].http2);
    }

    #[test]
    fn broken_blocks_are_refused_in_the_words_of_nginx() {
        for (text, message) in [
            (
                "server { location = /a { location /a/b { } } }",
                "location \"/a/b\" cannot be inside the exact location \"/a\"",
            ),
            ("server { location /a { location /b { } } }", "location \"/b\" is outside location \"/a\""),
            ("server { location /a { } location /a { } }", "duplicate location \"/a\""),
            ("server { location / { return abc; } }", "invalid return code \"abc\""),
            ("server { add_header a b c; }", "invalid parameter \"c\""),
            ("error_page 200 /x;", "value \"200\" must be between 300 and 599"),
            ("server { location ! / { } }", "invalid location modifier \"!\""),
            ("server { return 200 $nosuch; }", "unknown \"nosuch\" variable"),
            ("log_format a $nosuch;", "unknown \"nosuch\" variable"),
            ("access_log x nosuch; server { }", "unknown log format \"nosuch\""),
            ("server { listen 80 ssl; }", "no \"ssl_certificate\" is defined for the \"listen ... ssl\" directive"),
            ("allow nonsense;", "invalid parameter \"nonsense\""),
        ] {
            check_error(text, message);
        }
        load("map $uri $mine { a b; } server { return 200 $mine; }");
    }
}
