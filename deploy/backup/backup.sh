#!/bin/sh
# Dumps the database of a deployment while it runs, or restores a dump into an empty database.
#
#   backup.sh dump ccat.dump
#   backup.sh restore ccat.dump
#
# The database is that of CCAT_WORKFLOW_MANAGER_DATABASE_URL. Both need the programs of PostgreSQL in PATH, of the
# version of the server or later; restore needs ccat-wm, too. A dump appears whole or not at all, readable for its owner.
set -eu

usage() {
  echo "usage: backup.sh dump FILE | backup.sh restore FILE" >&2
  exit 2
}

[ $# -eq 2 ] || usage
file=$2
: "${CCAT_WORKFLOW_MANAGER_DATABASE_URL:?names the database}"
url=$(printf %s "$CCAT_WORKFLOW_MANAGER_DATABASE_URL" | sed 's/^postgresql+psycopg:/postgresql:/')
umask 077

case $1 in
dump)
  trap 'rm -f -- "$file.part"' EXIT
  pg_dump --format custom --no-owner --no-privileges --file "$file.part" --dbname "$url"
  pg_restore --list "$file.part" >/dev/null
  mv -- "$file.part" "$file"
  echo "dumped to $file: $(wc -c <"$file") bytes"
  ;;
restore)
  tables=$(psql --no-psqlrc --quiet --tuples-only --no-align --dbname "$url" \
    --command "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")
  if [ "$tables" -ne 0 ]; then
    echo "the database has $tables tables already: name an empty one" >&2
    exit 1
  fi
  pg_restore --exit-on-error --single-transaction --no-owner --no-privileges --dbname "$url" "$file"
  # Makes new ids of events differ from those that the lost days have given out, and grants what a role may do.
  ccat-wm db upgrade
  echo "restored from $file; start the processes, then run ccat-wm verify"
  ;;
*) usage ;;
esac
