//! Skipping a test that can't run here, so that it is seen and counted.

use std::fs::OpenOptions;
use std::io::Write;

/// Ends the current test (a function that returns nothing) as skipped, with a reason in the words of `format!`.
///
/// The test harness has no notion of skipping and reports the test as passed; the test runner reads the record that this
/// leaves and counts it right.
#[macro_export]
macro_rules! skip {
    ($($reason:tt)*) => {{
        $crate::skip::record(&format!($($reason)*));
        return;
    }};
}

/// Notes that the test on this thread was skipped: on stderr, and in the file that `SOTA_TEST_SKIPS` names, one line each.
pub fn record(reason: &str) {
    let thread = std::thread::current();
    let line = format!("{}: {reason}\n", thread.name().unwrap_or("a test")).replace("\r", " ");
    eprint!("SKIPPED: {line}");
    let Some(path) = std::env::var_os("SOTA_TEST_SKIPS") else { return };
    // One write of one line: tests of several processes append at the same time.
    let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
    file.write_all(line.as_bytes()).unwrap();
}
