#!/usr/bin/env bash
# Shows what the simulation finds: each patch that simulation/mutants.txt or the command line names
# breaks the engine in a copy of the tree, and seeds are run until one fails. Patches lie in
# simulation/mutants/ and loom-tests/mutants/.
#
#   simulation/mutants.sh [name]...
#
# SEEDS (default 100000) is where it gives up.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
seeds=${SEEDS:-100000}
builds=$(mkdir -p "${CARGO_TARGET_DIR:-$root/target}/simulated-mutants" &&
    cd "${CARGO_TARGET_DIR:-$root/target}/simulated-mutants" && pwd)
exec 9>"$builds/lock"
flock 9
tree=$builds/tree

names=("$@")
if ((${#names[@]} == 0)); then
    mapfile -t names < <(sed -e 's/#.*//' -e '/^ *$/d' simulation/mutants.txt | awk '{ print $1 }')
fi

missed=0
printf '%-36s %10s %8s  %s\n' mutant seed seconds failure
for name in "${names[@]}"; do
    rm -rf "$tree"
    mkdir -p "$tree"
    git ls-files --cached --others --exclude-standard -z |
        while IFS= read -r -d '' file; do
            if [[ -f $file ]]; then printf '%s\0' "$file"; fi
        done | xargs -0 cp --parents --target-directory="$tree"
    patch=simulation/mutants/$name.patch
    [[ -f $patch ]] || patch=loom-tests/mutants/$name.patch
    if ! patch -p1 --fuzz=0 -s -d "$tree" <"$patch" ||
        ! (cd "$tree" && CARGO_TARGET_DIR=$builds/target \
            cargo build -q --release -p stratalog-simulation) >"$builds/log" 2>&1; then
        printf '%-36s %10s %8s  %s\n' "$name" - - "does not apply or build"
        missed=1
        continue
    fi
    size=$(awk -v name="$name" '$1 == name { print $2 }' simulation/mutants.txt)
    began=$SECONDS
    if "$builds/target/release/simulate" --seeds "0..$seeds" --size "${size:-minimum}" >"$builds/log" 2>&1
    then
        printf '%-36s %10s %8s  %s\n' "$name" - $((SECONDS - began)) "NOT FOUND"
        missed=1
    else
        said=$(grep -m1 '^seed ' "$builds/log" || tail -n1 "$builds/log")
        seed=${said%%:*}
        printf '%-36s %10s %8s  %.90s\n' "$name" "${seed#seed }" $((SECONDS - began)) "${said#*: }"
    fi
done
exit "$missed"
