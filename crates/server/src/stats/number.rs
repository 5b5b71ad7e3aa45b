//! Floating-point numbers as Envoy prints them. It has three ways, and each output uses another.

/// C's `%.{precision}g`: this many significant digits, no trailing zeros, an exponent below 10^-4 and from 10^precision on.
pub(super) fn write_general(out: &mut Vec<u8>, value: f64, precision: usize) {
    if !value.is_finite() {
        return write_special(out, value);
    }
    // Rust's digits are exact, however many are asked for.
    let number = Number::parse(&format!("{value:.*e}", precision.saturating_sub(1)));
    let scientific = number.exponent < -4 || number.exponent >= precision as i32;
    out.extend_from_slice(if scientific { number.scientific() } else { number.fixed() }.as_bytes());
}

/// The `{}` of the fmt library: the fewest digits that read back the same, an exponent below 10^-4 and from 10^16 on.
pub(super) fn write_shortest(out: &mut Vec<u8>, value: f64) {
    if !value.is_finite() {
        return write_special(out, value);
    }
    let number = Number::parse(&format!("{value:e}"));
    let scientific = !(-4..16).contains(&number.exponent);
    out.extend_from_slice(if scientific { number.scientific() } else { number.fixed() }.as_bytes());
}

/// `std::to_chars`, as in Envoy's JSON: the fewest digits in the notation that is shorter, plain where both are as long. What is not
/// a number is `null`.
pub(super) fn write_json(out: &mut Vec<u8>, value: f64) {
    if !value.is_finite() {
        return out.extend_from_slice(b"null");
    }
    let number = Number::parse(&format!("{value:e}"));
    let (fixed, scientific) = (number.fixed(), number.scientific());
    out.extend_from_slice(if scientific.len() < fixed.len() { scientific } else { fixed }.as_bytes());
}

/// A whole number.
pub(super) fn write_integer(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

fn write_special(out: &mut Vec<u8>, value: f64) {
    out.extend_from_slice(match (value.is_nan(), value > 0.0) {
        (true, _) => b"nan",
        (_, true) => b"inf",
        _ => b"-inf",
    });
}

/// `sign` d.ddd × 10^`exponent`, without zeros at the end.
struct Number {
    sign: &'static str,
    digits: String,
    exponent: i32,
}

impl Number {
    /// Reads what Rust's `{:e}` writes.
    fn parse(text: &str) -> Self {
        let (mantissa, exponent) = text.split_once('e').unwrap_or((text, "0"));
        let (sign, mantissa) = mantissa.strip_prefix('-').map_or(("", mantissa), |rest| ("-", rest));
        let mut digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
        digits.truncate(digits.trim_end_matches('0').len().max(1));
        Self { sign, digits, exponent: exponent.parse().unwrap_or_default() }
    }

    fn fixed(&self) -> String {
        let Self { sign, digits, exponent } = self;
        let Ok(exponent) = usize::try_from(*exponent) else {
            let zeros = exponent.unsigned_abs() as usize - 1;
            return format!("{sign}0.{:0<zeros$}{digits}", "");
        };
        match digits.split_at_checked(exponent + 1) {
            Some((whole, "")) => format!("{sign}{whole}"),
            Some((whole, fraction)) => format!("{sign}{whole}.{fraction}"),
            None => format!("{sign}{digits:0<width$}", width = exponent + 1),
        }
    }

    fn scientific(&self) -> String {
        let Self { sign, digits, exponent } = self;
        let (first, rest) = digits.split_at_checked(1).unwrap_or((digits, ""));
        let point = if rest.is_empty() { "" } else { "." };
        let exponent_sign = if *exponent < 0 { '-' } else { '+' };
        format!("{sign}{first}{point}{rest}e{exponent_sign}{:02}", exponent.unsigned_abs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    // The expectations are what Envoy 1.40 prints.

    #[test]
    fn general_has_at_most_so_many_digits() {
        let general = |value, precision| written(|out| write_general(out, value, precision));
        for (value, precision, expected) in [
            (0.5, 6, "0.5"),
            (600_000.0, 6, "600000"),
            (1_800_000.0, 6, "1.8e+06"),
            (3_600_000.0, 32, "3600000"),
            (13.61904761904762, 32, "13.619047619047620401033782400191"),
            (1.05, 32, "1.0500000000000000444089209850063"),
            (0.0, 32, "0"),
            (0.09999999999999999, 15, "0.1"),
            (0.00012, 6, "0.00012"),
            (0.000012, 6, "1.2e-05"),
            (f64::NAN, 32, "nan"),
        ] {
            assert_eq!(general(value, precision), expected);
        }
    }

    #[test]
    fn shortest_reads_back_the_same() {
        let shortest = |value| written(|out| write_shortest(out, value));
        for (value, expected) in [
            (0.0, "0"),
            (1.05, "1.05"),
            (12.666666666666666, "12.666666666666666"),
            (55_500.0, "55500"),
            (1e15, "1000000000000000"),
            (1e16, "1e+16"),
            (1.25e17, "1.25e+17"),
            (-0.5, "-0.5"),
            (f64::NAN, "nan"),
        ] {
            assert_eq!(shortest(value), expected);
        }
    }

    #[test]
    fn json_takes_the_shorter_notation() {
        let json = |value| written(|out| write_json(out, value));
        for (value, expected) in [
            (0.5, "0.5"),
            (60_000.0, "60000"),
            (300_000.0, "3e+05"),
            (1_800_000.0, "1800000"),
            (0.09999999999999999, "0.09999999999999999"),
            (99.9, "99.9"),
            (f64::NAN, "null"),
        ] {
            assert_eq!(json(value), expected);
        }
    }
}
