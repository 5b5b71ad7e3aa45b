//! Ring hash: every host stands at many points of a ring, and a request goes to the next one behind its hash.
//! Points and their number are Envoy's, so both choose the same host for the same hash.

use super::Figures;
use sota_config::load_balancer::RingHash;
use sota_plugin::hash::{murmur_hash_2, xx_hash64};
use std::{borrow::Cow, io::Write};

/// A ring.
#[derive(Debug)]
pub(super) struct Ring {
    /// The points, ascending.
    points: Box<[u64]>,
    /// The host at each point, by its number.
    hosts: Box<[u32]>,
    figures: Figures,
}

impl Ring {
    /// Of hosts by their names and shares, which add up to 1.
    pub(super) fn new<'a>(config: &RingHash, names: impl Iterator<Item = Cow<'a, str>>, shares: &[f64]) -> Self {
        let least = shares.iter().copied().fold(1.0, f64::min);
        // The host of least weight has a whole number of points, unless that makes the ring too large.
        let whole = (least * config.minimum_ring_size as f64).ceil() / least;
        let scale = whole.min(config.maximum_ring_size as f64);
        let mut figures = Figures { size: scale.ceil() as u64, min: scale.ceil() as u64, max: 0 };
        let mut ring = Vec::with_capacity(usize::try_from(figures.size).unwrap_or(0));
        let (mut have, mut want) = (0.0, 0.0);
        let mut text = Vec::new();
        for (host, (name, share)) in (0_u32..).zip(names.zip(shares)) {
            want += scale * share;
            let mut number = 0;
            while have < want {
                text.clear();
                // Writing to memory does not fail.
                let _ = write!(text, "{name}_{number}");
                ring.push((if config.murmur_hash_2 { murmur_hash_2(&text) } else { xx_hash64(&text, 0) }, host));
                number += 1;
                have += 1.0;
            }
            figures.min = figures.min.min(number);
            figures.max = figures.max.max(number);
        }
        ring.sort_by_key(|(point, _)| *point);
        let (points, hosts): (Vec<_>, Vec<_>) = ring.into_iter().unzip();
        Self { points: points.into(), hosts: hosts.into(), figures }
    }

    /// The number of a host. Further attempts go on along the ring.
    pub(super) fn choose(&self, hash: u64, attempt: u32) -> Option<u32> {
        let place = self.points.partition_point(|point| *point < hash);
        let place = if place == self.points.len() { 0 } else { place };
        let place = (place + attempt as usize).checked_rem(self.hosts.len())?;
        self.hosts.get(place).copied()
    }

    pub(super) fn figures(&self) -> Figures {
        self.figures
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sota_config::load_balancer::ConsistentHashing;

    fn config(minimum: u64, maximum: u64) -> RingHash {
        RingHash {
            murmur_hash_2: false,
            minimum_ring_size: minimum,
            maximum_ring_size: maximum,
            hashing: ConsistentHashing::default(),
        }
    }

    fn ring(config: &RingHash, shares: &[f64]) -> Ring {
        let names = (0..shares.len()).map(|n| Cow::Owned(format!("10.0.0.{n}:80")));
        Ring::new(config, names, shares)
    }

    #[test]
    fn points_by_weight_and_size() {
        for (minimum, maximum, shares, size, min, max) in [
            (1024, 8 << 20, &[0.5, 0.5][..], 1024, 512, 512),
            (3, 8 << 20, &[0.25; 4], 4, 1, 1),
            (6, 6, &[0.25; 4], 6, 1, 2),
            (4, 8 << 20, &[0.25, 0.75], 4, 1, 3),
        ] {
            let ring = ring(&config(minimum, maximum), shares);
            assert_eq!(
                (ring.figures.size, ring.figures.min, ring.figures.max),
                (size, min, max),
                "{minimum} {shares:?}"
            );
            assert_eq!(ring.points.len() as u64, size);
        }
    }

    #[test]
    fn a_hash_goes_to_the_next_point_and_around() {
        let ring = ring(&config(8, 8), &[0.5, 0.5]);
        for (place, point) in ring.points.iter().enumerate() {
            assert_eq!(ring.choose(*point, 0), Some(ring.hosts[place]));
            assert_eq!(ring.choose(point - 1, 0), Some(ring.hosts[place]));
            assert_eq!(ring.choose(*point, 1), Some(ring.hosts[(place + 1) % 8]));
        }
        assert_eq!(ring.choose(u64::MAX, 0), Some(ring.hosts[0]));
        assert_eq!(ring.choose(0, 0), Some(ring.hosts[0]));
    }
}
