#!/usr/bin/env bash
# Fuzzes: one target after the other, each for so many seconds, on one core.
#
#   fuzz/run.sh <seconds> [target]...
#
# Targets: slot frame segment_header manifest segment store calls. Needs a nightly compiler and a
# C++ compiler (for libFuzzer, which the crate libfuzzer-sys brings along); cargo-fuzz is not needed,
# but works, too. What is new goes to target/fuzz/corpus, a crash to target/fuzz/crashes, and
# `MERGE=1 fuzz/run.sh 0 [target]...` keeps the smallest set in fuzz/corpus, which is committed.
# For many executions: SANITIZER=none (no address sanitizer), and on whole stores COMPARES=none as
# well (nothing learnt from compared values, which most of the time goes to there).
set -euo pipefail
cd "$(dirname "$0")"

seconds=${1:?seconds for each target}
shift
targets=("$@")
((${#targets[@]})) || targets=(slot frame segment_header manifest segment store calls)
host=x86_64-unknown-linux-gnu
home=${CARGO_TARGET_DIR:-../target}/fuzz
mkdir -p "$home/crashes"

sanitizer=${SANITIZER:-address} compares=${COMPARES:-traced}
flags="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4"
flags+=" -Cllvm-args=-sanitizer-coverage-inline-8bit-counters"
flags+=" -Cllvm-args=-sanitizer-coverage-pc-table"
[[ $compares == none ]] || flags+=" -Cllvm-args=-sanitizer-coverage-trace-compares"
[[ $sanitizer == none ]] || flags+=" -Zsanitizer=$sanitizer"
build=$home/build-$sanitizer-$compares
RUSTFLAGS=$flags CARGO_TARGET_DIR=$build \
    cargo +nightly build --release --target "$host"
# Files of a megabyte come and go: their memory is kept, not given back and faulted in each time.
export GLIBC_TUNABLES=glibc.malloc.trim_threshold=1073741824:glibc.malloc.mmap_threshold=1073741824
# On one core an opening starts no helping threads.
pinned=()
if command -v taskset >/dev/null; then
    last=$(taskset -cp $$ | sed 's/.*[^0-9]//')
    pinned=(taskset -c "$last")
fi

for target in "${targets[@]}"; do
    binary=$build/$host/release/$target
    new=$home/corpus/$target
    mkdir -p "$new"
    # No longer than what the target reads; more would only be slower to mutate.
    case $target in
        slot | frame) longest=80 ;;
        segment_header) longest=144 ;;
        store | calls) longest=96 ;;
        manifest) longest=512 ;;
        *) longest=1024 ;;
    esac
    if [[ -n ${MERGE:-} ]]; then
        merged=$(mktemp -d)
        "$binary" -merge=1 -max_len="$longest" "$merged" "corpus/$target" "$new"
        rm -f "corpus/$target"/*
        cp "$merged"/* "corpus/$target/"
        rm -rf "$merged"
        continue
    fi
    # -timeout: one input that takes as long is a hang; -rss_limit_mb: one that takes as much, a leak
    # or an allocation that a file has asked for.
    "${pinned[@]}" "$binary" "$new" "corpus/$target" -max_total_time="$seconds" \
        -max_len="$longest" -timeout=60 -rss_limit_mb=1024 -entropic=0 \
        -artifact_prefix="$home/crashes/$target-" -print_final_stats=1
done
