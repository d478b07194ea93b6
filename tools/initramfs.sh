#!/bin/sh
# Packs an initramfs for arm64 Linux: a static program as /init, busybox, its applets (images/applets), and empty folders to mount on.
#
#   usage: initramfs.sh OUT INIT BUSYBOX
#
# The same inputs give the same bytes, and no root is needed: there are no device nodes in it. /dev/console, which the kernel opens for
# PID 1 before anything is mounted, comes from the archive that is built into every kernel (Linux usr/default_cpio_list), which is
# unpacked before this one.
set -eu
umask 022
out=$1 init=$2 busybox=$3
here=$(cd "$(dirname "$0")" && pwd)

mkdir -p "$(dirname "$out")"
root=$(mktemp -d "$out.XXXXXX")
trap 'rm -rf "$root" "$out.new"' EXIT
trap 'exit 130' INT TERM

(cd "$root" && mkdir -p bin dev proc root run sys tmp)
chmod 755 "$root"
install -m 755 "$init" "$root/init"
install -m 755 "$busybox" "$root/bin/busybox"
# One applet is called [, which the shell must not take for a pattern.
set -f
for applet in $(cat "$here/../images/applets"); do ln -s busybox "$root/bin/$applet"; done
set +f

(cd "$root" && find . -exec touch -h -d @0 {} + && find . | LC_ALL=C sort |
    cpio --quiet --create --format=newc --reproducible --owner=+0:+0) >"$out.new"
mv "$out.new" "$out"
