//! How many bytes a second go to and come from a target: a token bucket, shared by everything that the process sends there and reads there.
//!
//! Only artifacts count. Leases and manifests are small, and a lease that had to wait behind a large part would be lost.

use std::fmt;
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// What an idle bucket gathers. Without it, each wait that ends late (timers count milliseconds) would be lost for good.
const BURST: Duration = Duration::from_millis(100);

/// The limit of one target. Clones share it.
#[derive(Clone)]
pub struct Limiter {
    bytes_per_second: NonZeroU64,
    /// When everything that was granted so far has been paid for.
    paid: Arc<Mutex<Option<Instant>>>,
}

impl Limiter {
    pub fn new(bytes_per_second: NonZeroU64) -> Self {
        Self { bytes_per_second, paid: Arc::default() }
    }

    pub fn bytes_per_second(&self) -> u64 {
        self.bytes_per_second.get()
    }

    /// Waits until `bytes` may go: within any time, no more than the rate times that time and a tenth of a second. First come, first
    /// served.
    pub async fn take(&self, bytes: u64) {
        let mut wait = {
            let mut paid = held(&self.paid);
            let before = *paid;
            let until = granted(before, Instant::now(), bytes, self.bytes_per_second);
            *paid = Some(until);
            Wait { paid: &self.paid, before, until, over: false }
        };
        tokio::time::sleep_until(wait.until).await;
        wait.over = true;
    }
}

/// One that is given up gives back what it would have taken, unless others have lined up behind it.
struct Wait<'a> {
    paid: &'a Mutex<Option<Instant>>,
    before: Option<Instant>,
    until: Instant,
    over: bool,
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        let mut paid = held(self.paid);
        if !self.over && *paid == Some(self.until) {
            *paid = self.before;
        }
    }
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Two limits are the same setting, whether or not they are the same bucket.
impl PartialEq for Limiter {
    fn eq(&self, other: &Self) -> bool {
        self.bytes_per_second == other.bytes_per_second
    }
}

impl Eq for Limiter {}

impl fmt::Debug for Limiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Limiter({} B/s)", self.bytes_per_second)
    }
}

/// When `bytes` that are asked for `now` may go, after all that is `paid` for by then.
fn granted(paid: Option<Instant>, now: Instant, bytes: u64, rate: NonZeroU64) -> Instant {
    let start = match paid {
        None => now,
        Some(paid) => paid.max(now.checked_sub(BURST).unwrap_or(now)),
    };
    let nanoseconds = (u128::from(bytes) * 1_000_000_000).div_ceil(u128::from(rate.get()));
    start + Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn rate(mib: u64) -> NonZeroU64 {
        NonZeroU64::new(mib * MIB).expect("not zero")
    }

    /// Seconds after which the last of `count` requests for `bytes` is granted, each made `late` after the one before was.
    fn seconds(count: u64, bytes: u64, rate: NonZeroU64, late: Duration) -> f64 {
        let begun = Instant::now();
        let (mut paid, mut now) = (None, begun);
        for _ in 0..count {
            let until = granted(paid, now, bytes, rate);
            paid = Some(until);
            now = until.max(now) + late;
        }
        paid.map_or(0.0, |paid| (paid - begun).as_secs_f64())
    }

    #[test]
    fn bytes_take_their_time() {
        for seconds in [seconds(10, 8 * MIB, rate(20), Duration::ZERO), seconds(64 << 10, MIB / 64, rate(256), Duration::ZERO)] {
            assert!((4.0..4.001).contains(&seconds), "{seconds}");
        }
        assert_eq!(seconds(1, 0, rate(1), Duration::ZERO), 0.0);
    }

    #[test]
    fn small_waits_that_end_late_lose_nothing() {
        // 1,280 times 0.8 ms, each of which ends 1 ms late
        let seconds = seconds(20 * 64, MIB / 64, rate(20), Duration::from_millis(1));
        assert!((1.0..1.4).contains(&seconds), "{seconds}");
    }

    #[test]
    fn an_hour_of_rest_is_no_hour_of_credit() {
        let paid = Instant::now();
        let now = paid + Duration::from_secs(3600);
        assert_eq!(granted(Some(paid), now, 10 * MIB, rate(1)) - now, Duration::from_millis(9_900));
    }

    #[test]
    fn no_rate_and_no_size_overflows() {
        let now = Instant::now();
        assert!(granted(None, now, u64::MAX, NonZeroU64::MIN) > now);
        assert!(granted(None, now, 1, NonZeroU64::MAX) - now <= Duration::from_nanos(1));
    }

    #[tokio::test]
    async fn a_wait_that_is_given_up_costs_those_after_it_nothing() {
        let limiter = Limiter::new(rate(1));
        let given_up = tokio::time::timeout(Duration::from_millis(1), limiter.take(3600 * MIB)).await;
        assert!(given_up.is_err());
        tokio::time::timeout(Duration::from_secs(60), limiter.take(1)).await.expect("not an hour");
    }

    #[tokio::test]
    async fn whoever_shares_a_target_shares_its_limit() {
        let (limiter, begun) = (Limiter::new(rate(4)), Instant::now());
        let work = (0..4).map(|_| {
            let limiter = limiter.clone();
            async move {
                for _ in 0..8 {
                    limiter.take(MIB / 32).await;
                }
            }
        });
        futures_util::future::join_all(work).await;
        // 1 MiB in all; a slow machine only makes it longer
        assert!(begun.elapsed() >= Duration::from_millis(250), "{:?}", begun.elapsed());
    }
}
