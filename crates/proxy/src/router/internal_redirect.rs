//! Redirects of upstreams that the proxy follows itself, in place of the client: which ones, and what is asked then.

use sota_codec::http1::{Http1Error, set_absolute_uri};
use sota_config::{
    ConfigError, Mark,
    retry::{InternalRedirectPolicy, RedirectPredicate},
};
use sota_plugin::http::{HeaderId, HeaderName, Method, RequestHead, ResponseHead, Scheme, StatusCode};

/// A compiled [`InternalRedirectPolicy`].
#[derive(Debug)]
pub(crate) struct InternalRedirects {
    max: u32,
    statuses: Box<[u16]>,
    predicates: Box<[RedirectPredicate]>,
    allow_cross_scheme: bool,
    copied: Box<[HeaderName]>,
}

/// The redirects that a request has followed. Empty costs nothing.
#[derive(Debug, Default)]
pub(crate) struct Followed {
    count: u32,
    /// From which route to which, by their names, where a route looks at that.
    ways: Vec<(Box<str>, Box<str>)>,
}

/// Why the client gets a redirect itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotFollowed {
    /// It does not say where to, or the body of the request is not there (any more).
    Impossible,
    /// It does not lead to a valid absolute URI.
    BadLocation,
    /// It leads to another scheme, or one that is not HTTP.
    UnsafeScheme,
    /// There were enough.
    TooMany,
    /// It leads to no route.
    NoRoute,
    /// One of the route's predicates is against it.
    Predicate,
}

impl InternalRedirects {
    /// Fails for a header name that is none.
    pub(super) fn build(config: &InternalRedirectPolicy) -> Result<Self, ConfigError> {
        let name = |name: &String| {
            HeaderName::parse(name.as_bytes()).map_err(|reason| {
                let reason = format!("header name {name:?}: {reason}");
                ConfigError::new("internal_redirect_policy.response_headers_to_copy", Mark::NONE, reason)
            })
        };
        Ok(Self {
            max: config.max_redirects,
            statuses: config.statuses.as_slice().into(),
            predicates: config.predicates.as_slice().into(),
            allow_cross_scheme: config.allow_cross_scheme,
            copied: config.response_headers_to_copy.iter().map(name).collect::<Result<_, _>>()?,
        })
    }

    /// Whether responses of this status are followed if all else is well.
    pub(super) fn may_follow(&self, status: StatusCode) -> bool {
        self.statuses.contains(&status.as_u16())
    }

    /// The head of the next request. `scheme`: the client's.
    pub(crate) fn next(
        &self,
        head: &RequestHead,
        response: &ResponseHead,
        scheme: Scheme,
        followed: &Followed,
    ) -> Result<RequestHead, NotFollowed> {
        let location = response.headers.get(HeaderId::Location).ok_or(NotFollowed::Impossible)?;
        let mut next = head.clone();
        set_absolute_uri(&mut next, location).map_err(|error| match error {
            Http1Error::Scheme => NotFollowed::UnsafeScheme,
            _ => NotFollowed::BadLocation,
        })?;
        if !self.allow_cross_scheme && next.scheme != scheme {
            return Err(NotFollowed::UnsafeScheme);
        }
        if followed.count >= self.max {
            return Err(NotFollowed::TooMany);
        }
        for name in &self.copied {
            next.headers.remove(name);
            for value in response.headers.get_all(name) {
                next.headers.append_sanitized(name, value);
            }
        }
        // RFC 9110 §15.4.4: the other resource is fetched.
        if response.status == StatusCode::SEE_OTHER && !matches!(head.method, Method::Get | Method::Head) {
            next.method = Method::Get;
            next.headers.remove(HeaderId::ContentLength);
        }
        Ok(next)
    }

    /// Whether the predicates let a request go from one route to another, and that it does then. `schemes`: the client's
    /// and the next request's.
    pub(crate) fn take(
        &self,
        followed: &mut Followed,
        (from, to): (&str, &str),
        schemes: (Scheme, Scheme),
    ) -> Result<(), NotFollowed> {
        let is_new = !followed.ways.iter().any(|(a, b)| **a == *from && **b == *to);
        let mut looks_back = false;
        for predicate in &self.predicates {
            let agrees = match predicate {
                RedirectPredicate::PreviousRoutes => {
                    looks_back = true;
                    is_new
                }
                RedirectPredicate::AllowListedRoutes(names) => names.iter().any(|name| name == to),
                RedirectPredicate::SafeCrossScheme => schemes != (Scheme::Http, Scheme::Https),
            };
            if !agrees {
                return Err(NotFollowed::Predicate);
            }
        }
        followed.count += 1;
        if looks_back {
            followed.ways.push((from.into(), to.into()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(edit: impl FnOnce(&mut InternalRedirectPolicy)) -> InternalRedirects {
        let mut config = InternalRedirectPolicy {
            max_redirects: 1,
            statuses: vec![302, 303],
            predicates: Vec::new(),
            allow_cross_scheme: false,
            response_headers_to_copy: Vec::new(),
        };
        edit(&mut config);
        InternalRedirects::build(&config).unwrap()
    }

    fn response(status: u16, fields: &[(&str, &str)]) -> ResponseHead {
        let mut head = ResponseHead::new(StatusCode::from_u16(status).unwrap());
        head.headers = fields.iter().copied().collect();
        head
    }

    fn next(policy: &InternalRedirects, location: &str) -> Result<String, NotFollowed> {
        let head = RequestHead::new(Method::Get, "a", "/x").unwrap();
        let response = response(302, &[("location", location)]);
        let next = policy.next(&head, &response, Scheme::Http, &Followed::default())?;
        Ok(format!("{} {} {}", next.scheme, next.authority().escape_ascii(), next.path().escape_ascii()))
    }

    #[test]
    fn locations() {
        let same = policy(|_| {});
        let any = policy(|config| config.allow_cross_scheme = true);
        assert!(same.may_follow(StatusCode::FOUND) && !same.may_follow(StatusCode::MOVED_PERMANENTLY));
        for (location, expected) in [
            ("http://b/y?z", "http b /y?z"),
            ("HTTP://B:80", "http B:80 /"),
            ("http://b?q", "http b /?q"),
            ("http://b/y#part", "http b /y"),
        ] {
            assert_eq!(next(&same, location).as_deref(), Ok(expected), "{location}");
        }
        for (location, reason) in [
            ("", NotFollowed::BadLocation),
            ("/y", NotFollowed::BadLocation),
            ("//b/y", NotFollowed::BadLocation),
            ("http://", NotFollowed::BadLocation),
            ("http://b/y z", NotFollowed::BadLocation),
            ("http://b\\c/", NotFollowed::BadLocation),
            ("http://u@b/", NotFollowed::BadLocation),
            ("https://b/", NotFollowed::UnsafeScheme),
            ("ftp://b/", NotFollowed::UnsafeScheme),
        ] {
            assert_eq!(next(&same, location), Err(reason), "{location}");
        }
        assert_eq!(next(&any, "https://b/").as_deref(), Ok("https b /"));
        assert_eq!(next(&any, "ftp://b/"), Err(NotFollowed::UnsafeScheme));
        assert_eq!(next(&policy(|config| config.max_redirects = 0), "http://b/"), Err(NotFollowed::TooMany));
    }

    #[test]
    fn fields_and_methods() {
        let policy = policy(|config| config.response_headers_to_copy = vec!["x-token".to_owned(), "x-gone".to_owned()]);
        let mut head = RequestHead::new(Method::Post, "a", "/x").unwrap();
        head.headers = [("content-length", "2"), ("x-token", "mine"), ("x-gone", "mine")].into_iter().collect();
        let to = |status| response(status, &[("location", "http://b/"), ("x-token", "one"), ("x-token", "two")]);
        let next = policy.next(&head, &to(302), Scheme::Http, &Followed::default()).unwrap();
        let mut lines = Vec::new();
        next.headers.write_lines(&mut lines);
        assert_eq!(lines, b"content-length: 2\r\nx-token: one\r\nx-token: two\r\n");
        let next = policy.next(&head, &to(303), Scheme::Http, &Followed::default()).unwrap();
        assert!(next.method == Method::Get && !next.headers.contains(HeaderId::ContentLength));
        head.method = Method::Head;
        let next = policy.next(&head, &to(303), Scheme::Http, &Followed::default()).unwrap();
        assert_eq!(next.method, Method::Head);
        assert_eq!(
            policy.next(&head, &response(302, &[]), Scheme::Http, &Followed::default()),
            Err(NotFollowed::Impossible)
        );
    }

    #[test]
    fn predicates() {
        let http = (Scheme::Http, Scheme::Http);
        let mut followed = Followed::default();
        let back = policy(|config| config.predicates = vec![RedirectPredicate::PreviousRoutes]);
        assert_eq!(back.take(&mut followed, ("a", "b"), http), Ok(()));
        assert_eq!(back.take(&mut followed, ("b", "a"), http), Ok(()));
        assert_eq!(back.take(&mut followed, ("a", "b"), http), Err(NotFollowed::Predicate));
        assert_eq!(followed.count, 2);
        let listed = policy(|config| {
            config.predicates =
                vec![RedirectPredicate::AllowListedRoutes(vec!["b".to_owned()]), RedirectPredicate::SafeCrossScheme];
        });
        let mut followed = Followed::default();
        assert_eq!(listed.take(&mut followed, ("a", "c"), http), Err(NotFollowed::Predicate));
        for (schemes, expected) in [
            (http, Ok(())),
            ((Scheme::Https, Scheme::Http), Ok(())),
            ((Scheme::Https, Scheme::Https), Ok(())),
            ((Scheme::Http, Scheme::Https), Err(NotFollowed::Predicate)),
        ] {
            assert_eq!(listed.take(&mut followed, ("a", "b"), schemes), expected, "{schemes:?}");
        }
        assert!(followed.ways.is_empty());
    }
}
