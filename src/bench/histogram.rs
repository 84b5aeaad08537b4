//! A log-linear histogram: any u64, within 3 %, in a fixed 15 KiB.

/// Counts of values in buckets whose width grows with the value: 32 buckets to each power of two.
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
    max: u64,
}

impl Histogram {
    pub fn new() -> Self {
        Self { counts: vec![0; BUCKETS], total: 0, max: 0 }
    }

    pub fn record(&mut self, value: u64) {
        if let Some(count) = self.counts.get_mut(bucket(value)) {
            *count += 1;
        }
        self.total += 1;
        self.max = self.max.max(value);
    }

    pub fn is_empty(&self) -> bool {
        self.total == 0
    }

    pub fn count(&self) -> u64 {
        self.total
    }

    pub fn max(&self) -> u64 {
        self.max
    }

    /// The value that `fraction` of all values do not exceed: the middle of its bucket, never above [`Self::max`]. Zero when empty.
    pub fn quantile(&self, fraction: f64) -> u64 {
        let rank = ((self.total as f64 * fraction).ceil() as u64).max(1);
        let mut seen = 0;
        for (index, &count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return middle(index).min(self.max);
            }
        }
        self.max
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Self::new()
    }
}

/// Values below 32 have a bucket each. Above, the five bits after the leading one choose the bucket within its octave.
fn bucket(value: u64) -> usize {
    let octave = (u64::BITS - value.leading_zeros()).saturating_sub(SUB_BITS + 1);
    (octave as usize) * SUB + (value >> octave) as usize
}

fn middle(index: usize) -> u64 {
    if index < 2 * SUB {
        return index as u64;
    }
    let octave = index / SUB - 1;
    let low = ((index - octave * SUB) as u64) << octave;
    low + (1 << octave) / 2
}

const SUB_BITS: u32 = 5;
const SUB: usize = 1 << SUB_BITS;
const BUCKETS: usize = (64 - SUB_BITS as usize + 1) * SUB;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_values_are_exact() {
        let mut histogram = Histogram::new();
        (0..64).for_each(|value| histogram.record(value));
        assert_eq!(histogram.quantile(0.5), 31);
        assert_eq!(histogram.quantile(1.0), 63);
    }

    #[test]
    fn every_value_has_a_bucket_and_is_found_again_within_three_percent() {
        for shift in 0..64 {
            for value in [1u64 << shift, (1 << shift) + (1 << shift) / 3, u64::MAX >> shift] {
                assert!(bucket(value) < BUCKETS, "{value}");
                let found = middle(bucket(value));
                assert!(found.abs_diff(value) <= value / 32, "{value} came back as {found}");
            }
        }
    }

    #[test]
    fn quantiles_of_a_uniform_load_are_where_they_should_be() {
        let mut histogram = Histogram::new();
        (1..=10_000).for_each(|value| histogram.record(value * 1000));
        for (fraction, exact) in [(0.5, 5_000_000f64), (0.99, 9_900_000.0), (0.999, 9_990_000.0)] {
            let found = histogram.quantile(fraction) as f64;
            assert!((found - exact).abs() < exact * 0.035, "p{fraction}: {found}");
        }
        assert_eq!(histogram.max(), 10_000_000);
    }

    #[test]
    fn an_empty_histogram_says_zero() {
        assert_eq!(Histogram::new().quantile(0.99), 0);
    }
}
