//! The order in which round robin visits hosts, made once for a host set.
//!
//! The order is that of smooth weighted round robin: with weights 5, 1 and 1 it is `a a b a c a a`. All workers walk
//! along it with one cursor, so requests alternate however many workers there are.

/// An order has at most so many places, unless there are more hosts: larger weights are scaled down.
const MOST_PLACES: u64 = 4096;
/// Smooth weighting looks at every host for every place; beyond so many looks the places are spread evenly instead.
const MOST_LOOKS: u64 = 4 << 20;

/// The order for hosts with these weights: positions in `weights`.
pub(super) fn order(weights: &[u64]) -> Vec<u32> {
    let shares = shares(weights);
    let places: u64 = shares.iter().sum();
    if places == shares.len() as u64 {
        return (0..shares.len() as u32).collect();
    }
    if places.saturating_mul(shares.len() as u64) <= MOST_LOOKS { smooth(&shares, places) } else { even(&shares) }
}

/// The weights with their common divisor taken out, scaled down when there would be too many places.
fn shares(weights: &[u64]) -> Vec<u64> {
    let divisor = weights.iter().fold(0, |divisor, weight| gcd(divisor, (*weight).max(1)));
    let shares: Vec<u64> = weights.iter().map(|weight| (*weight).max(1) / divisor.max(1)).collect();
    let places: u64 = shares.iter().sum();
    let most = MOST_PLACES.max(shares.len() as u64);
    if places <= most {
        return shares;
    }
    // Rounded, so that the error of a share is half a place; nobody is left out.
    let scale = |share: u64| (u128::from(share) * u128::from(most) + u128::from(places) / 2) / u128::from(places);
    shares.into_iter().map(|share| u64::try_from(scale(share)).unwrap_or(most).max(1)).collect()
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Each place goes to the host that is furthest behind its share.
fn smooth(shares: &[u64], places: u64) -> Vec<u32> {
    let (mut credit, places) = (vec![0_i64; shares.len()], places.cast_signed());
    let mut order = Vec::with_capacity(usize::try_from(places).unwrap_or(0));
    for _ in 0..places {
        let mut best = 0;
        for i in 0..credit.len() {
            credit[i] += shares[i].cast_signed();
            if credit[i] > credit[best] {
                best = i;
            }
        }
        credit[best] -= places;
        order.push(best as u32);
    }
    order
}

/// The places of each host are spread evenly over the whole.
fn even(shares: &[u64]) -> Vec<u32> {
    let mut places = Vec::new();
    for (host, share) in shares.iter().enumerate() {
        places.extend((0..*share).map(|n| ((2 * n + 1) as f64 / (2 * share) as f64, host as u32)));
    }
    places.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    places.into_iter().map(|(_, host)| host).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smooth_sequences() {
        assert_eq!(order(&[1, 1, 1]), [0, 1, 2]);
        assert_eq!(order(&[7, 7]), [0, 1]);
        assert_eq!(order(&[5, 1, 1]), [0, 0, 1, 0, 2, 0, 0]);
        assert_eq!(order(&[4, 2]), [0, 1, 0]);
        assert_eq!(order(&[3, 2, 1]), [0, 1, 0, 2, 1, 0]);
        assert_eq!(order(&[9]), [0]);
        assert!(order(&[]).is_empty());
    }

    #[test]
    fn large_weights_are_bounded_and_keep_their_shares() {
        let order = order(&[u32::MAX.into(), 1, (u32::MAX / 3).into()]);
        assert!(order.len() <= MOST_PLACES as usize + 3, "{}", order.len());
        let count = |host| order.iter().filter(|other| **other == host).count();
        assert_eq!((count(0), count(1), count(2)), (3072, 1, 1024));
    }

    #[test]
    fn many_hosts_of_different_weight() {
        let weights: Vec<u64> = (0..20_000).map(|n| 1 + n % 3).collect();
        let order = order(&weights);
        assert!(order.len() <= 40_000);
        let mut seen = vec![0; weights.len()];
        order.iter().for_each(|host| seen[*host as usize] += 1);
        assert!(seen.iter().all(|n| *n > 0));
    }
}
