#!/usr/bin/env bash
# Start the whole stack in containers, check it, and say where it is. Data of earlier runs stays.
# usage: [STORE=replicated|postgres|crdb-dev|crdb3-dev] ./start.sh [up|down|status|upgrade|replace NODE]: the same as `python -m cluster stack`, which says what each does.
# STORE counts at the first start, which writes .env: replicated needs no database, each node keeps its own copy.
# ACORDO_ENV_FILE names another file than .env; ACORDO_START_WAIT_S is the longest wait for all to run (300).
# Exit code 0: it serves, and the installation check passed; 1: it does not; 78: a setting is wrong.
set -Eeuo pipefail
trap 'printf "error: line %s of start.sh failed: %s\n" "$LINENO" "$BASH_COMMAND" >&2' ERR
cd "$(dirname "$0")"
{ [ -x .venv/bin/python ] && [ -e .venv/.ready ]; } || make -s install  # .ready: nothing cut it off
exec .venv/bin/python -m cluster stack "${@:-up}"
