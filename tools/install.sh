#!/bin/sh
# Puts what make has built below PREFIX, or takes away what it has put there: the list is PREFIX/lib/holdpoint/installed.
#
#   usage: install.sh put|remove PREFIX
set -eu
umask 022
to=$2
here=$(cd "$(dirname "$0")/.." && pwd)
list=lib/holdpoint/installed

remove() {
    [ -e "$to/$list" ] || return 0
    while read -r file; do rm -f "$to/$file"; done <"$to/$list"
    rm "$to/$list"
    # Whoever put something else there keeps it.
    rmdir "$to/lib/holdpoint/lab" "$to/lib/holdpoint" 2>/dev/null || :
}

put() { # put MODE FILE PLACE
    [ -e "$here/$2" ] || { echo "install: there is no $2; make vmm guest man, and make lab where there is no arm64 KVM, make it" >&2; exit 2; }
    install -D -m "$1" "$here/$2" "$to/$3"
    echo "$3" >>"$to/$list"
}

case $1 in
    remove) remove ;;
    put)
        # An older version may have had pages that this one has not.
        remove
        mkdir -p "$to/${list%/*}"
        put 755 target/release/vmm bin/vmm
        # Where vmm looks for them.
        put 644 target/guest/aarch64-unknown-none-softfloat/release/guest lib/holdpoint/payload
        # A host with arm64 KVM does without.
        if [ -e "$here/target/lab/initrd.cpio" ]; then
            for part in vmlinuz initrd.cpio; do put 644 "target/lab/$part" "lib/holdpoint/lab/$part"; done
        fi
        for page in "$here"/target/man/*.1; do put 644 "target/man/${page##*/}" "share/man/man1/${page##*/}"; done
        put 644 target/completions/bash share/bash-completion/completions/vmm
        put 644 target/completions/zsh share/zsh/site-functions/_vmm
        put 644 target/completions/fish share/fish/vendor_completions.d/vmm.fish
        ;;
esac
