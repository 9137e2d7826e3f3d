//! Durations and sizes as people write them: one number, one unit.
//! Rules: durations `ms s m h d`, sizes `KiB MiB GiB`; a blank between number and unit is allowed; no fractions, no sums.
//! Errors: `None`, and the caller says what was expected.

use std::time::Duration;

/// `"30s"`, `"7d"`.
#[must_use]
pub fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = split(text)?;
    match unit {
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "m" => number.checked_mul(60).map(Duration::from_secs),
        "h" => number.checked_mul(3_600).map(Duration::from_secs),
        "d" => number.checked_mul(86_400).map(Duration::from_secs),
        _ => None,
    }
}

/// `"64 MiB"`, in bytes.
#[must_use]
pub fn size(text: &str) -> Option<u64> {
    let (number, unit) = split(text)?;
    let unit = match unit {
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.checked_mul(unit)
}

fn split(text: &str) -> Option<(u64, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    Some((number.parse().ok()?, unit.strip_prefix(' ').unwrap_or(unit)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_number_one_unit() {
        assert_eq!(duration("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(duration("30s"), Some(Duration::from_secs(30)));
        assert_eq!(duration("2 m"), Some(Duration::from_secs(120)));
        assert_eq!(duration("1h"), Some(Duration::from_secs(3_600)));
        assert_eq!(duration("7d"), Some(Duration::from_secs(604_800)));
        assert_eq!(size("1 GiB"), Some(1 << 30));
        assert_eq!(size("64MiB"), Some(64 << 20));
        assert_eq!(size("4 KiB"), Some(4096));
        for bad in ["", "s", "30", "-1s", "+1s", "1.5h", "1h30m", "30 sec", "30  s", " 30s", "30s ", "99999999999999999999s", "18446744073709551615d"]
        {
            assert_eq!(duration(bad), None, "{bad}");
        }
        for bad in ["1 GB", "1G", "1", "1 gib", "1 TiB", "18446744073709551615 GiB"] {
            assert_eq!(size(bad), None, "{bad}");
        }
    }
}
