#![no_main]
use std::sync::LazyLock;
use stratalog_fuzz::store::Attacker;

static ATTACKER: LazyLock<Attacker> = LazyLock::new(|| Attacker::new("fuzz-store"));

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    ATTACKER.run(data);
});
