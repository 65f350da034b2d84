#!/usr/bin/env bash
# YCSB A, B and C by kvbench: ROUNDS rounds (5) in which every store has its turn, medians as a table.
#
#   run.sh [DIRECTORY FOR STORES]
set -euo pipefail
cd "$(dirname "$0")"
cargo build --release --quiet
program=${CARGO_TARGET_DIR:-target}/release/stratalog-kvbench
place=$(mktemp -d -p "${1:-${TMPDIR:-/tmp}}")
trap 'rm -rf "$place"' EXIT
stores=(stratalog rocks fjall redb dashmap papaya)
for ((round = 0; round < ${ROUNDS:-5}; round++)); do
    for ((n = 0; n < ${#stores[@]}; n++)); do
        store=${stores[(n + round) % ${#stores[@]}]}
        printf '[map]\nname = "%s"\npath = "%s"\nshards = 512\n' \
            "$store" "$place/store" >"$place/store.toml"
        "$program" bench -s "$place/store.toml" -b "${WORKLOAD:-ycsb.toml}" |
            sed "s/^/$store /" >>"$place/out"
        rm -rf "$place/store"
    done
done
[[ -z ${RAW:-} ]] || cp "$place/out" "$RAW"
python3 - "$place/out" <<'PYTHON'
import sys
from statistics import median

phases = ["load", "A", "B", "C"]
seen = {}
for line in open(sys.argv[1]):
    words = line.split()
    if words[3] != "finish":
        continue
    field = lambda name: float(words[words.index(name) + 1]) if name in words else None
    # Its own `mops` has two digits behind the point.
    rate = field("total") / max(field("duration"), 0.01) / 1000
    seen.setdefault((words[0], int(words[2])), []).append((rate, field("p99_us")))
print("| | load, k/s | A, k/s | A p99, us | B, k/s | B p99, us | C, k/s | C p99, us |")
print("| --- |" + " ---: |" * 7)
for store in dict.fromkeys(store for store, _ in seen):
    cells = []
    for phase, _ in enumerate(phases):
        rounds = seen[store, phase]
        cells.append(f"{median(rate for rate, _ in rounds):.1f}")
        if phase:
            cells.append(f"{median(p99 for _, p99 in rounds):.1f}")
    print(f"| {store} | " + " | ".join(cells) + " |")
PYTHON
