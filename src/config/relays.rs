//! Where streams are pushed to and pulled from.

use std::sync::Arc;
use std::time::Duration;

use super::template::Template;

/// What an application relays, and how patiently.
#[derive(Debug, Clone, PartialEq)]
pub struct Relays {
    pub pushes: Vec<Arc<RelayRule>>,
    /// In the order of the file; those without `static` begin when somebody watches.
    pub pulls: Vec<Arc<RelayRule>>,
    /// The wait after the first failure; each further one doubles it.
    pub first_retry: Duration,
    /// What the wait for a push grows to.
    pub push_ceiling: Duration,
    /// What the wait for a pull grows to.
    pub pull_ceiling: Duration,
    pub static_pull_ceiling: Duration,
    /// What a pull says it buffers.
    pub buffer: Duration,
    /// A pull goes on for so long after its last viewer.
    pub pull_idle: Duration,
    /// Players wait for so long for a pull that was lost before they are told that the stream ended.
    pub pull_grace: Duration,
    pub limits: RelayTimes,
}

/// How long each step of a relay may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelayTimes {
    /// Until one address answers.
    pub connect: Duration,
    /// From there until publish or play is accepted.
    pub ready: Duration,
    /// From there to the first audio or video of a pull.
    pub first_frame: Duration,
    /// From there to the first keyframe, where there is video.
    pub first_keyframe: Duration,
    /// A pull that brings nothing for so long is opened anew.
    pub pull_silent: Duration,
    /// A push whose far end takes nothing for so long is opened anew.
    pub push_stuck: Duration,
}

/// One `push`, `pull` or `static_pull`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RelayRule {
    /// As written, with a scheme in front: the first one, and those that are tried when it fails.
    pub urls: Vec<Template>,
    /// Only for the stream of this name.
    pub name: Option<String>,
    /// From the start on, whether or not anybody watches.
    pub is_static: bool,
    pub words: RelayWords,
}

/// What a relay says of itself; None: what follows from the URL.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RelayWords {
    pub app: Option<Template>,
    pub play_path: Option<Template>,
    pub tc_url: Option<Template>,
    pub page_url: Option<Template>,
    pub swf_url: Option<Template>,
    pub flash_ver: Option<Template>,
    /// The name of the server that is meant: the host in tcUrl, the Host header, the name in TLS.
    pub domain: Option<Template>,
    /// Arguments that are added to the name.
    pub args: Option<Template>,
    pub referer: Option<Template>,
    pub user_agent: Option<Template>,
    pub live: bool,
    pub start_ms: Option<i64>,
    pub stop_ms: Option<i64>,
}

impl Default for Relays {
    fn default() -> Self {
        Self {
            pushes: Vec::new(),
            pulls: Vec::new(),
            first_retry: Duration::from_millis(50),
            push_ceiling: Duration::from_secs(3),
            pull_ceiling: Duration::from_secs(1),
            static_pull_ceiling: Duration::from_secs(3),
            buffer: Duration::from_secs(5),
            pull_idle: Duration::from_secs(10),
            pull_grace: Duration::from_secs(10),
            limits: RelayTimes::default(),
        }
    }
}

impl Default for RelayTimes {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            ready: Duration::from_secs(10),
            first_frame: Duration::from_secs(10),
            first_keyframe: Duration::from_secs(20),
            pull_silent: Duration::from_secs(15),
            push_stuck: Duration::from_secs(10),
        }
    }
}

impl Relays {
    /// The pushes of a stream of this name.
    pub fn pushes_of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Arc<RelayRule>> {
        self.pushes.iter().filter(move |rule| rule.is_for(name))
    }

    pub fn static_pulls(&self) -> impl Iterator<Item = &Arc<RelayRule>> {
        self.pulls.iter().filter(|rule| rule.is_static)
    }
}

impl RelayRule {
    /// Whether it is for the stream of this name.
    pub fn is_for(&self, name: &str) -> bool {
        self.name.as_deref().is_none_or(|wanted| wanted == name)
    }
}

/// The variables that a relay's words may hold.
pub const VARIABLES: &[&str] = &[
    "addr",
    "app",
    "args",
    "clientid",
    "connection",
    "flashver",
    "host",
    "name",
    "pageurl",
    "remote_addr",
    "scheme",
    "serverid",
    "swfurl",
    "tcurl",
];
