#!/bin/sh
# Finds a Rust toolchain that can build both the static arm64 VMM and the bare-metal payload, and prints what make must know of it.
# It installs nothing: tools/setup.sh does.
#
#   usage: toolchain.sh GUEST_TARGET auto|path|debian      (HOLDPOINT_CACHE is set by make)
#
# path is the rustc in PATH: a rustup that has the targets. debian is the distribution's compiler in /usr/bin: rustup's shims run it when
# RUSTUP_TOOLCHAIN is /usr, and without rustup that variable means nothing. auto tries them in this order.
set -eu
guest=$1 want=${2:-auto}
here=$(dirname "$0")
least=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$here/../Cargo.toml")
case $want in auto|path|debian) ;; *) echo "TOOLCHAIN=$want: it is auto, path or debian" >&2; exit 2 ;; esac
reasons=
no() { reasons="$reasons
  $1"; return 1; }

# has RUSTC TARGET CRATE [RUSTC'S ARGUMENTS]: is there a compiled CRATE for TARGET?
has() {
    rustc=$1 target=$2 crate=$3
    shift 3
    folder=$("$rustc" "$@" --print target-libdir --target "$target" 2>/dev/null) &&
        ls "$folder/lib$crate"-*.rlib >/dev/null 2>&1
}

# use RUSTC NAME RUSTUP_TOOLCHAIN SYSROOT: prints the toolchain and ends, or says why it will not do.
# SYSROOT is where a standard library for arm64 lies beside the compiler's own, or empty.
use() {
    rustc=$1 sysroot=$4
    version=$("$rustc" -V 2>/dev/null) || { no "$2: $1 does not run"; return 1; }
    name="$2 ($version)"
    number=$(echo "$version" | cut -d' ' -f2)
    if [ "$(printf '%s\n' "$least" "$number" | sort -V | head -n 1)" != "$least" ]; then no "$name: older than $least"; return 1; fi
    host=$("$rustc" -vV | sed -n 's/^host: //p')
    own=$("$rustc" --print sysroot)
    if ! [ -x "$own/lib/rustlib/$host/bin/rust-lld" ] && ! command -v rust-lld >/dev/null; then no "$name: no rust-lld"; return 1; fi

    # The VMM: musl needs no C toolchain at all; gnu is linked statically by the C compiler for arm64.
    case $host in aarch64-*) cc=cc ;; *) cc=aarch64-linux-gnu-gcc ;; esac
    if has "$rustc" aarch64-unknown-linux-musl std; then
        vmm=aarch64-unknown-linux-musl linker=rust-lld sysroot=
    else
        vmm=aarch64-unknown-linux-gnu linker=$cc
        if has "$rustc" $vmm std; then sysroot=
        elif ! [ "$sysroot" ] || ! has "$rustc" $vmm std --sysroot "$sysroot"; then
            no "$name: no std for aarch64-unknown-linux-musl or -gnu"; return 1
        fi
        if ! command -v $cc >/dev/null; then no "$name: no $cc to link $vmm"; return 1; fi
        case $($cc -print-file-name=libc.a) in /*) ;; *) no "$name: $cc has no static libc.a"; return 1 ;; esac
    fi

    # The payload: core as it comes with the toolchain, or built from the toolchain's own library source.
    if has "$rustc" "$guest" core; then build_std=
    elif [ -f "$own/lib/rustlib/src/rust/library/core/src/lib.rs" ]; then build_std=1
    else no "$name: no core for $guest, and no library source to build it from"; return 1; fi

    cat <<M
TC_NAME := $2
TC_VERSION := $number
TC_RUSTUP_TOOLCHAIN := $3
TC_VMM_TARGET := $vmm
TC_LINKER := $linker
TC_SYSROOT := $sysroot
TC_BUILD_STD := $build_std
M
    exit 0
}

# Debian has a package of rustup, too, whose shims lie in /usr/bin.
is_rustup() { [ "$(basename "$(readlink -f "$1")")" = rustup ]; }

if [ "$want" != debian ]; then
    if command -v rustc >/dev/null; then use rustc path "${RUSTUP_TOOLCHAIN:-}" "" || :; else no "path: no rustc in PATH" || :; fi
fi
if [ "$want" != path ]; then
    if ! [ -x /usr/bin/rustc ] || ! [ -x /usr/bin/cargo ] || is_rustup /usr/bin/rustc; then
        no "debian: no rustc and cargo of the distribution in /usr/bin" || :
    else
        package=$(dpkg-query -W -f '${Version}' rustc-web 2>/dev/null || :)
        use /usr/bin/rustc debian /usr "$HOLDPOINT_CACHE/sysroot/$package" || :
    fi
fi

echo "No Rust toolchain here can build the arm64 VMM and the payload ($guest). Looked at:$reasons" >&2
echo "With rustup, this helps:" >&2
echo "  rustup target add aarch64-unknown-linux-musl $guest" >&2
if [ "$want" != path ] && command -v apt-get >/dev/null; then
    # shellcheck source=tools/debian.sh
    . "$here/debian.sh"
    echo "On Debian, this does, and make fetches the arm64 standard library into its cache:" >&2
    echo "  $(one_command "$(packages_for compiler | cut -d ' ' -f 1 | paste -sd ' ')")" >&2
fi
exit 2
