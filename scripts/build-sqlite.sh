#!/usr/bin/env bash
# Builds a sqlite3 that replaces pages by batches (SQLITE_ENABLE_BATCH_ATOMIC_WRITE), which Debian's does not, from
# Debian's source package: build-sqlite.sh TARGET
# Nothing of apt's own lists is changed. Needs what `scripts/setup.sh test` installs.
set -euo pipefail

target=$(realpath -m "$1")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir -p "$folder/lists/partial" "$folder/parts" "$(dirname "$target")"

# The same archives as for binaries, asked for sources.
for list in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
    [ -s "$list" ] && sed -n 's/^deb /deb-src /p' "$list" >>"$folder/parts/all.list"
done
for list in /etc/apt/sources.list.d/*.sources; do
    [ -s "$list" ] && sed 's/^Types:.*/Types: deb-src/' "$list" >"$folder/parts/$(basename "$list")"
done
apt=(apt-get -qq -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$folder/parts"
    -o Dir::State::lists="$folder/lists" -o APT::Sandbox::User=root)
"${apt[@]}" update

cd "$folder"
"${apt[@]}" source --download-only sqlite3 >/dev/null
mkdir source
tar -xf sqlite3_*.orig.tar.xz -C source --strip-components=1
cd source
./configure --disable-tcl --disable-shared --disable-readline CFLAGS="-O1 -DSQLITE_ENABLE_BATCH_ATOMIC_WRITE" \
    >"$folder/log" 2>&1 && make sqlite3 >>"$folder/log" 2>&1 || { tail -n 20 "$folder/log" >&2; exit 1; }
cp sqlite3 "$target"
