//! Style as a test: what rustc and clippy do not check, each rule with the proof that it can fail.
//!
//! A message names file and line and says what to write instead. The tables below are the only
//! exceptions there are; widening one is a change of its own, to be argued in its commit.

#[path = "tidy/source.rs"]
mod source;

use references::Text;
use source::{Source, attributes, functions, inline_modules, occurrences, paths};
use std::path::{Path, PathBuf};

const FILE_LINES: usize = 600;
const FUNCTION_LINES: usize = 70;
const COLUMNS: usize = 100;

/// The library's modules, lowest layer first: a module names its own layer and those below it.
/// A new file under `src/` needs a place here.
const LAYERS: &[&[&str]] = &[
    &["clock", "concurrency", "os"],
    &["format"],
    &["error"],
    &["options", "report"],
    &["memory"],
    &["segment", "index"],
    &["log"],
    &["engine"],
    &["durability"],
    &["disk"],
    &["recovery", "search"],
    &["background"],
    &["store"],
    &["lib"],
];

/// Of one layer, and still not to know each other: the index gets what it needs as closures.
const STRANGERS: &[(&str, &str)] = &[("index", "segment"), ("segment", "index")];

/// The files that may say `unsafe`. This list may only get shorter: one that no longer needs it
/// fails the test until it is taken off.
const UNSAFE_FILES: &[&str] = &[
    // heed has no safe way to open an LMDB environment; the package is not the library.
    "benches/peers/src/engines/lmdb.rs",
    "src/concurrency/epoch.rs",
    "src/index/chunk.rs",
    "src/index/directory.rs",
    "src/concurrency/growable_array.rs",
    "src/log/table.rs",
    "src/memory/mmap.rs",
    "src/memory/mod.rs",
    "src/memory/stream.rs",
    "src/segment/payload.rs",
    // Fills a memory that nobody else has.
    "fuzz/src/parsers.rs",
    // The simulated machine: control words in mappings, memmap2's signatures, coroutines that a
    // kill leaves as they are, and threads that borrow.
    "simulation/machine/src/atomics.rs",
    "simulation/machine/src/map.rs",
    "simulation/machine/src/scheduler.rs",
    "simulation/machine/src/thread.rs",
    // Memories that watch, or fail, and hand everything else on.
    "loom-tests/src/watched.rs",
    // `fork` is a matter of the C library.
    "tests/fork.rs",
    "tests/group_commit.rs",
    // Stand in for libc.
    "tests/power_loss/witness.rs",
    // Signals are a matter of the C library.
    "tests/stopped/signal.rs",
];

/// The one door to atomics and threads.
const DOOR: &str = "src/concurrency/sync.rs";
const BEHIND_THE_DOOR: &[&str] =
    &["std::sync::atomic", "core::sync::atomic", "std::thread", "loom", "shuttle"];

const ORDERINGS: &[&str] = &["Relaxed", "Acquire", "Release", "AcqRel", "SeqCst"];
/// How far above an atomic access its comment may stand.
const COMMENT_REACH: usize = 6;

type Rule = fn(&[Source]) -> Vec<String>;

const RULES: &[Rule] = &[
    sizes,
    ascii_only,
    layers,
    |sources| unsafe_only_in(sources, UNSAFE_FILES),
    one_door,
    orderings_are_explained,
    nothing_left_for_later,
    no_panic_in_waiting,
    no_output,
    tests_assert,
];

/// (a) Files, functions and lines that fit a reader.
fn sizes(sources: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources {
        let lines = source.raw.lines().count();
        if lines > FILE_LINES {
            let what = format!("{lines} lines: split the file, {FILE_LINES} is the limit");
            found.push(source.report_line(lines, what));
        }
        for (index, line) in source.raw.lines().enumerate() {
            let columns = line.chars().count();
            if columns > COLUMNS {
                let what = format!("{columns} columns: break the line, {COLUMNS} is the limit");
                found.push(source.report_line(index + 1, what));
            }
        }
        for function in functions(&source.code) {
            let lines = 1 + source.code[function.start..function.end].matches('\n').count();
            if lines > FUNCTION_LINES {
                let what = format!(
                    "`{}` has {lines} lines: keep the control flow, move the steps into functions \
                     of their own; {FUNCTION_LINES} is the limit",
                    function.name
                );
                found.push(source.report(function.start, what));
            }
        }
    }
    found
}

/// (a) No look-alikes and no invisible characters.
fn ascii_only(sources: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources {
        for (index, line) in source.raw.lines().enumerate() {
            if let Some(c) = line.chars().find(|c| !c.is_ascii()) {
                let what = format!("{c:?} is not ASCII: spell it, or write \\u{{..}} in a literal");
                found.push(source.report_line(index + 1, what));
            }
        }
    }
    found
}

/// `src/index/entry.rs` is `index` and one module deep below it.
fn module_of(path: &str) -> Option<(&str, usize)> {
    let inner = path.strip_prefix("src/")?.strip_suffix(".rs")?;
    let inner = inner.strip_suffix("/mod").unwrap_or(inner);
    let depth = if inner == "lib" { 0 } else { inner.split('/').count() };
    Some((inner.split('/').next().unwrap_or(inner), depth))
}

fn layer_of(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

/// The crate's module that a path names, if it goes through the crate's root.
fn module_named<'p>(
    path: &'p str,
    source: &Source,
    offset: usize,
    depth: usize,
) -> Option<&'p str> {
    let segments: Vec<&str> = path.split("::").collect();
    let supers = segments.iter().take_while(|&&segment| segment == "super").count();
    if segments.len() > 1 && segments[0] == "crate" {
        return Some(segments[1]);
    }
    let to_root = supers > 0 && supers == depth + inline_modules(&source.shipped, offset);
    to_root.then(|| segments.get(supers).copied().unwrap_or("super"))
}

/// (b) A module uses lower layers only.
fn layers(sources: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources {
        let Some((own, depth)) = module_of(&source.path) else { continue };
        let Some(layer) = layer_of(own) else {
            let what = format!("module `{own}` has no layer: give it one in LAYERS, tests/tidy.rs");
            found.push(source.report_line(1, what));
            continue;
        };
        for (offset, path) in paths(&source.shipped) {
            let Some(used) = module_named(&path, source, offset, depth) else { continue };
            let what = match layer_of(used) {
                _ if used == own || own == "lib" => continue,
                None => format!("`{path}`: name it by its module, crate::module::Item"),
                Some(used_layer) if used_layer > layer => format!(
                    "`{path}`: `{used}` is above `{own}`; pass it in from there, or move what is \
                     shared below both"
                ),
                Some(_) if STRANGERS.contains(&(own, used)) => {
                    format!("`{path}`: `{own}` knows nothing of `{used}`; take a closure instead")
                }
                Some(_) => continue,
            };
            found.push(source.report(offset, what));
        }
    }
    found
}

/// (c) Unsafe code lives in a handful of named files.
fn unsafe_only_in(sources: &[Source], listed: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources {
        let first = occurrences(&source.code, "unsafe").next();
        match (listed.contains(&source.path.as_str()), first) {
            (false, Some(offset)) => found.push(source.report(
                offset,
                "unsafe outside the listed files: use what a listed one offers, or argue for a \
                 longer UNSAFE_FILES in tests/tidy.rs",
            )),
            (true, None) => found.push(source.report_line(
                1,
                "nothing unsafe is left here: take the file off UNSAFE_FILES in tests/tidy.rs",
            )),
            _ => {}
        }
    }
    for path in listed.iter().filter(|path| sources.iter().all(|s| s.path != **path)) {
        found.push(format!("{path}:1: no such file: take it off UNSAFE_FILES in tests/tidy.rs"));
    }
    found
}

fn library(sources: &[Source]) -> impl Iterator<Item = &Source> {
    sources.iter().filter(|source| source.path.starts_with("src/"))
}

/// (d) Atomics and threads come through one door, so that loom can stand behind it.
fn one_door(sources: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    for source in library(sources).filter(|source| source.path != DOOR) {
        for (offset, path) in paths(&source.shipped) {
            let behind =
                |name: &&str| path.strip_prefix(*name).is_some_and(|r| r.starts_with("::"));
            let whole = ["std::thread", "std::sync", "std::sync::self", "std::sync::*", "std::*"];
            if BEHIND_THE_DOOR.iter().any(behind) || whole.contains(&path.as_str()) {
                let what =
                    format!("`{path}`: take it from crate::concurrency::sync, or add it to {DOOR}");
                found.push(source.report(offset, what));
            }
        }
    }
    found
}

/// (e) Every ordering is argued for where it stands, in a comment that names it.
fn orderings_are_explained(sources: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    for source in library(sources) {
        let notes: Vec<&str> = source.notes.lines().collect();
        for (offset, path) in paths(&source.shipped) {
            let (kind, ordering) = path.rsplit_once("::").unwrap_or(("", &path));
            if !ORDERINGS.contains(&ordering) {
                continue;
            }
            if kind.is_empty() {
                let what = format!("bare `{ordering}`: write `Ordering::{ordering}`");
                found.push(source.report(offset, what));
            }
            let line = source.line(offset);
            let near = &notes[line.saturating_sub(COMMENT_REACH + 1)..line];
            if kind.ends_with("Ordering") && !near.iter().any(|note| note.contains(ordering)) {
                let what = format!(
                    "`{path}` without a reason: say above it `// {ordering}: pairs with ..`, or \
                     why less is not enough and more is not needed"
                );
                found.push(source.report(offset, what));
            }
        }
    }
    found
}

/// (f) What is not done is not merged; what is excepted says why.
fn nothing_left_for_later(sources: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources {
        for note in ["TODO", "FIXME", "XXX", "HACK"] {
            for offset in occurrences(&source.words, note) {
                let what = format!("{note}: do it now, or open an issue");
                found.push(source.report(offset, what));
            }
        }
        for (offset, attribute) in attributes(&source.code) {
            if attribute == "ignore" || attribute.starts_with("ignore ") {
                let what = "an ignored test: make it quick, or a bench, or a model; or delete it";
                found.push(source.report(offset, what));
            }
            if occurrences(attribute, "allow").any(|at| attribute[at + 5..].starts_with('(')) {
                let what = "allow: write `#[expect(lint, reason = \"..\")]`";
                found.push(source.report(offset, what));
            }
        }
    }
    found
}

/// (g) No input, file or fault may end the caller's process.
fn no_panic_in_waiting(sources: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    for source in library(sources) {
        for word in [".unwrap(", ".expect(", "panic!", "unreachable!", "todo!", "unimplemented!"] {
            for offset in occurrences(&source.shipped, word) {
                let what = format!("`{word}`: return an Error, or let a type prove it");
                found.push(source.report(offset, what));
            }
        }
        for offset in occurrences(&source.shipped, "unwrap_or_default()") {
            let what = "`unwrap_or_default()` hides a failure: match, and say what each arm means";
            found.push(source.report(offset, what));
        }
    }
    found
}

/// (h) A library does not talk.
fn no_output(sources: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    for source in library(sources) {
        for word in ["println!", "eprintln!", "print!", "eprint!", "dbg!"] {
            for offset in occurrences(&source.code, word) {
                let what = format!("`{word}` in the library: return it, or count it in stats");
                found.push(source.report(offset, what));
            }
        }
    }
    found
}

/// (i) A test that asserts nothing shows nothing.
fn tests_assert(sources: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources {
        let functions = functions(&source.code);
        for (offset, attribute) in attributes(&source.code) {
            let name = attribute.split('(').next().map_or("", str::trim);
            if name != "test" && !name.ends_with("::test") {
                continue;
            }
            let Some(test) = functions.iter().find(|f| f.start > offset) else { continue };
            let panics = source.code[offset..test.start].contains("should_panic");
            if !panics && !asserts(&source.code[test.body..test.end]) {
                let what = format!("`{}` asserts nothing: say what must hold", test.name);
                found.push(source.report(test.start, what));
            }
        }
    }
    found
}

fn asserts(body: &str) -> bool {
    let says = |word: &str| {
        let known = ["check", "expect", "expect_err", "unwrap_err", "panic"].contains(&word);
        known || word.contains("assert") || word.starts_with("check_")
    };
    body.contains("?;") || body.split(|c: char| !c.is_alphanumeric() && c != '_').any(says)
}

/// Cargo says at run time where the package is, which need not be where it was compiled.
fn root() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from)
}

/// Every Rust file of the repository.
fn tree() -> std::io::Result<Vec<Source>> {
    let root = root();
    let (mut sources, mut folders) = (Vec::new(), vec![root.clone()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            let name = path.file_name().map_or_else(String::new, |n| n.to_string_lossy().into());
            if path.is_dir() && !name.starts_with('.') && name != "target" {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                sources
                    .push(Source::new(&relative(&root, &path), &std::fs::read_to_string(&path)?));
            }
        }
    }
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(sources)
}

fn relative(root: &Path, path: &Path) -> String {
    path.strip_prefix(root).unwrap_or(path).to_string_lossy().replace('\\', "/")
}

#[test]
fn the_tree_is_tidy() -> std::io::Result<()> {
    let sources = tree()?;
    let seen = |path: &str| sources.iter().any(|source| source.path == path);
    assert!(["src/lib.rs", "tests/tidy.rs", DOOR].into_iter().all(seen), "not the repository");
    let mut found: Vec<String> = RULES.iter().flat_map(|rule| rule(&sources)).collect();
    found.sort();
    assert!(found.is_empty(), "{} untidy places\n{}", found.len(), found.join("\n"));
    Ok(())
}

/// The documents in which references are checked.
const DOCUMENTS: &[&str] = &["README.md", "DESIGN.md", "TESTING.md", "CHANGELOG.md"];

#[test]
fn references_lead_somewhere() -> std::io::Result<()> {
    let root = root();
    let sources = tree()?;
    let read = |path: &&'static str| Ok((*path, std::fs::read_to_string(root.join(path))?));
    let documents: Vec<_> = DOCUMENTS.iter().map(read).collect::<std::io::Result<_>>()?;
    let documents = documents.iter().map(|(path, raw)| Text { path, raw });
    // Its examples are made up.
    let checked = sources.iter().filter(|source| !source.path.starts_with("tests/tidy"));
    let code = checked.map(|source| Text { path: &source.path, raw: &source.raw });
    let texts: Vec<Text<'_>> = documents.chain(code).collect();
    let design = texts.iter().find(|text| text.path == "DESIGN.md").map_or("", |text| text.raw);
    let mut found = references::labels(&texts);
    found.extend(references::sections(&texts, design));
    found.extend(references::paths(&texts, &root));
    found.extend(references::names(&texts, &sources));
    found.sort();
    assert!(found.is_empty(), "{} references lead nowhere\n{}", found.len(), found.join("\n"));
    Ok(())
}

#[path = "tidy/members.rs"]
mod members;
#[path = "tidy/proofs.rs"]
mod proofs;
#[path = "tidy/references.rs"]
mod references;
