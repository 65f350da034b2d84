//! `search`: by a record, by a file, and what it refuses.

use crate::{data, expect, json, sample_embedding, sample_records, sample_store, words};

#[test]
fn a_record_is_nearest_to_itself() {
    let (_dir, store) = sample_store();
    let (id, content) = &sample_records()[7];
    for metric in ["cosine", "dot", "l2"] {
        let args = ["--like", id, "-k", "5", "--metric", metric, "--json"];
        let report = json(0, words(&store, "search", &args));
        let hits = report["hits"].as_array().unwrap();
        assert_eq!(hits.len(), 5);
        assert_eq!(
            (hits[0]["id"].as_str(), hits[0]["content"].as_str()),
            (Some(id.as_str()), Some(content.as_str()))
        );
    }
    let (text, _) = expect(0, words(&store, "search", &["--like", id]));
    assert_eq!(text.lines().count(), 10);
    assert!(text.starts_with(&format!("   1.0000  {id}  ")), "{text}");
}

#[test]
fn a_row_of_a_file_finds_what_comparing_each_finds() {
    let (_dir, store) = sample_store();
    let query = sample_embedding(400);
    let mut scores: Vec<(f32, usize)> = (0..500)
        .map(|n| (sample_embedding(n).iter().zip(&query).map(|(a, b)| a * b).sum(), n))
        .collect();
    scores.sort_by(|a, b| b.0.total_cmp(&a.0));
    let file = data("sample.npy");
    let args = ["--vector", file.to_str().unwrap(), "--row", "400", "-k", "3", "--json"];
    let report = json(0, words(&store, "search", &args));
    let records = sample_records();
    for (hit, (score, n)) in report["hits"].as_array().unwrap().iter().zip(scores) {
        assert_eq!(hit["id"], *records[n].0);
        assert!((hit["score"].as_f64().unwrap() - f64::from(score)).abs() < 1e-5);
    }
}

#[test]
fn what_cannot_be_searched_for_is_refused() {
    let (_dir, store) = sample_store();
    let (_, err) = expect(3, words(&store, "search", &["--like", "no such id"]));
    assert!(err.contains("no record with id no such id"), "{err}");
    let file = data("sample.npy");
    let file = file.to_str().unwrap();
    let (_, err) = expect(1, words(&store, "search", &["--vector", file, "--row", "500"]));
    assert!(err.contains("only 500 rows"), "{err}");
    let (_, err) = expect(1, words(&store, "search", &["--vector", "no such file"]));
    assert!(err.contains("no such file"), "{err}");
    expect(2, words(&store, "search", &[]));
    expect(2, words(&store, "search", &["--like", "a", "--vector", file]));
    expect(2, words(&store, "search", &["--like", "a", "--metric", "hamming"]));
}
