#!/usr/bin/env bash
# Build .venv from constraints.txt, which lists every package: nothing is resolved, so the list can be cut in shares.
set -euo pipefail
python=${PYTHON:-python3}
"$python" - <<'PY' || exit 1
import sys
if sys.version_info[:2] != (3, 11):
    sys.exit(f"Python 3.11 is needed, this is {sys.version.split()[0]}. Name another: make setup PYTHON=/path/to/python3.11")
PY
echo "setting up .venv: $(grep -c == constraints.txt) packages, a few minutes the first time"
"$python" -m venv .venv
shares=$(mktemp -d)
trap 'rm -rf "$shares"' EXIT
# Dealt out like cards, the largest alone in front; each share is one installer's work.
grep == constraints.txt | awk -v jobs="${JOBS:-4}" -v at="$shares" '
  /^torch==/ { print > (at "/0"); next } { print > (at "/" 1 + n++ % jobs) }'
failed=0
pids=()
for share in "$shares"/*; do
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-input --no-deps --no-compile -r "$share" \
    >"$share.log" 2>&1 &
  pids+=("$!:$share")
done
for item in "${pids[@]}"; do
  if ! wait "${item%%:*}"; then
    failed=1
    grep -v '^WARNING' "${item#*:}.log" >&2 || true
  fi
done
if [ "$failed" = 1 ]; then
  echo "Some packages could not be installed (see above). Check the network and run \`make setup\` again." >&2
  exit 1
fi
# Where the index gives a CUDA build of torch, it has requirements of its own; a CPU build has none that are not there.
.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-input --no-compile -c constraints.txt torch 2> >(grep -v '^WARNING' >&2)
.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-input --no-deps --no-build-isolation -e . 2> >(grep -v '^WARNING' >&2)
# Nothing was resolved, so what is missing or at odds is told here and not by a traceback later.
.venv/bin/python -m pip check --disable-pip-version-check >/dev/null || {
  .venv/bin/python -m pip check --disable-pip-version-check >&2
  exit 1
}
touch .venv/ready
echo "done: .venv/bin/jpu --help"
