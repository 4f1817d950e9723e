#!/usr/bin/env bash
# Slurm with accounting from Debian's own packages: controller, compute daemon, slurmdbd with MariaDB, client commands, munge;
# and an SSH server, for workers that reach a submit node through it.
#
# Only the programs are wanted: tests start private clusters of their own (tests/backends/slurm), so no service of the machine may
# run. The packages are kept in the cache of the lab and come from there the next time, without the network.
set -eEuo pipefail
trap 'echo "lab: slurm: line $LINENO failed" >&2' ERR

PACKAGES=(slurmctld slurmd slurmdbd slurm-client munge mariadb-server-core mariadb-client-core
          openssh-server openssh-client)
PROGRAMS=(slurmctld slurmd slurmdbd sbatch squeue sacct sacctmgr munged mariadbd mariadb-install-db my_print_defaults
          sshd ssh ssh-keygen)
CACHE=${LAB_CACHE:-/var/cache/ccat-workflow-manager-lab}/slurm-$(. /etc/os-release && echo "${VERSION_CODENAME:-debian}")-$(dpkg --print-architecture)
APT=(-o DPkg::Lock::Timeout=600 -o Acquire::Retries=3 -o Dpkg::Use-Pty=0 -o APT::Sandbox::User=root)

say() { echo "lab: slurm: $*"; }
version() { slurmctld -V | cut -d' ' -f2; }

all_there() {
  local program
  for program in "${PROGRAMS[@]}"; do command -v "$program" >/dev/null || return 1; done
}

if all_there; then
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
