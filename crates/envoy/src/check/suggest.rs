//! What was meant: the nearest known name to an unknown one.

use crate::table::Message;

/// The candidate that differs from `word` in few letters only.
pub(crate) fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let word = fold(word);
    let limit = (word.len() / 3).clamp(1, 4);
    candidates
        .filter_map(|candidate| distance(&word, &fold(candidate), limit).map(|d| (d, candidate)))
        .min_by_key(|(d, _)| *d)
        .map(|(_, candidate)| candidate)
}

/// Up to three messages whose names are near: the same last part in another package, or a few letters apart.
pub(super) fn nearest_types(name: &str) -> Vec<&'static str> {
    const LIMIT: usize = 8;
    let short = name.rsplit('.').next().unwrap_or(name);
    let mut found: Vec<(usize, &'static str)> = Message::all()
        .filter_map(|message| {
            let near = distance(name.as_bytes(), message.name().as_bytes(), LIMIT);
            let same_short = !short.is_empty() && message.short_name() == short;
            // The same short name in a far package ranks behind everything that is a few letters apart.
            near.or_else(|| same_short.then_some(LIMIT + 1)).map(|d| (d, message.name()))
        })
        .collect();
    found.sort_unstable();
    let best = found.first().map_or(0, |(d, _)| *d);
    found.into_iter().filter(|(d, _)| *d <= best + 2).take(3).map(|(_, name)| name).collect()
}

/// Case and underscores do not tell names apart here.
fn fold(word: &str) -> Vec<u8> {
    word.bytes().filter(|b| *b != b'_').map(|b| b.to_ascii_lowercase()).collect()
}

/// How many letters must be changed, added, removed or swapped with their neighbour; `None` above the limit.
fn distance(a: &[u8], b: &[u8], limit: usize) -> Option<usize> {
    if a.len().abs_diff(b.len()) > limit || a.len() > 256 {
        return None;
    }
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut row = Vec::with_capacity(b.len() + 1);
        row.push(i + 1);
        for (j, y) in b.iter().enumerate() {
            let at = |row: &[usize], j: usize| row.get(j).copied().unwrap_or(usize::MAX - 1);
            let mut best = (at(&last, j) + usize::from(x != y)).min(at(&last, j + 1) + 1).min(at(&row, j) + 1);
            let swapped = i > 0 && j > 0 && a.get(i - 1) == Some(y) && b.get(j - 1) == Some(x);
            if swapped {
                best = best.min(at(&before_last, j - 1) + 1);
            }
            row.push(best);
        }
        if row.iter().min().is_some_and(|least| *least > limit) {
            return None;
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last.last().copied().filter(|d| *d <= limit)
}

#[cfg(test)]
mod tests {
    use super::{distance, nearest, nearest_types};

    #[test]
    fn counts_edits() {
        assert_eq!(distance(b"kitten", b"sitting", 3), Some(3));
        assert_eq!(distance(b"ab", b"ba", 2), Some(1));
        assert_eq!(distance(b"", b"abc", 3), Some(3));
        assert_eq!(distance(b"abc", b"xyz", 2), None);
    }

    #[test]
    fn finds_what_was_meant() {
        let names = ["stat_prefix", "codec_type", "route_config", "rds"];
        assert_eq!(nearest("stat_prefx", names.into_iter()), Some("stat_prefix"));
        assert_eq!(nearest("StatPrefix", names.into_iter()), Some("stat_prefix"));
        assert_eq!(nearest("routeconfg", names.into_iter()), Some("route_config"));
        assert_eq!(nearest("something_else", names.into_iter()), None);
        assert_eq!(nearest("x", names.into_iter()), None);
    }

    #[test]
    fn finds_types() {
        let router = "envoy.extensions.filters.http.router.v3.Router";
        assert_eq!(nearest_types("envoy.extensions.filters.http.router.v3.Routerr").first(), Some(&router));
        assert_eq!(nearest_types("envoy.config.filter.http.router.v2.Router").first(), Some(&router));
        assert!(nearest_types("com.example.Nothing").is_empty());
    }
}
