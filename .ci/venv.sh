#!/bin/sh
# Make .venv and install the package with the versions of constraints.txt; quick when it stands.
#
#     sh .ci/venv.sh              the package alone
#     sh .ci/venv.sh test,docs    the package with these extras
#
# PYTHON names the interpreter (default python3). Run from the root of the repository. Every path
# is relative or quoted, because the folder's own name may hold spaces.
set -eu

extras=${1-}
base=${PYTHON:-python3}
venv=.venv
python=$venv/bin/python
busy=$venv/.installing
stamp=$venv/.installed

fail() {
    printf '%s\n' "$*" >&2
    exit 1
}

command -v "$base" >/dev/null 2>&1 || fail "no $base found: install Python 3.11 or newer"
"$base" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "Python 3.11 or newer is needed, but $base is $("$base" -V 2>&1)" \
        "(choose another: make PYTHON=python3.12 ...)"

# The stamp's first line names all that the install depends on: the interpreter, the requirements,
# and the folder, because a virtual environment that was moved still points to its old place. The
# lines after it are the extras installed so far.
place="$(pwd -P)|$("$base" -V 2>&1)"
key="$place|$(cat pyproject.toml constraints.txt | cksum)"
if [ ! -e "$busy" ] && [ -f "$stamp" ] && [ -x "$python" ] &&
    [ "$(head -n 1 "$stamp")" = "$key" ] && grep -Fxq "extras: $extras" "$stamp"; then
    exit 0
fi

# A kill in the middle of an earlier install leaves the busy file: start again from nothing.
if [ -e "$busy" ] || [ ! -f "$venv/.place" ] || [ "$(cat "$venv/.place")" != "$place" ] ||
    ! "$python" -m pip --version >/dev/null 2>&1; then
    printf 'making %s\n' "$venv"
    rm -rf "$venv"
    "$base" -m venv "$venv" ||
        fail "$base could not make a virtual environment (on Debian: apt install python3-venv)"
    printf '%s\n' "$place" >"$venv/.place"
fi

printf 'installing statewise%s\n' "${extras:+[$extras]}"
: >"$busy"
# Bytecode is left to the first import, where imports may keep it: most modules that come with
# these packages are never imported here.
compile=--no-compile
[ -z "${PYTHONDONTWRITEBYTECODE-}" ] || compile=--compile
if ! "$python" -m pip install --quiet --quiet --disable-pip-version-check --no-input "$compile" \
    --constraint constraints.txt --editable ".${extras:+[$extras]}"; then
    # pip itself failed, for example without a network: what stood before still stands.
    rm -f "$busy"
    fail "the install failed"
fi
if [ ! -f "$stamp" ] || [ "$(head -n 1 "$stamp")" != "$key" ]; then
    printf '%s\nextras: \n' "$key" >"$stamp.new"
else
    cp "$stamp" "$stamp.new"
fi
[ -z "$extras" ] || printf 'extras: %s\n' "$extras" >>"$stamp.new"
mv "$stamp.new" "$stamp"
rm -f "$busy"
