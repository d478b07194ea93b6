# What tools/setup.sh and tools/toolchain.sh both know of Debian. To be sourced; $here is the folder of tools.
# shellcheck shell=sh disable=SC2154

# The LLVM that rust-web-llvm is built with names lld's package. Without package lists: Debian 12's and 13's of late 2026.
lld_package() {
    llvm=$(apt-cache depends rust-web-llvm 2>/dev/null | sed -n 's/.*Depends: llvm-\([0-9]*\)$/\1/p' | head -n 1)
    echo "lld-${llvm:-22}"
}

# packages_for PURPOSE: "PACKAGE THERE ARGUMENTS" a line, from tools/packages, for this host.
packages_for() {
    case $(uname -m) in aarch64) hosts=all ;; *) hosts='all|cross' ;; esac
    # To ask for lld's name costs a second where apt keeps no cache of its lists.
    case $1 in compiler) lld=$(lld_package) ;; *) lld= ;; esac
    awk -v purpose="$1" -v hosts="^($hosts)\$" -v lld="$lld" '$1 == purpose && $3 ~ hosts { sub(/^lld-N$/, lld, $2); print $2, $4, $5 }' \
        "$here/packages"
}

# one_command PACKAGE...: what to type to install them.
one_command() {
    words="apt-get update && apt-get install -y --no-install-recommends $*"
    if [ "$(id -u)" = 0 ]; then echo "$words"
    elif command -v sudo >/dev/null; then echo "sudo sh -c '$words'"
    else echo "su -c '$words'"; fi
}
