#!/bin/sh
# Works out what this machine lacks, says it, and puts it there: Debian's packages where it may (as root), everything else into the
# cache. Called by make, which sets HOLDPOINT_CACHE.
#
#   usage: setup.sh GUEST_TARGET auto|path|debian PURPOSE...
#
# A purpose is build, lab, guests, compile, kernels, kernel-nbcon, test, soak, bench or lint. Exit code 2: something is missing that
# cannot be had here; the message says what to do, and nothing was changed. Where nothing is missing nothing is asked of the network.
#
# The cache ($HOLDPOINT_CACHE):
#   packages/NAME_VERSION_arm64/  a package of Debian's arm64, unpacked
#   packages/NAME_VERSION_arm64+   the same with all packages that it depends on
#   guests/NAME, parts/NAME, trees/NAME
#                                  a row of images/manifest.toml: a link to one of them, or a folder with the file `skipped`
#   kernels/KEY/NAME/              a guest kernel that tools/kernels.sh has built
#   sysroot/VERSION/               the sysroot that lends Debian's rustc-web VERSION the arm64 standard library
#   tools/NAME-VERSION/            a program from the crate registry
#   tools/checkers-HASH/           what tools/checkers.txt names, from the Python registry
#   tools/checkers                 a link to it
#   partial/                       what is being fetched or unpacked; whatever is whole was renamed out of it
#   lock                           held by the one setup that changes the cache
set -eu
umask 022
guest_target=$1 toolchain=$2
shift 2
purposes=$*
here=$(cd "$(dirname "$0")" && pwd)
cache=$HOLDPOINT_CACHE
partial=$cache/partial
cargo_deny=0.20.2
# Its source has the schema of JUnit's XML that Jenkins checks by, which is nowhere by itself.
pytest=8.4.2
checkers=checkers-$({ grep -v '^#' "$here/checkers.txt"; echo "$pytest"; } | sha256sum | cut -c 1-16)

# shellcheck source=tools/debian.sh
. "$here/debian.sh"

die() { # die LINE...
    printf 'setup: ' >&2
    printf '%s\n' "$@" >&2
    exit 2
}
say() { printf 'setup: %s\n' "$*"; }
for_purpose() { case " $purposes " in *" $1 "*) ;; *) return 1 ;; esac; }

# ---- What is missing ----

# there KIND ARGUMENT...: the last columns of tools/packages.
there() {
    case $1 in
        command) command -v "$2" ;;
        cc-file) command -v cc && case $(cc -print-file-name="$2") in /*) ;; *) return 1 ;; esac ;;
        file) [ -e "$2" ] ;;
        *) return 1 ;;
    esac >/dev/null 2>&1
}

installed() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

missing_of() { # missing_of PURPOSE: its packages that are not there
    packages_for "$1" | while read -r package kind argument; do
        if [ "$kind" = package ]; then installed "$package"; else there "$kind" "$argument"; fi || echo "$package"
    done
}

# The rows of the manifest for the wanted purposes, tab-separated: guests|parts|trees, name, package, otherwise (or -), suite (or -),
# what.
rows() {
    awk -v wanted=" $purposes " '
        function row(   n, i, purpose) {
            if (value["package"] == "") return
            n = split(value["purpose"], purpose, " ")
            for (i = 1; i <= n; i++) if (index(wanted, " " purpose[i] " ")) {
                printf "%ss\t%s\t%s\t%s\t%s\t%s\n", table, value["name"], value["package"], value["otherwise"], value["suite"], value["what"]
                return
            }
        }
        /^\[\[/ { row(); table = $0; gsub(/[][]/, "", table); value["package"] = ""; value["purpose"] = "guests"; value["otherwise"] = value["suite"] = "-" }
        /^[a-z]+ = / { key = $1; sub(/^[^\047]*\047/, ""); sub(/\047$/, ""); value[key] = $0 }
        END { row() }' "$here/../images/manifest.toml"
}

# A row is done when its link leads to a whole package, or it was skipped and apt has been told of no other suites since.
row_done() { # row_done FOLDER NAME
    if [ -e "$cache/$1/$2/skipped" ]; then
        [ -z "$(find /etc/apt/sources.list /etc/apt/sources.list.d -newer "$cache/$1/$2/skipped" 2>/dev/null)" ]
    else
        [ -d "$cache/$1/$2" ]
    fi
}

# The version of rustc-web that is installed, or that would be.
compiler_version() {
    if installed rustc-web; then dpkg-query -W -f '${Version}' rustc-web
    else apt-cache policy rustc-web 2>/dev/null | sed -n 's/^  Candidate: //p'; fi
}

survey() {
    system=$(for purpose in $purposes; do missing_of "$purpose"; done | tr '\n' ' ')
    std=
    if for_purpose build && ! reason=$("$here/toolchain.sh" "$guest_target" "$toolchain" 2>&1 >/dev/null); then
        [ "$toolchain" != path ] || { echo "$reason" >&2; exit 2; }
        compiler=$(missing_of compiler | tr '\n' ' ')
        system="$system$compiler"
        # An arm64 host's own compiler has the arm64 library.
        version=$(compiler_version)
        if [ "$(uname -m)" != aarch64 ] && ! { [ "$version" ] && [ -d "$cache/sysroot/$version" ]; }; then std=1; fi
        # Everything is there, and yet it will not do.
        [ "$compiler$std" ] || { echo "$reason" >&2; exit 2; }
    fi
    fetch=$(rows | while IFS='	' read -r folder name package otherwise suite what; do
        row_done "$folder" "$name" || printf '%s\t%s\t%s\t%s\t%s\t%s\n' "$folder" "$name" "$package" "$otherwise" "$suite" "$what"
    done)
    deny=
    if for_purpose lint && ! [ -d "$cache/tools/cargo-deny-$cargo_deny" ]; then deny=1; fi
    check=
    if for_purpose test && [ "$(readlink "$cache/tools/checkers")" != "$checkers" ]; then check=1; fi
    [ "$system$std$fetch$deny$check" ]
}

plan() {
    echo "setup: this machine lacks, for $purposes:"
    if [ "$system" ]; then
        echo "  packages of Debian, to be installed:"
        echo "$system" | fmt -w 100 | sed 's/^/    /'
    fi
    if [ "$std$fetch" ]; then
        echo "  arm64 packages of Debian, to be unpacked into $cache (the machine's own dpkg architectures stay as they are):"
        [ -z "$std" ] || printf '    %-14s %s\n' rust-std "libstd-rust-web-dev of the compiler's version: the standard library for arm64"
        [ -z "$fetch" ] || echo "$fetch" | while IFS='	' read -r _ name _ _ _ what; do printf '    %-14s %s\n' "$name" "$what"; done
    fi
    if [ "$deny" ]; then
        echo "  from the crate registry, to be built into $cache:"
        echo "    cargo-deny     $cargo_deny, the licence check of make lint (takes 1 to 4 minutes)"
    fi
    if [ "$check" ]; then
        echo "  from the Python registry, to be put into $cache:"
        echo "    checkers       $(grep -v '^#' "$here/checkers.txt" | tr '\n' ' ')"
    fi
}

survey || exit 0
plan

# ---- May it be done here? ----

if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
    die "only Debian's packages are known here, and this machine has no apt-get." \
        "Debian 12 or newer (also in a container or a chroot) has all of them."
fi
if [ "$system" ] && [ "$(id -u)" != 0 ]; then
    # shellcheck disable=SC2086 # a list of words
    die "to install Debian's packages takes root. Type this one command, then make again; nothing was changed:" "" "$(one_command $system)"
fi
mkdir -p "$cache" 2>/dev/null && [ -w "$cache" ] || die "cannot write to the cache $cache: make it writable, or set HOLDPOINT_CACHE to another folder."

exec 9>"$cache/lock"
if ! flock -n 9; then
    say "another setup is at work on $cache; waiting for it"
    flock 9
    survey || exit 0
fi
rm -rf "$partial"
mkdir "$partial"
trap 'rm -rf "$partial"' EXIT
trap 'exit 130' INT TERM

# complaints LOG...: what apt has to say, without saying it once for every list.
complaints() { grep -hE '^(E|W): ' "$@" | sort -u | head -n 4 >&2 || :; }

# run WHAT COMMAND...: runs it with its output in a log, which is shown if it fails.
run() {
    what=$1
    shift
    if ! "$@" >"$partial/log" 2>&1; then
        { grep -E '^(E|W|error|Err):?' "$partial/log" || tail -n 20 "$partial/log"; } | head -n 20 >&2
        die "$what failed (see above)."
    fi
}

# Another suite, from where the machine's apt has Debian's own from.
other_suite() {
    apt-get indextargets --format '$(ORIGIN) $(LABEL) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' |
        awk -v suite="$1" '
            $1 == "Debian" && $2 == "Debian" && $3 == "main" {
                print "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]", $4, suite, "main"
                exit
            }'
}

# ---- The machine's own packages: asked for first, so that nothing is touched if one cannot be had ----

# Options of apt-get for them.
from=

host_apt() { # host_apt OPTION...: apt-get install, its words in a file
    # shellcheck disable=SC2086
    apt-get $from install "$@" --no-remove --no-install-recommends $system >"$partial/simulated" 2>&1
}

# A machine that has a part of QEMU from Debian's backports can't have the release's QEMU beside it: a newer qemu-utils breaks an older
# qemu-system-common. What is missing of QEMU then comes from backports too, by lists of our own; the machine's sources stay as they are.
qemu_of_backports() {
    case " $system " in *" qemu-system-arm "*) ;; *) return 1 ;; esac
    dpkg-query -W -f '${db:Status-Status} ${Version}\n' 'qemu-*' 2>/dev/null | grep -q '^installed .*~bpo' || return 1
    suite=$(. /etc/os-release && echo "$VERSION_CODENAME")-backports
    say "this machine has a part of QEMU from $suite: the rest of it from there too"
    mkdir -p "$partial/backports/partial"
    { cat /etc/apt/sources.list 2>/dev/null || :; other_suite "$suite"; } >"$partial/backports.list"
    from="-o Dir::Etc::SourceList=$partial/backports.list -o Dir::State::Lists=$partial/backports"
    # shellcheck disable=SC2086
    apt-get $from update >"$partial/log" 2>&1 || :
    system=$(echo " $system " | sed "s, qemu-system-arm , qemu-system-arm/$suite qemu-system-common/$suite qemu-system-data/$suite ,")
    host_apt --simulate
}

if [ "$system" ]; then
    say "apt-get update"
    # A third party's archive that does not answer is no reason to stop: what counts is whether the packages can be had.
    apt-get update >"$partial/log" 2>&1 || :
    survey || exit 0    # the lists may name another LLVM now
    if ! host_apt --simulate && ! qemu_of_backports; then
        complaints "$partial/log" "$partial/simulated"
        die "apt cannot install these packages; nothing was changed." \
            "If it does not know them: is the network there, and are Debian's suites (with -security) in apt's sources?" \
            "If others would have to go: rustc-web conflicts with the packages rustc and rustup. Remove them, or use a rustup that has" \
            "the targets (rustup target add aarch64-unknown-linux-musl $guest_target)."
    fi
fi

# ---- arm64 packages: apt with state of its own ----
#
# The machine's apt configuration is left out but for Acquire (proxies, time checks): it may hold hooks that delete what another
# apt-get is just fetching, and an APT_CONFIG file is read before them, so that it cannot clear them. Sources, keys and pins are
# the machine's. A row that names a suite is taken from that one alone, by apt with a state for it.

# Where the state for a row's suite lies, - for the machine's own.
state() { echo "$partial/apt/$1"; }

private_apt() { # private_apt SUITE
    apt=$(state "$1")
    mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$partial/debs"
    : >"$apt/status"
    apt-config dump | awk '/^Acquire::/ && !/^Acquire::(IndexTargets|Languages)/' >"$apt/conf"
    cat >>"$apt/conf" <<M
Dir::Etc::Main "/dev/null";
Dir::Etc::Parts "/dev/null";
Dir::State::Lists "$apt/lists";
Dir::State::status "$apt/status";
Dir::Cache "$apt/cache";
APT::Architecture "arm64";
APT::Architectures { "arm64"; };
APT::Sandbox::User "root";
Acquire::Languages "none";
M
    if [ "$1" = - ]; then
        say "fetching the lists of arm64 packages"
    else
        say "fetching the list of Debian's $1"
        other_suite "$1" >"$apt/sources.list"
        [ -s "$apt/sources.list" ] || die "no source of Debian's own is in this machine's apt configuration, to take $1 from."
        cat >>"$apt/conf" <<M
Dir::Etc::SourceList "$apt/sources.list";
Dir::Etc::SourceParts "/dev/null";
M
    fi
    APT_CONFIG=$apt/conf apt-get update >"$partial/lists.log" 2>&1 || :
    APT_CONFIG=$apt/conf apt-cache pkgnames | sort >"$apt/names"
    if ! [ -s "$apt/names" ]; then
        complaints "$partial/lists.log"
        die "no list of arm64 packages could be fetched: is the network there, and are Debian's suites in apt's sources?"
    fi
}

# newest PATTERN: "PACKAGE VERSION" of the newest package whose whole name matches.
newest() {
    grep -xE -- "$1" "$apt/names" | xargs -r env APT_CONFIG="$apt/conf" apt-cache madison |
        awk '{ print $3, $1 }' | sort -V | tail -n 1 | awk '{ print $2, $1 }'
}

suites() {
    APT_CONFIG=$apt/conf apt-get indextargets --format '$(CODENAME)' 'Created-By: Packages' | sort -u | paste -sd ' '
}

resolve() {
    # A row a line: SUITE FOLDER NAME PACKAGE VERSION, or SUITE FOLDER NAME - REASON.
    : >"$partial/resolved"
    if [ "$std" ]; then
        apt=$(state -)
        version=$(compiler_version)
        # A rebuild of the same source for one architecture (+bN) is the same library.
        same=$(APT_CONFIG=$apt/conf apt-cache madison libstd-rust-web-dev |
            awk -v wanted="$version" '{ source = $3; sub(/[+]b[0-9]+$/, "", source); sub(/[+]b[0-9]+$/, "", wanted) } source == wanted { print $3 }' |
            head -n 1)
        if ! [ "$same" ]; then
            die "the archive no longer has libstd-rust-web-dev $version for arm64, which rustc-web $version of this machine needs." \
                "Bring the compiler up to date, then make again:" "" \
                "$(one_command rustc-web cargo-web rust-web-clippy rustfmt-web rust-web-src rust-web-llvm "$(lld_package)")"
        fi
        echo "- sysroot $version libstd-rust-web-dev $same" >>"$partial/resolved"
    fi
    [ "$fetch" ] || return 0
    echo "$fetch" | while IFS='	' read -r folder name package otherwise suite what; do
        apt=$(state "$suite")
        found=$(newest "$package")
        if [ -z "$found" ] && [ "$otherwise" != - ]; then found=$(newest "$otherwise"); fi
        if [ "$found" ]; then
            echo "$suite $folder $name $found"
        elif [ "$suite" != - ]; then
            die "$what: no package $package is in Debian's $suite." \
                "images/manifest.toml says which suite and which package; a later one takes edits that fit it."
        elif [ "$folder" = guests ]; then
            printf '%s\n' "- $folder $name - no package $package for arm64 in this machine's suites ($(suites))"
        else
            die "$what: no package $package for arm64 in this machine's suites ($(suites))." \
                "Debian 12 has it in bookworm-security; is that suite in apt's sources?"
        fi
    done >>"$partial/resolved"
}

if [ "$std$fetch" ]; then
    private_apt -
    for suite in $(echo "$fetch" | awk -F '\t' '$5 != "-" { print $5 }' | sort -u); do private_apt "$suite"; done
    resolve || exit 2
fi

# ---- From here on things change ----

if [ "$system" ]; then
    say "apt-get install: $(grep -c '^Inst ' "$partial/simulated") packages, this takes a minute or two"
    # shellcheck disable=SC2086
    run "apt-get install" env DEBIAN_FRONTEND=noninteractive \
        apt-get $from install -y --no-remove --no-install-recommends -o DPkg::Lock::Timeout=600 $system 9>&-
fi

# link TARGET NAME: replaces NAME at once, whatever it was.
link() {
    rm -rf "$partial/link"
    ln -s "$1" "$partial/link"
    [ ! -d "$2" ] || [ -L "$2" ] || rm -rf "$2"
    mv -fT "$partial/link" "$2"
}

# Where FOLDER's PACKAGE VERSION lies. An epoch's colon is written as Debian's file names have it: PATHs and make take a colon for their
# own.
unpacked() {
    case $1 in trees) with=+ ;; *) with= ;; esac
    echo "$cache/packages/${2}_${3}_arm64$with" | sed 's/_\([0-9]*\):/_\1%3a/'
}

# to_unpack FOLDER PACKAGE VERSION: the packages whose files lie there, as apt-get wants them.
to_unpack() {
    case $1 in
        # On a system that has none, apt would install all that it needs.
        trees) APT_CONFIG=$apt/conf apt-get install --simulate --no-install-recommends "$2=$3" | sed -n 's/^Inst \([^ ]*\) (\([^ ]*\) .*/\1=\2/p' ;;
        *) echo "$2=$3" ;;
    esac
}

if [ "$std$fetch" ]; then
    mkdir -p "$cache/packages" "$cache/guests" "$cache/parts" "$cache/trees" "$cache/sysroot"
    awk '$4 != "-" { print $1, $2, $4, $5 }' "$partial/resolved" | while read -r suite folder package version; do
        apt=$(state "$suite")
        whole=$(unpacked "$folder" "$package" "$version")
        [ ! -d "$whole" ] || continue
        say "fetching and unpacking $package $version"
        # apt checks the file against the archive's signed hashes.
        cd "$partial/debs"
        # shellcheck disable=SC2046 # a list of words
        run "the download of $package" env APT_CONFIG="$apt/conf" apt-get download $(to_unpack "$folder" "$package" "$version")
        for deb in *.deb; do run "unpacking $deb" dpkg-deb -x "$deb" "$partial/unpacked"; done
        # Plain names for what is asked for: vmlinuz, config, busybox. They are as old as this unpacking, not as the package: make
        # compares times.
        (cd "$partial/unpacked" && for file in boot/vmlinuz-* boot/config-* usr/bin/busybox bin/busybox; do
            if [ -e "$file" ]; then touch "$file"; name=${file##*/}; ln -sfn "$file" "${name%%-*}"; fi
        done)
        mv -T "$partial/unpacked" "$whole"
        rm -f "$partial/debs"/*
    done || exit 2
    while read -r _ folder name package rest; do
        whole=$(unpacked "$folder" "$package" "$rest")
        if [ "$package" = - ]; then
            say "$name is skipped: $rest"
            mkdir "$partial/skipped"
            echo "$rest" >"$partial/skipped/skipped"
            rm -rf "${cache:?}/$folder/$name"
            mv -T "$partial/skipped" "$cache/$folder/$name"
        elif [ "$folder" = sysroot ]; then
            # The host's own library and the library's source stay the system's; only arm64's is added.
            host=$(/usr/bin/rustc -vV | sed -n 's/^host: //p')
            rustlib=$partial/sysroot/lib/rustlib
            mkdir -p "$rustlib"
            ln -s "/usr/lib/rustlib/$host" /usr/lib/rustlib/src "$rustlib"
            ln -s "../../../../packages/${whole##*/}/usr/lib/rustlib/aarch64-unknown-linux-gnu" "$rustlib"
            mv -T "$partial/sysroot" "$cache/sysroot/$name"
        else
            link "../packages/${whole##*/}" "$cache/$folder/$name"
        fi
    done <"$partial/resolved"
fi

# ---- Programs from the crate registry ----

if [ "$deny" ]; then
    say "building cargo-deny $cargo_deny, this takes 1 to 4 minutes"
    eval "$("$here/toolchain.sh" "$guest_target" "$toolchain" | sed -n 's/^TC_RUSTUP_TOOLCHAIN := \(..*\)/export RUSTUP_TOOLCHAIN=\1/p')"
    # Not optimized: it runs for a second, and would take three times as long to build.
    run "cargo install cargo-deny" env CARGO_TARGET_DIR="$partial/target" CARGO_PROFILE_DEV_DEBUG=false \
        cargo install --debug --locked --root "$partial/cargo-deny" "cargo-deny@$cargo_deny"
    mkdir -p "$cache/tools"
    mv -T "$partial/cargo-deny" "$cache/tools/cargo-deny-$cargo_deny"
fi

# ---- Programs from the Python registry ----

if [ "$check" ]; then
    say "fetching $(grep -v '^#' "$here/checkers.txt" | tr '\n' ' ')"
    mkdir -p "$cache/tools"
    # Into a folder of its own: no program of the machine's Python is touched.
    run "pip install" python3 -m pip install --disable-pip-version-check --no-cache-dir --root-user-action ignore \
        --target "$partial/checkers" --requirement "$here/checkers.txt"
    run "pip download" python3 -m pip download --disable-pip-version-check --no-cache-dir --no-deps --no-binary :all: \
        --dest "$partial/pytest" "pytest==$pytest"
    tar -xzf "$partial/pytest/pytest-$pytest.tar.gz" -C "$partial/checkers" --strip-components=3 --wildcards '*/junit-10.xsd'
    rm -rf "${cache:?}/tools/$checkers"
    mv -T "$partial/checkers" "$cache/tools/$checkers"
    link "$checkers" "$cache/tools/checkers"
fi

survey && die "still missing after all that: $system $fetch"
say "done"
