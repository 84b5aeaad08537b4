//! `rtmp_control`: the addresses, arguments, bodies and codes of nginx-rtmp, and what is ours behind them.
//!
//! `…/drop/publisher?app=live&name=x` and so on: the last two parts of the path say what is to be done, the query to whom. Values
//! are compared as they mean, so `%20` and a blank are one name. `ban=`, `ban_by=` and `reason=` are livemill's own.

use std::time::Duration;

use percent_encoding::percent_decode_str;

use super::Site;
use crate::{
    actors::{
        control::{Author, BanBy, BanOrder, DropClients, RedirectClients, Selection},
        support::roll::ClientRole,
    },
    config::{http::ControlSections, values},
};

/// One call, as its address says it.
pub struct Call<'a> {
    /// Not decoded, as is the query.
    pub path: &'a str,
    pub query: &'a str,
    /// Who calls, for the log.
    pub from: String,
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// 200 with this text.
    Text(String),
    /// Another status, and why.
    Status(u16, String),
    /// Nothing of ours: the location goes on as if it were not there.
    Declined,
}

/// What a call asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Wish {
    Drop { ban: Option<BanOrder>, reason: String },
    Redirect { to: String },
}

/// Does what a call asks for, in a location that allows these sections.
pub async fn answer(site: &Site, sections: ControlSections, call: &Call<'_>) -> Reply {
    let servers: Vec<&str> = site.config.servers.iter().map(|server| server.id.as_str()).collect();
    let (select, wish) = match read(call, sections, &servers) {
        Ok(asked) => asked,
        Err(reply) => return reply,
    };
    let author = Author { from: call.from.clone(), via: "rtmp_control" };
    let ending = || Reply::Status(503, "the server is ending".to_owned());
    match wish {
        Wish::Drop { ban, reason } => match site.control.send(DropClients { select, ban, reason, author }).await {
            Ok(Ok(dropped)) => Reply::Text(dropped.clients.len().to_string()),
            Ok(Err(full)) => Reply::Status(503, full.to_string()),
            Err(_) => ending(),
        },
        Wish::Redirect { to } => match site.control.send(RedirectClients { select, to, author }).await {
            Ok(count) => Reply::Text(count.to_string()),
            Err(_) => ending(),
        },
    }
}

/// `servers`: the ids of the virtual hosts, in the order of the file.
fn read(call: &Call<'_>, sections: ControlSections, servers: &[&str]) -> Result<(Selection, Wish), Reply> {
    let mut parts = call.path.rsplit('/');
    let (method, section) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let wants_drop = match section {
        "record" if sections.record => return Err(failed("there are no recorders in this release")),
        "drop" if sections.drop => true,
        "redirect" if sections.redirect => false,
        _ => return Err(Reply::Declined),
    };
    let role = match method {
        "publisher" => Some(ClientRole::Publisher),
        "subscriber" => Some(ClientRole::Player),
        "client" => None,
        _ => return Err(failed("undefined filter: it is publisher, subscriber or client")),
    };
    let arg = |name: &str| {
        let found = call.query.split('&').find_map(|pair| pair.split_once('=').filter(|(key, _)| *key == name));
        let value = found.map(|(_, value)| percent_decode_str(value).decode_utf8_lossy().into_owned());
        value.filter(|value| !value.is_empty())
    };
    let index = match arg("srv") {
        Some(index) => index.parse().unwrap_or(usize::MAX),
        None => 0,
    };
    let Some(server) = servers.get(index) else { return Err(failed("server index out of range")) };
    let mut select = Selection {
        server: Some((*server).to_owned()),
        app: arg("app"),
        name: arg("name"),
        address: None,
        id: None,
        role,
    };
    // What is no address and no number is nobody's.
    if let Some(address) = arg("addr") {
        select.address = Some(address.parse().map_err(|_| Reply::Text("0".to_owned()))?);
    }
    if let Some(id) = arg("clientid") {
        select.id = Some(id.parse().map_err(|_| Reply::Text("0".to_owned()))?);
    }
    let wish = if wants_drop {
        let reason = arg("reason").map_or_else(String::new, |reason| tidy(&reason));
        Wish::Drop { ban: ban(arg("ban"), arg("ban_by"))?, reason }
    } else {
        let Some(mut to) = arg("newname") else { return Err(failed("newname not specified")) };
        to.truncate(to.floor_char_boundary(LONGEST_NAME));
        Wish::Redirect { to }
    };
    Ok((select, wish))
}

fn ban(lasts: Option<String>, by: Option<String>) -> Result<Option<BanOrder>, Reply> {
    let bad = |text: &str| Reply::Status(400, text.to_owned());
    let by = match by.as_deref() {
        None | Some("both") => BanBy::Both,
        Some("address") => BanBy::Address,
        Some("name") => BanBy::Name,
        Some(_) => return Err(bad("ban_by is address, name or both")),
    };
    let Some(lasts) = lasts else { return Ok(None) };
    let lasts = values::time(&lasts).filter(|lasts| !lasts.is_zero()).ok_or(bad("ban is a time, such as 60s or 5m"))?;
    Ok(Some(BanOrder { lasts: lasts.min(LONGEST_BAN), by }))
}

/// As nginx says everything that goes wrong.
fn failed(why: &str) -> Reply {
    Reply::Status(500, why.to_owned())
}

/// A reason as it may stand in a log and in a status: one line, and not a long one.
pub fn tidy(reason: &str) -> String {
    reason.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST_REASON).collect()
}

/// As long as ten years: whoever means for ever means less.
pub const LONGEST_BAN: Duration = Duration::from_secs(10 * 366 * 86_400);

/// Characters of a reason.
const LONGEST_REASON: usize = 200;

/// nginx's: 255 bytes of a name.
const LONGEST_NAME: usize = 255;

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    const ALL: ControlSections = ControlSections { record: true, drop: true, redirect: true };

    fn asked(target: &str) -> Result<(Selection, Wish), Reply> {
        asked_of(target, ALL)
    }

    fn asked_of(target: &str, sections: ControlSections) -> Result<(Selection, Wish), Reply> {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        read(&Call { path, query, from: String::new() }, sections, &["default", "second"])
    }

    fn selection(target: &str) -> Selection {
        asked(target).expect("a good call").0
    }

    #[test]
    fn the_last_two_parts_of_the_path_say_what_is_to_be_done() {
        for (path, role) in [
            ("/control/drop/publisher", Some(ClientRole::Publisher)),
            ("/a/b/c/drop/subscriber", Some(ClientRole::Player)),
            ("drop/client", None),
        ] {
            assert_eq!(selection(path).role, role, "{path}");
        }
        for path in ["/control", "/control/drop", "/drop/publisher/", "/control/stop/client", "/", ""] {
            assert_eq!(asked(path), Err(Reply::Declined), "{path}");
        }
        for path in ["/drop/everybody", "/redirect/x", "/record/start?app=live", "/redirect/client?newname="] {
            assert!(matches!(asked(path), Err(Reply::Status(500, _))), "{path}");
        }
        let none = ControlSections { record: true, drop: false, redirect: true };
        assert_eq!(asked_of("/control/drop/client", none), Err(Reply::Declined));
    }

    #[test]
    fn the_query_says_whom() {
        let select = selection("/drop/client?srv=1&app=live&name=a%20b&addr=192.0.2.1&clientid=17&x");
        assert_eq!((select.server.as_deref(), select.app.as_deref()), (Some("second"), Some("live")));
        assert_eq!((select.name.as_deref(), select.id), (Some("a b"), Some(17)));
        assert_eq!(select.address, Some(IpAddr::from([192, 0, 2, 1])));
        let everybody = Selection { server: Some("default".to_owned()), ..Selection::default() };
        assert_eq!(selection("/drop/client?app=&name="), everybody);
        for nobody in ["addr=nowhere", "clientid=x", "clientid=-1", "clientid=99999999999999999999"] {
            assert_eq!(asked(&format!("/drop/client?{nobody}")), Err(Reply::Text("0".to_owned())), "{nobody}");
        }
        for server in ["2", "-1", "x", "99999999999999999999"] {
            assert!(matches!(asked(&format!("/drop/client?srv={server}")), Err(Reply::Status(500, _))), "{server}");
        }
    }

    #[test]
    fn a_drop_takes_a_ban_and_a_reason_that_fit_a_line() {
        let wish = |query: &str| asked(&format!("/drop/publisher?{query}")).map(|(_, wish)| wish);
        assert_eq!(wish(""), Ok(Wish::Drop { ban: None, reason: String::new() }));
        let ban = Some(BanOrder { lasts: Duration::from_secs(60), by: BanBy::Both });
        assert_eq!(wish("ban=60s&reason=a%0d%0ab"), Ok(Wish::Drop { ban, reason: "a  b".to_owned() }));
        let ban = Some(BanOrder { lasts: Duration::from_secs(300), by: BanBy::Address });
        let Ok(Wish::Drop { ban: given, reason }) = wish(&format!("ban=5m&ban_by=address&reason={}", "é".repeat(900)))
        else {
            panic!("a good call")
        };
        assert_eq!((given, reason.chars().count()), (ban, LONGEST_REASON));
        for bad in ["ban=soon", "ban=0", "ban=-1", "ban=1s&ban_by=me"] {
            assert!(matches!(wish(bad), Err(Reply::Status(400, _))), "{bad}");
        }
    }

    #[test]
    fn a_redirect_takes_a_name_and_its_arguments() {
        let to = |query: &str| asked(&format!("/redirect/client?{query}")).map(|(_, wish)| wish);
        assert_eq!(to("newname=x%3Fa=b"), Ok(Wish::Redirect { to: "x?a=b".to_owned() }));
        let Ok(Wish::Redirect { to }) = to(&format!("newname={}", "é".repeat(300))) else { panic!("a good call") };
        assert_eq!(to.len(), LONGEST_NAME - 1);
    }
}
