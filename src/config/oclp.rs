//! The callbacks of a cluster (oclp): who is asked and told about which event, and how far an answer may lead.

use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::template::Template;

/// What one application asks and tells a scheduler.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct OclpRules {
    pub play: Option<Arc<OclpRule>>,
    pub publish: Option<Arc<OclpRule>>,
    pub stream: Option<Arc<OclpRule>>,
    pub pull: Option<Arc<OclpRule>>,
    /// At most [`MAX_RULES`].
    pub push: Vec<Arc<OclpRule>>,
    /// Asked when the codecs are known. Pushes win: where there are any, these are empty.
    pub meta: Vec<Arc<OclpRule>>,
    pub meta_type: MetaType,
    /// Asked at each codec header, and not at the first one only.
    pub meta_repeats: bool,
    /// What hooks of this application may name as a target.
    pub targets: HookTargets,
    /// Its streams are in the directory of the scheduler that runs here.
    pub in_scheduler: Option<LocalOrigin>,
}

/// One callback.
#[derive(Debug, Clone, PartialEq)]
pub struct OclpRule {
    /// Whole, with its scheme and perhaps a query.
    pub url: String,
    /// Appended to each query.
    pub args: Template,
    pub groupid: String,
    /// Which stages are told beside `start`.
    pub tells_update: bool,
    pub tells_done: bool,
    pub timeout: Duration,
    pub update: Duration,
    /// Nobody to ask lets sessions in.
    pub failure_allows: bool,
    /// PingOS says `clientid` as well.
    pub says_clientid: bool,
}

/// A callback at the start of the process.
#[derive(Debug, Clone, PartialEq)]
pub struct OclpStart {
    pub url: String,
    /// `init_process` or `init_master`.
    pub call: &'static str,
    pub timeout: Duration,
}

/// Which codec header sets off `oclp_meta`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum MetaType {
    #[default]
    Video,
    Audio,
    Both,
}

/// What a hook may name: `hook_targets`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum HookTargets {
    /// Nothing that lies nearer than the hook itself.
    #[default]
    NoNearer,
    Any,
    Listed(Arc<[IpNet]>),
}

/// `scheduler on`: where others find the streams of this application.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LocalOrigin {
    /// `origin=URL`; None: at the host they ask the scheduler at, on this port.
    pub url: Option<String>,
    pub port: u16,
}

/// What a location with `scheduler` answers by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scheduler {
    /// How often a node tells of a stream where it does not say itself.
    pub update: Duration,
    pub pushes: Vec<PushRule>,
    /// Calls must be signed with this.
    pub secret: Option<Arc<str>>,
}

/// One `scheduler_push`: what is published is pushed there too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushRule {
    pub url: String,
    /// Empty: whatever the node says.
    pub groupid: String,
    pub app: String,
    pub name: String,
}

impl OclpRules {
    /// Whether somebody is asked where a stream comes from that nobody publishes here.
    pub fn fetches(&self) -> bool {
        self.pull.is_some()
    }
}

/// X and P take eight pushes and eight metas for one application.
pub const MAX_RULES: usize = 8;
