//! Maglev: a table of hosts by the hash's remainder, in which every host has its share of places (Eisenbud et al.,
//! NSDI 2016, listing 1, with weights). The places are Envoy's, so both choose the same host for the same hash.

use super::Figures;
use sota_plugin::hash::xx_hash64;
use std::borrow::Cow;

/// A table.
#[derive(Debug)]
pub(super) struct MaglevTable {
    /// The number of a host for each place.
    places: Box<[u32]>,
    figures: Figures,
}

/// A host while the table is filled.
struct Candidate {
    host: u32,
    offset: u64,
    skip: u64,
    share: f64,
    /// The share that its next turn takes.
    target: f64,
    next: u64,
    count: u64,
}

const FREE: u32 = u32::MAX;

impl MaglevTable {
    /// `size` is a prime number. Hosts by their names and shares.
    pub(super) fn new(size: u64, names: &[Cow<'_, str>], shares: &[f64]) -> Self {
        let size = size.max(2);
        let mut hosts: Vec<_> = (0_u32..).zip(names).zip(shares).collect();
        // The order of filling decides; it must not depend on the order of discovery.
        hosts.sort_by_key(|((_, name), _)| *name);
        let most = shares.iter().copied().fold(0.0, f64::max);
        let mut candidates: Vec<Candidate> = hosts
            .into_iter()
            .map(|((host, name), share)| Candidate {
                host,
                offset: xx_hash64(name.as_bytes(), 0) % size,
                skip: xx_hash64(name.as_bytes(), 1) % (size - 1) + 1,
                share: *share,
                target: 0.0,
                next: 0,
                count: 0,
            })
            .collect();
        let places = fill(size, most, &mut candidates);
        let counts = || candidates.iter().map(|candidate| candidate.count);
        let figures = Figures { size, min: counts().min().unwrap_or(0), max: counts().max().unwrap_or(0) };
        Self { places, figures }
    }

    /// The number of a host. Further attempts change the hash.
    pub(super) fn choose(&self, hash: u64, attempt: u32) -> Option<u32> {
        let hash = if attempt > 0 { hash ^ u64::from(attempt).wrapping_neg() } else { hash };
        let place = hash.checked_rem(self.places.len() as u64)?;
        self.places.get(usize::try_from(place).ok()?).copied()
    }

    pub(super) fn figures(&self) -> Figures {
        self.figures
    }
}

/// In turns each host takes the next free place of its own order; hosts of less than the largest share sit out turns.
fn fill(size: u64, most: f64, candidates: &mut [Candidate]) -> Box<[u32]> {
    let mut places = vec![FREE; usize::try_from(size).unwrap_or(0)].into_boxed_slice();
    if candidates.is_empty() || most <= 0.0 {
        return places;
    }
    let mut left = places.len();
    let mut turn = 0.0;
    while left > 0 {
        turn += 1.0;
        for candidate in &mut *candidates {
            if left == 0 {
                break;
            }
            if turn * candidate.share < candidate.target {
                continue;
            }
            candidate.target += most;
            // Size and skip have no common divisor, so the order visits every place.
            let place = loop {
                let place = (candidate.offset + candidate.skip.wrapping_mul(candidate.next)) % size;
                candidate.next += 1;
                if let Some(place) = places.get_mut(usize::try_from(place).unwrap_or(0))
                    && *place == FREE
                {
                    break place;
                }
            };
            *place = candidate.host;
            candidate.count += 1;
            left -= 1;
        }
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(size: u64, shares: &[f64]) -> MaglevTable {
        let names: Vec<_> = (0..shares.len()).map(|n| Cow::Owned(format!("127.0.0.1:{}", 90 + n))).collect();
        MaglevTable::new(size, &names, shares)
    }

    #[test]
    fn every_place_is_taken_by_share() {
        let even = table(65_537, &[0.25; 4]);
        assert_eq!((even.figures.min, even.figures.max), (16_384, 16_385));
        let uneven = table(17, &[1.0 / 3.0, 2.0 / 3.0]);
        assert_eq!((uneven.figures.min, uneven.figures.max), (6, 11));
        assert!(uneven.places.iter().all(|place| *place < 2));
        let crowded = table(5, &[0.1; 10]);
        assert_eq!((crowded.figures.min, crowded.figures.max), (0, 1));
    }

    #[test]
    fn the_order_of_hosts_does_not_matter() {
        let names = [Cow::Borrowed("a"), Cow::Borrowed("b"), Cow::Borrowed("c")];
        let turned = [Cow::Borrowed("c"), Cow::Borrowed("a"), Cow::Borrowed("b")];
        let (one, other) =
            (MaglevTable::new(101, &names, &[1.0 / 3.0; 3]), MaglevTable::new(101, &turned, &[1.0 / 3.0; 3]));
        for hash in 0..101 {
            let (a, b) = (one.choose(hash, 0).unwrap(), other.choose(hash, 0).unwrap());
            assert_eq!(names[a as usize], turned[b as usize]);
        }
    }

    #[test]
    fn further_attempts_look_elsewhere() {
        let table = table(65_537, &[0.1; 10]);
        let moved = (0..1000).filter(|hash| table.choose(*hash, 0) != table.choose(*hash, 1)).count();
        assert!(moved > 800, "{moved}");
    }
}
