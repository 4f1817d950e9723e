#!/usr/bin/env bash
# Torque's commands, as Debian wraps them around Slurm. The packages are kept and not installed: a test unpacks them, so that
# the machine gets no second `qsub`.
PART=torque
PACKAGES=(slurm-wlm-torque libslurm-perl libslurmdb-perl libswitch-perl libslurm38)

. ./packages.sh
kept=$LAB_CACHE/slurm-wlm-torque
if [ "$(find "$kept" -name '*.deb' 2>/dev/null | wc -l)" -eq ${#PACKAGES[@]} ]; then
  say "its packages are there"
  exit
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/packages"
download() { (cd "$work/packages" && apt-get "${APT[@]}" download "${PACKAGES[@]}") >"$work/log" 2>&1; }
download || { apt-get "${APT[@]}" update >"$work/log" 2>&1 && download; } || {
  tail -n 15 "$work/log" >&2
  say "apt-get could not download ${PACKAGES[*]}" >&2
  exit 1
}
rm -rf "$kept"
cp -r "$work/packages" "$kept"
say "its packages are kept in $kept"
