#![no_main]
use std::sync::LazyLock;
use stratalog_fuzz::store::Place;
use stratalog_fuzz::{calls, victim};

static PLACE: LazyLock<Place> = LazyLock::new(|| Place::new("fuzz-calls").expect("a directory"));

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    victim::clear(PLACE.path()).expect("an own directory");
    calls::run(PLACE.path(), data);
});
