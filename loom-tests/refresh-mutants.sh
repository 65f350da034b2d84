#!/usr/bin/env bash
# Carries the patches of mutants/ over a change of the tree: applies each to the tree of a commit
# where it still fitted, merges the result with the present tree as git merges a branch (moved files
# are followed), and writes the difference back under the patch's own header.
#
#   loom-tests/refresh-mutants.sh <commit> [command]...
#
# The command, if there is one, is run in the tree of that commit, with and without each patch,
# before the merge: for a rename that a script has made everywhere. Commit the present tree first.
# A patch that does not merge is named and left as it is; it takes a person.
set -euo pipefail
cd "$(dirname "$0")/.."

(($#)) || { sed -n 's/^#   //p' "$0"; exit 2; }
base=$(git rev-parse --verify "$1^{commit}")
head=$(git rev-parse HEAD)
root=$PWD
shift
patches=$PWD/loom-tests/mutants
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
git -c advice.defaultBranchName=false clone --quiet --shared --no-checkout . "$scratch/tree"
cd "$scratch/tree"
git config merge.renameLimit 10000

# transformed: the tree in the work tree, after the command, as a commit.
transformed() {
    if (($#)); then "$@" >"$scratch/log" 2>&1 </dev/null; fi
    git add --all
    git -c user.name=mutants -c user.email=mutants@localhost commit-tree -m "$base" "$(git write-tree)"
}

git checkout --quiet --detach "$base"
before=$(transformed "$@")
failed=0 changed=0
for patch in "$patches"/*.patch; do
    name=$(basename "$patch" .patch)
    git checkout --quiet --force --detach "$base"
    git clean --quiet --force -d
    if ! patch --quiet --strip=1 --forward <"$patch" >"$scratch/log" 2>&1; then
        # One that is younger than that commit.
        if ! (cd "$root" && patch --quiet --strip=1 --dry-run --fuzz=0 <"$patch") >/dev/null 2>&1; then
            echo "$name: applies neither to $base nor to the present tree"
            failed=$((failed + 1))
        fi
        continue
    fi
    find . -name '*.orig' -delete
    if ! after=$(transformed "$@"); then
        echo "$name: the command fails: $(tail -n 1 "$scratch/log")"
        failed=$((failed + 1))
        continue
    fi
    if ! merged=$(git merge-tree --write-tree --merge-base="$before" "$head" "$after" 2>&1); then
        echo "$name: does not merge: $(grep -m 1 CONFLICT <<<"$merged" || true)"
        failed=$((failed + 1))
        continue
    fi
    {
        sed -e '/^\(---\|diff\|Index\)/,$d' "$patch"
        git diff --no-color --no-ext-diff "$head^{tree}" "$merged" | sed -e '/^\(diff\|index\) /d'
    } >"$scratch/patch"
    if ! cmp --silent "$scratch/patch" "$patch"; then
        cp "$scratch/patch" "$patch"
        changed=$((changed + 1))
    fi
done
echo "$changed changed, $failed to be mended by hand"
((failed == 0))
