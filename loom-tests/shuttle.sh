#!/usr/bin/env bash
# Runs the scenarios of tests/shuttle.rs: the whole engine under shuttle's schedulers.
#
#   loom-tests/shuttle.sh [short|long] [scenario]
#
# short (the default): 2,000 random and as many PCT schedules a scenario; long: 100,000 each, some
# 2 million in all. SHUTTLE_ITERATIONS, SHUTTLE_SEED and SHUTTLE_REPLAY as in tests/shuttle.rs.
set -euo pipefail
cd "$(dirname "$0")/.."

iterations=2000
case ${1:-} in
    short) shift ;;
    long) iterations=100000; shift ;;
esac
export SHUTTLE_ITERATIONS=${SHUTTLE_ITERATIONS:-$iterations}
export RUST_BACKTRACE=${RUST_BACKTRACE:-0}
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/shuttle
export RUSTFLAGS="${RUSTFLAGS:-} --cfg stratalog_loom --cfg stratalog_shuttle -C debug-assertions=on"
exec cargo test --quiet --package loom-tests --release --test shuttle -- --nocapture "$@"
