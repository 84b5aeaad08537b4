//! The callbacks of a cluster (oclp): who is asked and told about which event, and how far an answer may lead.

use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

/// What one application asks and tells a scheduler.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct OclpRules {
    pub play: Option<Arc<OclpRule>>,
    pub publish: Option<Arc<OclpRule>>,
    pub stream: Option<Arc<OclpRule>>,
    pub pull: Option<Arc<OclpRule>>,
    /// At most [`MAX_RULES`].
    pub push: Vec<Arc<OclpRule>>,
    /// Asked when the codecs are known. Pushes win: where there are any, these are not asked.
    pub meta: Vec<Arc<OclpRule>>,
    pub meta_type: MetaType,
    /// Asked at the first codec header only, and not at each that follows.
    pub meta_once: bool,
    /// What hooks of this application may name as a target.
    pub targets: HookTargets,
}

/// One callback.
#[derive(Debug, Clone, PartialEq)]
pub struct OclpRule {
    /// Whole, with its scheme and perhaps a query.
    pub url: String,
    /// Appended to each query. May hold `$variables`.
    pub args: String,
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

impl OclpRules {
    /// Whether somebody is asked where a stream comes from that nobody publishes here.
    pub fn fetches(&self) -> bool {
        self.pull.is_some()
    }
}

/// X and P take eight pushes and eight metas for one application.
pub const MAX_RULES: usize = 8;
