#!/usr/bin/env bash
# Build .venv from constraints.txt, which lists every package: nothing is resolved, so the list can be cut in shares.
set -euo pipefail
python=${PYTHON:-python3}
"$python" - <<'PY' || exit 1
import sys
if sys.version_info[:2] != (3, 11):
    sys.exit(f"Python 3.11 is needed, this is {sys.version.split()[0]}. Name another: make setup PYTHON=/path/to/python3.11")
PY
# Container images often forbid Python to keep bytecode, and then every process would compile its libraries anew, pip's
# here and the stages' later, for half a minute each.
unset PYTHONDONTWRITEBYTECODE
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
# Python compiles a module at its first import. Done here, beside what follows, for what the stages import; it only saves
# time, so a failure (of a torch that lacks its CUDA libraries yet) is left for the check below to tell.
compile() { .venv/bin/python -W ignore -c "import $1" >/dev/null 2>&1 || true; }
compile 'dvc.cli, dvc.repo, mlflow, prefect.server.api.server' &
compile 'great_expectations, peft, transformers.models.llama.modeling_llama' &
.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-input --no-deps --no-build-isolation -e . 2> >(grep -v '^WARNING' >&2)
# Nothing was resolved, so what is missing or at odds is told here and not by a traceback later.
if ! .venv/bin/python -m pip check --disable-pip-version-check >/dev/null; then
  # A CUDA build of torch has requirements of its own, and the list does not hold them.
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-input --no-compile -c constraints.txt torch 2> >(grep -v '^WARNING' >&2)
  .venv/bin/python -m pip check --disable-pip-version-check >&2
fi
wait
touch .venv/ready
echo "done: .venv/bin/jpu --help"
