//! Numbers, lists and durations as people write them.

use std::time::Duration;

/// A list is cut after so many.
const MOST_LISTED: usize = 8;

/// `1 endpoint`, `2 endpoints`
pub fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// `a`, `a and b`, `a, b and c`; cut where it is long.
pub fn list<T: ToString>(items: &[T]) -> String {
    let mut words: Vec<String> = items
        .iter()
        .take(MOST_LISTED)
        .map(ToString::to_string)
        .collect();
    if items.len() > MOST_LISTED {
        words.push(format!("{} more", items.len() - MOST_LISTED));
    }
    match words.as_slice() {
        [] => "nothing".to_owned(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

/// In the largest unit that it is a whole number of.
pub fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    for (unit, name) in [(86_400, "d"), (3_600, "h"), (60, "min")] {
        if seconds >= unit && seconds.is_multiple_of(unit) {
            return format!("{} {name}", seconds / unit);
        }
    }
    if seconds == 0 && !duration.is_zero() {
        return format!("{} ms", duration.as_millis());
    }
    if seconds > 600 {
        return format!("{} min", seconds / 60);
    }
    format!("{seconds} s")
}

/// With a capital letter and a full stop.
pub fn sentence(words: &str) -> String {
    format!("{}.", capitalized(words))
}

pub fn capitalized(words: &str) -> String {
    let mut letters = words.chars();
    match letters.next() {
        Some(first) => first.to_uppercase().chain(letters).collect(),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_lists_and_durations_are_as_people_write_them() {
        assert_eq!(count(1, "endpoint"), "1 endpoint");
        assert_eq!(count(0, "endpoint"), "0 endpoints");
        assert_eq!(list::<u8>(&[]), "nothing");
        assert_eq!(list(&[1]), "1");
        assert_eq!(list(&[1, 2, 3]), "1, 2 and 3");
        let many: Vec<u8> = (1..=10).collect();
        assert_eq!(list(&many), "1, 2, 3, 4, 5, 6, 7, 8 and 2 more");
        for (milliseconds, words) in [
            (0, "0 s"),
            (250, "250 ms"),
            (30_000, "30 s"),
            (90_000, "90 s"),
            (900_000, "15 min"),
            (910_000, "15 min"),
            (10_800_000, "3 h"),
            (86_400_000, "1 d"),
        ] {
            assert_eq!(duration(Duration::from_millis(milliseconds)), words);
        }
        assert_eq!(sentence("it is"), "It is.");
    }
}
