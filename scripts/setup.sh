#!/bin/bash
# Installs what jext4 needs and this Debian machine lacks: scripts/setup.sh [build] [run] [test] [bench]
# Without a word: build and run. Touches nothing, and needs no rights, when all is there.
# DRY_RUN=1 only names what is missing and answers 1 if anything is.
set -euo pipefail

say() { printf 'setup: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

packages_for() {
    case $1 in
        build) echo g++ libc6-dev make pkg-config git ca-certificates libfuse3-dev libxxhash-dev libext2fs-dev ;;
        run) echo fuse3 e2fsprogs mount util-linux ;;
        test) echo python3 acl attr sqlite3 stress-ng tar fuse2fs tcl xz-utils util-linux-extra ;;
        bench) echo python3 fio fuse2fs tar ;;
        *) fail "unknown set of packages: $1 (known: build run test bench)" ;;
    esac
}

# pkg-config is pkgconf from Debian 13 on, and some packages are only names that others provide.
is_installed() {
    dpkg-query -W -f '${Status}\n' "$1" 2>/dev/null | grep -q '^install ok installed' && return
    case $1 in
        g++) command -v cc && command -v c++ ;;
        pkg-config) command -v pkg-config ;;
        python3) command -v python3 ;;
        util-linux-extra) command -v fincore ;;
        make | git | fio | stress-ng | sqlite3 | tar) command -v "$1" ;;
        *) false ;;
    esac >/dev/null
}

require_swift() {
    command -v swift >/dev/null ||
        fail "swift is not in PATH. jext4 needs Swift 6.3 or later: https://www.swift.org/install/linux"
    local version
    version=$(swift --version 2>/dev/null | grep -oE 'Swift version [0-9]+\.[0-9]+' | grep -oE '[0-9]+\.[0-9]+' || true)
    [[ -n $version ]] || fail "swift --version gives no version"
    local major=${version%%.*} minor=${version##*.}
    ((major > 6 || (major == 6 && minor >= 3))) || fail "Swift $version is too old: jext4 needs 6.3 or later"
}

install_packages() {
    command -v apt-get >/dev/null || fail "no apt-get here: install the counterparts of: $*"
    local root=()
    if ((EUID != 0)); then
        command -v sudo >/dev/null || fail "missing: $*. Not root and no sudo: run 'apt-get install $*' as root first"
        root=(sudo)
        # Without a terminal sudo cannot ask for a password.
        [[ -t 0 ]] || root=(sudo -n)
    fi
    say "installing: $*"
    local options=(-y -q --no-install-recommends -o Dpkg::Use-Pty=0 -o Acquire::Retries=3)
    local apt=("${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get)
    # A brand-new machine has no package lists, an old one lists of packages that are gone: update only then.
    # What the first attempt prints is noise: the second one says what is really wrong.
    if ! "${apt[@]}" install "${options[@]}" "$@" </dev/null >/dev/null 2>&1; then
        say "updating the package lists"
        "${apt[@]}" update -q </dev/null >&2
        "${apt[@]}" install "${options[@]}" "$@" </dev/null >&2
    fi
}

# A kernel may have FUSE and loop devices as modules that nobody has asked for yet. Not being able to is no error here:
# what needs them says so.
load_modules() {
    ((EUID == 0)) && command -v modprobe >/dev/null || return 0
    [[ -e /dev/fuse ]] || modprobe -q fuse || true
    [[ -e /dev/loop-control ]] || modprobe -q loop || true
}

main() {
    local sets=("$@") missing=() set package
    ((${#sets[@]})) || sets=(build run)
    for set in "${sets[@]}"; do
        [[ $set != run ]] || load_modules
        [[ $set != build ]] || require_swift
        for package in $(packages_for "$set"); do
            [[ " ${missing[*]-} " == *" $package "* ]] || is_installed "$package" || missing+=("$package")
        done
    done
    if ((${#missing[@]} == 0)); then return; fi
    if [[ -n ${DRY_RUN-} ]]; then say "missing: ${missing[*]}"; return 1; fi
    install_packages "${missing[@]}"
    for package in "${missing[@]}"; do
        is_installed "$package" || fail "$package is still missing after apt-get install"
    done
}

main "$@"
