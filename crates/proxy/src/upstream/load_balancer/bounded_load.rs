//! Consistent hashing with bounded loads (`hash_balance_factor`): a host that has more than its part of the active
//! requests is passed over. Which host comes next depends on the hash alone, so equal hashes move together; the order
//! is Envoy's.

use std::collections::HashMap;

/// The bound on the hosts of one table.
#[derive(Debug)]
pub(super) struct BoundedLoad {
    /// Percentage of the mean.
    factor: u32,
    /// The shares of the hosts, by their numbers.
    shares: Box<[f64]>,
}

impl BoundedLoad {
    pub(super) fn new(factor: u32, shares: Vec<f64>) -> Self {
        Self { factor, shares: shares.into() }
    }

    /// `chosen`, or another host if that is too busy. `total` and `active` are the requests of the cluster and of a host.
    pub(super) fn choose(&self, chosen: u32, hash: u64, total: u32, active: impl Fn(u32) -> u32) -> u32 {
        let slots = ((u64::from(total) + 1) * u64::from(self.factor)).div_ceil(100) as f64;
        let overload = |host: u32| {
            let share = self.shares.get(host as usize).copied().unwrap_or(0.0);
            f64::from(active(host)) / (slots * share).ceil().max(1.0)
        };
        let mut least = (overload(chosen), chosen);
        if least.0 <= 1.0 {
            return chosen;
        }
        let others = Shuffle::new(hash as u32, u32::try_from(self.shares.len()).unwrap_or(u32::MAX));
        for other in others.filter(|other| *other != chosen) {
            let factor = overload(other);
            if factor <= 1.0 {
                return other;
            }
            if factor < least.0 {
                least = (factor, other);
            }
        }
        least.1
    }
}

/// The numbers below a bound in an order that a seed decides, each made when it is asked for.
struct Shuffle {
    random: Mersenne,
    next: u32,
    count: u32,
    /// Numbers that are not at their own place any more.
    moved: HashMap<u32, u32>,
}

impl Shuffle {
    fn new(seed: u32, count: u32) -> Self {
        Self { random: Mersenne::new(seed), next: 0, count, moved: HashMap::new() }
    }
}

impl Iterator for Shuffle {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        let left = self.count.checked_sub(self.next).filter(|left| *left > 0)?;
        let part = u32::try_from((1_u64 << 32) / u64::from(left)).unwrap_or(u32::MAX);
        let jump = loop {
            let jump = match left {
                1 => {
                    self.random.next();
                    0
                }
                _ => self.random.next() / part,
            };
            if jump < left {
                break jump;
            }
        };
        let (here, there) = (self.next, self.next + jump);
        let at = |place: u32| self.moved.get(&place).copied().unwrap_or(place);
        let (first, second) = (at(here), at(there));
        self.moved.insert(there, first);
        self.next += 1;
        Some(second)
    }
}

/// The 32-bit Mersenne Twister (`std::mt19937`).
struct Mersenne {
    state: Box<[u32; Self::SIZE]>,
    at: usize,
}

impl Mersenne {
    const SIZE: usize = 624;
    const OFFSET: usize = 397;

    fn new(seed: u32) -> Self {
        let mut state = Box::new([seed; Self::SIZE]);
        for i in 1..Self::SIZE {
            let before = state[i - 1];
            state[i] = (before ^ (before >> 30)).wrapping_mul(1_812_433_253).wrapping_add(i as u32);
        }
        Self { state, at: Self::SIZE }
    }

    fn next(&mut self) -> u32 {
        if self.at == Self::SIZE {
            self.twist();
        }
        let mut value = self.state[self.at];
        self.at += 1;
        value ^= value >> 11;
        value ^= (value << 7) & 0x9d2c_5680;
        value ^= (value << 15) & 0xefc6_0000;
        value ^ (value >> 18)
    }

    fn twist(&mut self) {
        for i in 0..Self::SIZE {
            let next = self.state[(i + 1) % Self::SIZE];
            let both = (self.state[i] & 0x8000_0000) | (next & 0x7fff_ffff);
            let odd = if both & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[i] = self.state[(i + Self::OFFSET) % Self::SIZE] ^ (both >> 1) ^ odd;
        }
        self.at = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The 10,000th number of the default seed is in the C++ standard ([rand.predef]).
    #[test]
    fn the_twister_is_the_standard_one() {
        let mut random = Mersenne::new(5489);
        let last = (0..10_000).map(|_| random.next()).last();
        assert_eq!(last, Some(4_123_659_995));
    }

    #[test]
    fn a_shuffle_has_each_number_once() {
        let mut all: Vec<_> = Shuffle::new(7, 100).collect();
        assert_ne!(all[..10], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        all.sort_unstable();
        assert_eq!(all, (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn busy_hosts_are_passed_over() {
        let bounded = BoundedLoad::new(150, vec![0.25; 4]);
        let choose = |active: [u32; 4]| bounded.choose(0, 42, active.iter().sum(), |host| active[host as usize]);
        assert_eq!(choose([1, 0, 0, 0]), 0, "one request is always allowed");
        assert_eq!(choose([4, 4, 4, 4]), 0);
        let other = choose([9, 0, 0, 0]);
        assert_ne!(other, 0);
        assert_eq!(choose([9, 0, 0, 0]), other, "the same hash goes to the same host");
        let even = BoundedLoad::new(100, vec![0.25; 4]);
        assert_eq!(even.choose(0, 42, 28, |host| [9, 9, 9, 1][host as usize]), 3);
        let narrow = BoundedLoad::new(100, vec![0.5, 0.5]);
        assert_eq!(
            narrow.choose(0, 1, 3, |host| if host == 0 { 9 } else { 8 }),
            1,
            "where all are too busy, the least"
        );
    }
}
