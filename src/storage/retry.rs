//! How often what failed is tried again, after which pauses, and for how long at most: the only place that says so.
//!
//! object_store repeats its own requests by [`config`]; what it does not see ends (downloads that break, requests that only S3 has) is
//! repeated by [`Retries`] in the same way. Pauses are drawn at random, so that many clients of a store that was down do not come back to it
//! all at once. What is answered with "no" (a wrong key, a bucket that is not there) is never repeated.

use std::time::{Duration, Instant};

use object_store::{BackoffConfig, RetryConfig};

/// After the first try.
const RETRIES: u32 = 6;

/// The first pause; each later one is drawn between this and twice the one before, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// No try begins later than that after the first: three tries that get no answer at all.
const IN_ALL: Duration = Duration::from_secs(180);

/// The same for object_store.
pub(super) fn config() -> RetryConfig {
    let backoff = BackoffConfig { init_backoff: FIRST_PAUSE, max_backoff: LONGEST_PAUSE, base: 2.0 };
    RetryConfig { backoff, max_retries: RETRIES as usize, retry_timeout: IN_ALL }
}

/// The tries that one piece of work has left.
#[derive(Debug)]
pub(super) struct Retries {
    left: u32,
    pause: Duration,
    until: Instant,
}

impl Retries {
    /// To be made right before the first try.
    pub(super) fn new() -> Self {
        Self { left: RETRIES, pause: FIRST_PAUSE, until: Instant::now() + IN_ALL }
    }

    /// Tries within `time`, however many.
    pub(super) fn lasting(time: Duration) -> Self {
        Self { left: u32::MAX, pause: FIRST_PAUSE, until: Instant::now() + time }
    }

    /// How long to wait before the next try; `None`: it is to be given up.
    pub(super) fn next(&mut self) -> Option<Duration> {
        if self.left == 0 || Instant::now() >= self.until {
            return None;
        }
        self.left -= 1;
        let next = rand::random_range(FIRST_PAUSE..self.pause * 2).min(LONGEST_PAUSE);
        Some(std::mem::replace(&mut self.pause, next))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_end_and_pauses_grow_within_their_bounds() {
        for _ in 0..100 {
            let mut retries = Retries::new();
            let pauses: Vec<Duration> = std::iter::from_fn(|| retries.next()).collect();
            assert_eq!(pauses.len(), RETRIES as usize);
            assert_eq!(pauses[0], FIRST_PAUSE);
            for pair in pauses.windows(2) {
                assert!(pair[1] >= FIRST_PAUSE && pair[1] < pair[0] * 2 && pair[1] <= LONGEST_PAUSE, "{pauses:?}");
            }
        }
    }

    #[test]
    fn clients_that_fail_at_one_moment_do_not_come_back_at_one_moment() {
        let second = || {
            let mut retries = Retries::new();
            (retries.next(), retries.next())
        };
        let first = second();
        assert!((0..50).any(|_| second() != first));
    }

    #[test]
    fn what_lasts_is_tried_until_its_time_is_over() {
        let mut retries = Retries::lasting(Duration::from_secs(60));
        assert!((0..100).all(|_| retries.next().is_some()));
        assert_eq!(Retries::lasting(Duration::ZERO).next(), None);
    }

    #[test]
    fn nothing_is_tried_again_after_the_whole_time() {
        let mut retries = Retries { until: Instant::now(), ..Retries::new() };
        assert_eq!(retries.next(), None);
    }
}
