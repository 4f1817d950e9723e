#!/usr/bin/env bash
# The browser of the tests of the dashboard.
PART=chromium
PACKAGES=(chromium)
PROGRAMS=(chromium)
version() { chromium --version 2>/dev/null | cut -d' ' -f2; }

. ./packages.sh
install_packages
