//! Who a session is, as hooks, relays and children are told.

use std::net::SocketAddr;

use super::route::Route;
use crate::log::access::SessionRecord;

/// What a session said of itself before it published or played, and what it is called.
#[derive(Clone, Debug, Default)]
pub struct SessionFacts {
    /// The number of its connection: `clientid`.
    pub id: u64,
    /// None: a unix socket.
    pub address: Option<SocketAddr>,
    /// `rtmp`, `rtmps`, `http-flv` and so on.
    pub protocol: &'static str,
    /// The host its client asked for.
    pub host: String,
    /// The id of the virtual host.
    pub server_id: String,
    pub app: String,
    /// As its client sent it: a hook may have sent it elsewhere.
    pub name: String,
    /// The query of the name, without `?`, as it was sent.
    pub args: String,
    /// The query of the app in `connect`.
    pub connect_args: String,
    pub flash_ver: String,
    pub swf_url: String,
    pub tc_url: String,
    pub page_url: String,
    /// Where a relay of ours goes to or comes from, without scheme and query; else empty.
    pub far_end: String,
    /// A relay of ours: no hook asks about it, and any other publisher takes its place.
    pub is_relay: bool,
    /// The nodes it comes through, where it is a relay of another livemill.
    pub route: Route,
}

impl SessionFacts {
    /// What is known of a session at its publish or play.
    pub fn of(record: &SessionRecord, connect_args: &str, route: &Route) -> Self {
        Self {
            id: record.connection,
            address: record.remote,
            protocol: record.protocol,
            host: record.host.clone(),
            server_id: record.server_id.clone(),
            app: record.app.clone(),
            name: record.name.clone(),
            args: record.args.clone(),
            connect_args: connect_args.to_owned(),
            flash_ver: record.flash_ver.clone(),
            swf_url: record.swf_url.clone(),
            tc_url: record.tc_url.clone(),
            page_url: record.page_url.clone(),
            far_end: String::new(),
            is_relay: false,
            route: route.clone(),
        }
    }
}
