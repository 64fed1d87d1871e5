//! Whatever text comes in, nothing panics, and what comes out can be printed.

use std::path::Path;

use proptest::prelude::*;

use super::{Level, Problem, REFERENCE, duration, environment, known_keys, parse, uncommented};

/// Where to change the reference file, how much to take away, and what to put there.
fn mutation() -> impl Strategy<Value = Vec<(usize, usize, String)>> {
    let pieces = prop_oneof![
        Just(String::new()),
        Just("[".to_owned()),
        Just("]".to_owned()),
        Just("\"".to_owned()),
        Just("[[pool]]\n".to_owned()),
        Just("= 99999999999999999999999999999999999999999999\n".to_owned()),
        Just("-".to_owned()),
        Just("/".to_owned()),
        Just("::".to_owned()),
        Just("{ a = [1, {}] }".to_owned()),
        ".{0,8}",
    ];
    prop::collection::vec((any::<usize>(), 0_usize..12, pieces), 1..6)
}

/// Whatever comes in, what goes out is in order and can be printed.
fn check_never_panics(text: &str) {
    let problems: Vec<Problem> = match parse(text, &environment()) {
        Ok(loaded) => {
            assert!(
                loaded
                    .warnings
                    .iter()
                    .all(|problem| problem.level == Level::Warning)
            );
            loaded.warnings
        }
        Err(problems) => {
            assert!(problems.iter().any(|problem| problem.level == Level::Error));
            problems
        }
    };
    for problem in problems {
        let line = problem.describe(Path::new("F"));
        assert!(!line.chars().any(char::is_control), "{line:?}");
        assert!(
            problem
                .line
                .is_none_or(|line| line >= 1 && line <= text.matches('\n').count() + 1)
        );
    }
}

proptest! {
    #[test]
    fn durations_round_trip(seconds in 0_u64..1 << 40, nanoseconds in 0_u32..1_000_000_000) {
        let value = std::time::Duration::new(seconds, nanoseconds);
        prop_assert_eq!(duration::parse(&duration::format(value)).unwrap(), value);
    }

    #[test]
    fn arbitrary_durations_never_panic(text in "[0-9.smhdunµ -]{0,20}") {
        let _ = duration::parse(&text);
        if let Some(corrected) = duration::corrected(&text) {
            prop_assert!(duration::parse(&corrected).is_ok());
        }
    }

    #[test]
    fn arbitrary_text_never_panics(text in "\\PC{0,200}|[\\[\\]a-z=\"#\n0-9. {}]{0,200}") {
        check_never_panics(&text);
    }

    #[test]
    fn a_mutated_reference_file_never_panics(mutations in mutation(), examples: bool) {
        let mut text = if examples { uncommented() } else { REFERENCE.to_owned() };
        for (at, taken, piece) in mutations {
            let at = (0..=at % (text.len() + 1)).rev().find(|at| text.is_char_boundary(*at)).unwrap();
            let end = (at + taken..=text.len()).find(|end| text.is_char_boundary(*end)).unwrap_or(text.len());
            text.replace_range(at..end, &piece);
        }
        check_never_panics(&text);
    }

    #[test]
    fn any_value_in_any_key_never_panics(
        index in any::<prop::sample::Index>(),
        value in prop_oneof![
            "\"[0-9a-z:./*=()!,-]{0,20}\"",
            "-?[0-9]{1,45}",
            "\\[(\"[0-9a:./-]{0,12}\",? ?){0,4}\\]",
            Just("true".to_owned()),
            Just("1979-05-27".to_owned()),
            Just("{}".to_owned()),
            Just("[[[]]]".to_owned()),
            Just("0xffffffffffffffffffffffffffffffffffff".to_owned()),
        ],
    ) {
        let keys: Vec<String> = known_keys().into_iter().collect();
        let key = index.get(&keys);
        let text = match key.strip_prefix("pool.") {
            Some(key) => format!("[[pool]]\n{key} = {value}\n"),
            None => format!("{key} = {value}\n"),
        };
        check_never_panics(&text);
    }
}
