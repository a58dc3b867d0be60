#!/bin/sh
# Becomes a PostgreSQL of its own, over what it left in DIRECTORY: postgres.sh DIRECTORY ADDRESS PORT [OPTION]…
# Without an address, only makes the state that a server begins with.
set -eu
directory=$1 address=${2-} port=${3-}
[ $# -lt 3 ] || shift 3
programs=$(ls -d /usr/lib/postgresql/*/bin | sort -V | tail -n 1)
mkdir -p "$directory"
# It refuses to run as root.
as=
if [ "$(id -u)" = 0 ]; then
    as="setpriv --reuid=nobody --regid=nogroup --clear-groups"
    # Where root is root of a namespace alone, there is no other user, and so another namespace for one.
    $as true 2>/dev/null || as="unshare --user --map-user=65534 --map-group=65534"
    chown nobody "$directory" 2>/dev/null || true
    chmod a+x "$(dirname "$directory")"
fi
cd "$directory"
if [ ! -e PG_VERSION ]; then
    $as "$programs/initdb" -D . -U tsoracle -A trust -E UTF8 --locale=C \
        --wal-segsize=1 --no-sync >&2
    # Small, since it is copied often: the templates of databases are two thirds of it.
    echo "UPDATE pg_database SET datistemplate = false; DROP DATABASE template0; DROP DATABASE template1" |
        tr ';' '\n' | $as "$programs/postgres" --single -D . postgres >&2
    echo "host all all all trust" >>pg_hba.conf
fi
[ -n "$address" ] || exit 0
# What a commit does not write, nothing else writes soon: it is lost if the server ends.
exec $as "$programs/postgres" -D . -c listen_addresses="$address" -c port="$port" \
    -c unix_socket_directories= -c max_connections=300 -c shared_buffers=16MB \
    -c wal_writer_delay=10s -c wal_writer_flush_after=1GB -c bgwriter_lru_maxpages=0 "$@"
