#!/usr/bin/env bash
# Runs every loom model of tests/ on the code that ships.
#
#   loom-tests/run.sh [short|long] [test file[:name]]...
#
# short (the default) explores executions with at most 2 preemptions, long with at most 3. The
# files named real_* run with crossbeam-epoch under loom as well, the others with its stand-in.
# JOBS (default: the number of cores) models run at a time; MODEL_SECONDS bounds each.
set -euo pipefail
cd "$(dirname "$0")/.."

long=short
if [[ ${1:-} == long || ${1:-} == short ]]; then
    long=$1
    shift
fi
case $long in
    short) preemptions=2 limit=900 ;;
    long) preemptions=3 limit=14400 ;;
esac
export LOOM_MAX_PREEMPTIONS=${LOOM_MAX_PREEMPTIONS:-$preemptions}
export LOOM_MAX_BRANCHES=${LOOM_MAX_BRANCHES:-100000}
export RUST_BACKTRACE=0
export MODEL_SECONDS=${MODEL_SECONDS:-$limit}
jobs=${JOBS:-$(nproc)}
target=${CARGO_TARGET_DIR:-target}/loom
logs=$(mktemp -d)
export logs
trap 'rm -rf "$logs"' EXIT

files=() wanted=()
for path in loom-tests/tests/*.rs; do
    [[ -e $path ]] || { echo "loom-tests/tests holds no model"; exit 1; }
    name=$(basename "$path" .rs)
    # shuttle.sh runs that.
    if [[ $name == shuttle ]]; then continue; fi
    if (($#)); then
        for want in "$@"; do
            if [[ ${want%%:*} == "$name" ]]; then
                files+=("$name")
                break
            fi
        done
    else
        files+=("$name")
    fi
done
((${#files[@]})) || { echo "no such model: $*"; exit 1; }

# build <target dir> <cfgs> <test file>...: adds one line "file executable" each to the list.
build() {
    local dir=$1 cfgs=$2 file
    shift 2
    local args=()
    for file in "$@"; do args+=(--test "$file"); done
    RUSTFLAGS="${RUSTFLAGS:-} $cfgs -C debug-assertions=on" CARGO_TARGET_DIR=$dir \
        cargo test --quiet --package loom-tests --release --no-run "${args[@]}" \
        --message-format=json-render-diagnostics >"$logs/build" 2>"$logs/words" || {
        cat "$logs/words"
        echo "loom ($long): the models do not build"
        exit 1
    }
    for file in "$@"; do
        sed -n "s|.*\"name\":\"$file\".*\"executable\":\"\([^\"]*\)\".*|$file \1|p" \
            "$logs/build" >>"$logs/executables"
    done
}

plain=() real=()
for file in "${files[@]}"; do
    if [[ $file == real_* ]]; then real+=("$file"); else plain+=("$file"); fi
done
start=$SECONDS
if ((${#plain[@]})); then
    build "$target" "--cfg stratalog_loom" "${plain[@]}"
fi
if ((${#real[@]})); then
    build "$target/real" "--cfg stratalog_loom --cfg crossbeam_loom" "${real[@]}"
fi
echo "built ${#files[@]} model files in $((SECONDS - start)) s"

# One line "file executable test" per model.
models=()
while read -r file executable; do
    while read -r test; do
        keep=0
        (($#)) || keep=1
        for want in "$@"; do
            if [[ $want == "$file" || $want == "$file:$test" ]]; then keep=1; fi
        done
        if ((keep)); then models+=("$file $executable $test"); fi
    done < <("$executable" --list --format terse | sed -n 's/: test$//p')
done <"$logs/executables"
((${#models[@]})) || { echo "no model in: ${files[*]} (asked for: ${*:-all})"; exit 1; }

run_model() {
    local file=$1 executable=$2 test=$3 log status=0 begin end outcome=ok
    log=$logs/$file.${test//:/_}
    begin=$(date +%s%N)
    timeout "$MODEL_SECONDS" "$executable" --exact "$test" --nocapture >"$log" 2>&1 </dev/null ||
        status=$?
    end=$(date +%s%N)
    case $status in
        0) ;;
        124) outcome="UNFINISHED after $MODEL_SECONDS s" ;;
        *) outcome=FAILED ;;
    esac
    printf '%-64s %8s s  %s\n' "$file::$test" \
        "$(((end - begin) / 1000000000)).$(printf %02d $(((end - begin) / 10000000 % 100)))" "$outcome"
    if ((status)); then
        { echo "--- $file::$test"; tail -n 40 "$log"; } >>"$logs/failed"
    fi
}
export -f run_model

printf '%s\n' "${models[@]}" | xargs -P "$jobs" -L 1 bash -c 'run_model "$@"' run_model
if [[ -s $logs/failed ]]; then
    cat "$logs/failed"
    echo "loom ($long): failures among ${#models[@]} models, $((SECONDS - start)) s"
    exit 1
fi
echo "loom ($long, at most $LOOM_MAX_PREEMPTIONS preemptions): ${#models[@]} models passed," \
    "$((SECONDS - start)) s"
