//! The forms of protobuf's own messages: durations, times, map keys, base64.

use crate::table::Kind;
use base64::{
    Engine,
    alphabet::{STANDARD, URL_SAFE},
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};

/// The longest duration of protobuf, in seconds: about 10,000 years.
const MAX_DURATION_SECONDS: i64 = 315_576_000_000;
const NANOS: i64 = 1_000_000_000;

/// `"1.5s"` as seconds and nanoseconds of one sign.
pub(crate) fn parse_duration(text: &str) -> Option<(i64, i32)> {
    let number = text.strip_suffix('s')?;
    let (negative, number) = number.strip_prefix('-').map_or((false, number), |rest| (true, rest));
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let all_digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || fraction.len() > 9 || !all_digits(whole) || !all_digits(fraction) {
        return None;
    }
    if number.ends_with('.') {
        return None;
    }
    let seconds: i64 = whole.parse().ok().filter(|s| *s <= MAX_DURATION_SECONDS)?;
    let nanos: i32 = format!("{fraction:0<9}").parse().ok()?;
    Some(if negative { (-seconds, -nanos) } else { (seconds, nanos) })
}

/// `"250ms"`, `"5m"`, `"1h"`: whole numbers with a unit, for the native dialect.
pub(crate) fn parse_unit_duration(text: &str) -> Option<(i64, i32)> {
    let digits = text.bytes().position(|b| !b.is_ascii_digit())?;
    let (number, unit) = text.split_at_checked(digits)?;
    let number: i64 = number.parse().ok()?;
    let seconds = match unit {
        "ms" => return Some((number / 1_000, i32::try_from(number % 1_000).ok()? * 1_000_000)),
        "m" => number.checked_mul(60)?,
        "h" => number.checked_mul(3_600)?,
        "d" => number.checked_mul(86_400)?,
        _ => return None,
    };
    (seconds <= MAX_DURATION_SECONDS).then_some((seconds, 0))
}

/// Seconds and nanoseconds as `"1.500s"`, with 0, 3, 6 or 9 digits.
pub(crate) fn format_duration(seconds: i64, nanos: i32) -> String {
    let sign = if seconds < 0 || nanos < 0 { "-" } else { "" };
    format!("{sign}{}{}s", seconds.unsigned_abs(), fraction(nanos.unsigned_abs()))
}

fn fraction(nanos: u32) -> String {
    let digits = format!("{nanos:09}");
    match (nanos, nanos % 1_000_000, nanos % 1_000) {
        (0, ..) => String::new(),
        (_, 0, _) => format!(".{}", digits.get(..3).unwrap_or("")),
        (_, _, 0) => format!(".{}", digits.get(..6).unwrap_or("")),
        _ => format!(".{digits}"),
    }
}

/// Whether seconds and nanoseconds from the wire make a duration: of one sign, and within bounds.
pub(crate) fn is_duration(seconds: i64, nanos: i64) -> bool {
    seconds.abs() <= MAX_DURATION_SECONDS
        && nanos.abs() < NANOS
        && !(seconds > 0 && nanos < 0)
        && !(seconds < 0 && nanos > 0)
}

/// A time of RFC 3339 as seconds since 1970 and nanoseconds.
pub(crate) fn parse_timestamp(text: &str) -> Option<(i64, u32)> {
    let digits = |from: usize, to: usize| -> Option<i64> {
        let part = text.get(from..to)?;
        if part.bytes().all(|b| b.is_ascii_digit()) { part.parse().ok() } else { None }
    };
    let sign_at = |at: usize, sign: u8| text.as_bytes().get(at) == Some(&sign);
    if !(sign_at(4, b'-') && sign_at(7, b'-') && sign_at(10, b'T') && sign_at(13, b':') && sign_at(16, b':')) {
        return None;
    }
    let (year, month, day) = (digits(0, 4)?, digits(5, 7)?, digits(8, 10)?);
    let (hour, minute, second) = (digits(11, 13)?, digits(14, 16)?, digits(17, 19)?);
    let in_range = (1..=9999).contains(&year) && (1..=12).contains(&month) && hour < 24 && minute < 60 && second < 60;
    if !in_range || day < 1 || day > days_in_month(year, month) {
        return None;
    }
    let mut rest = text.get(19..)?;
    let mut nanos = 0;
    if let Some(after) = rest.strip_prefix('.') {
        let end = after.bytes().position(|b| !b.is_ascii_digit())?;
        let part = after.get(..end).filter(|part| (1..=9).contains(&part.len()))?;
        nanos = format!("{part:0<9}").parse().ok()?;
        rest = after.get(end..)?;
    }
    let offset = match rest {
        "Z" => 0,
        _ => {
            let sign = if rest.starts_with('+') {
                1
            } else if rest.starts_with('-') {
                -1
            } else {
                return None;
            };
            let (hours, minutes) = rest.get(1..)?.split_once(':')?;
            if hours.len() != 2 || minutes.len() != 2 || !rest.bytes().skip(1).all(|b| b.is_ascii_digit() || b == b':')
            {
                return None;
            }
            let (hours, minutes): (i64, i64) = (hours.parse().ok()?, minutes.parse().ok()?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            sign * (hours * 3600 + minutes * 60)
        }
    };
    Some((days_from_civil(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - offset, nanos))
}

/// Seconds since 1970 and nanoseconds in RFC 3339, in UTC.
pub(crate) fn format_timestamp(seconds: i64, nanos: u32) -> String {
    let (year, month, day) = civil_from_days(seconds.div_euclid(86_400));
    let second = seconds.rem_euclid(86_400);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}{}Z",
        second / 3600,
        second / 60 % 60,
        second % 60,
        fraction(nanos)
    )
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970 of a date of the Gregorian calendar. Years are counted from March, so that the leap day is last.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// The date that is so many days after 1970-01-01.
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days.saturating_add(719_468);
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

/// Whether a key of a map in a document can be one of this type.
pub(crate) fn is_map_key(kind: Kind, key: &str) -> bool {
    match kind {
        Kind::Bool => matches!(key, "true" | "false"),
        Kind::Int32 | Kind::SInt32 | Kind::SFixed32 => key.parse::<i32>().is_ok(),
        Kind::Int64 | Kind::SInt64 | Kind::SFixed64 => key.parse::<i64>().is_ok(),
        Kind::UInt32 | Kind::Fixed32 => key.parse::<u32>().is_ok(),
        Kind::UInt64 | Kind::Fixed64 => key.parse::<u64>().is_ok(),
        _ => true,
    }
}

const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new()
    .with_decode_padding_mode(DecodePaddingMode::Indifferent)
    .with_decode_allow_trailing_bits(true);

/// Base64 of either alphabet, with or without padding, as proto3's JSON takes it.
pub(crate) fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let url_safe = text.contains(['-', '_']);
    GeneralPurpose::new(if url_safe { &URL_SAFE } else { &STANDARD }, LENIENT).decode(text).ok()
}

/// Base64 of the standard alphabet, with padding.
pub(crate) fn encode_base64(bytes: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::{
        decode_base64, format_duration, format_timestamp, parse_duration, parse_timestamp, parse_unit_duration,
    };

    #[test]
    fn durations() {
        for (text, value, written) in [
            ("0s", (0, 0), "0s"),
            ("0.25s", (0, 250_000_000), "0.250s"),
            ("5.000001s", (5, 1_000), "5.000001s"),
            ("-1.5s", (-1, -500_000_000), "-1.500s"),
            ("-0.5s", (0, -500_000_000), "-0.500s"),
            ("1.000000001s", (1, 1), "1.000000001s"),
            ("315576000000s", (315_576_000_000, 0), "315576000000s"),
        ] {
            assert_eq!(parse_duration(text), Some(value), "{text}");
            assert_eq!(format_duration(value.0, value.1), written);
        }
        for text in
            ["", "s", "1", "1m", "1.s", ".5s", "1e3s", "+1s", "--1s", "1.0000000001s", "315576000001s", " 1s", "1 s"]
        {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    #[test]
    fn durations_with_units() {
        for (text, value) in [
            ("250ms", Some((0, 250_000_000))),
            ("1500ms", Some((1, 500_000_000))),
            ("5m", Some((300, 0))),
            ("1h", Some((3_600, 0))),
            ("2d", Some((172_800, 0))),
            ("99999999999999h", None),
            ("ms", None),
            ("5", None),
            ("-5m", None),
            ("5µs", None),
            ("1.5m", None),
        ] {
            assert_eq!(parse_unit_duration(text), value, "{text}");
        }
    }

    #[test]
    fn times() {
        for (text, value, written) in [
            ("1970-01-01T00:00:00Z", (0, 0), "1970-01-01T00:00:00Z"),
            ("2024-02-29T12:30:01.5Z", (1_709_209_801, 500_000_000), "2024-02-29T12:30:01.500Z"),
            ("1969-12-31T23:59:59Z", (-1, 0), "1969-12-31T23:59:59Z"),
            ("2026-11-24T18:00:00+02:00", (1_795_536_000, 0), "2026-11-24T16:00:00Z"),
            ("0001-01-01T00:00:00Z", (-62_135_596_800, 0), "0001-01-01T00:00:00Z"),
        ] {
            assert_eq!(parse_timestamp(text), Some(value), "{text}");
            assert_eq!(format_timestamp(value.0, value.1), written);
        }
        for text in [
            "",
            "2024-02-30T00:00:00Z",
            "2023-02-29T00:00:00Z",
            "2024-01-01 00:00:00Z",
            "2024-01-01T00:00:00",
            "2024-01-01T24:00:00Z",
            "2024-01-01T00:00:00.Z",
            "2024-01-01T00:00:00+2:00",
        ] {
            assert_eq!(parse_timestamp(text), None, "{text}");
        }
    }

    #[test]
    fn base64_of_either_kind() {
        assert_eq!(decode_base64("//8="), Some(vec![255, 255]));
        assert_eq!(decode_base64("__8"), Some(vec![255, 255]));
        assert_eq!(decode_base64(""), Some(Vec::new()));
        assert_eq!(decode_base64("a b"), None);
    }
}
