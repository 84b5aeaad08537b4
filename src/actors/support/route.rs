//! The nodes a stream has come through, so that no relay ever feeds itself.
//!
//! A relay says its route in `connect` (`livemillRoute`) or in a header ([`ROUTE_HEADER`]): the ids of the nodes it
//! comes through, the nearest last. Who finds itself in it, or finds it too long, refuses.

use std::{fmt, sync::Arc};

/// Tells this process from every other one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct NodeId(u64);

impl NodeId {
    pub fn random() -> Self {
        Self(rand::random())
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The way to here. Empty: from a client that is no relay of ours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Route(Option<Arc<[NodeId]>>);

/// Why a relay is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRoute {
    #[error("relay loop: the stream has come through this server before")]
    Loop,
    #[error("relayed more than {MAX_HOPS} times")]
    TooLong,
    #[error("a route that is none")]
    Unreadable,
}

impl Route {
    /// Reads what a peer says, and judges it.
    pub fn parse(text: &str, here: NodeId) -> Result<Self, BadRoute> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        if text.len() > MAX_TEXT {
            return Err(BadRoute::TooLong);
        }
        let is_id = |word: &str| word.len() == 16 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
        let id = |word: &str| u64::from_str_radix(word, 16).ok().filter(|_| is_id(word)).map(NodeId);
        let nodes: Option<Vec<_>> = text.split(',').map(id).collect();
        let nodes = nodes.ok_or(BadRoute::Unreadable)?;
        match nodes.contains(&here) {
            true => Err(BadRoute::Loop),
            false if nodes.len() > MAX_HOPS => Err(BadRoute::TooLong),
            false => Ok(Self(Some(nodes.into()))),
        }
    }

    /// As it goes on from here.
    pub fn through(&self, here: NodeId) -> String {
        let nodes = self.0.iter().flat_map(|nodes| nodes.iter()).chain([&here]);
        nodes.map(NodeId::to_string).collect::<Vec<_>>().join(",")
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

/// Where relays over HTTP say their route.
pub const ROUTE_HEADER: &str = "x-livemill-route";

/// Origin, middle, edge and two to spare.
pub const MAX_HOPS: usize = 5;

const MAX_TEXT: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_grows_node_by_node_until_it_is_too_long_and_never_passes_one_twice() {
        let nodes: Vec<_> = (1..=7).map(NodeId).collect();
        let mut route = Route::default();
        for (hop, here) in nodes.iter().enumerate() {
            let said = route.through(*here);
            assert_eq!(Route::parse(&said, *here), Err(BadRoute::Loop));
            let next = nodes.get(hop + 1).copied().unwrap_or(NodeId(99));
            match Route::parse(&said, next) {
                Ok(longer) => route = longer,
                Err(error) => {
                    assert_eq!((hop, error), (MAX_HOPS, BadRoute::TooLong));
                    return;
                }
            }
        }
        panic!("it never ended");
    }

    #[test]
    fn what_is_no_route_is_refused() {
        for text in [",", "x", "0123456789abcdef,", "0123456789abcdefg", "+123456789abcdef", " 123456789abcdef"] {
            assert_eq!(Route::parse(text, NodeId(1)), Err(BadRoute::Unreadable), "{text}");
        }
        assert_eq!(Route::parse(&"0123456789abcdef,".repeat(100), NodeId(1)), Err(BadRoute::TooLong));
    }
}
