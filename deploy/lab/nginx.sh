#!/usr/bin/env bash
# nginx, a proxy as docs/installation.md describes it.
PART=nginx
PACKAGES=(nginx)
PROGRAMS=(nginx)
version() { nginx -v 2>&1 | cut -d/ -f2; }

. ./packages.sh
install_packages
