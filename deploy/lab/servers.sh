#!/usr/bin/env bash
# PostgreSQL and Redis of Debian, which are older than those of the wheels: sites have them.
PART=servers
PACKAGES=(postgresql redis-server)
PROGRAMS=(pg_createcluster redis-server)
version() { echo "PostgreSQL $(ls /usr/lib/postgresql | sort -n | sed -n 1p) and Redis $(redis-server --version | sed -n '1s/.* v=\([0-9.]*\).*/\1/p')"; }

. ./packages.sh
install_packages
