#!/bin/sh
# Make a virtual environment: venv.sh DIRECTORY [PYTHON]
# Takes PYTHON if it is 3.11 or newer, else the newest of the usual names.
set -eu
dir=$1 asked=${2:-python3}

fits() { command -v "$1" >/dev/null 2>&1 && "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }
python=
for candidate in "$asked" python3.14 python3.13 python3.12 python3.11; do
  if fits "$candidate"; then python=$candidate; break; fi
done
[ -n "$python" ] || { echo "set-up: Python 3.11 or newer is needed; name one with 'make PYTHON=...'" >&2; exit 1; }

# Debian ships the part that puts pip into an environment as a package of its own.
if ! "$python" -c 'import ensurepip' 2>/dev/null; then
  package=python$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "set-up: $python has no ensurepip. Install it, on Debian with: sudo apt-get install $package" >&2
    exit 1
  fi
  echo "set-up: $python has no ensurepip, installing Debian's $package" >&2
  export DEBIAN_FRONTEND=noninteractive
  { apt-get update && apt-get install -y --no-install-recommends "$package"; } </dev/null >/dev/null ||
    { echo "set-up: apt-get could not install $package" >&2; exit 1; }
fi
exec "$python" -m venv --clear "$dir"
