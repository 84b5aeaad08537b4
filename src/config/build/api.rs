//! `api`, `api_listen` and their kin.

use std::net::SocketAddr;

use super::super::api::{API_PORT, Api, ApiSocket};
use super::super::diagnose::Problem;
use super::super::syntax::Directive;
use super::super::values::{self, Resolve};
use super::super::{Listen, ListenAddress, TlsFiles};
use super::{Paths, Scope};

/// None: `api off`.
pub(super) fn api(root: &Scope<'_>, paths: &Paths, resolve: Resolve) -> Result<Option<Api>, Problem> {
    if !root.flag("api") {
        return Ok(None);
    }
    let usual = Api::default();
    let written: Vec<&Directive> = root.own("api_listen").collect();
    let mut listens = if written.is_empty() { usual.listens } else { Vec::new() };
    for directive in &written {
        match listen(directive, resolve)? {
            Some(listen) => {
                guard(&listen, directive, root.flag("api_plaintext"))?;
                if listen.ssl && root.written("api_certificate").is_none() {
                    return Err(Problem::at("no \"api_certificate\" is defined for \"api_listen … ssl\"", directive)
                        .help("name the files with `api_certificate` and `api_certificate_key`"));
                }
                listens.push(listen);
            }
            None if written.len() > 1 => {
                return Err(Problem::at("\"api_listen off\" stands beside other addresses", directive));
            }
            None => {}
        }
    }
    let tls = match (root.effective("api_certificate"), root.written("api_certificate_key")) {
        (Some(certificate), Some(key)) => {
            let certificate = certificate.args.first().map(|word| word.text.as_str()).unwrap_or_default();
            Some(TlsFiles { certificate: paths.conf.join(certificate), key: paths.conf.join(key) })
        }
        (Some(certificate), None) => {
            return Err(Problem::at("no \"api_certificate_key\" is defined for \"api_certificate\"", certificate));
        }
        (None, _) => None,
    };
    let socket = match root.written("api_socket") {
        None => ApiSocket::Usual,
        Some("off") => ApiSocket::Off,
        Some(path) => ApiSocket::At(paths.prefix.join(path)),
    };
    let hosts = root.own("api_host").flat_map(|directive| &directive.args);
    Ok(Some(Api {
        listens,
        is_listen_written: !written.is_empty(),
        socket,
        token_file: root.written("api_token_file").map(|path| paths.prefix.join(path)),
        hosts: hosts.map(|word| word.text.trim_end_matches('.').to_ascii_lowercase()).collect(),
        tls,
    }))
}

/// One address; None: `off`.
pub(super) fn listen(directive: &Directive, resolve: Resolve) -> Result<Option<Listen>, Problem> {
    let words: Vec<&str> = directive.args.iter().map(|word| word.text.as_str()).collect();
    if words == ["off"] {
        return Ok(None);
    }
    let (listen, _) = values::listen_on(&words, API_PORT, resolve).map_err(|(message, index)| {
        let word = directive.args.get(index).unwrap_or(&directive.name);
        Problem::at_word(message.replace("\"listen\"", "\"api_listen\""), directive, word)
    })?;
    if let Some(word) = directive.args.iter().skip(1).find(|word| word.text != "ssl") {
        return Err(Problem::at_word(format!("invalid parameter \"{}\"", word.text), directive, word)
            .help("`api_listen` takes an address and `ssl`"));
    }
    if let (ListenAddress::Unix(_), Some(word)) = (&listen.address, directive.args.first()) {
        return Err(Problem::at_word("\"api_listen\" takes an address and a port", directive, word)
            .help("where the control socket is says `api_socket PATH`"));
    }
    Ok(Some(listen))
}

/// Whoever can listen to the line has the token.
fn guard(listen: &Listen, directive: &Directive, is_plain_allowed: bool) -> Result<(), Problem> {
    let ListenAddress::Tcp(address) = listen.address else { return Ok(()) };
    if listen.ssl || is_plain_allowed || is_loopback(address) {
        return Ok(());
    }
    let word = directive.args.first().unwrap_or(&directive.name);
    Err(Problem::at_word(format!("the API would be reached from elsewhere without TLS at \"{address}\""), directive, word)
        .help("add `ssl` with `api_certificate` and `api_certificate_key`; or `api_plaintext on;` where something in front of it does TLS"))
}

fn is_loopback(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::super::super::{Config, ListenAddress};
    use super::*;

    fn read(text: &str) -> Result<Option<Api>, String> {
        let config =
            Config::parse("conf/test.conf", format!("{text}\nrtmp {{ server {{ listen 1935; }} }}").as_bytes());
        config.map(|config| config.api.map(|api| (*api).clone())).map_err(|error| error.to_string())
    }

    fn addresses(text: &str) -> Vec<String> {
        let api = read(text).expect("a good configuration").expect("the API is on");
        api.listens.iter().map(|listen| listen.address.to_string()).collect()
    }

    #[test]
    fn it_listens_on_the_loopback_unless_told_otherwise() {
        assert_eq!(read("").expect("good"), Some(Api::default()));
        assert_eq!(addresses(""), ["127.0.0.1:9935"]);
        assert_eq!(addresses("api_listen 127.0.0.1:1; api_listen [::1]:2;"), ["127.0.0.1:1", "[::1]:2"]);
        assert_eq!(addresses("api_listen off;"), [""; 0]);
        assert_eq!(read("api off;"), Ok(None));
        let api = read("api_socket off; api_token_file t; api_host A.example. b;").expect("good").expect("on");
        assert_eq!((api.socket, api.hosts), (ApiSocket::Off, vec!["a.example".to_owned(), "b".to_owned()]));
        assert_eq!(api.token_file, Some("./t".into()));
    }

    #[test]
    fn another_address_asks_for_tls_or_for_a_word_that_it_is_meant() {
        for address in ["0.0.0.0:9935", "9935", "192.0.2.1:80", "[::]:9935", "*:9935"] {
            let error = read(&format!("api_listen {address};")).expect_err(address);
            assert!(
                error.contains("without TLS") && error.contains("conf/test.conf:1") && error.contains("^"),
                "{error}"
            );
            assert!(read(&format!("api_plaintext on; api_listen {address};")).is_ok(), "{address}");
            let with_tls = format!("api_certificate c.pem; api_certificate_key k.pem; api_listen {address} ssl;");
            assert!(read(&with_tls).expect("good").expect("on").listens[0].ssl);
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_where_it_stands() {
        for (text, expected) in [
            ("api_listen 127.0.0.1:9935 ssl;", "no \"api_certificate\""),
            ("api_listen 127.0.0.1:9935 reuseport;", "invalid parameter \"reuseport\""),
            ("api_listen unix:/x.sock;", "api_socket PATH"),
            ("api_listen off; api_listen 127.0.0.1:1;", "beside other addresses"),
            ("api_certificate c.pem;", "no \"api_certificate_key\""),
            ("api_listen 127.0.0.1:99999;", "invalid port"),
            ("api maybe;", "must be \"on\" or \"off\""),
        ] {
            let error = read(text).expect_err(text);
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn the_socket_is_one_endpoint_and_each_address_another() {
        let api = read("").expect("good").expect("on");
        let endpoints = api.endpoints(Some("/run/control.sock".as_ref()));
        let addresses: Vec<_> = endpoints.iter().map(|endpoint| endpoint.listen.address.clone()).collect();
        assert_eq!(addresses.len(), 2);
        assert_eq!(addresses[1], ListenAddress::Unix("/run/control.sock".into()));
    }
}
