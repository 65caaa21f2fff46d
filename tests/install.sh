#!/bin/sh
# Make .venv from the pinned versions: sh tests/install.sh [PYTHON]
set -eu
cd "$(dirname "$0")/.."
python=${1:-python3}

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || {
    echo "Python 3.10 or newer is needed, and $python is $("$python" --version 2>&1 || true); try make PYTHON=python3.12" >&2
    exit 2
}
if ! "$python" -m venv --clear .venv >/dev/null 2>&1; then
    # Debian keeps venv's pip in a package of its own.
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "Installing Debian's python3-venv ..."
        apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3-venv >/dev/null
        "$python" -m venv --clear .venv
    else
        echo "$python cannot make a virtual environment: install your system's python3-venv package" >&2
        exit 2
    fi
fi
echo "Installing the pinned packages into .venv (about 7 GB, 2 to 5 minutes) ..."
# Only files whose SHA-256 stands in constraints.txt; the package itself is then built by the setuptools that is among them.
.venv/bin/python -m pip install -qq --disable-pip-version-check --require-hashes --requirement constraints.txt
.venv/bin/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation --editable .
touch .venv/installed
