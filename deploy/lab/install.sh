#!/bin/sh
# Install every real part that the tests use and that needs root. Debian; takes seconds when all are there.
# A part is one script beside this one, listed here: it installs, does nothing when that is done, and prints one line.
set -eu
cd "$(dirname "$0")"

PARTS="apptainer slurm torque docker systemd chromium servers nginx"

[ "$(id -u)" = 0 ] || { echo "lab: the parts are installed system-wide; run this as root" >&2; exit 1; }
command -v apt-get >/dev/null || { echo "lab: only Debian is supported" >&2; exit 1; }

# Downloads are kept here for the next machine that mounts it, or for the next installation.
LAB_CACHE=${LAB_CACHE:-/var/cache/ccat-workflow-manager-lab}
mkdir -p "$LAB_CACHE"
export LAB_CACHE DEBIAN_FRONTEND=noninteractive

for part in ${*:-$PARTS}; do
  "./$part.sh" </dev/null || { echo "lab: $part could not be installed" >&2; exit 1; }
done
