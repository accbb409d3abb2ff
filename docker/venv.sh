#!/usr/bin/env bash
# Makes .venv, the host's small virtual environment (Compose and pytest), from the locked lists. A second run takes no time.
set -euo pipefail
cd "$(dirname "$0")/.."

LOCKS=(docker/requirements/host.txt docker/requirements/host-test.txt)
STAMP=.venv/host.txt
[ ! -e "$STAMP" ] || ! cat "${LOCKS[@]}" | cmp -s - "$STAMP" || exit 0

die() { printf 'venv: %s\n  next: %s\n' "$1" "$2" >&2; exit 1; }

python3 -c 'import sys; sys.exit(sys.version_info < (3, 9))' ||
    die "Python 3.9 or later is needed, this is $(python3 --version 2>&1)" "install it, or install Docker's Compose plugin yourself"
if ! python3 -c 'import ensurepip' 2>/dev/null; then
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || die "python3 has no venv module" "sudo apt-get install python3-venv"
    printf 'venv: apt-get install python3-venv\n' >&2
    apt-get update -qq >/dev/null
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3-venv >/dev/null
fi
python3 -m venv --clear .venv
# Compose's package asks for Python 3.11, for a program that needs none.
for lock in "${LOCKS[@]}"; do
    .venv/bin/pip install --quiet --disable-pip-version-check --ignore-requires-python --require-hashes -r "$lock" ||
        die "pip could not install $lock" "check the network (behind a proxy with its own CA, set PIP_CERT to the CA's file)"
done
cat "${LOCKS[@]}" >"$STAMP"
