//! Sizes and durations as people write them.
//!
//! Takes text such as `64G`, `512MiB`, `6h`, `2h30m`; gives bytes and seconds; trusts nothing; refuses what is not
//! exactly a number with a known unit, and what overflows.

use std::time::Duration;

/// What a size may look like, for error messages.
pub const SIZE_FORMS: &str = "a size such as 512m, 8g, 64G or 512MiB (units of 1024)";
/// What a duration may look like, for error messages.
pub const DURATION_FORMS: &str = "a duration such as 90s, 90m, 6h, 2h30m or 1d";

/// Bytes from `64G`, `8g`, `512MiB`, `512MB`, `100b` or `4096`; a unit is a power of 1024, as podman reads it.
pub fn size(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(digits)?;
    let unit = unit.trim().to_ascii_lowercase();
    let power = match unit.as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return None,
    };
    scaled(number, power)
}

/// `number × 2^power` without leaving the integers: `1.5g` is exact, `1.2345g` is rounded down.
fn scaled(number: &str, power: u32) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if whole.is_empty() || fraction.is_empty() || fraction.len() > 9 {
        return None;
    }
    let scale = 1_u128 << power;
    let whole: u128 = whole.parse::<u64>().ok()?.into();
    let parts: u128 = fraction.parse::<u64>().ok()?.into();
    let tenth = 10_u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    u64::try_from(whole * scale + parts * scale / tenth).ok()
}

/// A size for people: `64 GiB`, `1.5 GiB`, `100 bytes`.
pub fn show_size(bytes: u64) -> String {
    const UNITS: [(&str, u32); 4] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    for (unit, power) in UNITS {
        let one = 1_u64 << power;
        if bytes >= one {
            let tenths = (u128::from(bytes) * 10) >> power;
            let (whole, tenth) = (tenths / 10, tenths % 10);
            return if tenth == 0 { format!("{whole} {unit}") } else { format!("{whole}.{tenth} {unit}") };
        }
    }
    format!("{bytes} bytes")
}

/// A duration from `6h`, `90m`, `2h30m`, `45s`, `1d`, or seconds alone (`3600`).
pub fn duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    if let Ok(seconds) = rest.parse::<u64>() {
        return plain_digits(rest).then(|| Duration::from_secs(seconds));
    }
    let mut total: u64 = 0;
    // Units must come from large to small, each once: `30m2h` is more likely a slip than a wish.
    let mut last = u64::MAX;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).filter(|at| *at > 0)?;
        let (number, tail) = rest.split_at_checked(digits)?;
        let unit = tail.chars().next()?;
        let seconds = match unit {
            'd' => 86_400,
            'h' => 3_600,
            'm' => 60,
            's' => 1,
            _ => return None,
        };
        if seconds >= last {
            return None;
        }
        last = seconds;
        total = total.checked_add(number.parse::<u64>().ok()?.checked_mul(seconds)?)?;
        rest = tail.get(unit.len_utf8()..)?;
    }
    (last != u64::MAX).then(|| Duration::from_secs(total))
}

/// What [`period`] reads, for error messages.
pub const PERIOD_FORMS: &str = "a period such as 30d, 26w or 2y";

/// How long something is kept: days, weeks, or years of 365 days (`30d`, `26w`, `2y`).
pub fn period(text: &str) -> Option<Duration> {
    let text = text.trim();
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let days = match unit {
        "d" => 1,
        "w" => 7,
        "y" => 365,
        _ => return None,
    };
    let number = plain_digits(number).then(|| number.parse::<u64>().ok())??;
    Some(Duration::from_secs(number.checked_mul(days)?.checked_mul(86_400)?)).filter(|period| !period.is_zero())
}

/// Seconds to a tenth: `12.3 s`. With whole numbers alone: a list may have a hundred thousand of them.
pub fn show_seconds(seconds: f64) -> String {
    let ms = Duration::try_from_secs_f64(seconds).ok().and_then(|time| u64::try_from(time.as_millis()).ok());
    let Some(ms) = ms else { return format!("{seconds:.1} s") };
    let tenths = ms.saturating_add(50) / 100;
    format!("{}.{} s", tenths / 10, tenths % 10)
}

/// A duration for people: `2h30m`, `90s` as `1m30s`.
pub fn show_duration(duration: Duration) -> String {
    let mut seconds = duration.as_secs();
    if seconds == 0 {
        return "0s".to_owned();
    }
    let mut out = String::new();
    for (unit, size) in [('d', 86_400), ('h', 3_600), ('m', 60), ('s', 1)] {
        if seconds >= size {
            out.push_str(&format!("{}{unit}", seconds / size));
            seconds %= size;
        }
    }
    out
}

/// Whether `text` is decimal digits alone: Rust's own parsers also take a leading `+`.
pub fn plain_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

/// A number of CPUs: `2`, `2.5`; more than zero and finite.
pub fn cpus(text: &str) -> Option<f64> {
    let plain = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    text.parse::<f64>().ok().filter(|n| plain && n.is_finite() && *n > 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_told_to_a_tenth() {
        let told = [0.0, 0.04, 0.05, 0.26, 12.34, 99.96, 1e9, -1.0, f64::NAN, 1e300].map(show_seconds);
        assert_eq!(&told[..7], ["0.0 s", "0.0 s", "0.1 s", "0.3 s", "12.3 s", "100.0 s", "1000000000.0 s"]);
        assert_eq!(told[7], "-1.0 s");
        assert!(told[8] == "NaN s" && told[9].len() > 300);
    }

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in [
            ("64G", 64 << 30),
            ("8g", 8 << 30),
            ("512MiB", 512 << 20),
            ("1.5g", 3 << 29),
            ("4096", 4096),
            ("100b", 100),
            ("2 TiB", 2 << 40),
        ] {
            assert_eq!(size(text), Some(bytes), "{text}");
        }
        for text in ["", "G", "-1g", "+1g", "1x", "1.g", ".5g", "1e9", "0x10", "99999999999999T", "1..5g"] {
            assert_eq!(size(text), None, "{text}");
        }
    }

    #[test]
    fn durations_are_read_as_people_write_them() {
        for (text, seconds) in [("6h", 21_600), ("90m", 5_400), ("2h30m", 9_000), ("45s", 45), ("1d", 86_400), ("7", 7)]
        {
            assert_eq!(duration(text), Some(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "h", "30m2h", "1h1h", "-1h", "+5", "1.5h", "1w", "99999999999999999d"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn periods_are_whole_days_weeks_or_years() {
        for (text, days) in [("30d", 30), ("2w", 14), ("2y", 730)] {
            assert_eq!(period(text), Some(Duration::from_secs(days * 86_400)), "{text}");
        }
        for text in ["", "d", "0d", "-1y", "1.5y", "2 y", "y2", "6h", "2ä", "99999999999999999y"] {
            assert_eq!(period(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_shown_can_be_read_back() {
        assert_eq!(show_size(64 << 30), "64 GiB");
        assert_eq!(show_size(3 << 29), "1.5 GiB");
        assert_eq!(show_size(12), "12 bytes");
        for seconds in [0, 1, 60, 5_400, 9_000, 100_000] {
            let shown = show_duration(Duration::from_secs(seconds));
            assert_eq!(duration(&shown), Some(Duration::from_secs(seconds)), "{shown}");
        }
    }

    #[test]
    fn a_number_of_cpus_is_positive_and_plain() {
        assert_eq!(cpus("2.5"), Some(2.5));
        for text in ["0", "-1", "inf", "nan", "1e3", "+2", ""] {
            assert_eq!(cpus(text), None, "{text}");
        }
    }
}
