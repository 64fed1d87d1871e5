//! What differs between two texts, line by line, as people read it.

/// Lines with `-` (expected only), `+` (found only) and blanks (two lines around); `None` where
/// the texts are equal.
pub fn difference(expected: &str, found: &str) -> Option<String> {
    if expected == found {
        return None;
    }
    let (old, new): (Vec<&str>, Vec<&str>) = (expected.lines().collect(), found.lines().collect());
    let marked = marked(&old, &new);
    let near = |index: usize| {
        let first = index.saturating_sub(2);
        marked
            .iter()
            .skip(first)
            .take(index + 3 - first)
            .any(|(mark, _)| *mark != ' ')
    };
    let lines: Vec<String> = marked
        .iter()
        .enumerate()
        .filter(|(index, _)| near(*index))
        .map(|(_, (mark, line))| format!("{mark} {line}"))
        .collect();
    if lines.is_empty() {
        return Some("the texts differ in their last line break only".to_owned());
    }
    Some(lines.join("\n"))
}

/// By the longest common subsequence.
fn marked<'a>(old: &[&'a str], new: &[&'a str]) -> Vec<(char, &'a str)> {
    let mut common = vec![vec![0_usize; new.len() + 1]; old.len() + 1];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            common[i][j] = if old[i] == new[j] {
                common[i + 1][j + 1] + 1
            } else {
                common[i + 1][j].max(common[i][j + 1])
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut marked = Vec::new();
    while i < old.len() || j < new.len() {
        if i < old.len() && j < new.len() && old[i] == new[j] {
            marked.push((' ', old[i]));
            (i, j) = (i + 1, j + 1);
        } else if j == new.len() || (i < old.len() && common[i + 1][j] >= common[i][j + 1]) {
            marked.push(('-', old[i]));
            i += 1;
        } else {
            marked.push(('+', new[j]));
            j += 1;
        }
    }
    marked
}

#[test]
fn tells_what_differs_and_what_stands_around_it() {
    assert_eq!(difference("a\nb\n", "a\nb\n"), None);
    let found = difference("1\n2\n3\n4\n5\n6\n7\n", "1\n2\n3\n4\nfive\n6\n7\n").unwrap();
    assert_eq!(found, "  3\n  4\n- 5\n+ five\n  6\n  7");
    assert_eq!(difference("", "new\n").unwrap(), "+ new");
    assert_eq!(difference("old\n", "").unwrap(), "- old");
    assert!(difference("a", "a\n").unwrap().contains("line break"));
}
