# What the scripts share. Sourced by them, not run.
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

say() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
}

fail() {
    say "$*"
    exit 1
}

# Runs a command as root.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        fail "this needs root, and there is no sudo: $*"
    fi
}

# True when a command, or a file given by its absolute path, is there.
present() {
    case $1 in
        /*) [ -e "$1" ] ;;
        *) command -v "$1" >/dev/null || [ -x "/usr/sbin/$1" ] || [ -x "/sbin/$1" ] ;;
    esac
}

# install WHAT=PACKAGE...: installs the package of every command or file that is missing. Nothing is
# asked, and nothing is done when all are there.
install() {
    local pair
    local missing=()
    for pair in "$@"; do
        present "${pair%%=*}" || missing+=("${pair#*=}")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    command -v apt-get >/dev/null || fail "please install what Debian calls: ${missing[*]}"
    say "installing ${missing[*]}"
    as_root apt-get -qq update </dev/null >&2 || say "the package lists could not be updated"
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get -qq install -y --no-install-recommends "${missing[@]}" </dev/null >&2 ||
        fail "apt-get could not install ${missing[*]}"
}

# What building and mounting needs. The C compiler is for the cryptography library.
install_for_run() {
    install fusermount3=fuse3 cc=gcc /usr/include/stdlib.h=libc6-dev
}

# Beyond that, what the tests drive.
install_for_test() {
    install_for_run
    install rsync=rsync git=git sqlite3=sqlite3 ip=iproute2 ss=iproute2 python3=python3 \
        nginx=nginx-light rclone=rclone restic=restic openssl=openssl diff=diffutils cmp=diffutils \
        find=findutils tar=tar ps=procps nsenter=util-linux setpriv=util-linux findmnt=util-linux \
        umount=mount script=bsdutils gio=libglib2.0-bin nft=nftables
}

# What a relay needs beside its program.
install_for_relay() {
    install cc=gcc /usr/include/stdlib.h=libc6-dev openssl=openssl ss=iproute2 timeout=coreutils
}

# The Rust toolchain is the one thing that is expected to be there.
check_cargo() {
    command -v cargo >/dev/null || PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin"
    command -v cargo >/dev/null ||
        fail "no Rust toolchain here; install it by rustup (https://rustup.rs), then run this again"
}

# The kernel's half of a filesystem in user space.
check_fuse() {
    [ -e /dev/fuse ] || as_root modprobe fuse >/dev/null 2>&1 || true
    [ -e /dev/fuse ] ||
        fail "/dev/fuse is missing; in a container, pass the device in (--device /dev/fuse)"
    { [ -r /dev/fuse ] && [ -w /dev/fuse ]; } ||
        fail "this user may not use /dev/fuse; run this as root, or 'chmod 666 /dev/fuse'"
}

# Builds both programs as users run them; they lie in "$programs".
# shellcheck disable=SC2034 # The scripts use it.
programs=$root/target/release
build() {
    say "building (the first time takes a few minutes)"
    cargo build --quiet --manifest-path "$root/Cargo.toml" --target-dir "$root/target" \
        --release --locked --bins </dev/null || fail "the build failed"
}

# The relay is the stock one, so friends may run theirs from anywhere else as well.
relay_version=1.4.1
relay_program=$root/target/relay/bin/iroh-relay
build_relay() {
    ! relay_is_built || return 0
    # Two that start at once build once.
    mkdir -p "$root/target"
    exec 9>"$root/target/relay.lock"
    flock 9
    if ! relay_is_built; then
        say "building the relay (the first time takes a few minutes)"
        local scratch=$root/target/relay-build
        cargo install --quiet --locked --root "$root/target/relay" --target-dir "$scratch" \
            --force --no-track --features server --bin iroh-relay "iroh-relay@$relay_version" \
            </dev/null >&2 || fail "the relay could not be built"
        rm -rf "$scratch"
    fi
    exec 9>&-
}

relay_is_built() {
    [ "$("$relay_program" --version 2>/dev/null)" = "iroh-relay $relay_version" ]
}
