#!/usr/bin/env bash
# Power loss on real file systems. Needs root, /dev/fuse and loop devices; says so and skips where
# one of them is missing.
#
#   rig/run.sh [ext4|xfs|btrfs] [images] [seconds at most]        (ext4, 50, 3600)
#   rig/run.sh long                      20,000 ext4, 5,000 xfs, 2,000 btrfs
#   rig/run.sh controls [ext4|..]        promises that are not kept must be found out
#
# RIG_SEED chooses the histories. Whatever ends it, no mount, loop device or FUSE process stays.
set -euo pipefail
cd "$(dirname "$0")"

skip() {
    echo "rig: skipped, $1"
    exit 0
}
[[ $(id -u) == 0 ]] || skip "needs root"
[[ -c /dev/fuse ]] || skip "there is no /dev/fuse"
[[ -c /dev/loop-control ]] || skip "there are no loop devices"
command -v losetup >/dev/null || skip "there is no losetup"

target=${CARGO_TARGET_DIR:-../target/rig}
CARGO_TARGET_DIR=$target cargo build --quiet --release
memory=/dev/shm
[[ -d $memory ]] || memory=${TMPDIR:-/tmp}
work=$(mktemp -d "$memory/stratalog-rig-XXXXXX")

running=
tidy_up() {
    local place device
    if [[ -n $running ]]; then
        kill "$running" 2>/dev/null || true
        wait "$running" || true
    fi
    # Without asking first whether it is one: a mount whose FUSE process is gone cannot be looked at.
    for place in "$work"/*/*/{live,after}; do umount --lazy "$place" 2>/dev/null || true; done
    for device in $(losetup --list --noheadings --output NAME,BACK-FILE |
        awk -v work="$work/" 'index($2, work) == 1 { print $1 }'); do
        losetup --detach "$device" || true
    done
    for place in "$work"/*/*/fuse; do umount --lazy "$place" 2>/dev/null || true; done
    rm -rf --one-file-system "$work"
}
trap tidy_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# play <file system> <images> <seconds> <promise>
play() {
    local status=0
    if ! command -v "mkfs.$1" >/dev/null; then
        echo "rig: skipped $1, there is no mkfs.$1"
        return
    fi
    # Not in the foreground: a signal would have to wait for its end.
    mkdir -p "$work/$1-$4"
    "$target/release/rig" play "$work/$1-$4" "$1" "$2" "$3" "$4" "${RIG_SEED:-$RANDOM}" &
    running=$!
    wait "$running" || status=$?
    running=
    return "$status"
}

case ${1:-ext4} in
    long)
        play ext4 20000 86400 Kept
        play xfs 5000 86400 Kept
        play btrfs 2000 86400 Kept
        ;;
    controls)
        play "${2:-ext4}" 40 600 NoSync
        play "${2:-ext4}" 40 600 Early
        ;;
    *) play "${1:-ext4}" "${2:-50}" "${3:-3600}" Kept ;;
esac
