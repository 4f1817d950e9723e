# Sourced by the parts that are packages of Debian's own archive. They set PART, PACKAGES, PROGRAMS and version(), and call
# install_packages.
#
# Only the programs are wanted: tests start private servers of their own, so no service of the machine may run. The packages
# are kept in the cache of the lab and come from there the next time, without the network.
set -eEuo pipefail
trap 'echo "lab: $PART: line $LINENO failed" >&2' ERR

APT=(-o DPkg::Lock::Timeout=600 -o Acquire::Retries=3 -o Dpkg::Use-Pty=0 -o APT::Sandbox::User=root)

say() { echo "lab: $PART: $*"; }

all_there() {
  local program
  for program in "${PROGRAMS[@]}"; do command -v "$program" >/dev/null || return 1; done
}

apt_install() {
  local cache=${LAB_CACHE:-/var/cache/ccat-workflow-manager-lab}/$PART-$(. /etc/os-release && echo "${VERSION_CODENAME:-debian}")-$(dpkg --print-architecture)
  mkdir -p "$cache/partial"
  RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get "${APT[@]}" -o Dir::Cache::Archives="$cache" -o APT::Keep-Downloaded-Packages=true \
    install -y --no-install-recommends "${PACKAGES[@]}" >"$work/log" 2>&1
}

install_packages() {
  if all_there; then
    say "$(version) is there"
    return
  fi
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  # The scripts of the packages would start services; RUNLEVEL=1 and a policy that says no keep them from it.
  local policy=/usr/sbin/policy-rc.d
  if [ ! -e $policy ]; then
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod 755 $policy
    trap 'rm -rf "$work" /usr/sbin/policy-rc.d' EXIT
  fi
  # The machine's package lists may be missing or out of date.
  apt_install || { apt-get "${APT[@]}" update >"$work/log" 2>&1 && apt_install; } || {
    tail -n 15 "$work/log" >&2
    say "apt-get could not install ${PACKAGES[*]}" >&2
    exit 1
  }
  say "$(version) is installed"
}
