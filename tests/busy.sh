#!/usr/bin/env bash
# Runs a command (default: make check) beside six busy loops: no test's verdict may depend on how fast the machine is.
# The command takes this script's place and its process id, so the loops end with it, however it ends.
set -eu
cd "$(dirname "$0")/.."

for _ in 1 2 3 4 5 6; do
  (while kill -0 $$ 2>/dev/null; do :; done) &
done

if [ $# -eq 0 ]; then set -- make check; fi
exec "$@"
