#!/usr/bin/env bash
# Docker from Debian's own packages: the daemon with containerd and runc, and busybox to make an image of.
#
# Only the programs are wanted: tests start a private daemon of their own (tests/moto/dockerd.py), so no service of the
# machine may run. The packages are kept in the cache of the lab and come from there the next time, without the network.
set -eEuo pipefail
trap 'echo "lab: docker: line $LINENO failed" >&2' ERR

PACKAGES=(docker.io containerd runc busybox-static)
PROGRAMS=(dockerd containerd runc busybox)
CACHE=${LAB_CACHE:-/var/cache/ccat-workflow-manager-lab}/docker-$(. /etc/os-release && echo "${VERSION_CODENAME:-debian}")-$(dpkg --print-architecture)
APT=(-o DPkg::Lock::Timeout=600 -o Acquire::Retries=3 -o Dpkg::Use-Pty=0 -o APT::Sandbox::User=root)

say() { echo "lab: docker: $*"; }
version() { dockerd --version | cut -d' ' -f3 | tr -d ,; }

if command -v "${PROGRAMS[@]}" >/dev/null; then
  say "$(version) is there"
  exit
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$CACHE/partial"

# The scripts of the packages would start services; RUNLEVEL=1 and a policy that says no keep them from it.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
  printf '#!/bin/sh\nexit 101\n' >$policy
  chmod 755 $policy
  trap 'rm -rf "$work" "$policy"' EXIT
fi
install() {
  RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get "${APT[@]}" -o Dir::Cache::Archives="$CACHE" -o APT::Keep-Downloaded-Packages=true \
    install -y --no-install-recommends "${PACKAGES[@]}" >"$work/log" 2>&1
}
# The machine's package lists may be missing or out of date.
install || { apt-get "${APT[@]}" update >"$work/log" 2>&1 && install; } || {
  tail -n 15 "$work/log" >&2
  say "apt-get could not install ${PACKAGES[*]}" >&2
  exit 1
}
say "$(version) is installed"
