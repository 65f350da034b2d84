//! The edges of what can be stored.

use super::common::{SEGMENT, reopen};
use super::new_store;
use stratalog::{Error, Options, Store};

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn ids_have_1_to_1024_bytes_and_no_other_id_is_ever_found() {
    let (_dir, store) = new_store(1);
    for len in [1, 2, 23, 24, 25, 63, 64, 65, 1023, 1024] {
        store.put(vec![7; len], &[len as f32], "").unwrap();
    }
    for len in [0, 1025, 5000] {
        let id = vec![7; len];
        assert!(matches!(store.put(&id, &[0.0], ""), Err(Error::InvalidId { len: l }) if l == len));
        assert!(matches!(store.remove(&id), Err(Error::InvalidId { len: l }) if l == len));
        assert!(store.pin().get(&id).unwrap().is_none());
        assert!(store.get_owned(&id).unwrap().is_none());
        assert!(store.get_shared(&id).unwrap().is_none());
        assert!(!store.contains(&id));
    }
    let store = reopen(store);
    for len in [1, 2, 23, 24, 25, 63, 64, 65, 1023, 1024] {
        let record = store.get_owned(vec![7; len]).unwrap().unwrap();
        assert_eq!((record.id.len(), record.embedding), (len, vec![len as f32]));
    }
}

#[test]
fn the_smallest_and_the_largest_dimension_are_stored() {
    for dimension in [1usize, 65_536] {
        let (_dir, store) = new_store(dimension);
        let embedding: Vec<f32> = (0..dimension).map(|n| n as f32).collect();
        for id in ["a", "b", "c", "d", "e"] {
            store.put(id, &embedding, id).unwrap();
        }
        let store = reopen(store);
        assert_eq!(store.dimension(), dimension);
        assert_eq!(store.get_owned("d").unwrap().unwrap().embedding, embedding);
    }
}

#[test]
fn an_empty_content_is_a_content() {
    let (_dir, store) = new_store(2);
    store.put("empty", &[0.0, 1.0], []).unwrap();
    store.put("emptied", &[0.0, 1.0], "something").unwrap();
    store.put("emptied", &[0.0, 1.0], "").unwrap();
    let store = reopen(store);
    for id in ["empty", "emptied"] {
        let pinned = store.pin();
        let record = pinned.get(id).unwrap().unwrap();
        assert_eq!((record.content(), record.content_str()), (&[][..], Ok("")));
        assert_eq!(record.embedding(), [0.0, 1.0]);
    }
}

/// A segment takes a record of half its size, exactly, also when another one has just begun it.
fn store_largest(store: &Store, id: &str, len: usize) -> Result<(), Error> {
    store.put(id, &[1.0], vec![id.len() as u8; len]).map(drop)
}

#[test]
fn the_largest_record_is_what_record_too_large_says_to_the_byte() {
    let (_dir, store) = new_store(1);
    let error = store_largest(&store, "id", SEGMENT as usize).unwrap_err();
    let Error::RecordTooLarge { len, max } = error else { panic!("{error:?}") };
    assert!(len > max && max >= SEGMENT / 4, "{len}, {max}");
    // Header and id take one cache line, the embedding four bytes.
    let most = max as usize - 64 - 4;
    for id in ["a", "b", "c"] {
        store_largest(&store, id, most).unwrap();
    }
    let over = store_largest(&store, "d", most + 1).unwrap_err();
    assert!(matches!(over, Error::RecordTooLarge { len, max: m } if len > max && m == max));
    assert!(over.to_string().contains(&max.to_string()), "{over}");
    store_largest(&store, "e", 10).unwrap();
    let store = reopen(store);
    assert_eq!(store.len(), 4);
    assert!(!store.contains("d"));
    for id in ["a", "b", "c"] {
        assert_eq!(store.get_owned(id).unwrap().unwrap().content, vec![1; most]);
    }
    assert!(store.verify().unwrap().is_clean());
}

#[test]
fn the_first_value_that_is_not_finite_is_named() {
    let (_dir, store) = new_store(16);
    store.put("a", &[1.0; 16], "").unwrap();
    for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for position in 0..16 {
            let mut embedding = [1.0f32; 16];
            embedding[position] = bad;
            embedding[15] = if position < 15 { f32::NAN } else { bad };
            let result = store.put("a", &embedding, "changed");
            assert!(
                matches!(result, Err(Error::NonFinite { index }) if index == position),
                "{result:?}"
            );
        }
    }
    let store = reopen(store);
    assert_eq!(store.get_owned("a").unwrap().unwrap().content, b"");
}

#[test]
fn every_finite_value_comes_back_bit_by_bit() {
    let odd = [
        0.0,
        -0.0,
        f32::MIN_POSITIVE,
        -f32::MIN_POSITIVE,
        f32::from_bits(1),
        f32::from_bits(0x8000_0001),
        f32::from_bits(0x007F_FFFF),
        f32::MAX,
        f32::MIN,
        f32::EPSILON,
        1.0 / 3.0,
    ];
    let (_dir, store) = new_store(odd.len());
    store.put("odd", &odd, "").unwrap();
    assert_eq!(bits(store.pin().get("odd").unwrap().unwrap().embedding()), bits(&odd));
    let store = reopen(store);
    assert_eq!(bits(store.pin().get("odd").unwrap().unwrap().embedding()), bits(&odd));
    assert_eq!(bits(&store.get_owned("odd").unwrap().unwrap().embedding), bits(&odd));
}

#[test]
fn ids_and_contents_are_any_bytes() {
    let (_dir, store) = new_store(1);
    let all: Vec<u8> = (0..=255).collect();
    let ids: Vec<Vec<u8>> =
        vec![vec![0], vec![0, 0], vec![0xFF], vec![0xC3, 0x28], all.clone(), vec![0; 1024]];
    for (n, id) in ids.iter().enumerate() {
        store.put(id, &[n as f32], &all).unwrap();
    }
    let store = reopen(store);
    let pinned = store.pin();
    for (n, id) in ids.iter().enumerate() {
        let record = pinned.get(id).unwrap().unwrap();
        assert_eq!((record.id(), record.embedding()), (&id[..], &[n as f32][..]));
        assert_eq!(record.content(), all);
        assert!(record.content_str().is_err(), "it is not UTF-8");
        assert!(!format!("{record:?}").is_empty());
    }
    assert!(!store.contains([0, 0, 0]));
}

/// The default segment is larger than all others here; a store made with it is one file.
#[test]
fn a_store_with_default_options_takes_and_gives_back_records() {
    let dir = tempfile::tempdir().unwrap();
    let store = Options::new().dimension(2).open(dir.path().join("store")).unwrap();
    store.put("a", &[1.0, 2.0], "content").unwrap();
    assert_eq!(store.stats().segments, 1);
    assert_eq!(reopen(store).len(), 1);
}
