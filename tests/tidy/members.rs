//! Which names belong to which type: a plain scan of items, without their types.

use super::source::{Source, closing, item_end, occurrences, parts, skip_space, word_end};
use std::collections::{BTreeMap, BTreeSet};

/// What derived traits and blanket implementations bring along.
const DERIVED: &[&str] = &["clone", "default", "eq", "cmp", "partial_cmp", "fmt", "drop", "into"];

/// The fields, variants, methods and constants of the types in the sources. Types with one name
/// share theirs.
#[derive(Default)]
pub struct Members<'a> {
    of_type: BTreeMap<&'a str, BTreeSet<&'a str>>,
}

impl<'a> Members<'a> {
    pub fn of(sources: &'a [Source]) -> Self {
        let (mut members, mut traits) = (Self::default(), Vec::new());
        for code in sources.iter().map(|source| source.code.as_str()) {
            for keyword in ["struct", "enum", "union", "trait"] {
                for at in occurrences(code, keyword) {
                    members.add_type(code, at + keyword.len());
                }
            }
        }
        for code in sources.iter().map(|source| source.code.as_str()) {
            for at in occurrences(code, "impl").filter(|&at| begins_item(code, at)) {
                traits.extend(members.add_impl(code, at + "impl".len()));
            }
        }
        for (name, of_trait) in traits {
            let its = members.of_type.get(of_trait).cloned().unwrap_or_default();
            members.of_type.entry(name).or_default().extend(its);
        }
        members
    }

    /// Returns whether a type of the sources has no such member.
    pub fn lack(&self, name: &str, member: &str) -> bool {
        let its = self.of_type.get(name);
        its.is_some_and(|its| !its.contains(member)) && !DERIVED.contains(&member)
    }

    /// The type whose keyword ends at `at`: fields, variants, or the items of a trait.
    fn add_type(&mut self, code: &'a str, at: usize) {
        let name = word_at(code, at);
        let (body, end) = item_end(code, at);
        if name.is_empty() {
            return;
        }
        let its = self.of_type.entry(name).or_default();
        let Some(body) = body.map(|body| &code[body + 1..end.min(code.len())]) else { return };
        its.extend(parts(body).into_iter().map(|(_, part)| first_name(part)));
        its.extend(items(body));
    }

    /// The implementation whose keyword ends at `at`; the type and the trait, if it is of one.
    fn add_impl(&mut self, code: &'a str, at: usize) -> Option<(&'a str, &'a str)> {
        let (Some(body), end) = item_end(code, at) else { return None };
        let header = &code[at + generics(&code[at..body])..body];
        let split = occurrences(header, "for").next();
        let name = last_name(split.map_or(header, |split| &header[split + "for".len()..]));
        let its = self.of_type.entry(name).or_default();
        its.extend(items(&code[body + 1..end.min(code.len())]));
        split.map(|split| (name, last_name(&header[..split])))
    }
}

/// Returns whether an item may begin here: an `impl` in a signature is none.
fn begins_item(code: &str, at: usize) -> bool {
    let before = code[..at].trim_end();
    let before = before.strip_suffix("unsafe").unwrap_or(before).trim_end();
    before.is_empty() || before.ends_with([';', '{', '}', ']'])
}

fn word_at(code: &str, at: usize) -> &str {
    let at = skip_space(code, at);
    &code[at..word_end(code, at)]
}

/// Bytes of the generic parameters that `code` begins with.
fn generics(code: &str) -> usize {
    let begin = skip_space(code, 0);
    if !code[begin..].starts_with('<') {
        return begin;
    }
    let mut depth = 0;
    for (at, c) in code.char_indices().skip(begin) {
        depth += i32::from(c == '<') - i32::from(c == '>' && !code[..at].ends_with('-'));
        if depth == 0 {
            return at + 1;
        }
    }
    code.len()
}

/// The last name of a path, before its generic arguments: of `&'a crate::log::Log<M>` it is `Log`.
fn last_name(path: &str) -> &str {
    let mut path = path.trim().trim_start_matches('&').trim_start();
    if path.starts_with('\'') {
        path = path.split_once(' ').map_or("", |(_, rest)| rest);
    }
    let path = path.trim_start_matches("mut ").trim_start_matches("dyn ");
    let end = path.find(['<', ' ', '\n', '(', '{']).unwrap_or(path.len());
    path[..end].rsplit("::").next().unwrap_or("")
}

/// The name of a field or a variant: without attributes and visibility.
fn first_name(part: &str) -> &str {
    let mut part = part.trim_start();
    while part.starts_with('#') {
        let open = part.find('[').unwrap_or(0);
        part = part[(closing(part, open) + 1).min(part.len())..].trim_start();
    }
    if let Some(rest) = part.strip_prefix("pub") {
        let rest = rest.trim_start();
        let end = if rest.starts_with('(') { closing(rest, 0) + 1 } else { 0 };
        part = &rest[end.min(rest.len())..];
    }
    word_at(part, 0)
}

/// The names of functions, constants and types in a body.
fn items(body: &str) -> impl Iterator<Item = &str> {
    let named = |keyword: &'static str| {
        occurrences(body, keyword).map(move |at| word_at(body, at + keyword.len()))
    };
    named("fn").chain(named("const")).chain(named("type"))
}
