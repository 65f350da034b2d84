//! Each rule shown to fail on a planted fault, at the planted line, and to pass on what is next
//! to it and right.

use super::*;

/// What `rule` says of a file with that text.
fn planted(rule: Rule, path: &str, text: &str) -> Vec<String> {
    rule(&[Source::new(path, text)])
}

/// `rule` finds exactly one fault in the text, at that line.
fn assert_found(rule: Rule, path: &str, line: usize, text: &str) {
    let found = planted(rule, path, text);
    let place = format!("{path}:{line}: ");
    let only = found.len() == 1 && found[0].starts_with(&place);
    assert!(only, "wanted one fault at {place} in\n{text}\nfound {found:#?}");
}

fn assert_clean(rule: Rule, path: &str, text: &str) {
    let found = planted(rule, path, text);
    assert!(found.is_empty(), "{found:#?} in\n{text}");
}

#[test]
fn every_rule_is_applied_to_the_tree() {
    let code = "fn f() { unsafe { std::thread::spawn(g) }; a.load(Ordering::Relaxed); }\n\
                fn g() { println!(); a.unwrap(); }\n#[test] fn t() {}\nuse crate::store::Store;";
    let text = format!("{code}\n/// TODO: caf\u{e9}{}", " ".repeat(COLUMNS));
    let all = [Source::new("src/log.rs", &text)];
    let silent = RULES.iter().position(|rule| rule(&all).is_empty());
    assert_eq!((silent, RULES.len()), (None, 10), "a rule that finds nothing, or one fewer");
}

#[test]
fn a_long_file_a_long_function_and_a_long_line_are_found() {
    let line = "// a\n";
    assert_clean(sizes, "src/log.rs", &line.repeat(FILE_LINES));
    assert_found(sizes, "src/log.rs", FILE_LINES + 1, &line.repeat(FILE_LINES + 1));
    let function =
        |lines: usize| format!("\nfn f([a, b]: [u8; 2]) {{{}}}\n", "\n".repeat(lines - 1));
    assert_clean(sizes, "tests/log.rs", &function(FUNCTION_LINES));
    assert_found(sizes, "tests/log.rs", 2, &function(FUNCTION_LINES + 1));
    assert_clean(sizes, "src/log.rs", &"x".repeat(COLUMNS));
    assert_found(sizes, "src/log.rs", 2, &("\n".to_owned() + &"x".repeat(COLUMNS + 1)));
}

#[test]
fn a_brace_in_a_literal_or_a_comment_ends_no_function() {
    for brace in ["'}'", "\"}\"", "\"\\\"}\"", "r#\"\"}\"#", "b'}'", "/* /* } */ } */", "// }"] {
        let text = format!("fn f<'a>() {{ {brace}\n{}}}", "\n".repeat(FUNCTION_LINES));
        assert_found(sizes, "src/log.rs", 1, &text);
    }
}

#[test]
fn a_letter_that_only_looks_like_one_is_found() {
    assert_found(ascii_only, "src/log.rs", 2, "fn f() {}\n// caf\u{e9}\n");
    assert_clean(ascii_only, "src/log.rs", "// coffee, '\\u{e9}'");
}

#[test]
fn a_use_of_a_higher_layer_is_found_however_it_is_written() {
    for text in [
        "\nuse crate::store::Store;",
        "\npub(crate) use crate::{store as s};",
        "use crate::{\nstore::Store, concurrency::Ordering};",
        "\nfn f(s: &crate::store::Store) {}",
        "\nuse super::store::Store;",
        "mod inner {\nuse super::super::store::Store; }",
        "#[cfg(not(test))]\nuse crate::store::Store;",
    ] {
        assert_found(layers, "src/log.rs", 2, text);
    }
    assert_found(layers, "src/index/entry.rs", 1, "use super::super::log::Log;");
    assert_found(layers, "src/index/mod.rs", 1, "use super::log::Log;");
}

#[test]
fn a_module_without_a_layer_is_found_as_file_and_as_name() {
    assert_found(layers, "src/cache.rs", 1, "use crate::sync::Ordering;");
    assert_found(layers, "src/cache/lru.rs", 1, "");
    assert_found(layers, "src/log.rs", 1, "use crate::Error;");
    assert_found(layers, "src/log.rs", 1, "use crate::*;");
}

#[test]
fn the_index_and_the_segment_stay_strangers() {
    assert_found(layers, "src/index/table.rs", 1, "use crate::segment::Segment;");
    assert_found(layers, "src/segment/mod.rs", 1, "use crate::index::Index;");
}

#[test]
fn lower_layers_own_modules_and_test_modules_may_be_used() {
    assert_clean(layers, "src/log.rs", "use crate::{format::ids::Lsn, segment::{self, Segment}};");
    assert_clean(layers, "src/log.rs", "mod inner { use super::Log; } // crate::store\n");
    assert_clean(layers, "src/index/entry.rs", "use super::table::Table; use crate::index::A;");
    assert_clean(layers, "src/log.rs", "pub(crate) fn f() { \"crate::store::x\" }");
    assert_clean(layers, "src/lib.rs", "pub use crate::store::Store;");
    let tests = "mod tests { use crate::store::Store; fn f() {} }";
    for gate in ["#[cfg(test)]", "#[cfg(all(test, not(stratalog_loom)))]", "#[cfg(all(a, test))]"] {
        assert_clean(layers, "src/log.rs", &format!("{gate}\n{tests}"));
    }
    assert_clean(layers, "src/log/tests.rs", tests);
}

#[test]
fn unsafe_in_an_unlisted_file_and_a_stale_listing_are_found() {
    let rule: Rule = |sources| unsafe_only_in(sources, &["src/concurrency/growable_array.rs"]);
    let levels = "fn f() { unsafe { g() } }";
    let both = |other: &str| {
        [Source::new("src/concurrency/growable_array.rs", levels), Source::new("cli/a.rs", other)]
    };
    assert!(rule(&both("#![forbid(unsafe_code)]\n// unsafe\n")).is_empty());
    let found = rule(&both("\nunsafe impl Send for A {}"));
    assert!(found.len() == 1 && found[0].starts_with("cli/a.rs:2: "), "{found:#?}");
    assert_found(rule, "src/concurrency/growable_array.rs", 1, "// unsafe no more");
    let found = rule(&[]);
    assert!(
        found.len() == 1 && found[0].starts_with("src/concurrency/growable_array.rs:1: no such"),
        "{found:#?}"
    );
}

#[test]
fn an_atomic_a_thread_or_loom_beside_the_door_is_found() {
    for text in [
        "\nuse std::sync::atomic::AtomicU64;",
        "\nuse std::{io, sync::{Arc, atomic::Ordering}};",
        "\nfn f() { std::thread::spawn(g); }",
        "\nuse std::thread;",
        "\nuse std::sync::{self, Arc};",
        "\nuse core::sync::atomic;\nuse core::sync::atomic::fence;",
        "\nfn f() { ::loom::model(g) }",
    ] {
        let found = planted(one_door, "src/log.rs", text);
        assert!(!found.is_empty() && found[0].contains("src/log.rs:"), "{text} passed: {found:#?}");
        assert_clean(one_door, DOOR, text);
        assert_clean(one_door, "loom-tests/tests/log.rs", text);
        assert_clean(one_door, "src/log.rs", &format!("#[cfg(test)] mod tests {{ {text} }}"));
    }
    assert_clean(one_door, "src/log.rs", "use crate::sync::unmodelled::thread; // std::thread");
    assert_clean(one_door, "src/log.rs", "use std::sync::Arc; use crate::sync::thread_local;");
}

#[test]
fn an_ordering_without_a_reason_is_found() {
    let far = "// Acquire: pairs with f.\n".to_owned() + &"\n".repeat(COMMENT_REACH);
    for above in ["", "// Gets it.\n", "/// Acquire.\n", "let a = \"// Acquire\";\n", &far] {
        let text = format!("{above}a.load(Ordering::Acquire);");
        assert_found(orderings_are_explained, "src/log.rs", above.lines().count() + 1, &text);
    }
    assert_found(orderings_are_explained, "src/log.rs", 1, "a.load(PlainOrdering::Relaxed);");
    let half =
        "// Release: pairs with f.\na.compare_exchange(b, c, Ordering::Release, Ordering::Relaxed)";
    assert_found(orderings_are_explained, "src/log.rs", 2, half);
    let bare = "// Relaxed: a counter.\nuse crate::sync::Ordering::Relaxed;\na.load(Relaxed);";
    assert_found(orderings_are_explained, "src/log.rs", 3, bare);
}

#[test]
fn an_ordering_with_a_reason_is_fine() {
    let near = "// Acquire: pairs with f.\n".to_owned() + &"\n".repeat(COMMENT_REACH - 1);
    for text in [
        near + "a.load(Ordering::Acquire);",
        "a.load(Ordering::Relaxed); // Relaxed: a counter.".to_owned(),
        "a.cmp(&b) == Ordering::Less".to_owned(),
        "#[cfg(test)] mod tests { fn f() { a.load(Ordering::SeqCst); } }".to_owned(),
    ] {
        assert_clean(orderings_are_explained, "src/log.rs", &text);
    }
    assert_clean(orderings_are_explained, "tests/log.rs", "a.load(Ordering::SeqCst);");
}

#[test]
fn what_is_left_for_later_is_found() {
    for note in ["TODO", "FIXME", "XXX", "HACK"] {
        assert_found(nothing_left_for_later, "src/log.rs", 2, &format!("\n// {note} later"));
        assert_found(nothing_left_for_later, "cli/src/main.rs", 1, &format!("/// {note}: later"));
        assert_clean(nothing_left_for_later, "src/log.rs", &format!("\"{note}\"; A{note}S();"));
    }
    for attribute in [
        "#[ignore]",
        "#[ignore = \"slow\"]",
        "#[allow(dead_code)]",
        "#![allow(unused)]",
        "#[cfg_attr(test, allow(dead_code))]",
    ] {
        assert_found(
            nothing_left_for_later,
            "tests/log.rs",
            2,
            &format!("\n{attribute}\nfn f() {{}}"),
        );
    }
    let fine = "#[expect(dead_code, reason = \"allow(\")]\nfn allow() { allow() } // ignore";
    assert_clean(nothing_left_for_later, "src/log.rs", fine);
}

#[test]
fn a_panic_in_waiting_is_found() {
    for code in [
        "a.unwrap();",
        "a\n.expect(\"b\");",
        "panic!(\"b\")",
        "unreachable!()",
        "todo!()",
        "a.unwrap_or_default()",
    ] {
        let line = code.lines().count();
        assert_found(no_panic_in_waiting, "src/log.rs", line, code);
        assert_clean(no_panic_in_waiting, "tests/log.rs", code);
        let tests = format!("#[cfg(test)]\nmod tests {{ fn f() {{ {code} }} }}");
        assert_clean(no_panic_in_waiting, "src/log.rs", &tests);
        let after = format!("#[cfg(test)]\nfn f() {{}}\nfn g() {{ {code} }}");
        assert_found(no_panic_in_waiting, "src/log.rs", line + 2, &after);
        assert_clean(no_panic_in_waiting, "src/log.rs", &format!("/// {}", code.replace('\n', "")));
    }
    assert_clean(no_panic_in_waiting, "src/log.rs", "#[expect(a)] fn f() { a.unwrap_or(b) }");
}

#[test]
fn output_of_the_library_is_found() {
    for word in ["println", "eprintln", "print", "eprint", "dbg"] {
        assert_found(no_output, "src/log.rs", 1, &format!("{word}!(\"a\");"));
        assert_found(no_output, "src/log.rs", 1, &format!("#[cfg(test)] fn f() {{ {word}!() }}"));
        assert_clean(no_output, "cli/src/main.rs", &format!("{word}!(\"a\");"));
        assert_clean(no_output, "src/log.rs", &format!("/// {word}!(\"a\");"));
    }
}

#[test]
fn a_test_that_asserts_nothing_is_found() {
    for attribute in ["#[test]", "#[tokio::test(flavor = \"a\")]"] {
        let test =
            |body: &str| format!("{attribute}\nfn f() {{ {body} }}\nfn g() {{ assert!(a) }}");
        for body in ["", "checked();", "// assert!(a)\n", "\"assert\"; a.unwrap();"] {
            assert_found(tests_assert, "tests/log.rs", 2, &test(body));
        }
        for body in
            ["assert!(a);", "prop_assert_eq!(a, b);", "check(a);", "a.unwrap_err();", "a()?;"]
        {
            assert_clean(tests_assert, "tests/log.rs", &test(body));
        }
    }
    assert_clean(tests_assert, "src/log.rs", "#[test]\n#[should_panic]\nfn f() {}");
    assert_clean(tests_assert, "src/log.rs", "fn f() {}");
}
