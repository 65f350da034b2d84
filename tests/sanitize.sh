#!/usr/bin/env bash
# The library and its stress tests under a sanitizer, without any suppression. Needs a nightly
# compiler.
#
#   tests/sanitize.sh address|thread [argument of cargo test]...
#
# A mapping that was given up stays and may not be touched (cfg stratalog_poison), so a read through
# a slice that has outlived its segment is a fault, whatever it would have found.
#
# The thread sanitizer is exact only if std is built with it, too, so it needs std's source: in the
# toolchain (rustup component add rust-src), or beside a compiler of its own below the directory
# STD_PREFIX (bin/rustc, lib/rustlib/src/rust/library). Debian's packages make such a one, unpacked
# with `dpkg -x` into a directory whose `usr` it is: rustc-web, libstd-rust-web-dev, rust-web-src and
# libstd-rust-web-<version>. Without a source it skips. crossbeam finds out by itself that it is
# built for it, and then uses no fences, which the sanitizer does not know.
set -euo pipefail
cd "$(dirname "$0")/.."

kind=${1:-}
[[ $kind == address || $kind == thread ]] || { echo "usage: $0 address|thread [argument]..."; exit 2; }
shift
target=x86_64-unknown-linux-gnu
runtimes=lib/rustlib/$target/lib
library=lib/rustlib/src/rust/library/std/src/lib.rs
nightly=$(rustc +nightly --print sysroot) || { echo "skipped: no nightly compiler"; exit 0; }

export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/sanitize/$kind CARGO_INCREMENTAL=0
flags=(-Zsanitizer="$kind" --cfg stratalog_poison -Cdebug-assertions=on)
build=()
if [[ $kind == thread ]]; then
    build=(-Zbuild-std)
    if [[ -f ${STD_PREFIX:-}/$library ]]; then
        export RUSTC_BOOTSTRAP=1 RUSTC=$STD_PREFIX/bin/rustc
        export LD_LIBRARY_PATH=$STD_PREFIX/lib:$STD_PREFIX/lib/x86_64-linux-gnu
        # A distribution's compiler may lack the sanitizer's runtime: any of its LLVM's age will do.
        compgen -G "$STD_PREFIX/$runtimes/librustc*_rt.tsan.a" >/dev/null || flags+=(
            -Zexternal-clangrt -Zpre-link-arg=-Wl,--whole-archive
            -Zpre-link-arg="$nightly/$runtimes/librustc-nightly_rt.tsan.a"
            -Zpre-link-arg=-Wl,--no-whole-archive
        )
    elif [[ ! -f $nightly/$library ]]; then
        echo "skipped: no source of std: rustup component add rust-src --toolchain nightly, or STD_PREFIX"
        exit 0
    fi
fi
# Given up mappings stay, on purpose.
export ASAN_OPTIONS=detect_leaks=0:abort_on_error=1 TSAN_OPTIONS=second_deadlock_stack=1
export RUSTFLAGS=${flags[*]}
(($#)) || set -- --release --lib --test lock_free --test compaction --test scenarios --test search \
    --test linearizable --test expiry --test group_commit
cargo +nightly test --no-fail-fast "${build[@]}" --target "$target" "$@"
