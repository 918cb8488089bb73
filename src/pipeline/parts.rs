//! How large the parts of an upload are.

use super::budget::Engine;
use super::pack::PackOptions;

impl Engine {
    /// Bytes of a part of such a stream, as long as its estimate holds.
    pub fn part_size(&self, options: &PackOptions) -> usize {
        let largest = self.budget.largest_part();
        match options.part_size.and_then(|size| usize::try_from(size).ok()) {
            Some(size) => size.min(largest),
            None => base_part(options.estimate, options.max_parts, largest),
        }
    }
}

/// How large parts are: `base` bytes, growing when a stream turns out larger than was thought, so that it fits into `max_parts`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PartSizes {
    pub(super) base: usize,
    pub(super) largest: usize,
    pub(super) max_parts: Option<u32>,
}

impl PartSizes {
    /// Half of the parts at the base size, the next quarter at twice that, and so on; all equal as long as the estimate holds.
    pub(super) fn of(self, index: u32) -> usize {
        let Some(max) = self.max_parts else { return self.base };
        let (mut size, mut remaining, mut start) = (self.base, max / 2, 0);
        while index >= start + remaining && remaining > 1 {
            start += remaining;
            remaining /= 2;
            size = (size * 2).min(self.largest);
        }
        size
    }
}

/// Smallest and, without an estimate, usual part in bytes. S3 takes none below 5 MiB but the last.
const MIN_PART: usize = 8 << 20;

/// The part size for a stream of about `estimate` stored bytes, such that it takes at most three quarters of half of `max_parts`.
pub(super) fn base_part(estimate: Option<u64>, max_parts: Option<u32>, largest: usize) -> usize {
    let fitting = match (estimate, max_parts) {
        (Some(estimate), Some(max)) => usize::try_from(estimate / u64::from((max / 8 * 3).max(1))).unwrap_or(usize::MAX),
        _ => 0,
    };
    fitting.next_multiple_of(1 << 20).clamp(MIN_PART.min(largest), largest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_parts_hold_five_times_the_estimate_and_growth_holds_more() {
        for gib in [1u64, 100, 400] {
            let base = base_part(Some(gib << 30), Some(10_000), 64 << 20);
            let sizes = PartSizes { base, largest: 64 << 20, max_parts: Some(10_000) };
            let equal = (0..5_000).map(|i| sizes.of(i) as u64).sum::<u64>();
            assert!(base == 64 << 20 || equal >= gib << 30, "{gib} GiB: {base}");
            assert!((0..5_000).all(|i| sizes.of(i) == base));
            assert!((5_000..10_000).all(|i| sizes.of(i) >= base));
        }
        assert_eq!(base_part(None, Some(10_000), 64 << 20), MIN_PART);
        assert_eq!(base_part(Some(1 << 50), None, 64 << 20), MIN_PART);
    }
}
