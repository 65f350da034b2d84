//! A Rust file as the rules see it: comments and literals told apart from code, test modules from
//! what ships. Not a parser: it knows tokens, brackets and paths, and that is enough.

/// One file in several views. All but `raw` are ASCII and equally long, with blanks for what they
/// leave out, so an offset means the same place in each.
pub struct Source {
    /// Relative to the repository, with `/`.
    pub path: String,
    /// As written.
    pub raw: String,
    /// Without comments and literals.
    pub code: String,
    /// `code` without what is compiled for tests only.
    pub shipped: String,
    /// The plain comments alone (`//`, `/*`): no documentation.
    pub notes: String,
    /// Everything but literals.
    pub words: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Code,
    Note,
    Doc,
    Literal,
}

impl Source {
    pub fn new(path: &str, text: &str) -> Self {
        let raw = text.replace('\r', " ");
        // Whatever is not ASCII counts as a letter.
        let ascii: Vec<u8> =
            raw.chars().map(|c| if c.is_ascii() { c as u8 } else { b'x' }).collect();
        let kinds = kinds(&ascii);
        let view = |keep: &[Kind]| -> String {
            let seen = |(&byte, kind)| match byte {
                byte if byte == b'\n' || keep.contains(kind) => byte as char,
                _ => ' ',
            };
            ascii.iter().zip(&kinds).map(seen).collect()
        };
        let code = view(&[Kind::Code]);
        let shipped = without_tests(path, &code);
        let notes = view(&[Kind::Note]);
        let words = view(&[Kind::Code, Kind::Note, Kind::Doc]);
        Self { path: path.to_owned(), raw, code, shipped, notes, words }
    }

    /// The line of an offset, from 1.
    pub fn line(&self, offset: usize) -> usize {
        1 + self.code[..offset].matches('\n').count()
    }

    /// What a rule reports.
    pub fn report(&self, offset: usize, what: impl std::fmt::Display) -> String {
        format!("{}:{}: {what}", self.path, self.line(offset))
    }

    /// The same for a line that is known already.
    pub fn report_line(&self, line: usize, what: impl std::fmt::Display) -> String {
        format!("{}:{line}: {what}", self.path)
    }
}

fn kinds(text: &[u8]) -> Vec<Kind> {
    let mut kinds = vec![Kind::Code; text.len()];
    let mut at = 0;
    while at < text.len() {
        let (kind, len) = token(&text[at..]);
        kinds[at..at + len].fill(kind);
        at += len;
    }
    kinds
}

/// Kind and length of the token that `text` begins with; a word is one token.
fn token(text: &[u8]) -> (Kind, usize) {
    let upto = |end: Option<usize>| end.unwrap_or(text.len());
    match text {
        [b'/', b'/', rest @ ..] => {
            let doc = rest.starts_with(b"!") || rest.starts_with(b"/") && !rest.starts_with(b"//");
            let end = upto(text.iter().position(|&byte| byte == b'\n'));
            (if doc { Kind::Doc } else { Kind::Note }, end)
        }
        [b'/', b'*', ..] => (Kind::Note, block_comment(text)),
        [b'"', ..] => (Kind::Literal, quoted(text, b'"')),
        [b'\'', b'\\', ..] => (Kind::Literal, quoted(text, b'\'')),
        [b'\'', _, b'\'', ..] => (Kind::Literal, 3),
        [first, ..] if is_word(*first) => {
            let end = upto(text.iter().position(|&byte| !is_word(byte)));
            let raw = [&b"r"[..], b"br", b"cr"].contains(&&text[..end]);
            raw.then(|| raw_string(text, end)).flatten().unwrap_or((Kind::Code, end))
        }
        _ => (Kind::Code, 1),
    }
}

fn block_comment(text: &[u8]) -> usize {
    let (mut at, mut depth) = (0, 0);
    while at < text.len() {
        match &text[at..] {
            [b'/', b'*', ..] => (at, depth) = (at + 2, depth + 1),
            [b'*', b'/', ..] => (at, depth) = (at + 2, depth - 1),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn quoted(text: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < text.len() && text[at] != quote {
        at += if text[at] == b'\\' { 2 } else { 1 };
    }
    text.len().min(at + 1)
}

fn raw_string(text: &[u8], prefix: usize) -> Option<(Kind, usize)> {
    let hashes = text[prefix..].iter().take_while(|&&byte| byte == b'#').count();
    let open = prefix + hashes;
    if text.get(open) != Some(&b'"') {
        return None;
    }
    let close: Vec<u8> = [b"\"", "#".repeat(hashes).as_bytes()].concat();
    let end = text[open + 1..].windows(close.len()).position(|window| window == close);
    Some((Kind::Literal, end.map_or(text.len(), |end| open + 1 + end + close.len())))
}

pub fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Offset of the bracket that closes the one at `open`.
pub fn closing(code: &str, open: usize) -> usize {
    let mut depth = 0;
    for (at, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    code.len()
}

/// The parts of `code` between commas that no bracket encloses, each with its offset.
pub fn parts(code: &str) -> Vec<(usize, &str)> {
    let (mut parts, mut start, mut at) = (Vec::new(), 0, 0);
    while at < code.len() {
        match code.as_bytes()[at] {
            b'(' | b'[' | b'{' => at = closing(code, at),
            b',' => {
                parts.push((start, &code[start..at]));
                start = at + 1;
            }
            _ => {}
        }
        at += 1;
    }
    parts.push((start, &code[start.min(code.len())..]));
    parts
}

/// Where the item ends that begins at `from`: with its body, or with its semicolon; and where
/// that body begins.
pub fn item_end(code: &str, from: usize) -> (Option<usize>, usize) {
    let mut at = from;
    while at < code.len() {
        match code.as_bytes()[at] {
            b'{' => return (Some(at), closing(code, at)),
            b'(' | b'[' => at = closing(code, at),
            b';' => return (None, at),
            _ => {}
        }
        at += 1;
    }
    (None, code.len())
}

fn without_tests(path: &str, code: &str) -> String {
    let mut shipped = code.as_bytes().to_vec();
    let mut blank = |range: std::ops::Range<usize>| {
        let lasting = |byte: &u8| if *byte == b'\n' { b'\n' } else { b' ' };
        let blanks: Vec<u8> = shipped[range.clone()].iter().map(lasting).collect();
        shipped[range].copy_from_slice(&blanks);
    };
    if path.ends_with("/tests.rs") || path.contains("/tests/") {
        blank(0..code.len());
    }
    for (at, attribute) in attributes(code) {
        let Some(predicate) = attribute.strip_prefix("cfg(") else { continue };
        let predicate = predicate.strip_prefix("all(").unwrap_or(predicate);
        let for_tests = |part: &(usize, &str)| part.1.trim_end_matches(')').trim() == "test";
        if parts(predicate).iter().any(for_tests) {
            let whole_file = code[at..].starts_with("#!");
            let end = if whole_file { code.len() } else { item_end(code, at + 1).1 + 1 };
            blank(at..end.min(code.len()));
        }
    }
    String::from_utf8_lossy(&shipped).into_owned()
}

/// Every attribute: its offset, and what is between its brackets.
pub fn attributes(code: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices('#') {
        let open = at + 1 + usize::from(code[at + 1..].starts_with('!'));
        if code[open..].starts_with('[') {
            found.push((at, code[open + 1..closing(code, open)].trim()));
        }
    }
    found
}

/// Every use of a word: its offset.
pub fn occurrences<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let bytes = code.as_bytes();
    let (head, tail) = (word.bytes().next(), word.bytes().last());
    let glued = |edge: Option<u8>, next: Option<&u8>| {
        edge.is_some_and(is_word) && next.is_some_and(|&byte| is_word(byte))
    };
    code.match_indices(word).map(|(at, _)| at).filter(move |&at| {
        !glued(head, bytes[..at].last()) && !glued(tail, bytes.get(at + word.len()))
    })
}

pub struct Function<'a> {
    pub name: &'a str,
    pub start: usize,
    /// Offset of the opening brace.
    pub body: usize,
    /// Offset of the closing one.
    pub end: usize,
}

/// Every function that has a body.
pub fn functions(code: &str) -> Vec<Function<'_>> {
    let mut found = Vec::new();
    for start in occurrences(code, "fn") {
        let name = skip_space(code, start + 2);
        let name = &code[name..word_end(code, name)];
        if let ((Some(body), end), false) = (item_end(code, start), name.is_empty()) {
            found.push(Function { name, start, body, end });
        }
    }
    found
}

/// Returns how many `mod name { .. }` enclose the offset.
pub fn inline_modules(code: &str, offset: usize) -> usize {
    let encloses = |&at: &usize| {
        let (body, end) = item_end(code, at);
        body.is_some_and(|body| body < offset) && offset < end
    };
    occurrences(code, "mod").filter(encloses).count()
}

/// Every path with its offset, groups written out: `a::{b, c::d}` gives `a::b` and `a::c::d`.
pub fn paths(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < code.len() {
        at = if is_word(code.as_bytes()[at]) {
            path(code, at, String::new(), &mut found)
        } else {
            at + 1
        };
    }
    found
}

/// Adds the path at `start`, or those of its group, and answers where it ends.
fn path(code: &str, start: usize, mut full: String, found: &mut Vec<(usize, String)>) -> usize {
    let mut at = start;
    loop {
        let end = word_end(code, at);
        full += &code[at..end];
        let next = skip_space(code, end);
        if !code[next..].starts_with("::") {
            found.push((start, full));
            return end;
        }
        at = skip_space(code, next + 2);
        let group = code[at..].starts_with('{').then(|| &code[at + 1..closing(code, at)]);
        for (offset, part) in group.iter().flat_map(|group| parts(group)) {
            let head = at + 1 + offset + (part.len() - part.trim_start().len());
            match part.trim().bytes().next() {
                Some(byte) if is_word(byte) => {
                    path(code, head, full.clone() + "::", found);
                }
                Some(b'*') => found.push((head, full.clone() + "::*")),
                _ => {}
            }
        }
        if group.is_some() {
            return closing(code, at) + 1;
        }
        let star = code[at..].starts_with('*');
        if star || !code[at..].bytes().next().is_some_and(is_word) {
            found.push((start, if star { full + "::*" } else { full }));
            return at;
        }
        full += "::";
    }
}

pub fn word_end(code: &str, at: usize) -> usize {
    code[at..].bytes().position(|byte| !is_word(byte)).map_or(code.len(), |len| at + len)
}

pub fn skip_space(code: &str, at: usize) -> usize {
    let rest = code.get(at..).unwrap_or_default();
    at + (rest.len() - rest.trim_start().len())
}
