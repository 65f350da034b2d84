#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| stratalog_fuzz::parsers::segment_header(data));
