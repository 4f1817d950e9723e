#!/usr/bin/env bash
# The programs of systemd that read the units of deploy/systemd.
PART=systemd
PACKAGES=(systemd)
PROGRAMS=(systemd-analyze)
version() { systemd-analyze --version | sed -n '1s/^systemd \([0-9]*\).*/\1/p'; }

. ./packages.sh
install_packages
