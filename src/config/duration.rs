//! Durations as the file writes them: `"150ms"`, `"2.2s"`, `"1m30s"`.
//!
//! Whether a duration is sensible for a key is decided in validate.

use std::time::Duration;

/// Units and their nanoseconds, longest first.
const UNITS: [(&str, u128); 7] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

/// Why a text is not a duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    #[error("\"{0}\" is not a duration: a number and a unit (ns, us, ms, s, m, h, d)")]
    Shape(String),
    #[error("\"{0}\" has no unit (ns, us, ms, s, m, h, d)")]
    NoUnit(String),
    #[error("\"{text}\" has the unknown unit \"{unit}\" (ns, us, ms, s, m, h, d)")]
    Unit { text: String, unit: String },
    #[error("\"{0}\" is negative")]
    Negative(String),
    #[error("\"{0}\" is longer than a duration can be, or finer than a nanosecond")]
    Range(String),
}

/// Reads numbers with units, added up: `1m30s`, `2.2s`. A decimal fraction is read exactly.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    let shape = || DurationError::Shape(text.to_owned());
    let range = || DurationError::Range(text.to_owned());
    let mut rest = text.trim();
    if let Some(positive) = rest.strip_prefix('-') {
        return Err(
            if positive.starts_with(|first: char| first.is_ascii_digit()) {
                DurationError::Negative(text.to_owned())
            } else {
                shape()
            },
        );
    }
    if rest.is_empty() {
        return Err(shape());
    }
    let mut nanoseconds = 0_u128;
    while !rest.is_empty() {
        let number_end = rest
            .find(|character: char| !character.is_ascii_digit() && character != '.')
            .unwrap_or(rest.len());
        let (number, after) = rest.split_at(number_end);
        let unit_end = after
            .find(|character: char| !character.is_alphabetic())
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        if whole.is_empty() || fraction.is_empty() || fraction.contains('.') {
            return Err(shape());
        }
        if unit.is_empty() {
            return Err(if after.is_empty() {
                DurationError::NoUnit(text.to_owned())
            } else {
                shape()
            });
        }
        let Some((_, scale)) = UNITS.iter().find(|(name, _)| *name == unit) else {
            return Err(DurationError::Unit {
                text: text.to_owned(),
                unit: unit.to_owned(),
            });
        };
        let fraction = fraction.trim_end_matches('0');
        let digits = u32::try_from(fraction.len()).map_err(|_| range())?;
        let divisor = 10_u128.checked_pow(digits).ok_or_else(range)?;
        let whole: u128 = whole.parse().map_err(|_| range())?;
        let part: u128 = if fraction.is_empty() {
            0
        } else {
            fraction.parse().map_err(|_| range())?
        };
        let scaled = part.checked_mul(*scale).ok_or_else(range)?;
        if scaled % divisor != 0 {
            return Err(range());
        }
        nanoseconds = whole
            .checked_mul(*scale)
            .and_then(|whole| whole.checked_add(scaled / divisor))
            .and_then(|added| nanoseconds.checked_add(added))
            .ok_or_else(range)?;
        rest = after;
    }
    let seconds = u64::try_from(nanoseconds / 1_000_000_000).map_err(|_| range())?;
    let remainder = u32::try_from(nanoseconds % 1_000_000_000).map_err(|_| range())?;
    Ok(Duration::new(seconds, remainder))
}

/// Writes what [`parse`] reads back: `90s` becomes `1m30s`, zero is `0s`.
pub fn format(duration: Duration) -> String {
    let mut rest = duration.as_nanos();
    let mut text = String::new();
    for (unit, scale) in UNITS {
        let count = rest / scale;
        if count > 0 {
            text.push_str(&count.to_string());
            text.push_str(unit);
            rest %= scale;
        }
    }
    if text.is_empty() {
        "0s".to_owned()
    } else {
        text
    }
}

/// The nearest text that would be a duration, where one can be guessed.
pub fn corrected(text: &str) -> Option<String> {
    let trimmed = text.trim();
    let candidates = match parse(text) {
        Err(DurationError::NoUnit(_)) => vec![format!("{trimmed}s")],
        Err(DurationError::Negative(_)) => vec![
            trimmed.trim_start_matches('-').to_owned(),
            format!("{}s", trimmed.trim_start_matches('-')),
        ],
        Err(DurationError::Unit { unit, .. }) => {
            let known = match unit.to_lowercase().as_str() {
                "sec" | "secs" | "second" | "seconds" | "s" => "s",
                "min" | "mins" | "minute" | "minutes" | "m" => "m",
                "hr" | "hrs" | "hour" | "hours" | "h" => "h",
                "day" | "days" | "d" => "d",
                "msec" | "msecs" | "millisecond" | "milliseconds" | "millis" | "ms" => "ms",
                "usec" | "usecs" | "microsecond" | "microseconds" | "us" | "µs" | "μs" => "us",
                "nsec" | "nsecs" | "nanosecond" | "nanoseconds" | "ns" => "ns",
                _ => return None,
            };
            vec![trimmed.replacen(&unit, known, 1)]
        }
        Err(DurationError::Shape(_)) => {
            let compact = trimmed
                .split_whitespace()
                .collect::<String>()
                .replace(',', ".");
            // Only once: what is compact already stays as it is.
            let further = if compact == text {
                None
            } else {
                corrected(&compact)
            };
            further.into_iter().chain([compact]).collect()
        }
        Ok(_) | Err(DurationError::Range(_)) => Vec::new(),
    };
    candidates
        .into_iter()
        .find(|candidate| parse(candidate).is_ok())
}
