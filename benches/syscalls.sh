#!/usr/bin/env bash
# Which system calls puts make, counted by strace:
#
#   benches/syscalls.sh [puts [directory]]
#
# (a) Buffered puts of one thread (100,000 unless given): who calls what between the marks that
#     benches/peers/src/bin/steady.rs sets, in all and per roll (a segment that was full). At full
#     speed the puts outrun the thread that prepares segments, and make some themselves; at
#     5,000 a second they should not. What strace slows down is the calls, so it is the
#     preparing thread that suffers. "again" puts ids that are there: the index need not grow.
# (b) Durable puts of 8 threads: flushes per put. One thread beside it.
set -euo pipefail
cd "$(dirname "$0")/peers"

readonly puts=${1:-100000} rate=5000 durable=8000
command -v strace >/dev/null || { echo "strace is not there: skipped"; exit 0; }
strace -Y -o /dev/null true 2>/dev/null || { echo "strace cannot trace here: skipped"; exit 0; }

place=$(mktemp -d -p "${2:-${TMPDIR:-/tmp}}")
trap 'rm -rf "$place"' EXIT

cargo build --release --quiet --no-default-features --bin steady
target=${CARGO_TARGET_DIR:-target}
readonly steady=$target/release/steady

# watch NAME STEADY-ARGUMENTS..: leaves the lines between the marks in $place/NAME.
watch() {
    local name=$1 mode=$2
    shift 2
    mkdir "$place/store"
    strace -f -qq -Y -o "$place/all" "$steady" "$mode" "$place/store" "$@" >"$place/said"
    rm -rf "$place/store"
    awk '/ getppid\(/ { marks++; next } marks == 1' "$place/all" >"$place/$name"
    [[ $(grep -c ' getppid(' "$place/all") == 2 ]] || { echo "no marks in $name"; exit 1; }
}

# Rows: thread, call, how often, per roll (or per put, where nothing rolled).
table() {
    local name=$1 per=$2 count=$3
    printf '| thread | call | count | per %s |\n| --- | --- | ---: | ---: |\n' "$per"
    # "1234<comm> call(": what was interrupted and is resumed begins with "<..." and counts once.
    sed -nE 's/^[0-9]+<([^>]*)> +([a-z_0-9]+)\(.*/\1 \2/p' "$place/$name" | sort | uniq -c |
        awk -v n="$count" '{ printf "%s %s %d %.4g\n", $2, $3, $1, (n ? $1 / n : 0) }' |
        sort -k1,1 -k3,3nr | awk '{ printf "| %s | %s | %s | %s |\n", $1, $2, $3, $4 }'
}

of_putting() {
    grep -cE '^[0-9]+<putting> +[a-z_0-9]+\(' "$place/$1" || true
}

for run in "fresh 0" "fresh $rate" "again $rate"; do
    read -r mode pace <<<"$run"
    watch buffered "$mode" "$puts" "$pace"
    read -r _ _ _ rolls _ <"$place/said"
    speed="at most $pace a second"
    ((pace)) || speed="as fast as it goes"
    printf '\n%s buffered puts, ids %s, %s: %s rolls, %s system calls of the putting thread\n\n' \
        "$puts" "$mode" "$speed" "$rolls" "$(of_putting buffered)"
    table buffered roll "$rolls"
done

for threads in 1 8; do
    watch synced synced "$durable" "$threads"
    read -r _ count _ _ _ dirtied _ payload <"$place/said"
    flushes=$(grep -cE '^[0-9]+<[^>]*> +(fdatasync|fsync|msync|sync_file_range)\(' \
        "$place/synced" || true)
    printf '\n%s durable puts of %s threads: %s flushes, %s per put; ' "$count" "$threads" \
        "$flushes" "$(awk -v f="$flushes" -v n="$count" 'BEGIN { printf "%.3f", f / n }')"
    printf '%s bytes dirtied for each of payload (write_bytes of /proc/self/io)\n\n' \
        "$(awk -v d="$dirtied" -v p="$payload" 'BEGIN { printf "%.2f", d / p }')"
    table synced put "$count"
done
