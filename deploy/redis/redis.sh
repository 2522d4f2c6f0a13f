#!/bin/sh
# Run a Redis that is only a cache: no file, bounded memory, and a password for clients and
# replicas.
# usage: redis.sh OWN_NAME [MASTER]. The password comes in REDISCLI_AUTH, and is on no command line.
set -eu
{
    printf 'save ""\nappendonly no\nmaxmemory 100mb\nmaxmemory-policy allkeys-lru\n'
    printf 'requirepass %s\nmasterauth %s\nreplica-announce-ip %s\n' "$REDISCLI_AUTH" "$REDISCLI_AUTH" "$1"
    [ -z "${2:-}" ] || printf 'replicaof %s 6379\n' "$2"
} > /tmp/redis.conf
exec redis-server /tmp/redis.conf
