//! What is wanted of one kind on one stream, and what the control plane has to be told of it. No I/O.

use super::{Answer, Kind, REMEMBERED};
use sota_envoy::discovery::Request;
use std::collections::{BTreeMap, BTreeSet};

/// The state of one kind.
pub(super) struct Subscription {
    kind: Kind,
    is_delta: bool,
    /// `None`: all there are.
    wanted: Option<BTreeSet<String>>,
    /// What was asked for on this stream; `None`: nothing yet.
    told: Option<BTreeSet<String>>,
    /// Of the last response, answered or not.
    nonce: String,
    /// State of the world: the version in force.
    version: String,
    /// Delta: the resources in force, with their versions.
    versions: BTreeMap<String, String>,
}

impl Subscription {
    pub(super) fn new(kind: Kind, is_delta: bool) -> Self {
        Self {
            kind,
            is_delta,
            wanted: Some(BTreeSet::new()),
            told: None,
            nonce: String::new(),
            version: String::new(),
            versions: BTreeMap::new(),
        }
    }

    /// A stream begins: it knows nothing.
    pub(super) fn begin(&mut self) {
        self.told = None;
        self.nonce.clear();
    }

    /// Changes what is wanted.
    pub(super) fn want(&mut self, names: Option<BTreeSet<String>>) {
        if let Some(names) = &names {
            self.versions.retain(|name, _| names.contains(name));
        }
        self.wanted = names;
    }

    /// Whether anything is wanted.
    pub(super) fn is_wanted(&self) -> bool {
        self.wanted.as_ref().is_none_or(|names| !names.is_empty())
    }

    /// Whether anything was asked for on this stream.
    pub(super) fn is_open(&self) -> bool {
        self.told.is_some()
    }

    /// What is to be said now, if anything.
    pub(super) fn request(&mut self) -> Option<Request> {
        let wanted = self.wanted.clone().unwrap_or_default();
        let mut request = Request { message: self.kind.message(), ..Request::default() };
        match &self.told {
            None if !self.is_wanted() => return None,
            Some(told) if *told == wanted => return None,
            told if self.is_delta => {
                let before = told.clone().unwrap_or_default();
                request.names = wanted.difference(&before).cloned().collect();
                request.unsubscribe = before.difference(&wanted).cloned().collect();
                if told.is_none() {
                    request.initial_versions = self.versions.clone().into_iter().collect();
                }
            }
            _ => {
                request.names = wanted.iter().cloned().collect();
                request.version.clone_from(&self.version);
                request.nonce.clone_from(&self.nonce);
            }
        }
        self.told = Some(wanted);
        Some(request)
    }

    /// Notes what is in force since this answer.
    pub(super) fn note(&mut self, answer: &Answer) {
        // A version of the whole that is only remembered may stand for more than what is there.
        if answer.error.is_none() && answer.stream != REMEMBERED {
            self.version.clone_from(&answer.version);
        }
        if self.is_delta {
            answer.removed.iter().for_each(|name| drop(self.versions.remove(name)));
            // More may be sent than is wanted.
            let is_wanted = |name: &str| self.wanted.as_ref().is_none_or(|names| names.contains(name));
            self.versions.extend(answer.accepted.iter().filter(|(name, _)| is_wanted(name)).cloned());
        }
    }

    /// The answer to a response on this stream.
    pub(super) fn answer(&mut self, answer: &Answer) -> Request {
        self.nonce.clone_from(&answer.nonce);
        let mut request = Request {
            message: self.kind.message(),
            nonce: answer.nonce.clone(),
            error: answer.error.clone(),
            ..Request::default()
        };
        if !self.is_delta {
            request.version.clone_from(&self.version);
            request.names = self.told.iter().flatten().cloned().collect();
        }
        request
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(nonce: &str, version: &str) -> Answer {
        Answer {
            kind: Kind::Routes,
            stream: 1,
            nonce: nonce.to_owned(),
            version: version.to_owned(),
            accepted: Vec::new(),
            removed: Vec::new(),
            error: None,
        }
    }

    fn names(names: &[&str]) -> Option<BTreeSet<String>> {
        Some(names.iter().map(|name| (*name).to_owned()).collect())
    }

    #[test]
    fn a_delta_tells_what_changes_and_a_new_stream_what_is_there() {
        let mut endpoints = Subscription::new(Kind::Endpoints, true);
        assert!(endpoints.request().is_none());
        endpoints.want(names(&["a", "b"]));
        let first = endpoints.request().unwrap();
        assert_eq!((first.names, first.initial_versions), (vec!["a".to_owned(), "b".to_owned()], vec![]));
        assert!(endpoints.request().is_none());
        let accepted = vec![("a".to_owned(), "1".to_owned()), ("b".to_owned(), "2".to_owned())];
        let answer = Answer { accepted, ..answer("n", "") };
        endpoints.note(&answer);
        let told = endpoints.answer(&answer);
        assert_eq!((told.nonce.as_str(), told.names.len(), told.error), ("n", 0, None));
        endpoints.want(names(&["b", "c"]));
        let change = endpoints.request().unwrap();
        assert_eq!((change.names, change.unsubscribe), (vec!["c".to_owned()], vec!["a".to_owned()]));
        assert_eq!(change.nonce, "");
        endpoints.begin();
        let again = endpoints.request().unwrap();
        assert_eq!(again.names, ["b", "c"]);
        assert_eq!(again.initial_versions, [("b".to_owned(), "2".to_owned())]);
    }

    #[test]
    fn the_state_of_the_world_says_all_names_and_keeps_its_version_when_it_refuses() {
        let mut routes = Subscription::new(Kind::Routes, false);
        routes.want(names(&["r"]));
        assert_eq!(routes.request().unwrap().names, ["r"]);
        let good = answer("1", "v1");
        routes.note(&good);
        let told = routes.answer(&good);
        assert_eq!((told.version.as_str(), told.nonce.as_str(), told.names.len()), ("v1", "1", 1));
        let bad = Answer { error: Some("no".to_owned()), ..answer("2", "v2") };
        routes.note(&bad);
        let told = routes.answer(&bad);
        assert_eq!((told.version.as_str(), told.nonce.as_str(), told.error.as_deref()), ("v1", "2", Some("no")));
        routes.want(names(&[]));
        let none = routes.request().unwrap();
        assert_eq!((none.names.len(), none.version.as_str(), none.nonce.as_str()), (0, "v1", "2"));
        routes.begin();
        assert!(routes.request().is_none());
    }

    #[test]
    fn everything_is_asked_for_without_names() {
        for is_delta in [false, true] {
            let mut clusters = Subscription::new(Kind::Clusters, is_delta);
            clusters.want(None);
            assert!(clusters.request().unwrap().names.is_empty());
            assert!(clusters.request().is_none());
        }
    }
}
