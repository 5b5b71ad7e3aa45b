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
    routes: Vec<Rule>,
    clusters: Vec<Arc<str>>,
}

#[derive(Debug)]
struct Rule {
    rule: Match,
    /// The place of the cluster.
    cluster: usize,
    hash_frame: Option<usize>,
}

/// Where a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Goal {
    /// The place of the cluster.
    pub(super) cluster: usize,
    /// By which a host is to be chosen, if it is.
    pub(super) hash: Option<u64>,
}

impl Routes {
    /// `None` without routes.
    pub(super) fn new(routes: Vec<Route>) -> Option<Self> {
        let mut clusters = Vec::<Arc<str>>::new();
        let routes: Vec<_> = routes
            .into_iter()
            .map(|route| {
                let cluster = clusters.iter().position(|known| **known == *route.cluster).unwrap_or_else(|| {
                    clusters.push(route.cluster.into());
                    clusters.len() - 1
                });
                Rule { rule: route.rule, cluster, hash_frame: route.hash_frame }
            })
            .collect();
        (!routes.is_empty()).then_some(Self { routes, clusters })
    }

    /// The clusters, by whose place the others speak of them.
    pub(super) fn clusters(&self) -> &[Arc<str>] {
        &self.clusters
    }

    /// Where a message of a client of this type goes; its body begins with the frame `body`.
    pub(super) fn of_message(&self, socket_type: SocketType, message: &Message, body: usize) -> Option<Goal> {
        let matches = |route: &&Rule| route.rule.takes_type(socket_type) && route.rule.takes(message, body);
        let found = self.routes.iter().find(matches)?;
        let frame = found.hash_frame.and_then(|frame| message.frame(body.saturating_add(frame)));
        Some(Goal { cluster: found.cluster, hash: frame.map(fnv1a) })
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
        for Rule { cluster, .. } in self.routes.iter().filter(|route| wanted(&route.rule)) {
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
        Route { rule, cluster: cluster.into(), hash_frame: None }
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
            routes.of_message(socket_type, &message, body).map(|goal| goal.cluster)
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
        assert_eq!(fnv1a(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert!(Routes::new(Vec::new()).is_none());
    }

    #[test]
    fn each_route_has_its_own_hash() {
        let to_a = |prefix: &str, hash_frame| Route {
            rule: Match { prefix: Some(prefix.into()), ..Match::default() },
            cluster: "a".into(),
            hash_frame,
        };
        let routes = Routes::new(vec![to_a("x", Some(1)), to_a("y", Some(2)), to_a("z", None)]).unwrap();
        let hash = |first: &[u8]| {
            let message: Message = [b"", first, b"one", b"two"].into_iter().collect();
            routes.of_message(SocketType::Req, &message, 1).unwrap()
        };
        assert_eq!(hash(b"x"), Goal { cluster: 0, hash: Some(fnv1a(b"one")) });
        assert_eq!(hash(b"y"), Goal { cluster: 0, hash: Some(fnv1a(b"two")) });
        assert_eq!(hash(b"z"), Goal { cluster: 0, hash: None });
    }
}
