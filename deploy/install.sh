#!/bin/sh
# install.sh VENV LOCK: makes the virtual environment where there is none, and installs a lock and the package into it.
# With uv (one on the PATH, else the pinned one) it takes seconds; where uv cannot reach an index, pip tries.
set -eu
venv=$1 lock=$2
pip() {
  "$venv/bin/python" -m pip --quiet --disable-pip-version-check "$@"
}

install() {
  { [ -x "$uv" ] && "$uv" pip install --quiet --python "$venv/bin/python" "$@"; } || {
    echo "uv could not; pip tries ..."
    pip install "$@"
  }
}

"$PYTHON" -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else "Python 3.11 to 3.13 is needed, %s is %d.%d: say make PYTHON=python3.11" % (sys.executable, *v))'
if [ ! -x "$venv/bin/python" ]; then
  echo "Making the virtual environment $venv ..."
  "$PYTHON" -m venv "$venv"
fi

uv=$(command -v uv || echo "$venv/bin/uv")
if [ ! -x "$uv" ]; then
  echo "Installing the installer, uv ..."
  pip install --require-hashes --requirement requirements-uv.lock || true
fi

echo "Installing $(grep -c == "$lock") packages from $lock (seconds with uv, minutes with pip) ..."
install --require-hashes --no-deps --requirement "$lock"
install --no-deps --no-build-isolation --editable .
