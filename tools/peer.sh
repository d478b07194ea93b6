#!/bin/sh
# Puts a program of Debian's arm64 and the shared libraries that it needs into one folder, with their loader as ld.so. It then runs
# anywhere: FOLDER/ld.so --library-path FOLDER FOLDER/PROGRAM.
#
#   usage: peer.sh OUT TREE PROGRAM
set -eu
umask 022
out=$1 tree=$2 program=$3
new=$(mktemp -d "$out.XXXXXX")
trap 'rm -rf "$new"' EXIT
trap 'exit 130' INT TERM

# take NAME: from wherever in the tree it is.
take() {
    found=$(find "$tree/" -name "$1" ! -type d | head -n 1)
    [ "$found" ] || { echo "peer: $tree has no $1" >&2; exit 2; }
    cp -L "$found" "$new/$1"
}

take "$program"
todo=$program
while [ "$todo" ]; do
    needed=$(cd "$new" && for file in $todo; do readelf -d "$file"; done | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' | sort -u)
    todo=
    for library in $needed; do
        [ ! -e "$new/$library" ] || continue
        take "$library"
        todo="$todo $library"
    done
done
mv "$new/ld-linux-aarch64.so.1" "$new/ld.so"
chmod 755 "$new" "$new/ld.so"
rm -rf "$out"
mv -T "$new" "$out"
