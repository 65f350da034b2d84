//! References that a reader can follow: labels, sections, paths and names in comments and in
//! documents.

use super::members::Members;
use super::source::Source;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Folders whose files are named by their paths from the root.
const FOLDERS: &[&str] =
    &["src", "tests", "loom-tests", "benches", "cli", "fuzz", "rig", "examples", ".ci"];

/// Names that look like code and are not ours: of kernel and C library, of other programs.
const FOREIGN: &[&str] = &[
    "DIR",
    "Durability::None", // of redb
    "EFAULT",
    "EMFILE",
    "ENFILE",
    "ENOMEM",
    "FULL",
    "LOOM_MAX_PREEMPTIONS",
    "MADV_DONTNEED",
    "MADV_HUGEPAGE",
    "MADV_POPULATE_READ",
    "MADV_POPULATE_WRITE",
    "MADV_RANDOM",
    "MADV_REMOVE",
    "MADV_WILLNEED",
    "MADV_WIPEONFORK",
    "MAX_PAGECACHE_ORDER",
    "MS_ASYNC",
    "MemTotal",
    "PIPE_BUF",
    "RENAME_EXCHANGE",
    "WILLNEED",
    "enable_blob_files",
    "page_mkclean",
    "sync_file_range",
    "vfs_fsync_range",
];

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

/// Every path in backticks leads to a file or a folder: from the root, or from `src/`. A file of
/// Rust without a folder is one of that name anywhere.
pub fn paths(texts: &[Text<'_>], root: &Path) -> Vec<String> {
    let files: BTreeSet<&str> =
        texts.iter().filter_map(|text| text.path.rsplit('/').next()).collect();
    let mut found = Vec::new();
    for text in texts {
        for (line, said) in text.lines() {
            for word in in_backticks(said).filter_map(|code| code.split_whitespace().next()) {
                let plain = word.chars().all(|c| c.is_ascii_alphanumeric() || "/_-.".contains(c));
                if !plain || word.contains("..") {
                    continue;
                }
                let exists = match word.split_once('/') {
                    Some((folder, _)) if FOLDERS.contains(&folder) => root.join(word).exists(),
                    Some((folder, rest)) if !rest.is_empty() => {
                        let inner = root.join("src");
                        !inner.join(folder).is_dir() || inner.join(word).exists()
                    }
                    None if word.ends_with(".rs") => files.contains(word),
                    _ => true,
                };
                if !exists {
                    found.push(text.report(line, &format!("there is no {word}")));
                }
            }
        }
    }
    found
}

/// Every name in backticks exists: a single word that looks like code is one that the code uses,
/// and so is each part of `Type::name`. If the type is ours, the name is a member of it.
pub fn names(texts: &[Text<'_>], sources: &[Source]) -> Vec<String> {
    let code = sources.iter().flat_map(|source| source.code.split(|c| !is_part(c)));
    // Tests and models are named by their files, and environment variables in literals.
    let files = sources.iter().flat_map(|source| source.path.split(['/', '.']));
    let known: BTreeSet<&str> = code.chain(files).collect();
    let is_variable = |name: &str| {
        let (literal, capital) =
            (format!("\"{name}\""), |c: char| c.is_ascii_uppercase() || c == '_');
        name.chars().all(capital) && sources.iter().any(|source| source.raw.contains(&literal))
    };
    let members = Members::of(sources);
    let mut found = Vec::new();
    for text in texts {
        for (line, said) in text.lines() {
            let paths = in_backticks(said).chain(in_links(said));
            for path in paths.map(|path| path.trim_end_matches("()")) {
                let is_path = path.contains("::") && path.chars().all(|c| is_part(c) || c == ':');
                if FOREIGN.contains(&path) || !is_path && !looks_like_code(path) {
                    continue;
                }
                let parts: Vec<&str> = path.split("::").filter(|part| !part.is_empty()).collect();
                if let Some(part) =
                    parts.iter().find(|part| !known.contains(*part) && !is_variable(part))
                {
                    found.push(text.report(line, &format!("`{path}`: no code says `{part}`")));
                } else if let [.., owner, name] = parts[..]
                    && members.lack(owner, name)
                {
                    found.push(text.report(line, &format!("`{path}`: `{owner}` has no `{name}`")));
                }
            }
        }
    }
    found
}

fn is_part(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// A word with an underscore, or one that begins with a capital letter.
fn looks_like_code(word: &str) -> bool {
    let begins = |c: char| c.is_ascii_alphabetic() || c == '_';
    let capital = word.starts_with(|c: char| c.is_ascii_uppercase());
    word.len() > 1
        && word.starts_with(begins)
        && word.chars().all(is_part)
        && (capital || word.contains('_'))
}

/// The paths that links lead to, where the text of the link is not the path: `[it](Type::name)`.
fn in_links(said: &str) -> impl Iterator<Item = &str> {
    let links = said.split("](").skip(1).filter_map(|after| after.split(')').next());
    links.filter(|path| path.contains("::"))
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
    assert!(paths(&text("// `log/mod.rs`, `log/none.rs`, `log/`, `get/put`"), root).len() == 1);
    assert!(paths(&text("// `a.rs`, `none.rs`, `none.seg`"), root).len() == 1);
    let sources = [Source::new("src/a.rs", "struct Log; impl Log { fn sweep() {} }")];
    assert!(names(&text("// `Log::sweep` and `Log::sweep()`"), &sources).is_empty());
    assert_eq!(names(&text("// `Log::tidy`"), &sources).len(), 1);
}

#[test]
fn names_that_the_code_does_not_have_are_found() {
    let code = "struct Log { last_gone: u64 } // tidy_up\n\
        impl<M: Memory> Source<M> for Log { fn sweep_all() {} const MOST: u8 = 1; }\n\
        trait Source<M> { fn wake(&self); }\n\
        #[derive(Default)] pub enum Role { #[default] Old, New(u8), Last { at: u8 } }\n\
        struct Segment; fn tidy() {}";
    let sources = [Source::new("src/a.rs", code)];
    let count = |said: &str| names(&[Text { path: "src/b.rs", raw: said }], &sources).len();
    let there = ["Log", "Log::last_gone", "Source::wake", "Log::wake", "Log::MOST", "Role::New"];
    for name in there.into_iter().chain(["sweep_all", "Role::Last", "Role::default", "MOST"]) {
        assert_eq!(count(&format!("// `{name}`")), 0, "{name}");
    }
    // Words and commands are no names; what only a comment says is none either.
    assert_eq!(count("// `put`, `cargo test --test a_b`, `src/lib.rs`"), 0);
    let gone = ["tidy_up", "Logs", "MOST_OF_ALL", "Segment::sweep_all", "Role::sweep_all"];
    for name in gone.into_iter().chain(["Segment::wake", "Log::tidy", "crate::log::Segment::wake"])
    {
        assert_eq!(count(&format!("// `{name}`")), 1, "{name}");
    }
    assert_eq!(count("/// when it [wakes](Segment::wake)"), 1);
}
