#!/usr/bin/env bash
# Shows that the models can fail: each patch of mutants/ breaks one thing in a copy of the tree,
# and the model it names must then fail. A patch that no longer applies or builds, a model that
# fails without the patch, and one that outlasts its time count against us.
#
#   loom-tests/mutants.sh [name]...
#
# A patch begins with one of
#   # model: <test file> [<test name>]      a loom model of loom-tests/tests
#   # shuttle: <test name>                  a scenario of loom-tests/tests/shuttle.rs
#   # test: <arguments of cargo test>       an ordinary test
# and may say `# preemptions: <n>` (default 2) and `# env: NAME=value`, which the run is to have.
# MUTANT_SECONDS (default 600) bounds each run;
# MUTANTS_BUDGET, in seconds, if set, begins no further mutant after that time and says so.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD

limit=${MUTANT_SECONDS:-600}
budget=${MUTANTS_BUDGET:-}
# Where the harnesses themselves build: what a copy depends on is there already.
builds=${CARGO_TARGET_DIR:-$root/target}
mkdir -p "$builds/mutants"
builds=$(cd "$builds" && pwd)
home=$builds/mutants
# One place for every copy: cargo tells packages apart by their path, so that a build can go on
# where the one before it stopped. Hence one run at a time.
exec 9>"$home/lock"
flock 9
tree=$home/tree
whole=$home/whole
log=$home/log
export LOOM_MAX_BRANCHES=${LOOM_MAX_BRANCHES:-100000} RUST_BACKTRACE=0

# Two copies, one to break and one to mend it from: the tree itself may be edited meanwhile. The
# times are new on purpose, an old one would let cargo take the last mutant's build for fresh.
copy_tree() {
    rm -rf "$tree" "$whole"
    mkdir -p "$whole"
    git ls-files --cached --others --exclude-standard -z |
        while IFS= read -r -d '' file; do
            if [[ -f $file ]]; then printf '%s\0' "$file"; fi
        done | xargs -0 cp --parents --target-directory="$whole"
    cp -R "$whole" "$tree"
}

# header <patch> <key>: the value of a comment above the diff.
header() {
    sed -n -e '/^\(---\|diff\|Index\)/q' -e "s/^# $2: *//p" "$1" | head -n 1
}

# in_tree <seconds> <extra cargo test arguments>: runs what $model, $shuttle or $test name, in the
# copy.
in_tree() {
    local seconds=$1 flags="" dir=$builds words=() name=()
    shift
    if [[ -n $model ]]; then
        read -ra words <<<"$model"
        flags="--cfg stratalog_loom -C debug-assertions=on"
        dir=$builds/loom
        if [[ ${words[0]} == real_* ]]; then
            flags+=" --cfg crossbeam_loom"
            dir=$builds/loom/real
        fi
        if ((${#words[@]} > 1)); then name=("${words[1]}"); fi
        words=(--package loom-tests --release --test "${words[0]}" "${name[@]}")
    elif [[ -n $shuttle ]]; then
        flags="--cfg stratalog_loom --cfg stratalog_shuttle -C debug-assertions=on"
        dir=$builds/shuttle
        words=(--package loom-tests --release --test shuttle "$shuttle")
    else
        read -ra words <<<"$test"
    fi
    (
        cd "$tree"
        export CARGO_TARGET_DIR=$dir LOOM_MAX_PREEMPTIONS=$preemptions
        if [[ -n $flags ]]; then export RUSTFLAGS=$flags; fi
        if [[ -n $setting ]]; then export "$setting"; fi
        timeout --kill-after=10 "$seconds" cargo test --quiet "$@" "${words[@]}"
    ) >"$log" 2>&1 </dev/null
}

declare -A sound=()
# unpatched: why what the mutant names cannot catch anything, or nothing.
unpatched() {
    local key="$model|$shuttle|$test|$setting|$preemptions"
    if [[ -z ${sound[$key]:-} ]]; then
        sound[$key]=ok
        if ! in_tree 1800 --no-run; then
            sound[$key]="does not build unpatched"
        elif ! in_tree "$limit"; then
            sound[$key]="fails unpatched"
        elif ! grep -q 'running [1-9]' "$log"; then
            sound[$key]="no such test"
        fi
    fi
    [[ ${sound[$key]} == ok ]] || verdict=${sound[$key]}
}

# mutate <patch>: sets $verdict, which begins with "caught" if all is well.
mutate() {
    local patch=$1 status=0 begin
    verdict=
    : >"$log"
    if [[ -z $model && -z $shuttle && -z $test ]]; then
        verdict="names no model"
        return
    fi
    unpatched
    if [[ -n $verdict ]]; then return; fi
    if ! patch -p1 --directory="$tree" --forward --batch <"$patch" >"$log" 2>&1; then
        verdict="does not apply"
    elif ! in_tree 1800 --no-run; then
        verdict="does not build"
    else
        begin=$SECONDS
        in_tree "$limit" || status=$?
        case $status in
            0) verdict="SURVIVED" ;;
            124 | 137) verdict="unfinished after $limit s" ;;
            *) verdict="caught in $((SECONDS - begin)) s" ;;
        esac
    fi
    copy_back "$patch"
}

# copy_back <patch>: undoes a patch, or what was done of it.
copy_back() {
    local file
    sed -n 's#^\(---\|+++\) [^/]*/\([^[:space:]]*\).*#\2#p' "$1" | sort -u |
        while read -r file; do
            rm -f "$tree/$file" "$tree/$file.rej" "$tree/$file.orig"
            if [[ -f $whole/$file ]]; then cp "$whole/$file" "$tree/$file"; fi
        done
}

patches=()
if (($#)); then
    for name in "$@"; do patches+=("$root/loom-tests/mutants/$(basename "$name" .patch).patch"); done
else
    for patch in "$root"/loom-tests/mutants/*.patch; do patches+=("$patch"); done
fi
[[ -f ${patches[0]} ]] || { echo "no mutant: ${patches[0]}"; exit 1; }

copy_tree
bad=0 caught=0 left=0
printf '%-36s %-44s %s\n' mutant model verdict
for patch in "${patches[@]}"; do
    name=$(basename "$patch" .patch)
    if [[ -n $budget ]] && ((SECONDS > budget)); then
        left=$((left + 1))
        continue
    fi
    model="" shuttle="" test="" preemptions=""
    if [[ -f $patch ]]; then
        model=$(header "$patch" model)
        shuttle=$(header "$patch" shuttle)
        test=$(header "$patch" test)
        setting=$(header "$patch" env)
        preemptions=$(header "$patch" preemptions)
        preemptions=${preemptions:-${LOOM_MAX_PREEMPTIONS:-2}}
        mutate "$patch"
    else
        verdict="no such patch"
    fi
    printf '%-36s %-44s %s\n' "$name" "${model:-${shuttle:+shuttle $shuttle}$test}" "$verdict"
    if [[ $verdict == caught* ]]; then
        caught=$((caught + 1))
    else
        bad=$((bad + 1))
        if [[ -s $log ]]; then tail -n 25 "$log" | sed 's/^/    | /'; fi
    fi
done
echo "$caught caught, $bad not, $left not begun, of ${#patches[@]} mutants, $SECONDS s"
((bad == 0))
