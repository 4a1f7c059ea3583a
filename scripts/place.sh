# Sourced by the scripts that run public suites: a filesystem of its own with a
# repository on it, mounted, and everything gone at the end.
#
# After `place_make BACKING [option of sessionfs mount...]`:
#   $ordinary   a directory on the backing filesystem
#   $session    a session's directory on the mount
#   $behind     the same session in the repository
#   $other      a directory on another filesystem
#   $work       what is neither: logs and configurations
# shellcheck shell=bash

# The daemon may need this much at the most, in KiB: the suites make tens of
# thousands of files, and it knows each of which the kernel has heard.
most_memory=$((64 << 10))

complain() { echo "${0##*/}: $*" >&2; }
die() { complain "$@"; exit 1; }

# The one argument of an option, which has to be there.
argument() { [ $# -ge 2 ] || die "$1 needs an argument"; echo "$2"; }

# A program from crates.io, in this version, built once: its path.
from_crates() {
    local name=$1 version=$2 root=$PWD/target/suites/$1-$2
    [ -x "$root/bin/$name" ] ||
        cargo install --quiet --locked --version "=$version" --root "$root" "$name" >&2
    echo "$root/bin/$name"
}

place_make() {
    local backing=$1
    shift
    [ "$(id -u)" = 0 ] || die "it makes filesystems and mounts them: run it as root"
    # Another build can be tried as well.
    sessionfs=${SESSIONFS:-}
    if [ -z "$sessionfs" ]; then
        cargo build --quiet --release --locked
        sessionfs=$PWD/target/release/sessionfs
    fi
    work=$(mktemp -d)
    daemon=
    trap place_end EXIT
    trap 'exit 1' INT TERM
    # Other users have to come through.
    chmod 755 "$work"
    mkdir "$work/disk" "$work/other"
    case $backing in
        ext4) truncate -s 8G "$work/image"; mkfs.ext4 -q "$work/image" ;;
        xfs) truncate -s 8G "$work/image"; mkfs.xfs -q "$work/image" ;;
        tmpfs) ;;
        *) die "no such backing filesystem: $backing (ext4, xfs, tmpfs)" ;;
    esac
    # As the mount itself: a set-id bit or a device node means nothing there.
    if [ "$backing" = tmpfs ]; then
        mount -t tmpfs -o nosuid,size=8g tmpfs "$work/disk"
    else
        # Freed when it is unmounted.
        mount -o loop,nosuid,nodev "$work/image" "$work/disk"
    fi
    mount -t tmpfs -o size=256m tmpfs "$work/other"
    mkdir "$work/disk/ordinary" "$work/disk/repository"

    "$sessionfs" mount --foreground "$@" "$work/disk/repository" "$work/mnt" 2>"$work/log" &
    daemon=$!
    local tries=0
    until mountpoint -q "$work/mnt"; do
        kill -0 "$daemon" 2>/dev/null || die "the daemon ended: $(cat "$work/log")"
        [ $((tries += 1)) -le 200 ] || die "not mounted after 10 seconds"
        sleep 0.05
    done
    mkdir "$work/mnt/suite.session"
    # shellcheck disable=SC2034 # for those who source this
    {
        ordinary=$work/disk/ordinary
        session=$work/mnt/suite.session
        behind=$work/disk/repository/suite.session
        other=$work/other
    }
    descriptors_before=$(place_descriptors)
}

place_descriptors() { find "/proc/$daemon/fd" -type l | wc -l; }

# Whether the daemon is as it should be after all the work: alive, answering,
# without an error in its log, with its descriptors and memory given back.
place_check() {
    local ok=0 now memory
    kill -0 "$daemon" 2>/dev/null || { complain "the daemon is gone: $(cat "$work/log")"; return 1; }
    timeout 10 ls -l "$work/mnt" >/dev/null || { complain "the mount does not answer"; ok=1; }
    if grep 'error:' "$work/log" >&2; then
        complain "the daemon's log has errors"
        ok=1
    fi
    # RELEASE comes after close has returned.
    for _ in {1..100}; do
        now=$(place_descriptors)
        [ "$now" -gt "$descriptors_before" ] || break
        sleep 0.1
    done
    if [ "$now" -gt "$descriptors_before" ]; then
        complain "$now descriptors instead of $descriptors_before"
        ok=1
    fi
    memory=$(awk '$1 == "VmHWM:" { print $2 }' "/proc/$daemon/status")
    if [ "$memory" -gt "$most_memory" ]; then
        complain "the daemon needed $memory KiB"
        ok=1
    fi
    echo "daemon: alive, $now descriptors, $memory KiB at the most, $(grep -c "warning: " "$work/log") warnings in its log"
    return $ok
}

place_end() {
    local status=$?
    cd /
    if mountpoint -q "$work/mnt" 2>/dev/null; then
        timeout 30 "$sessionfs" umount "$work/mnt" || umount -l "$work/mnt"
    fi
    [ -z "$daemon" ] || { kill "$daemon" 2>/dev/null; wait "$daemon" 2>/dev/null; } || true
    [ $status = 0 ] || ! [ -s "$work/log" ] || { complain "the daemon's log:"; tail -20 "$work/log" >&2; }
    for place in disk other; do
        ! mountpoint -q "$work/$place" || umount "$work/$place" || umount -l "$work/$place"
    done
    rm -rf --one-file-system "$work"
    exit $status
}
