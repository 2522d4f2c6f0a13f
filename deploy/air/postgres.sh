#!/bin/sh
# Create the database once, then run the given command. It takes POSTGRES_USER, POSTGRES_PASSWORD
# and POSTGRES_DB like the image that it replaces, and never touches a directory that holds a
# database.
set -eu
bin=$(ls -d /usr/lib/postgresql/*/bin)
data=/var/lib/postgresql/data/pgdata
PATH=$bin:$PATH
[ "${1:-postgres}" = postgres ] || exec "$@"
if [ ! -s "$data/PG_VERSION" ]; then
    rm -rf "$data.new"
    printf '%s\n' "${POSTGRES_PASSWORD:?}" > /tmp/password
    initdb -D "$data.new" -U "${POSTGRES_USER:-postgres}" --pwfile=/tmp/password -A scram-sha-256 -E UTF8 --locale=C.UTF-8
    rm /tmp/password
    printf 'host all all all scram-sha-256\n' >> "$data.new/pg_hba.conf"
    echo "CREATE DATABASE ${POSTGRES_DB:-postgres};" \
        | postgres --single -j -D "$data.new" -c listen_addresses= postgres
    mv "$data.new" "$data"
fi
shift || true
exec postgres -D "$data" -c listen_addresses='*' -c unix_socket_directories=/tmp "$@"
