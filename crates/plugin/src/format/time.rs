//! Times as `strftime` formats, in the C locale, with the additions of Envoy (`%3f`, `%s`) and of its library (`%E3S`).

use jiff::{
    Timestamp,
    civil::DateTime,
    tz::{Offset, TimeZone},
};
use std::{io::Write, time::SystemTime};

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// A compiled format.
#[derive(Debug, Clone)]
pub(super) struct TimeFormat {
    parts: Box<[Part]>,
    /// `None`: UTC.
    zone: Option<TimeZone>,
}

#[derive(Debug, Clone, PartialEq)]
enum Part {
    Literal(Box<str>),
    /// `2016-04-15T20:17:00.310`, of which the default formats are made.
    Milliseconds,
    /// A conversion character with its flags.
    Field(Pad, bool, char),
    /// So many digits of the fraction of the second.
    Fraction(usize),
    /// The fraction without trailing zeros; with the seconds before it or without.
    ShortFraction {
        seconds: bool,
    },
    /// Seconds with so many digits of their fraction.
    Seconds(usize),
    /// The offset as `+hh:mm` (2) or `+hh:mm:ss` (3).
    Offset(usize),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Pad {
    /// As the field usually is.
    Usual,
    None,
    With(char),
}

/// A moment, taken apart.
struct Moment {
    civil: DateTime,
    unix: i64,
    nanos: u32,
    offset: Offset,
    zone: Option<(TimeZone, Timestamp)>,
}

impl TimeFormat {
    /// An empty format is Envoy's default: `2016-04-15T20:17:00.310Z`, or with the offset for local time. A format
    /// with a line feed is refused, because it may be meant for a field.
    pub(super) fn build(format: &str, local: bool) -> Result<Self, String> {
        let zone = local.then(TimeZone::system);
        let parts = match (format.is_empty(), local) {
            (true, false) => vec![Part::Milliseconds, Part::Literal("Z".into())],
            (true, true) => vec![Part::Milliseconds, Part::Field(Pad::Usual, false, 'z')],
            (false, _) => parse(format)?,
        };
        Ok(Self { parts: parts.into(), zone })
    }

    /// Writes the time.
    pub(super) fn write(&self, time: SystemTime, out: &mut Vec<u8>) {
        let Ok(timestamp) = Timestamp::try_from(time) else { return };
        let (offset, zone) = match &self.zone {
            None => (Offset::UTC, None),
            Some(zone) => (zone.to_offset(timestamp), Some((zone.clone(), timestamp))),
        };
        let moment = Moment {
            civil: offset.to_datetime(timestamp),
            // Seconds round down before 1970 too, so that the fraction is never negative.
            unix: timestamp.as_nanosecond().div_euclid(1_000_000_000).try_into().unwrap_or_default(),
            nanos: timestamp.as_nanosecond().rem_euclid(1_000_000_000).try_into().unwrap_or_default(),
            offset,
            zone,
        };
        for part in &self.parts {
            part.write(&moment, out);
        }
    }
}

fn parse(format: &str) -> Result<Vec<Part>, String> {
    let mut parts = Vec::new();
    let mut literal = String::new();
    let mut rest = format;
    while let Some(at) = rest.find('%') {
        let (before, from) = rest.split_at(at);
        literal.push_str(before);
        let Some((part, len)) = conversion(from)? else {
            literal.push('%');
            rest = from.get(1..).unwrap_or_default();
            continue;
        };
        if !literal.is_empty() {
            parts.push(Part::Literal(std::mem::take(&mut literal).into()));
        }
        parts.push(part);
        rest = from.get(len..).unwrap_or_default();
    }
    literal.push_str(rest);
    if !literal.is_empty() {
        parts.push(Part::Literal(literal.into()));
    }
    Ok(parts)
}

/// The conversion at the start of `text`, which begins with `%`, and its length; `None` for what is no conversion and
/// stays as it is.
fn conversion(text: &str) -> Result<Option<(Part, usize)>, String> {
    let body = text.get(1..).unwrap_or_default();
    let bytes = body.as_bytes();
    let at = |index: usize| bytes.get(index).copied().unwrap_or_default();
    let found = |part, len: usize| Ok(Some((part, len + 1)));
    match (at(0), at(1), at(2)) {
        (b'%', ..) => return found(Part::Literal("%".into()), 1),
        (b'f', ..) => return found(Part::Fraction(9), 1),
        (digit @ b'1'..=b'9', b'f', _) => return found(Part::Fraction(usize::from(digit - b'0')), 2),
        (b':', b'z', _) => return found(Part::Offset(2), 2),
        (b':', b':', b'z') => return found(Part::Offset(3), 3),
        (b'E', b'z', _) => return found(Part::Offset(2), 2),
        (b'E', b'*', b'z') => return found(Part::Offset(3), 3),
        (b'E', b'*', b'S') => return found(Part::ShortFraction { seconds: true }, 3),
        (b'E', b'*', b'f') => return found(Part::ShortFraction { seconds: false }, 3),
        (b'E', b'T', _) => return found(Part::Literal("T".into()), 2),
        (b'E', b'4', b'Y') => return found(Part::Field(Pad::Usual, false, 'Y'), 3),
        (b'E', digit, b'S') if digit.is_ascii_digit() => return found(Part::Seconds(usize::from(digit - b'0')), 3),
        (b'E', digit, b'f') if digit.is_ascii_digit() => return found(Part::Fraction(usize::from(digit - b'0')), 3),
        _ => {}
    }
    // glibc's flags; then the modifiers, which mean nothing in the C locale.
    let (mut pad, mut upper, mut index) = (Pad::Usual, false, 0);
    loop {
        match at(index) {
            b'-' => pad = Pad::None,
            b'_' => pad = Pad::With(' '),
            b'0' => pad = Pad::With('0'),
            b'^' | b'#' => upper = true,
            _ => break,
        }
        index += 1;
    }
    if matches!(at(index), b'E' | b'O') {
        index += 1;
    }
    match at(index) {
        b'n' => Err("the time format contains a line feed".to_owned()),
        c if b"aAbBcCdDeFgGhHIjklmMpPrRsStTuUVwWxXyYzZ".contains(&c) => {
            Ok(Some((Part::Field(pad, upper, char::from(c)), index + 2)))
        }
        _ => Ok(None),
    }
}

impl Part {
    fn write(&self, moment: &Moment, out: &mut Vec<u8>) {
        let civil = moment.civil;
        match self {
            Self::Literal(text) => out.extend_from_slice(text.as_bytes()),
            Self::Milliseconds => {
                number(civil.year().into(), 4, '0', out);
                for (mark, value) in [(b'-', civil.month()), (b'-', civil.day()), (b'T', civil.hour())] {
                    out.push(mark);
                    number(value.into(), 2, '0', out);
                }
                for value in [civil.minute(), civil.second()] {
                    out.push(b':');
                    number(value.into(), 2, '0', out);
                }
                out.push(b'.');
                fraction(moment.nanos, 3, out);
            }
            Self::Fraction(digits) => fraction(moment.nanos, *digits, out),
            Self::Seconds(digits) => {
                number(civil.second().into(), 2, '0', out);
                if *digits > 0 {
                    out.push(b'.');
                    fraction(moment.nanos, *digits, out);
                }
            }
            Self::ShortFraction { seconds } => {
                if *seconds {
                    number(civil.second().into(), 2, '0', out);
                    if moment.nanos == 0 {
                        return;
                    }
                    out.push(b'.');
                }
                let start = out.len();
                fraction(moment.nanos, 9, out);
                while out.len() > start + 1 && out.last() == Some(&b'0') {
                    out.pop();
                }
            }
            Self::Offset(groups) => offset(moment.offset, ":", *groups, out),
            Self::Field(pad, upper, field) => {
                let start = out.len();
                moment.field(*field, *pad, out);
                if *upper {
                    out.get_mut(start..).unwrap_or_default().make_ascii_uppercase();
                }
            }
        }
    }
}

impl Moment {
    fn field(&self, field: char, pad: Pad, out: &mut Vec<u8>) {
        let civil = self.civil;
        let weekday = i64::from(civil.weekday().to_sunday_zero_offset());
        let hour12 = match civil.hour() % 12 {
            0 => 12,
            hour => i64::from(hour),
        };
        let year = i64::from(civil.year());
        let day_of_year = i64::from(civil.day_of_year());
        let iso = civil.date().iso_week_date();
        let name = |table: &[&'static str], index: i64, short: bool| {
            let name = usize::try_from(index).ok().and_then(|index| table.get(index)).copied().unwrap_or_default();
            if short { name.get(..3).unwrap_or(name) } else { name }
        };
        let month = i64::from(civil.month());
        let mut put = |value: i64, width: usize, usual: char| match pad {
            Pad::Usual => number(value, width, usual, out),
            Pad::None => number(value, 1, usual, out),
            Pad::With(fill) => number(value, width, fill, out),
        };
        match field {
            'C' => put(year.div_euclid(100), 2, '0'),
            'd' => put(civil.day().into(), 2, '0'),
            'e' => put(civil.day().into(), 2, ' '),
            'g' => put(i64::from(iso.year()).rem_euclid(100), 2, '0'),
            'G' => put(iso.year().into(), 1, '0'),
            'H' => put(civil.hour().into(), 2, '0'),
            'I' => put(hour12, 2, '0'),
            'j' => put(day_of_year, 3, '0'),
            'k' => put(civil.hour().into(), 2, ' '),
            'l' => put(hour12, 2, ' '),
            'm' => put(month, 2, '0'),
            'M' => put(civil.minute().into(), 2, '0'),
            's' => put(self.unix, 1, '0'),
            'S' => put(civil.second().into(), 2, '0'),
            'u' => put(if weekday == 0 { 7 } else { weekday }, 1, '0'),
            'U' => put((day_of_year + 6 - weekday) / 7, 2, '0'),
            'V' => put(iso.week().into(), 2, '0'),
            'w' => put(weekday, 1, '0'),
            'W' => put((day_of_year + 6 - (weekday + 6) % 7) / 7, 2, '0'),
            'y' => put(year.rem_euclid(100), 2, '0'),
            'Y' => put(year, 1, '0'),
            'a' => out.extend_from_slice(name(&DAYS, weekday, true).as_bytes()),
            'A' => out.extend_from_slice(name(&DAYS, weekday, false).as_bytes()),
            'b' | 'h' => out.extend_from_slice(name(&MONTHS, month - 1, true).as_bytes()),
            'B' => out.extend_from_slice(name(&MONTHS, month - 1, false).as_bytes()),
            'p' => out.extend_from_slice(if civil.hour() < 12 { b"AM" } else { b"PM" }),
            'P' => out.extend_from_slice(if civil.hour() < 12 { b"am" } else { b"pm" }),
            't' => out.push(b'\t'),
            'z' => offset(self.offset, "", 2, out),
            'Z' => match &self.zone {
                None => out.extend_from_slice(b"UTC"),
                Some((zone, at)) => out.extend_from_slice(zone.to_offset_info(*at).abbreviation().as_bytes()),
            },
            'c' => self.all("a b e T Y", " ", out),
            'D' | 'x' => self.all("m d y", "/", out),
            'F' => self.all("Y m d", "-", out),
            'r' => {
                self.all("I M S", ":", out);
                out.push(b' ');
                self.field('p', Pad::Usual, out);
            }
            'R' => self.all("H M", ":", out),
            'T' | 'X' => self.all("H M S", ":", out),
            _ => {}
        }
    }

    /// Several fields with something between them.
    fn all(&self, fields: &str, between: &str, out: &mut Vec<u8>) {
        for (index, field) in fields.split(' ').filter_map(|field| field.chars().next()).enumerate() {
            if index > 0 {
                out.extend_from_slice(between.as_bytes());
            }
            self.field(field, Pad::Usual, out);
        }
    }
}

/// A number of at least `width` characters.
fn number(value: i64, width: usize, fill: char, out: &mut Vec<u8>) {
    let mut buffer = itoa::Buffer::new();
    let digits = buffer.format(value);
    out.extend(std::iter::repeat_n(fill as u8, width.saturating_sub(digits.len())));
    out.extend_from_slice(digits.as_bytes());
}

fn fraction(nanos: u32, digits: usize, out: &mut Vec<u8>) {
    let start = out.len();
    number(nanos.into(), 9, '0', out);
    out.truncate(start + digits.min(9));
}

/// `+hhmm` in groups with a separator.
fn offset(offset: Offset, separator: &str, groups: usize, out: &mut Vec<u8>) {
    let seconds = offset.seconds();
    let sign = if seconds < 0 { '-' } else { '+' };
    let seconds = seconds.abs();
    // Writing to a vector cannot fail.
    let _ = write!(out, "{sign}{:02}{separator}{:02}", seconds / 3600, seconds / 60 % 60);
    if groups > 2 {
        let _ = write!(out, "{separator}{:02}", seconds % 60);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::{Duration, UNIX_EPOCH};

    fn format(format: &str, nanos: u64) -> String {
        let mut out = Vec::new();
        TimeFormat::build(format, false).unwrap().write(UNIX_EPOCH + Duration::from_nanos(nanos), &mut out);
        String::from_utf8(out).unwrap()
    }

    /// What Envoy 1.40 logged at these moments.
    #[test]
    fn as_envoy_formats() {
        for (nanos, text, expected) in [
            (1_795_552_077_810_014_000, "", "2026-11-24T20:27:57.810Z"),
            (
                1_795_552_077_810_014_000,
                "%s.%3f|%f|%1f|%9f|%Y %y %e %j %p %I %a %A %b %B %c %D %F %T %R %H%%M %z %Z %Ez %E*S %E3f %E3S %x %X %u \
                 %w %U %V %G %C %h %r %k %l %P %t %Q %+ end)",
                "1795552077.810|810014000|8|810014000|2026 26 24 328 PM 08 Tue Tuesday Nov November Tue Nov 24 20:27:57 \
                 2026 11/24/26 2026-11-24 20:27:57 20:27 20%M +0000 UTC +00:00 57.810014 810 57.810 11/24/26 20:27:57 2 \
                 2 47 48 2026 20 Nov 08:27:57 PM 20  8 pm \t %Q %+ end)",
            ),
            (
                1_795_552_321_580_555_000,
                "%-d %_m %^a %Oy %Ec %:z %::z %E*f %E4Y %ET %E*z %i %q %L %N %v %J %1 %E9S %E0S",
                "24 11 TUE 26 Tue Nov 24 20:32:01 2026 +00:00 +00:00:00 580555 2026 T +00:00:00 %i %q %L %N %v %J %1 \
                 01.580555000 01",
            ),
            (1_795_552_321_000_000_000, "%E*S %E*f", "01 0"),
            (1_795_552_321_000_000_000, "%", "%"),
            (0, "%Y-%m-%dT%H:%M:%S %U %W %V %G %g %I %_d %e %k", "1970-01-01T00:00:00 00 00 01 1970 70 12  1  1  0"),
        ] {
            assert_eq!(format(text, nanos), expected, "{text}");
        }
    }

    #[test]
    fn line_feeds_are_refused() {
        for bad in ["%n", "a%-n", "%En", "%On", "%_0n"] {
            assert!(TimeFormat::build(bad, false).is_err(), "{bad}");
        }
    }

    #[test]
    fn before_the_epoch() {
        let mut out = Vec::new();
        let format = TimeFormat::build("%s.%3f %F %T", false).unwrap();
        format.write(UNIX_EPOCH - Duration::from_millis(1), &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), "-1.999 1969-12-31 23:59:59");
    }

    proptest! {
        #[test]
        fn any_format_writes_or_fails(text in "[%a-zA-Z0-9_^#: -]{0,16}", nanos in any::<u64>()) {
            if let Ok(format) = TimeFormat::build(&text, nanos % 2 == 0) {
                format.write(UNIX_EPOCH + Duration::from_nanos(nanos), &mut Vec::new());
            }
        }

        #[test]
        fn dates_as_the_library_has_them(nanos in any::<u64>()) {
            let civil = Offset::UTC.to_datetime(Timestamp::try_from(UNIX_EPOCH + Duration::from_nanos(nanos)).unwrap());
            let fields = "%a %A %b %B %C %d %e %F %G %g %H %I %j %k %l %m %M %p %P %S %T %u %U %V %w %W %y %Y";
            prop_assert_eq!(format(fields, nanos), civil.strftime(fields).to_string());
        }
    }
}
