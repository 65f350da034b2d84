//! References that a reader can follow: labels, sections, paths and names in comments and in
//! documents.

use super::source::Source;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Folders whose files are named by their paths from the root.
const FOLDERS: &[&str] =
    &["src", "tests", "loom-tests", "benches", "cli", "fuzz", "rig", "examples", ".ci"];

/// Text that people read: a document, or a source file of which only the comments count.
pub struct Text<'a> {
    pub path: &'a str,
    pub raw: &'a str,
}

impl Text<'_> {
    fn is_document(&self) -> bool {
        self.path.ends_with(".md")
    }

    /// Line numbers, and what is said there.
    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        let said = |line| if self.is_document() { Some(line) } else { comment_of(line) };
        self.raw.lines().enumerate().filter_map(move |(n, line)| Some((n + 1, said(line)?)))
    }

    fn report(&self, line: usize, what: &str) -> String {
        format!("{}:{line}: {what}", self.path)
    }
}

/// The comment of a line, if it has one. A `//` in a literal is taken for one; what follows is then
/// checked for nothing.
fn comment_of(line: &str) -> Option<&str> {
    let at = line.find("//")?;
    Some(line[at..].trim_start_matches(['/', '!']).trim_start())
}

/// Capital letters, one or two, and a number of one or two digits.
fn is_label(word: &str) -> bool {
    let letters = word.chars().take_while(char::is_ascii_uppercase).count();
    let digits = &word[letters..];
    (1..=2).contains(&letters)
        && (1..=2).contains(&digits.len())
        && digits.chars().all(|c| c.is_ascii_digit())
}

/// Labels in square brackets, and what follows the bracket.
fn bracketed(line: &str) -> impl Iterator<Item = (&str, &str)> {
    let parts = line.split('[').skip(1).filter_map(|part| part.split_once(']'));
    parts.filter(|(word, _)| is_label(word))
}

/// A label that a line of a comment defines: `F1: ..`, or as an item of a list.
fn defined_in_comment(said: &str) -> Option<&str> {
    let (label, _) = said.strip_prefix("- ").unwrap_or(said).split_once(": ")?;
    Some(label).filter(|label| is_label(label))
}

/// Labels that a line of a document defines: in brackets before a sentence.
fn defined_in_document(said: &str) -> impl Iterator<Item = &str> {
    let begins = |c: char| c.is_ascii_uppercase() || c == '*' || c == '`';
    bracketed(said)
        .filter(move |(_, after)| after.strip_prefix(' ').is_some_and(|s| s.starts_with(begins)))
        .map(|(label, _)| label)
}

/// Every label is defined once, and every label that is cited is defined.
pub fn labels(texts: &[Text<'_>]) -> Vec<String> {
    let (mut defined, mut found) = (BTreeMap::<&str, String>::new(), Vec::new());
    for text in texts {
        for (line, said) in text.lines() {
            let mut define = |label| {
                let here = format!("{}:{line}", text.path);
                if let Some(first) = defined.insert(label, here) {
                    found.push(text.report(line, &format!("{label} is defined in {first}, too")));
                }
            };
            if text.is_document() {
                defined_in_document(said).for_each(&mut define);
            } else if let Some(label) = defined_in_comment(said) {
                define(label);
            }
        }
    }
    for text in texts {
        for (line, said) in text.lines() {
            for (label, _) in bracketed(said).filter(|(label, _)| !defined.contains_key(label)) {
                found.push(text.report(line, &format!("{label} is defined nowhere")));
            }
        }
    }
    found
}

/// Every section of DESIGN.md that is named exists.
pub fn sections(texts: &[Text<'_>], design: &str) -> Vec<String> {
    let heading = |line: &str| {
        let number = line.strip_prefix('#')?.trim_start_matches('#').split_whitespace().next()?;
        Some(number.trim_end_matches('.').to_owned())
    };
    let known: BTreeSet<String> = design.lines().filter_map(heading).collect();
    let mut found = Vec::new();
    for text in texts {
        for (line, said) in text.lines() {
            for after in said.split("DESIGN").skip(1) {
                let after = after.strip_prefix(".md").unwrap_or(after);
                let after = after.trim_start_matches([' ', ',']);
                let after = after.strip_prefix("section ").unwrap_or(after);
                let number: String =
                    after.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
                let number = number.trim_end_matches('.');
                if !number.is_empty() && !known.contains(number) {
                    found.push(text.report(line, &format!("DESIGN.md has no section {number}")));
                }
            }
        }
    }
    found
}

/// Every path in backticks leads to a file or a folder.
pub fn paths(texts: &[Text<'_>], root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for text in texts {
        for (line, said) in text.lines() {
            for word in in_backticks(said).filter_map(|code| code.split_whitespace().next()) {
                let plain = word.chars().all(|c| c.is_ascii_alphanumeric() || "/_-.".contains(c));
                let folder = word.split('/').next().unwrap_or(word);
                let is_path = plain && word.contains('/') && FOLDERS.contains(&folder);
                if is_path && !word.contains("..") && !root.join(word).exists() {
                    found.push(text.report(line, &format!("there is no {word}")));
                }
            }
        }
    }
    found
}

/// Every `Type::name` in backticks is made of names that the code uses.
pub fn names(texts: &[Text<'_>], sources: &[Source]) -> Vec<String> {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    let code = sources.iter().flat_map(|source| source.code.split(move |c| !is_part(c)));
    let known: BTreeSet<&str> = code.collect();
    let mut found = Vec::new();
    for text in texts {
        for (line, said) in text.lines() {
            for path in in_backticks(said).filter(|code| code.contains("::")) {
                let path = path.trim_end_matches("()");
                let plain = path.chars().all(|c| is_part(c) || c == ':');
                let unknown =
                    path.split("::").find(|part| !part.is_empty() && !known.contains(part));
                if let Some(part) = unknown.filter(|_| plain) {
                    found.push(text.report(line, &format!("`{path}`: no code says `{part}`")));
                }
            }
        }
    }
    found
}

fn in_backticks(said: &str) -> impl Iterator<Item = &str> {
    said.split('`').skip(1).step_by(2)
}

#[test]
fn labels_are_defined_once_and_cited_ones_exist() {
    let text = |path, raw| Text { path, raw };
    let (design, code) = ("- [A1] A rule. See [B2].\n", "//! B2: another.\n// [A1]\n");
    assert!(labels(&[text("DESIGN.md", design), text("src/a.rs", code)]).is_empty());
    let twice = "/// - A1: the same.\nlet x = 1; // as [C3] says\n";
    let found =
        labels(&[text("DESIGN.md", design), text("src/b.rs", code), text("src/c.rs", twice)]);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].contains("src/c.rs:1") && found[1].contains("C3 is defined nowhere"));
}

#[test]
fn section_path_and_name_that_lead_nowhere_are_found() {
    let text = |raw| [Text { path: "src/a.rs", raw }];
    let design = "## 5. Index\n### 5.3 Growth\n";
    assert!(sections(&text("// DESIGN.md 5.3, and DESIGN.md, section 5."), design).is_empty());
    assert_eq!(sections(&text("// see DESIGN.md 6.1"), design).len(), 1);
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    assert!(paths(&text("// `src/lib.rs`, `src/nothing`s twin, src/none.rs"), root).len() == 1);
    let sources = [Source::new("src/a.rs", "struct Log; impl Log { fn sweep() {} }")];
    assert!(names(&text("// `Log::sweep` and `Log::sweep()`"), &sources).is_empty());
    assert_eq!(names(&text("// `Log::tidy`"), &sources).len(), 1);
}
