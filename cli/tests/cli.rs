//! The `stratalog` command from outside: what it stores is what it prints, and every bad input has
//! an exit code and a message that says what to do.
#![cfg(test)]

#[path = "cli/bench.rs"]
mod bench;
#[path = "cli/compact.rs"]
mod compact;
#[path = "cli/damage.rs"]
mod damage;
#[path = "cli/import.rs"]
mod import;
#[path = "cli/kill.rs"]
mod kill;
#[path = "cli/read.rs"]
mod read;
#[path = "cli/rescue.rs"]
mod rescue;
#[path = "cli/search.rs"]
mod search;

use serde_json::Value;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

const SAMPLE_DIMENSION: usize = 768;

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data").join(name)
}

fn stratalog<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stratalog"));
    command.args(args).stdin(Stdio::null()).output().unwrap()
}

/// Runs it and expects this exit code; stdout and stderr.
fn expect<A: AsRef<OsStr>>(code: i32, args: impl IntoIterator<Item = A>) -> (String, String) {
    let output = stratalog(args);
    let out = String::from_utf8(output.stdout).unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "stdout: {out}\nstderr: {err}");
    assert!(!err.contains("panicked"), "{err}");
    (out, err)
}

/// Runs it and expects one JSON document.
fn json<A: AsRef<OsStr>>(code: i32, args: impl IntoIterator<Item = A>) -> Value {
    let (out, _) = expect(code, args);
    serde_json::from_str(&out).unwrap()
}

/// The shipped sample: ids and contents as they stand in the file.
fn sample_records() -> Vec<(String, String)> {
    let text = std::fs::read_to_string(data("sample_records.jsonl")).unwrap();
    let record = |line: &str| {
        let value: Value = serde_json::from_str(line).unwrap();
        let text = |name: &str| value[name].as_str().unwrap().to_owned();
        (text("id"), text("content"))
    };
    text.lines().map(record).collect()
}

/// Row `n` of the shipped sample, read without the code under test.
fn sample_embedding(n: usize) -> Vec<f32> {
    let bytes = std::fs::read(data("sample.npy")).unwrap();
    let row = SAMPLE_DIMENSION * 4;
    let at = bytes.len() - (500 - n) * row;
    let (values, _) = bytes[at..at + row].as_chunks::<4>();
    values.iter().map(|value| f32::from_le_bytes(*value)).collect()
}

/// A store that holds the sample.
fn sample_store() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let (records, embeddings) = (data("sample_records.jsonl"), data("sample.npy"));
    expect(
        0,
        words(
            &store,
            "import",
            &[
                "--records",
                records.to_str().unwrap(),
                "--embeddings",
                embeddings.to_str().unwrap(),
                "--segment-size",
                "1MiB",
            ],
        ),
    );
    (dir, store)
}

/// `COMMAND STORE ARGS...`
fn words<'a>(store: &'a Path, command: &'a str, args: &[&'a str]) -> Vec<&'a OsStr> {
    let mut words = vec![OsStr::new(command), store.as_os_str()];
    words.extend(args.iter().map(|&arg| OsStr::new(arg)));
    words
}
