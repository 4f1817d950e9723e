#!/usr/bin/env bash
# Chromium from Debian's own packages, with a font for text in many scripts: the browser of tests/browser.
#
# Playwright's own browsers are not needed. The packages are kept in the cache of the lab and come from there the next time.
set -eEuo pipefail
trap 'echo "lab: chromium: line $LINENO failed" >&2' ERR

PACKAGES=(chromium fonts-dejavu-core)
CACHE=${LAB_CACHE:-/var/cache/ccat-workflow-manager-lab}/chromium-$(. /etc/os-release && echo "${VERSION_CODENAME:-debian}")-$(dpkg --print-architecture)
APT=(-o DPkg::Lock::Timeout=600 -o Acquire::Retries=3 -o Dpkg::Use-Pty=0 -o APT::Sandbox::User=root)

say() { echo "lab: chromium: $*"; }
version() { chromium --version --no-sandbox 2>/dev/null | cut -d' ' -f2; }

if command -v chromium >/dev/null; then
  say "$(version) is there"
  exit
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$CACHE/partial"
install() {
  DEBIAN_FRONTEND=noninteractive apt-get "${APT[@]}" -o Dir::Cache::Archives="$CACHE" -o APT::Keep-Downloaded-Packages=true \
    install -y --no-install-recommends "${PACKAGES[@]}" >"$work/log" 2>&1
}
# The machine's package lists may be missing or out of date.
install || { apt-get "${APT[@]}" update >"$work/log" 2>&1 && install; } || {
  tail -n 15 "$work/log" >&2
  say "apt-get could not install ${PACKAGES[*]}" >&2
  exit 1
}
say "$(version) is installed"
