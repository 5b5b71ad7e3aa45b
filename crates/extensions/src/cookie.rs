//! Cookies of requests.

use sota_plugin::http::{HeaderId, Headers};

/// The value of the first cookie of this name, without quotes around it.
pub(crate) fn find(headers: &Headers, name: &str) -> Option<Vec<u8>> {
    headers.get_all(HeaderId::Cookie).find_map(|field| {
        field.split(|c| *c == b';').find_map(|cookie| {
            let equals = cookie.iter().position(|c| *c == b'=')?;
            let (found, value) = cookie.split_at_checked(equals)?;
            if found.trim_ascii() != name.as_bytes() {
                return None;
            }
            let value = value.get(1..).unwrap_or_default().trim_ascii();
            let unquoted = value.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\""));
            Some(unquoted.unwrap_or(value).to_vec())
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies_by_name() {
        let headers: Headers = [("cookie", "a=1; b=\"2\";c"), ("cookie", "d==; a=3")].into_iter().collect();
        let find = |name| find(&headers, name).map(|value| String::from_utf8(value).unwrap());
        assert_eq!((find("a").as_deref(), find("b").as_deref()), (Some("1"), Some("2")));
        assert_eq!((find("c"), find("d").as_deref(), find("e")), (None, Some("="), None));
    }
}
