#!/usr/bin/env bash
# Instructions of one operation each, counted by valgrind: they do not depend on how busy a machine
# is. Fails if any is more than 5 % off what benches/instructions.txt says.
#
#   benches/instructions.sh            # compare
#   benches/instructions.sh --update   # write what is measured to benches/instructions.txt
#
# Fewer than before is a failure too: the file is to be updated, so that it cannot creep back. Counts
# are those of one compiler; with another one they are printed, and compared only by eye.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly kept=benches/instructions.txt operations=1000 percent=5
command -v valgrind >/dev/null || { echo "valgrind is not there: skipped"; exit 0; }

bench=$(cargo bench --bench instructions --no-run --message-format=json 2>/dev/null |
    sed -nE 's/.*"executable":"([^"]*instructions[^"]*)".*/\1/p')
[[ -x $bench ]] || { cargo bench --bench instructions --no-run; exit 1; }
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT

{
    rustc --version
    for name in $("$bench" --names); do
        # Only what the function of this name calls, on its own thread, is counted.
        valgrind --tool=callgrind --callgrind-out-file=/dev/null --collect-atstart=no \
            --toggle-collect="instructions::count_$name" "$bench" "$name" 2>"$place/said" ||
            { cat "$place/said"; exit 1; }
        awk -v name="$name" -v n="$operations" \
            '/Collected/ { printf "%s %.0f\n", name, $NF / n; some = $NF } END { exit !some }' \
            "$place/said"
    done
} >"$place/now"

if [[ ${1:-} == --update ]]; then
    cp "$place/now" "$kept"
    cat "$kept"
    exit
fi
awk -v percent="$percent" -v kept="$kept" '
    FNR == 1 { compiler[NR == 1 ? "kept" : "now"] = $0; next }
    NR == FNR { before[$1] = $2; next }
    !($1 in before) { printf "%-16s %6d, not in %s\n", $1, $2, kept; bad = 1; next }
    {
        off = 100 * ($2 / before[$1] - 1)
        over = off > percent || off < -percent
        printf "%-16s %6d, kept %6d: %+.1f %%%s\n", $1, $2, before[$1], off, over ? "  OFF" : ""
        bad = bad || over
        delete before[$1]
    }
    END {
        for (name in before) { printf "%-16s is not measured any more\n", name; bad = 1 }
        if (compiler["kept"] != compiler["now"]) {
            printf "counted with %s, kept with %s: not compared\n", compiler["now"], compiler["kept"]
            exit 0
        }
        if (bad) print "if this is meant: benches/instructions.sh --update"
        exit bad
    }' "$kept" "$place/now"
