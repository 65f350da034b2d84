#![no_main]
use std::cell::RefCell;
use stratalog_fuzz::store::Attacker;

thread_local! {
    static ATTACKER: RefCell<Attacker> = RefCell::new(Attacker::new("fuzz-store"));
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    ATTACKER.with_borrow_mut(|attacker| attacker.run(data));
});
