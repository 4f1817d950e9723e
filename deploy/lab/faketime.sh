#!/bin/sh
# libfaketime, from Debian: gives a single process a clock that is off.
set -eu

say() { echo "lab: faketime: $*"; }

if ! command -v faketime >/dev/null; then
  APT="-o DPkg::Lock::Timeout=600 -o Acquire::Retries=3 -o Dpkg::Use-Pty=0 -o APT::Sandbox::User=root"
  install="apt-get $APT install -y --no-install-recommends faketime"
  # The machine's package lists may be missing or out of date.
  { $install || { apt-get $APT update && $install; }; } >/dev/null
fi
say "$(dpkg-query -W -f '${Version}' faketime) is there"
