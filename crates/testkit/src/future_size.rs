//! Bounds on the size of futures.

use std::ops::RangeInclusive;

/// Checks that `future` takes a number of bytes within `bounds`.
///
/// The lower bound is there so that a gain is written down and kept: when a future shrinks, the test says so once.
#[track_caller]
pub fn assert_future_size<F: Future + ?Sized>(name: &str, future: &F, bounds: RangeInclusive<usize>) {
    let size = size_of_val(future);
    assert!(
        bounds.contains(&size),
        "{name} takes {size} bytes, expected {} to {}; adapt the bounds if that was meant",
        bounds.start(),
        bounds.end()
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn holds(n: [u8; 1000]) -> usize {
        std::future::ready(()).await;
        n.iter().map(|&b| b as usize).sum()
    }

    #[test]
    fn a_future_within_its_bounds_passes() {
        assert_future_size("holds", &holds([0; 1000]), 1000..=3000);
    }

    #[test]
    #[should_panic(expected = "adapt the bounds")]
    fn a_future_that_grew_fails() {
        assert_future_size("holds", &holds([0; 1000]), 0..=999);
    }
}
