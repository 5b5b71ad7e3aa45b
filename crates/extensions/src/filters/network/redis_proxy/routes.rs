//! Which cluster a key goes to.

use bytes::Bytes;
use std::sync::Arc;

/// A route.
#[derive(Debug)]
pub(super) struct Route {
    /// The keys begin so.
    pub(super) prefix: Vec<u8>,
    /// Whether it is taken away.
    pub(super) remove_prefix: bool,
    /// The cluster.
    pub(super) cluster: Arc<str>,
}

/// All routes.
#[derive(Debug)]
pub(super) struct Routes {
    /// The longest prefixes first.
    routes: Vec<Route>,
    catch_all: Option<Route>,
    case_insensitive: bool,
}

impl Routes {
    /// `Err`: two routes have this prefix.
    pub(super) fn new(
        mut routes: Vec<Route>,
        catch_all: Option<Route>,
        case_insensitive: bool,
    ) -> Result<Self, String> {
        if case_insensitive {
            routes.iter_mut().for_each(|route| route.prefix.make_ascii_lowercase());
        }
        routes.sort_by(|a, b| b.prefix.len().cmp(&a.prefix.len()).then_with(|| a.prefix.cmp(&b.prefix)));
        for pair in routes.windows(2) {
            if let [first, second] = pair
                && first.prefix == second.prefix
            {
                return Err(String::from_utf8_lossy(&first.prefix).into_owned());
            }
        }
        Ok(Self { routes, catch_all, case_insensitive })
    }

    /// The route of a key, and the key as it is sent.
    pub(super) fn find(&self, key: &Bytes) -> Option<(&Route, Bytes)> {
        let fits = |route: &&Route| match (key.get(..route.prefix.len()), self.case_insensitive) {
            (Some(start), true) => start.eq_ignore_ascii_case(&route.prefix),
            (Some(start), false) => *start == *route.prefix,
            (None, _) => false,
        };
        let route = self.routes.iter().find(fits).or(self.catch_all.as_ref())?;
        let removed = if route.remove_prefix { route.prefix.len().min(key.len()) } else { 0 };
        Some((route, key.slice(removed..)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(prefix: &str, remove_prefix: bool) -> Route {
        Route { prefix: prefix.into(), remove_prefix, cluster: prefix.into() }
    }

    fn found(routes: &Routes, key: &'static str) -> Option<(String, String)> {
        let (route, key) = routes.find(&Bytes::from_static(key.as_bytes()))?;
        Some((route.cluster.to_string(), String::from_utf8(key.to_vec()).unwrap()))
    }

    #[test]
    fn the_longest_prefix_wins() {
        let routes = Routes::new(vec![route("ab", false), route("abc:", true)], None, false).unwrap();
        let by_case = |key| found(&routes, key);
        assert_eq!(by_case("abc:x"), Some(("abc:".to_owned(), "x".to_owned())));
        assert_eq!(by_case("abx"), Some(("ab".to_owned(), "abx".to_owned())));
        assert_eq!((by_case("AB"), by_case("a")), (None, None));
        let routes = Routes::new(vec![route("AB", true)], Some(route("", false)), true).unwrap();
        assert_eq!(found(&routes, "aBc"), Some(("AB".to_owned(), "c".to_owned())));
        assert_eq!(found(&routes, "x"), Some((String::new(), "x".to_owned())));
        let twice = Routes::new(vec![route("AB", true), route("ab", true)], None, true);
        assert_eq!(twice.unwrap_err(), "ab");
    }
}
