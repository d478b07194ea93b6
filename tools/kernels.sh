#!/bin/sh
# Builds the [[kernel]] rows of images/manifest.toml that are built from one source of Debian's into the cache, unless they are there.
# Called by make, which sets HOLDPOINT_CACHE, after tools/setup.sh has fetched what it takes. Several runs may be under way at once: the
# first one builds.
#
#   usage: kernels.sh PART      the source, a [[part]] of the manifest
#
# The cache ($HOLDPOINT_CACHE, see tools/setup.sh):
#   kernels/KEY/NAME/    Image, vmlinux, System.map, config, provenance; KEY is the hash of these rows' recipe and of the source's version
#   guests/NAME          a link to it
#
# All kernels of a source come out of one tree, in which one file is exchanged: the first takes minutes, the others seconds.
set -eu
umask 022
here=$(cd "$(dirname "$0")" && pwd)
recipe=$here/../images
cache=$HOLDPOINT_CACHE
part=$1
source=$cache/parts/$part
partial=$cache/partial
work=$partial/kernels

die() { # die LINE...
    printf 'kernels: ' >&2
    printf '%s\n' "$@" >&2
    exit 2
}
say() { printf 'kernels: %s\n' "$*"; }

# The rows of this source, tab-separated: name, edits (or -), the file that they are of (or -), what.
rows() {
    awk -v part="$part" '
        function row() {
            if (table == "kernel" && value["source"] == part)
                printf "%s\t%s\t%s\t%s\n", value["name"], value["edits"], value["file"], value["what"]
        }
        /^\[\[/ { row(); table = $0; gsub(/[][]/, "", table); value["edits"] = value["file"] = "-" }
        /^[a-z]+ = / { key = $1; sub(/^[^\047]*\047/, ""); sub(/\047$/, ""); value[key] = $0 }
        END { row() }' "$recipe/manifest.toml"
}

hash() { sha256sum | cut -c 1-64; }
package=$(basename "$(readlink "$source")")
version=${package#*_}
version=${version%_arm64}
# What every source is configured with, and what only this one knows.
options() { cat "$recipe/kernels/config" "$recipe/kernels/config.$part" 2>/dev/null || :; }
edits() { rows | cut -f 2 | tr ' ' '\n' | grep -vx -e - | sort -u; }
key=$({
    rows
    echo "$package"
    options
    cat "$0" "$recipe/kernels/edit.awk"
    for edit in $(edits); do cat "$recipe/kernels/$edit.edit"; done
} | hash | cut -c 1-16)
whole=$cache/kernels/$key

# Whether every row's link leads to the kernel of this recipe.
linked() {
    rows | while IFS='	' read -r name _; do
        [ "$(readlink "$cache/guests/$name")" = "../kernels/$key/$name" ] && [ -d "$whole/$name" ] || { echo no; break; }
    done
}
[ "$(linked)" ] || exit 0

exec 9>"$cache/lock"
if ! flock -n 9; then
    say "another run is at work on $cache; waiting for it"
    flock 9
    [ "$(linked)" ] || exit 0
fi
rm -rf "$partial"
mkdir -p "$work" "$cache/kernels" "$cache/guests"
trap 'rm -rf "$partial"' EXIT
trap 'exit 130' INT TERM

case $(uname -m) in aarch64) cross= ;; *) cross=aarch64-linux-gnu- ;; esac

# kernel_make NAME GOAL...: the kernel's make. Nothing of this run's environment reaches it, and nothing of this machine's name and clock
# reaches the kernel: /proc/version says holdpoint@NAME.
kernel_make() {
    builder=$1
    shift
    env -i PATH="$PATH" LC_ALL=C make -C "$work/source" O="$work/objects" -j "$(nproc)" ARCH=arm64 CROSS_COMPILE="$cross" LOCALVERSION= \
        KBUILD_BUILD_USER=holdpoint KBUILD_BUILD_HOST="$builder" KBUILD_BUILD_VERSION=1 KBUILD_BUILD_TIMESTAMP='Thu Jan  1 00:00:00 UTC 1970' "$@" 9>&-
}

# run WHAT COMMAND...: runs it with its output in a log, and shows how far it is. The log is shown if it fails.
run() {
    step=$1
    shift
    { "$@" 2>&1 || touch "$partial/failed"; } | tee "$partial/log" |
        awk '/^  (CC|AS|HOSTCC) / && ++n % 100 == 0 { print "kernels: " n " of about 800 files are compiled"; fflush() }'
    if [ -e "$partial/failed" ]; then
        { grep -E -A 5 '(error|Error|No such file)' "$partial/log" || tail -n 20 "$partial/log"; } | head -n 20 >&2
        die "$step failed (see above)."
    fi
}

build() {
    archive=$(echo "$source"/usr/src/linux-source-*.tar.xz)
    [ -f "$archive" ] || die "no source of Linux lies in $source: remove $(readlink -f "$source"), then make again."
    say "unpacking the source of Linux $version"
    mkdir "$work/source" "$work/objects" "$work/done"
    # What is left out is half of it, and belongs to devices that no guest here has.
    run "unpacking $archive" tar -xf "$archive" -C "$work/source" --strip-components=1 \
        --exclude='*/drivers/gpu/*.[ch]' --exclude='*/drivers/net/*.[ch]' --exclude='*/sound/*.[ch]' --exclude='*/Documentation/*.rst' \
        --exclude='*/Documentation/*.yaml' --exclude='*/tools/testing/*'
    options >"$work/options"
    run "the kernel's configuration" kernel_make config KCONFIG_ALLCONFIG="$work/options" allnoconfig
    grep '^CONFIG_' "$work/options" | while read -r option; do
        grep -qxF "$option" "$work/objects/.config" ||
            die "images/kernels/config says $option, and Linux $version configures itself otherwise: what it depends on is not there."
    done || exit 2

    rows >"$work/rows"
    while IFS='	' read -r name edits file what <&3; do
        if [ "$edits" = - ]; then edits=; else cp "$work/source/$file" "$work/unedited"; fi
        for edit in $edits; do
            awk -f "$recipe/kernels/edit.awk" "$recipe/kernels/$edit.edit" "$work/source/$file" >"$work/edited" ||
                die "$file of Linux $version is not as images/kernels/$edit.edit knows it (see above)."
            mv "$work/edited" "$work/source/$file"
        done
        say "compiling $name"
        run "compiling $name" kernel_make "$name" Image
        mkdir "$work/done/$name"
        cp "$work/objects/arch/arm64/boot/Image" "$work/objects/vmlinux" "$work/objects/System.map" "$work/done/$name"
        cp "$work/objects/.config" "$work/done/$name/config"
        {
            echo "$name: $what"
            echo "Linux (GPL-2.0-only) of Debian's ${package%%_*} $version, built here."
            echo "config   images/kernels/config, sha256 $(hash <"$work/options")"
            for edit in $edits; do
                echo "edit     $file: images/kernels/$edit.edit, sha256 $(hash <"$recipe/kernels/$edit.edit")"
            done
            echo "compiler $("${cross}gcc" --version | head -n 1)"
            echo "Image    sha256 $(hash <"$work/done/$name/Image")"
        } >"$work/done/$name/provenance"
        [ -z "$edits" ] || cp "$work/unedited" "$work/source/$file"
    done 3<"$work/rows"
    mv -T "$work/done" "$whole"
}

if ! [ -d "$whole" ]; then build; fi

rows | while IFS='	' read -r name _; do
    ln -s "../kernels/$key/$name" "$partial/link"
    mv -fT "$partial/link" "$cache/guests/$name"
done
say "done: $(rows | cut -f 1 | paste -sd ' ') in $cache/guests"
