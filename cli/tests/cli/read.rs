//! `get`, `list`, `stat`: what they print, as text and as JSON.

use crate::{expect, json, sample_embedding, sample_records, sample_store, stratalog, words};
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Stdio};
use stratalog::Options;

#[test]
fn get_prints_what_was_imported() {
    let (_dir, store) = sample_store();
    let records = sample_records();
    let (id, content) = &records[7];
    let raw = stratalog(words(&store, "get", &[id, "--raw"]));
    assert_eq!(raw.stdout, content.as_bytes());
    let (text, _) = expect(0, words(&store, "get", &[id]));
    assert!(text.contains(&format!("id         {id}\n")), "{text}");
    assert!(text.contains(&format!("content    {content}\n")), "{text}");

    let report = json(0, words(&store, "get", &[id, &records[8].0, "--embedding", "--json"]));
    assert_eq!(report["records"].as_array().unwrap().len(), 2);
    let record = &report["records"][0];
    assert_eq!(record["id"], **id);
    assert_eq!(record["content"], **content);
    let values = record["embedding"].as_array().unwrap().iter();
    let bits: Vec<u32> = values.map(|v| (v.as_f64().unwrap() as f32).to_bits()).collect();
    let expected: Vec<u32> = sample_embedding(7).iter().map(|v| v.to_bits()).collect();
    assert_eq!(bits, expected);
    let created = record["created"].as_str().unwrap();
    assert!(created.starts_with("20") && created.ends_with('Z'), "{created}");
}

#[test]
fn the_printed_embedding_is_exact() {
    let (_dir, store) = sample_store();
    let id = &sample_records()[3].0;
    let (text, _) = expect(0, words(&store, "get", &[id, "--embedding"]));
    let line = text.lines().find_map(|line| line.strip_prefix("embedding  [")).unwrap();
    let values: Vec<f32> =
        line.trim_end_matches(']').split(", ").map(|value| value.parse().unwrap()).collect();
    assert_eq!(values, sample_embedding(3));
}

#[test]
fn an_id_that_is_not_there_is_exit_code_3_and_the_others_are_printed() {
    let (_dir, store) = sample_store();
    let id = &sample_records()[0].0;
    let (out, err) = expect(3, words(&store, "get", &["no such id", id]));
    assert!(out.contains(id.as_str()), "{out}");
    assert!(err.contains("no record with id no such id"), "{err}");
    let report = json(3, words(&store, "get", &["no such id", "--json"]));
    assert_eq!(report["missing"][0], "no such id");
    assert_eq!(report["records"].as_array().unwrap().len(), 0);
    expect(2, words(&store, "get", &[]));
    expect(2, words(&store, "get", &[id, "--raw", "--json"]));
}

#[test]
fn list_has_every_id_once_and_can_be_limited() {
    let (_dir, store) = sample_store();
    let expected: BTreeSet<String> = sample_records().into_iter().map(|(id, _)| id).collect();
    let (out, _) = expect(0, words(&store, "list", &[]));
    assert_eq!(out.lines().count(), 500);
    assert_eq!(out.lines().map(str::to_owned).collect::<BTreeSet<_>>(), expected);
    let verbs = expected.iter().filter(|id| id.starts_with("wn:02")).count();
    let (out, _) = expect(0, words(&store, "list", &["--prefix", "wn:02"]));
    assert_eq!(out.lines().count(), verbs);
    let (out, _) = expect(0, words(&store, "list", &["--limit=3", "--long", "--json"]));
    assert_eq!(out.lines().count(), 3);
    for line in out.lines() {
        let entry: Value = serde_json::from_str(line).unwrap();
        assert!(expected.contains(entry["id"].as_str().unwrap()), "{line}");
        assert!(entry["content_bytes"].as_u64().unwrap() > 0, "{line}");
        assert!(entry["lsn"].as_u64().unwrap() > 0, "{line}");
    }
}

#[test]
fn ids_and_contents_that_are_no_text_are_shown_without_loss() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = Options::new().dimension(1).open(&path).unwrap();
    store.put(b"\xff\x1b[2J", &[-0.0], b"\x00\xfe").unwrap();
    store.close().unwrap();
    let (out, _) = expect(0, words(&path, "list", &[]));
    assert_eq!(out, "\\xff\\u{1b}[2J\n");
    let mut get = words(&path, "get", &[]);
    get.push(std::ffi::OsStr::from_bytes(b"\xff\x1b[2J"));
    get.push("--json".as_ref());
    let report = json(0, get);
    assert_eq!(report["records"][0]["id"]["hex"], "ff1b5b324a");
    assert_eq!(report["records"][0]["content"]["hex"], "00fe");
}

#[test]
fn stat_counts_what_is_there() {
    let (_dir, store) = sample_store();
    let report = json(0, words(&store, "stat", &["--json"]));
    assert_eq!(report["path"], store.to_str().unwrap());
    assert_eq!(report["dimension"], 768);
    let stats = &report["stats"];
    assert_eq!(stats["live_records"], 500);
    // Segments of 1 MiB hold some 320 records of 3.2 KB.
    assert_eq!(stats["segments"], 2);
    let each = stats["disk_bytes_per_record"].as_f64().unwrap();
    assert_eq!(each, stats["disk_bytes"].as_f64().unwrap() / 500.0);
    assert!(stats["index_bytes_per_record"].as_f64().unwrap() > 0.0);
    let recovery = &report["recovery"];
    assert_eq!(recovery["records"], 500);
    for name in ["torn", "void", "corrupt", "missing_segments", "foreign_files"] {
        assert_eq!(recovery[name], 0, "{name}");
    }
    let (text, _) = expect(0, words(&store, "stat", &[]));
    assert!(text.contains("live records               500"), "{text}");
}

#[test]
fn a_store_that_is_open_for_writing_can_be_read_but_not_imported_into() {
    let (dir, path) = sample_store();
    let store = Options::new().open(&path).unwrap();
    let records = dir.path().join("r.jsonl");
    std::fs::write(&records, "{\"id\":\"a\",\"content\":\"\",\"embedding\":[1]}").unwrap();
    let embedding = format!("[{}]", ["1"; 768].join(","));
    let line = format!("{{\"id\":\"a\",\"content\":\"\",\"embedding\":{embedding}}}");
    std::fs::write(&records, line).unwrap();
    let args = ["--records", records.to_str().unwrap()];
    let (_, err) = expect(1, words(&path, "import", &args));
    assert!(err.contains("is open for writing"), "{err}");
    assert!(err.contains(&format!("(process {} (", std::process::id())), "{err}");
    for command in ["list", "stat", "verify"] {
        expect(0, words(&path, command, &[]));
    }
    drop(store);
    expect(0, words(&path, "import", &args));
}

#[test]
fn what_is_no_store_is_an_error_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing");
    for command in ["list", "stat", "verify"] {
        let (out, err) = expect(1, words(&missing, command, &[]));
        assert_eq!(out, "");
        assert!(err.contains(&format!("no store at {}", missing.display())), "{err}");
    }
    assert!(!missing.exists());
    let file = dir.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let (_, err) = expect(1, words(&file, "stat", &["--json"]));
    assert!(err.contains("is not a store"), "{err}");
    expect(2, ["no-such-command"]);
    expect(2, [] as [&str; 0]);
    expect(0, ["--version"]);
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let (_dir, store) = sample_store();
    let ids: Vec<String> = sample_records().into_iter().map(|(id, _)| id).collect();
    let mut args = words(&store, "get", &["--embedding"]);
    args.extend(ids.iter().map(std::ffi::OsStr::new));
    let mut child = Command::new(env!("CARGO_BIN_EXE_stratalog"))
        .args(args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    // Four megabytes are on their way; reads one line of them and closes the pipe.
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}
