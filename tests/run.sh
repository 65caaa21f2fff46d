#!/usr/bin/env bash
# Run the tests, on a real Slurm where this machine can have one: bash tests/run.sh [faults]
# `faults` runs the whole matrix of faults, some 15 minutes; without it the quick rows run with all other tests.
set -euo pipefail
cd "$(dirname "$0")/.."

# Cut networks need nodes with networks of their own. A local Slurm that is up without them makes room if nobody uses it.
ask_for_networks() {
    local line
    line="$(slurm/local/up.sh --env 2>/dev/null || true)"
    if [[ "$line" == export* ]] && ! grep -q "NodeAddr=10\.77\." "${line#*=}"; then
        if [ -n "$(eval "$line" && squeue --noheader)" ]; then
            echo "The local Slurm is in use and its nodes share one network: the rows about cut networks are skipped."
            return
        fi
        slurm/local/down.sh
    fi
    export NETNS=1
}

if command -v sinfo >/dev/null && sinfo >/dev/null 2>&1; then
    echo "Slurm answers here; its tests run on it."
elif [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    if [ "${1:-}" = faults ]; then ask_for_networks; fi
    slurm/local/up.sh
    eval "$(slurm/local/up.sh --env)"
else
    echo "The Slurm tests are skipped: no Slurm answers, and starting one takes root on Debian (slurm/local/up.sh)."
fi

# Pages of runs are looked at in a browser, one test makes a filesystem that shows files late, and a C compiler makes slow
# and failing storage. The rest needs none of them.
missing=()
command -v cc >/dev/null || missing+=(gcc libc6-dev)
command -v chromedriver >/dev/null || missing+=(chromium chromium-driver)
command -v bindfs >/dev/null || missing+=(bindfs)
if [ "${1:-}" != faults ] && [ ${#missing[@]} -gt 0 ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "Installing Debian's ${missing[*]} ..."
    { apt-get -o DPkg::Lock::Timeout=300 update -qq &&
        DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y -qq --no-install-recommends \
            "${missing[@]}"; } >/dev/null 2>&1 ||
        echo "They could not be installed; the tests that need them are skipped."
fi

if [ "${1:-}" = faults ]; then
    exec .venv/bin/python -m pytest -m fault
fi

# Tests of whole programs wait a lot for processes that start: the others run beside them and are told about at the end.
beside="$(mktemp)"
modules=(tests/unit tests/contract tests/distributed)
.venv/bin/python -m pytest -m "not slow" "${modules[@]}" >"$beside" 2>&1 &
failed=0
.venv/bin/python -m pytest -m "not slow" "${modules[@]/#/--ignore=}" || failed=$?
wait $! || failed=$?
cat "$beside"
rm "$beside"
exit "$failed"
