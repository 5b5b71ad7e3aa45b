//! Finds the virtual host of an authority: exact, then the longest suffix wildcard, then the longest prefix wildcard,
//! then `*`. Host names compare without case.

use hashbrown::HashMap;
use smallvec::SmallVec;
use sota_config::route::RouteConfiguration;

/// Domains to the number of their virtual host.
#[derive(Debug, Default)]
pub(super) struct DomainIndex {
    exact: Domains,
    /// By length, longest first.
    suffixes: Vec<(usize, Domains)>,
    prefixes: Vec<(usize, Domains)>,
    any: Option<usize>,
    ignore_port: bool,
}

type Domains = HashMap<Box<[u8]>, usize, foldhash::fast::RandomState>;

/// The longest name that is brought into lower case without an allocation.
const USUAL_HOST: usize = 128;

impl DomainIndex {
    /// Fails with the text of an error about a domain that stands twice, and the virtual host's number.
    pub(super) fn build(config: &RouteConfiguration) -> Result<Self, (usize, String)> {
        let mut index = Self { ignore_port: config.ignore_port_in_host_matching, ..Self::default() };
        for (number, host) in config.virtual_hosts.iter().enumerate() {
            for domain in &host.domains {
                index.add(domain, number, &config.name).map_err(|reason| (number, reason))?;
            }
        }
        index.suffixes.sort_by_key(|(len, _)| std::cmp::Reverse(*len));
        index.prefixes.sort_by_key(|(len, _)| std::cmp::Reverse(*len));
        Ok(index)
    }

    fn add(&mut self, domain: &str, host: usize, table: &str) -> Result<(), String> {
        let lower = domain.to_ascii_lowercase();
        if lower == "*" {
            return match self.any.replace(host) {
                Some(_) => Err(format!("Only a single wildcard domain is permitted in route {table}")),
                None => Ok(()),
            };
        }
        let (domains, text) = if let Some(suffix) = lower.strip_prefix('*') {
            (of_len(&mut self.suffixes, suffix.len()), suffix)
        } else if let Some(prefix) = lower.strip_suffix('*') {
            (of_len(&mut self.prefixes, prefix.len()), prefix)
        } else {
            (&mut self.exact, &*lower)
        };
        match domains.insert(text.as_bytes().into(), host) {
            Some(_) => Err(format!(
                "Only unique values for domains are permitted. Duplicate entry of domain {lower} in route {table}"
            )),
            None => Ok(()),
        }
    }

    /// The virtual host of a request.
    pub(super) fn find(&self, authority: &[u8]) -> Option<usize> {
        if self.exact.is_empty() && self.suffixes.is_empty() && self.prefixes.is_empty() {
            return self.any;
        }
        if authority.is_empty() {
            return None;
        }
        let host = match port_start(authority) {
            Some(end) if self.ignore_port => authority.get(..end).unwrap_or(authority),
            _ => authority,
        };
        if !host.iter().any(u8::is_ascii_uppercase) {
            return self.find_lower(host);
        }
        let mut lower: SmallVec<[u8; USUAL_HOST]> = SmallVec::from_slice(host);
        lower.make_ascii_lowercase();
        self.find_lower(&lower)
    }

    fn find_lower(&self, host: &[u8]) -> Option<usize> {
        if let Some(found) = self.exact.get(host) {
            return Some(*found);
        }
        // A wildcard stands for at least one character.
        let shorter = |(len, _): &&(usize, Domains)| *len < host.len();
        let suffix = |(len, domains): &(usize, Domains)| domains.get(host.get(host.len() - len..)?).copied();
        let prefix = |(len, domains): &(usize, Domains)| domains.get(host.get(..*len)?).copied();
        let by_suffix = self.suffixes.iter().filter(shorter).find_map(suffix);
        by_suffix.or_else(|| self.prefixes.iter().filter(shorter).find_map(prefix)).or(self.any)
    }
}

fn of_len(lists: &mut Vec<(usize, Domains)>, len: usize) -> &mut Domains {
    let at = lists.iter().position(|(other, _)| *other == len).unwrap_or_else(|| {
        lists.push((len, Domains::default()));
        lists.len() - 1
    });
    &mut lists[at].1
}

/// Where `:port` begins; `None` when there is none. The colons of a bracketed IPv6 address begin no port.
pub(crate) fn port_start(authority: &[u8]) -> Option<usize> {
    let colon = memchr::memrchr(b':', authority)?;
    match memchr::memrchr(b']', authority) {
        Some(bracket) if bracket > colon => None,
        _ if colon + 1 == authority.len() => None,
        _ => Some(colon),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sota_config::route::VirtualHost;

    fn config(hosts: &[&[&str]]) -> RouteConfiguration {
        let host = |domains: &&[&str]| VirtualHost {
            domains: domains.iter().map(|domain| (*domain).to_owned()).collect(),
            ..VirtualHost::default()
        };
        RouteConfiguration {
            name: "local".into(),
            virtual_hosts: hosts.iter().map(host).collect(),
            ..RouteConfiguration::default()
        }
    }

    #[test]
    fn order_of_domains() {
        let hosts: &[&[&str]] = &[
            &["exact.example", "exact.example:8080", "[::1]"],
            &["*.example", "*-x.example"],
            &["*.deep.example"],
            &["exact.*", "www.*"],
            &["www.long.*"],
        ];
        let index = DomainIndex::build(&config(hosts)).unwrap();
        for (host, expected) in [
            ("exact.example", Some(0)),
            ("EXACT.Example", Some(0)),
            ("exact.example:8080", Some(0)),
            ("exact.example:8081", Some(3)),
            ("a.example", Some(1)),
            ("b-x.example", Some(1)),
            ("a.deep.example", Some(2)),
            (".example", None),
            ("www.other", Some(3)),
            ("www.long.other", Some(4)),
            ("exact.other", Some(3)),
            ("www.", None),
            ("nothing", None),
            ("", None),
        ] {
            assert_eq!(index.find(host.as_bytes()), expected, "{host}");
        }
        let long = format!("{}.example", "A".repeat(500));
        assert_eq!(index.find(long.as_bytes()), Some(1));
    }

    #[test]
    fn any_and_ports() {
        let with_ports = RouteConfiguration { ignore_port_in_host_matching: true, ..config(&[&["a.example"], &["*"]]) };
        let index = DomainIndex::build(&with_ports).unwrap();
        assert_eq!(index.find(b"a.example:99"), Some(0));
        assert_eq!(index.find(b"a.example"), Some(0));
        assert_eq!(index.find(b"b"), Some(1));
        // Compat: without a host only a table of nothing but `*` has one.
        assert_eq!(index.find(b""), None);
        let only_any = DomainIndex::build(&config(&[&["*"]])).unwrap();
        assert_eq!(only_any.find(b""), Some(0));
        for (authority, start) in
            [("a:80", Some(1)), ("a", None), ("[::1]", None), ("[::1]:80", Some(5)), ("a:", None), ("::1", Some(1))]
        {
            assert_eq!(port_start(authority.as_bytes()), start, "{authority}");
        }
    }

    #[test]
    fn domains_stand_once() {
        let (host, reason) = DomainIndex::build(&config(&[&["a", "b"], &["A"]])).unwrap_err();
        assert_eq!(host, 1);
        assert_eq!(reason, "Only unique values for domains are permitted. Duplicate entry of domain a in route local");
        let (_, reason) = DomainIndex::build(&config(&[&["*"], &["*"]])).unwrap_err();
        assert_eq!(reason, "Only a single wildcard domain is permitted in route local");
        assert!(DomainIndex::build(&config(&[&["*.a"], &["*.a"]])).is_err());
        assert!(DomainIndex::build(&config(&[&["a.*"], &["a.*"]])).is_err());
    }
}
