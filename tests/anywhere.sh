#!/bin/sh
# Clones HEAD into places that are awkward in different ways and runs the commands there, as a new user would. Prints a
# row for each thing that must hold, and fails where one does not. Linux, as root; a quarter of an hour.
#
#   tests/anywhere.sh            everything but `make test`
#   WITH_TESTS=1 tests/anywhere.sh
set -u
checkout=$(cd "$(dirname "$0")/.." && pwd)
places=$(mktemp -d)
failed=0
[ "$(id -u)" = 0 ] || { echo "This needs root: the places are of the kind that only root has."; exit 2; }
trap 'for each in "$places"/*/; do (cd "$each" && find . -maxdepth 3 -name Makefile -execdir make clean \;) >/dev/null 2>&1; done; rm -rf "$places"' EXIT

row() { # what, must, was
  if [ "$2" = "$3" ]; then mark=ok; else mark=FAILED failed=1; fi
  printf '%-6s | %-62s | must: %s | was: %s\n' "$mark" "$1" "$2" "$3"
  [ $mark = ok ] || tail -n 15 "$places/log" | sed 's/^/         /'
}
note() { printf '%-6s | %-62s | %s\n' "" "$1" "$2"; }
clone() { git clone --quiet "$checkout" "$1" && cd "$1" || exit 2; }
code() { "$@" >"$places/log" 2>&1; echo $?; }
seconds() { date +%s; }

echo "A home of mode 0700"
umask 022
mkdir -m 700 "$places/home"
clone "$places/home/clone"
before=$(seconds)
row "make run" 0 "$(code make run)"
note "first make run, set-up included" "$(($(seconds) - before)) s; $(du -sm .venv | cut -f1) MB in .venv"
row "the home stays closed" 700 "$(stat -c %a "$places/home")"
before=$(seconds)
row "make setup" 0 "$(code make setup)"
note "what tests and checks need on top" "$(($(seconds) - before)) s; $(du -sm .venv | cut -f1) MB in .venv"
[ -z "${WITH_TESTS:-}" ] || row "make test" 0 "$(code make test)"

echo "Ctrl-C, 8 seconds into make run"
setsid .venv/bin/python -m runway_pipelines.cli demo >"$places/demo.log" 2>&1 &
demo=$!
sleep 8
before=$(wc -l <"$places/demo.log")
pressed=$(seconds)
kill -INT "$demo"
wait "$demo"
row "exit code" 130 "$?"
row "within 3 seconds" yes "$([ $(($(seconds) - pressed)) -le 3 ] && echo yes || echo no)"
row "lines that it says" 1 "$(($(wc -l <"$places/demo.log") - before))"
row "tracebacks" 0 "$(grep -c Traceback "$places/demo.log")"
row "the next make run heals" 0 "$(code make run)"

echo "Beside a running make dev"
setsid .venv/bin/python -m runway_pipelines.cli dev >"$places/dev.log" 2>&1 &
dev=$!
tries=0
until grep -q "Dagster UI" "$places/dev.log" || [ $((tries += 1)) -gt 180 ]; do sleep 1; done
row "make clean is refused" 2 "$(code make clean)"
row "and names the process" 1 "$(grep -c "process $dev uses" "$places/log")"
row "nothing was deleted" yes "$([ -x .venv/bin/python ] && [ -d .runway ] && echo yes)"
row "make run" 0 "$(code make run)"
row "and says where the files are to be seen now" 1 "$(tr '\n' ' ' <"$places/log" | grep -c "in the stack that process $dev")"
kill -INT "$dev"
wait "$dev"
data=$(readlink .runway/postgres)
row "make clean, afterwards" 0 "$(code make clean)"
row "leaves nothing of the state" no "$([ -e .runway ] || [ -e .venv ] || [ -e "$data" ] && echo yes || echo no)"

echo "umask 077"
umask 077
mkdir "$places/closed"
clone "$places/closed/clone"
row "make run" 0 "$(code make run)"
umask 022

echo "A path with spaces and letters that are not ASCII"
mkdir -p "$places/x y/été"
clone "$places/x y/été/clone"
for target in run lint types contracts validate; do
  row "make $target" 0 "$(code make $target)"
done
[ -z "${WITH_TESTS:-}" ] || row "make test" 0 "$(code make test)"
row "make clean" 0 "$(code make clean)"

exit $failed
