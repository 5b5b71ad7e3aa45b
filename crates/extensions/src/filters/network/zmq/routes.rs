//! Which cluster a message goes to: the first route that matches.

use super::config::Name;
use serde::Deserialize;
use sota_codec::zmtp::{Message, SocketType};
use std::sync::Arc;

/// A route.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Route {
    #[serde(default, rename = "match")]
    rule: Match,
    cluster: String,
    /// The frame, counted from the first of the body, whose hash chooses the host where the cluster's policy hashes.
    hash_frame: Option<usize>,
}

impl Route {
    /// Everything goes to this cluster.
    pub(super) fn to(cluster: String) -> Self {
        Self { rule: Match::default(), cluster, hash_frame: None }
    }
}

/// What a route wants; nothing: everything.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Match {
    /// Types of the client's socket; empty: all.
    socket_types: Vec<Name<SocketType>>,
    /// Which frame is looked at, counted from the first of the body.
    frame: usize,
    prefix: Option<String>,
    exact: Option<String>,
}

impl Match {
    fn takes_type(&self, socket_type: SocketType) -> bool {
        self.socket_types.is_empty() || self.socket_types.iter().any(|name| name.0 == socket_type)
    }

    fn takes(&self, message: &Message, body: usize) -> bool {
        if self.prefix.is_none() && self.exact.is_none() {
            return true;
        }
        let Some(frame) = message.frame(body.saturating_add(self.frame)) else { return false };
        self.prefix.as_ref().is_none_or(|prefix| frame.starts_with(prefix.as_bytes()))
            && self.exact.as_ref().is_none_or(|exact| frame == exact.as_bytes())
    }

    /// Whether messages of this topic, or of a longer one, may match.
    fn may_take_topic(&self, topic: &[u8]) -> bool {
        let overlaps = |wanted: &String| topic.starts_with(wanted.as_bytes()) || wanted.as_bytes().starts_with(topic);
        self.frame != 0 || self.prefix.as_ref().or(self.exact.as_ref()).is_none_or(overlaps)
    }
}

/// All routes, and the clusters that they lead to, each once.
#[derive(Debug)]
pub(super) struct Routes {
    routes: Vec<(Match, usize)>,
    clusters: Vec<Arc<str>>,
    /// By the place of the cluster.
    hash_frames: Vec<Option<usize>>,
}

impl Routes {
    /// `None` without routes.
    pub(super) fn new(routes: Vec<Route>) -> Option<Self> {
        let (mut clusters, mut hash_frames) = (Vec::<Arc<str>>::new(), Vec::new());
        let routes: Vec<_> = routes
            .into_iter()
            .map(|route| {
                let at = clusters.iter().position(|known| **known == *route.cluster).unwrap_or_else(|| {
                    clusters.push(route.cluster.into());
                    hash_frames.push(route.hash_frame);
                    clusters.len() - 1
                });
                (route.rule, at)
            })
            .collect();
        (!routes.is_empty()).then_some(Self { routes, clusters, hash_frames })
    }

    /// The clusters, by whose place the others speak of them.
    pub(super) fn clusters(&self) -> &[Arc<str>] {
        &self.clusters
    }

    /// Where a message of a client of this type goes; its body begins with the frame `body`.
    pub(super) fn of_message(&self, socket_type: SocketType, message: &Message, body: usize) -> Option<usize> {
        let found = self.routes.iter().find(|(rule, _)| rule.takes_type(socket_type) && rule.takes(message, body));
        found.map(|(_, cluster)| *cluster)
    }

    /// The hash of a message to this cluster, if it is to be chosen by one.
    pub(super) fn hash(&self, cluster: usize, message: &Message, body: usize) -> Option<u64> {
        let frame = (*self.hash_frames.get(cluster)?)?;
        message.frame(body.saturating_add(frame)).map(fnv1a)
    }

    /// The clusters that a client of this type may have to do with, each once.
    pub(super) fn of_type(&self, socket_type: SocketType) -> Vec<usize> {
        self.collect(|rule| rule.takes_type(socket_type))
    }

    /// The clusters whose publishers may have what a subscriber of this type wants.
    pub(super) fn of_topic(&self, socket_type: SocketType, topic: &[u8]) -> Vec<usize> {
        self.collect(|rule| rule.takes_type(socket_type) && rule.may_take_topic(topic))
    }

    fn collect(&self, wanted: impl Fn(&Match) -> bool) -> Vec<usize> {
        let mut found = Vec::new();
        for (_, cluster) in self.routes.iter().filter(|(rule, _)| wanted(rule)) {
            if !found.contains(cluster) {
                found.push(*cluster);
            }
        }
        found
    }
}

/// FNV-1a: the same in every process, so that all proxies choose the same host.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(rule: Match, cluster: &str) -> Route {
        Route { rule, cluster: cluster.into(), hash_frame: (cluster == "x").then_some(1) }
    }

    #[test]
    fn the_first_that_matches() {
        let routes = Routes::new(vec![
            route(Match { prefix: Some("a.".into()), ..Match::default() }, "a"),
            route(Match { frame: 1, exact: Some("x".into()), ..Match::default() }, "x"),
            route(Match { socket_types: vec![Name(SocketType::Push)], ..Match::default() }, "work"),
            route(Match { prefix: Some("b".into()), ..Match::default() }, "a"),
        ])
        .unwrap();
        assert_eq!(routes.clusters().iter().map(|name| &**name).collect::<Vec<_>>(), ["a", "x", "work"]);
        let of = |socket_type, frames: &[&[u8]], body| {
            let message: Message = frames.iter().copied().collect();
            routes.of_message(socket_type, &message, body)
        };
        assert_eq!(of(SocketType::Req, &[b"", b"a.1"], 1), Some(0));
        assert_eq!(of(SocketType::Req, &[b"", b"a.1"], 0), None);
        assert_eq!(of(SocketType::Dealer, &[b"q", b"x"], 0), Some(1));
        assert_eq!(of(SocketType::Dealer, &[b"q", b"xx"], 0), None);
        assert_eq!(of(SocketType::Push, &[b"q"], 0), Some(2));
        assert_eq!(routes.of_type(SocketType::Pull), [0, 1]);
        assert_eq!(routes.of_topic(SocketType::Sub, b"a.b"), [0, 1]);
        assert_eq!(routes.of_topic(SocketType::Sub, b"c"), [1]);
        assert_eq!(routes.of_topic(SocketType::Sub, b""), [0, 1]);
        let message: Message = [&b""[..], b"q", b"key"].into_iter().collect();
        assert_eq!((routes.hash(0, &message, 1), routes.hash(1, &message, 1)), (None, Some(fnv1a(b"key"))));
        assert_eq!(fnv1a(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert!(Routes::new(Vec::new()).is_none());
    }
}
