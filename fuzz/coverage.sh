#!/usr/bin/env bash
# Line coverage of the files that decode what lies on a medium, by the fuzzers' inputs.
#
#   fuzz/coverage.sh [directory]...
#
# Each directory has one folder of inputs for each target, as fuzz/corpus has, which is always
# taken. They are replayed by `cargo test --test corpus` without the inputs that say nothing: what
# is counted is what the fuzzers have found. Prints a table, file by file.
#
# Needs llvm-profdata and llvm-cov that read what this compiler writes: those of the toolchain
# (rustup component add llvm-tools), of a Debian package llvm-<version>, or named by LLVM_PROFDATA
# and LLVM_COV. Skips where there are none.
set -euo pipefail
cd "$(dirname "$0")/.."

major=$(rustc -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')
own=$(rustc --print target-libdir)/../bin
# find <tool>: the first that is there, of this compiler's version or a later one.
find_tool() {
    local tool version
    for tool in "$own/$1" "$1-$major" "$1-$((major + 1))" "$1"; do
        command -v "$tool" >/dev/null || continue
        version=$("$tool" --version 2>/dev/null | sed -n 's/.*LLVM version \([0-9]*\).*/\1/p')
        if ((${version:-0} >= major)); then
            echo "$tool"
            return
        fi
    done
}
profdata=${LLVM_PROFDATA:-$(find_tool llvm-profdata)}
cov=${LLVM_COV:-$(find_tool llvm-cov)}
if [[ -z $profdata || -z $cov ]]; then
    echo "skipped: no llvm-profdata and llvm-cov of LLVM $major or later"
    exit 0
fi

home=${CARGO_TARGET_DIR:-target}/coverage
mkdir -p "$home"
home=$(cd "$home" && pwd)
rm -f "$home"/*.profraw
export CARGO_TARGET_DIR=$home/build LLVM_PROFILE_FILE=$home/%p-%m.profraw
export RUSTFLAGS=-Cinstrument-coverage CARGO_INCREMENTAL=0 RUST_BACKTRACE=0
binary=$(cargo test --no-run --release --test corpus --message-format=json |
    sed -n 's/.*"executable":"\([^"]*\/corpus-[^"]*\)".*/\1/p' | tail -n 1)
for inputs in fuzz/corpus "$@"; do
    STRATALOG_CORPUS=$inputs "$binary" --quiet --exact a_folder_that_is_named_is_replayed
done
"$profdata" merge -sparse "$home"/*.profraw -o "$home/all.profdata"

# What turns bytes of a medium into numbers and slices, or decides what they are worth.
"$cov" export "$binary" -instr-profile="$home/all.profdata" -format=lcov -skip-functions >"$home/lcov"
awk -F: '
    function decodes(file) {
        return file ~ /\/src\/format\// || file ~ /\/src\/segment\/(directory|reader|cursor|mod)\.rs$/ ||
            file ~ /\/src\/recovery(\.rs$|\/)/ || file ~ /\/src\/(catalog|files|fs)\.rs$/ ||
            file ~ /\/src\/engine\/restore\.rs$/ || file ~ /\/src\/store\/(open|verify)\.rs$/ ||
            file ~ /\/src\/memory\/mmap\.rs$/
    }
    function row(name, hit, lines) {
        printf "| `%s` | %d | %d | %.1f %% |\n", name, lines, lines - hit, lines ? 100 * hit / lines : 100
    }
    BEGIN { print "| file | lines | never run | covered |\n| --- | ---: | ---: | ---: |" }
    /^SF:/ { wanted = decodes($2); file = $2; sub(/.*\/src\//, "src/", file) }
    /^LF:/ && wanted { lines = $2 }
    /^LH:/ && wanted { hit = $2 }
    /^end_of_record/ && wanted { row(file, hit, lines); all += lines; ran += hit }
    END { row("all", ran, all) }
' "$home/lcov" | tee "$home/table"
