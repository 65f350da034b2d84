//! `import`: both forms of input, and what is refused.

use crate::{SAMPLE_DIMENSION, data, expect, json, sample_embedding, sample_records, words};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use stratalog::{Options, Store};
use tempfile::TempDir;

/// An empty place and names in it.
struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn store(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        let path = self.dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Imports and expects an error that says all of this; nothing may have been stored.
    fn refused(&self, args: &[&str], reasons: &[&str]) {
        let (out, err) = expect(1, words(&self.store(), "import", args));
        assert_eq!(out, "");
        for reason in reasons {
            assert!(err.contains(reason), "{reason:?} is not in {err}");
        }
    }
}

fn open(path: &Path) -> Store {
    Options::new().read_only(true).open(path).unwrap()
}

/// A `.npy` file of version 1 with any header and data.
fn npy(descr: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    let dict = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n");
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((dict.len() as u16).to_le_bytes());
    bytes.extend(dict.as_bytes());
    bytes.extend(data);
    bytes
}

fn assert_holds_the_sample(path: &Path) {
    let store = open(path);
    let records = sample_records();
    assert_eq!(store.len(), records.len());
    assert_eq!(store.dimension(), SAMPLE_DIMENSION);
    let pinned = store.pin();
    for (n, (id, content)) in records.iter().enumerate() {
        let record = pinned.get(id).unwrap().unwrap();
        assert_eq!(record.content_str().unwrap(), content, "{id}");
        let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(record.embedding()), bits(&sample_embedding(n)), "{id}");
    }
}

#[test]
fn records_with_an_array_of_embeddings_come_back_byte_for_byte() {
    let place = Place::new();
    let (records, embeddings) = (data("sample_records.jsonl"), data("sample.npy"));
    let files = [records.to_str().unwrap(), embeddings.to_str().unwrap()];
    let args = ["--records", files[0], "--embeddings", files[1], "--threads=3", "--sync", "--json"];
    let report = json(0, words(&place.store(), "import", &args));
    let bytes: usize = sample_records().iter().map(|(id, content)| id.len() + content.len()).sum();
    assert_eq!(report["records"], 500);
    assert_eq!(report["live_records"], 500);
    assert_eq!(report["bytes"], bytes + 500 * SAMPLE_DIMENSION * 4);
    assert!(report["seconds"].as_f64().unwrap() > 0.0);
    assert!(report["records_per_second"].as_f64().unwrap() > 0.0);
    assert_holds_the_sample(&place.store());
    // Again: the same ids are overwritten.
    let report = json(0, words(&place.store(), "import", &args));
    assert_eq!(report["live_records"], 500);
    assert_holds_the_sample(&place.store());
}

#[test]
fn records_with_embeddings_in_their_lines_come_back_byte_for_byte() {
    let place = Place::new();
    let mut text = String::new();
    for (n, (id, content)) in sample_records().iter().enumerate() {
        let record = serde_json::json!({
            "embedding": sample_embedding(n), "content": content, "id": id,
        });
        writeln!(text, "{record}\n").unwrap();
    }
    let records = place.file("inline.jsonl", text);
    let (out, err) = expect(0, words(&place.store(), "import", &["--records", &records]));
    assert!(out.starts_with("imported 500 records"), "{out}");
    assert_eq!(err, "");
    assert_holds_the_sample(&place.store());
}

#[test]
fn of_two_lines_with_one_id_the_later_one_wins() {
    let place = Place::new();
    let mut text = String::new();
    for n in 0..4_000 {
        let id = n % 100;
        writeln!(text, "{{\"id\":\"{id}\",\"content\":\"{n}\",\"embedding\":[{n}]}}").unwrap();
    }
    let records = place.file("twice.jsonl", text);
    expect(0, words(&place.store(), "import", &["--records", &records, "--threads=4"]));
    let store = open(&place.store());
    assert_eq!(store.len(), 100);
    for id in 0..100 {
        let record = store.get_owned(id.to_string()).unwrap().unwrap();
        assert_eq!(record.content, (3_900 + id).to_string().as_bytes());
    }
}

#[test]
fn a_bad_line_is_named_and_what_was_stored_is_said() {
    let place = Place::new();
    let mut text = String::new();
    for n in 0..3_000 {
        let content = if n == 2_345 { "7" } else { "\"x\"" };
        writeln!(text, "{{\"id\":\"{n}\",\"content\":{content},\"embedding\":[1,2]}}").unwrap();
    }
    let records = place.file("bad.jsonl", &text);
    let args = ["--records", records.as_str(), "--threads=2"];
    let (_, err) = expect(1, words(&place.store(), "import", &args));
    assert!(err.contains("bad.jsonl, line 2346: invalid type: integer `7`"), "{err}");
    assert!(err.contains("importing again overwrites them"), "{err}");
    // Corrected, it goes in.
    place.file("bad.jsonl", text.replace("\"content\":7", "\"content\":\"7\""));
    let report = json(0, words(&place.store(), "import", &[&args[..], &["--json"]].concat()));
    assert_eq!(report["live_records"], 3_000);
}

#[test]
fn bad_lines_are_refused_with_their_number() {
    let good = "{\"id\":\"a\",\"content\":\"\",\"embedding\":[1,2]}";
    for (line, reason) in [
        ("{\"id\":\"b\",\"content\":\"\",\"embedding\":[1,2,3]}", "dimension is 2, but 3"),
        ("{\"id\":\"b\",\"content\":\"\",\"embedding\":[1,1e99]}", "value 1 of the embedding"),
        ("{\"id\":\"\",\"content\":\"\",\"embedding\":[1,2]}", "1 to 1024 bytes"),
        ("{\"id\":\"b\",\"content\":\"\"}", "missing field `embedding`"),
        ("{\"id\":\"b\",\"embedding\":[1,2]}", "missing field `content`"),
        ("{\"id\":\"b\",\"content\":\"\",\"embedding\":[1,2],\"tag\":1}", "unknown field `tag`"),
        ("{\"id\":\"b\"", "EOF"),
        ("\u{0}", "expected value"),
    ] {
        let place = Place::new();
        let records = place.file("r.jsonl", format!("{good}\n\n{line}\n"));
        place.refused(&["--records", &records], &["r.jsonl, line 3: ", reason]);
    }
    let place = Place::new();
    let records = place.file("r.jsonl", b"{\"id\":\"\xff\",\"content\":\"\",\"embedding\":[1]}");
    place.refused(&["--records", &records], &["line 1"]);
    assert!(!place.store().exists(), "a store was made for nothing");
}

#[test]
fn bad_arrays_are_refused_before_anything_is_made() {
    let one = 1.0f32.to_le_bytes().repeat(6);
    let lines = "{\"id\":\"a\",\"content\":\"\"}\n{\"id\":\"b\",\"content\":\"\"}\n";
    for (bytes, reason) in [
        (npy("<f4", "(2, 3)", &one[..23]), "cut short"),
        (npy("<f4", "(2, 3)", &[&one[..], b"x"].concat()), "something follows"),
        (npy("<f4", "(3, 2)", &one), "has 2 records"),
        (npy("<f4", "(6,)", &one), "1 dimensions"),
        (npy("<f8", "(2, 3)", &one), "astype('<f4')"),
        (npy(">f4", "(2, 3)", &one), "big-endian"),
        (npy("<f4", "(2, 0)", b""), "dimension must be"),
        (npy("<f4", "(2, 4611686018427387904)", &one), "cannot be right"),
        (b"\x93NUMPY".to_vec(), "too short"),
        (b"PK\x03\x04 some archive".to_vec(), "not a .npy file"),
    ] {
        let place = Place::new();
        let records = place.file("r.jsonl", lines);
        let embeddings = place.file("e.npy", bytes);
        let args = ["--records", records.as_str(), "--embeddings", embeddings.as_str()];
        place.refused(&args, &[reason]);
        assert!(!place.store().exists(), "{reason}: a store was made for nothing");
    }
}

#[test]
fn a_line_with_an_embedding_beside_an_array_is_refused() {
    let place = Place::new();
    let records = place.file("r.jsonl", "{\"id\":\"a\",\"content\":\"\",\"embedding\":[1]}");
    let embeddings = place.file("e.npy", npy("<f4", "(1, 1)", &1.0f32.to_le_bytes()));
    let args = ["--records", records.as_str(), "--embeddings", embeddings.as_str()];
    place.refused(&args, &["line 1", "which one?"]);
    assert!(open(&place.store()).is_empty());
}

#[test]
fn dimensions_must_agree_with_the_store_and_the_command_line() {
    let place = Place::new();
    let two = place.file("2.jsonl", "{\"id\":\"a\",\"content\":\"\",\"embedding\":[1,2]}");
    let three = place.file("3.jsonl", "{\"id\":\"b\",\"content\":\"\",\"embedding\":[1,2,3]}");
    place.refused(&["--records", &two, "--dimension", "5"], &["--dimension is 5"]);
    expect(0, words(&place.store(), "import", &["--records", &two, "--dimension=2"]));
    place.refused(&["--records", &three], &["the store's dimension is 2, but 3 was given"]);
    place.refused(&["--records", &two, "--segment-size=1MiB"], &["segment_size"]);
    assert_eq!(open(&place.store()).len(), 1);
}

#[test]
fn files_that_are_not_there_are_named() {
    let place = Place::new();
    let records = place.file("empty.jsonl", "\n \n");
    place.refused(&["--records", "/no/such.jsonl"], &["/no/such.jsonl"]);
    place.refused(&["--records", &records, "--embeddings", "/no/e.npy"], &["/no/e.npy"]);
    place.refused(&["--records", &records], &["has no records"]);
    // A directory can be opened as a file, but not read.
    place.refused(&["--records", "/"], &["/"]);
    assert!(!place.store().exists());
    expect(2, words(&place.store(), "import", &[]));
    expect(2, words(&place.store(), "import", &["--records", &records, "--threads=0"]));
}
