#!/usr/bin/env bash
# Run the tests, on a real Slurm where this machine can have one: bash tests/run.sh [faults]
set -euo pipefail
cd "$(dirname "$0")/.."

if command -v sinfo >/dev/null && sinfo >/dev/null 2>&1; then
    echo "Slurm answers here; its tests run on it."
elif [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    slurm/local/up.sh
    eval "$(slurm/local/up.sh --env)"
else
    echo "The Slurm tests are skipped: no Slurm answers, and starting one takes root on Debian (slurm/local/up.sh)."
fi

if [ "${1:-}" = faults ]; then
    exec .venv/bin/python -m pytest -m fault tests/faults
fi
exec .venv/bin/python -m pytest -m "not slow"
