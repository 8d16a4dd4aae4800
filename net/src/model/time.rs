//! Points in time as file systems keep them: to the nanosecond, over more years than 64 bits of
//! nanoseconds can hold.

use std::fmt;
use std::time::SystemTime;

/// A point in time to the nanosecond, as file systems keep it: seconds since 1970-01-01 00:00 UTC
/// in 64 bits. (64 bits of nanoseconds would end in 2262.) Laid out to fit beside small fields: a
/// mount keeps millions of them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct UnixTime {
    // In this order, so that the derived order is chronological.
    upper: i32,
    lower: u32,
    /// Less than [`UnixTime::SECOND`].
    nanoseconds: u32,
}

impl UnixTime {
    /// 1970-01-01 00:00 UTC.
    pub const EPOCH: Self = Self {
        upper: 0,
        lower: 0,
        nanoseconds: 0,
    };

    /// Nanoseconds in a second.
    const SECOND: u32 = 1_000_000_000;

    /// Creates a time from whole seconds since 1970, and nanoseconds after that; `None` if those
    /// make a second or more.
    pub fn new(seconds: i64, nanoseconds: u32) -> Option<Self> {
        (nanoseconds < Self::SECOND).then_some(Self {
            upper: (seconds >> 32) as i32,
            lower: seconds as u32,
            nanoseconds,
        })
    }

    /// Returns the time of this machine's clock.
    pub fn now() -> Self {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.unwrap_or_default();
        Self::new(now.as_secs().cast_signed(), now.subsec_nanos()).unwrap_or_default()
    }

    /// Returns the whole seconds since 1970, rounded down.
    pub fn seconds(self) -> i64 {
        i64::from(self.upper) << 32 | i64::from(self.lower)
    }

    /// Returns the nanoseconds after the whole seconds.
    pub fn nanoseconds(self) -> u32 {
        self.nanoseconds
    }

    /// Returns the time in nanoseconds since 1970.
    pub fn in_nanoseconds(self) -> i128 {
        i128::from(self.seconds()) * i128::from(Self::SECOND) + i128::from(self.nanoseconds)
    }

    /// Returns the same in 64 bits, which reach from 1677 to 2262, clamped to the nearest value.
    pub fn in_64_bits(self) -> i64 {
        let limit = if self.upper < 0 { i64::MIN } else { i64::MAX };
        i64::try_from(self.in_nanoseconds()).unwrap_or(limit)
    }
}

impl From<i64> for UnixTime {
    /// Converts from nanoseconds since 1970.
    fn from(nanoseconds: i64) -> Self {
        let second = i64::from(Self::SECOND);
        let (seconds, rest) = (
            nanoseconds.div_euclid(second),
            nanoseconds.rem_euclid(second),
        );
        Self::new(seconds, rest as u32).unwrap_or_default()
    }
}

impl fmt::Debug for UnixTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:09}", self.seconds(), self.nanoseconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_ordered_and_round_trip() {
        let nanoseconds = [
            i64::MIN,
            -1_000_000_001,
            -1,
            0,
            1,
            4_294_967_296_000_000_000,
            i64::MAX,
        ];
        let times = nanoseconds.map(UnixTime::from);
        assert!(times.is_sorted());
        assert_eq!(times.map(UnixTime::in_64_bits), nanoseconds);
        let far = [i64::MIN, i64::MAX].map(|seconds| UnixTime::new(seconds, 7).unwrap());
        assert!(far[0] < times[0] && far[1] > times[6]);
        assert_eq!(far.map(UnixTime::in_64_bits), [i64::MIN, i64::MAX]);
        assert_eq!(far.map(UnixTime::seconds), [i64::MIN, i64::MAX]);
        assert_eq!(UnixTime::new(0, 1_000_000_000), None);
        assert_eq!((size_of::<UnixTime>(), align_of::<UnixTime>()), (12, 4));
    }
}
