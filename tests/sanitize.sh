#!/usr/bin/env bash
# The library and its stress tests under the address sanitizer, without any suppression. Needs a
# nightly compiler.
#
#   tests/sanitize.sh [argument of cargo test]...
#
# A mapping that was given up is poisoned instead of unmapped (cfg stratalog_poison), so a read
# through a slice that has outlived its segment is reported, whatever it would have found.
set -euo pipefail
cd "$(dirname "$0")/.."

export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/sanitize CARGO_INCREMENTAL=0
# Poisoned mappings stay, on purpose.
export ASAN_OPTIONS=detect_leaks=0:abort_on_error=1
export RUSTFLAGS="-Zsanitizer=address --cfg stratalog_poison"
(($#)) || set -- --lib --test lock_free --test compaction --test scenarios --test search
cargo +nightly test --target x86_64-unknown-linux-gnu "$@"
