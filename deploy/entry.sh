#!/bin/bash
# Run a command as the container's own. Where it ends with 78, its settings or its data need a person: starting it again
# and again would change nothing and bury what it said, so the container stays, unhealthy, until somebody stops it.
# usage: entry.sh COMMAND...
"$@" &
child=$!
trap 'kill -TERM "$child" 2>/dev/null' TERM INT
wait "$child"
code=$?
while kill -0 "$child" 2>/dev/null; do  # a signal ended the wait, not the command
    wait "$child"
    code=$?
done
[ "$code" = 78 ] || exit "$code"
printf 'error: %s ended with 78: see above what it refuses. It is not started again; mend that, then: docker restart %s\n' "$*" "$HOSTNAME" >&2
trap 'exit 78' TERM INT
while :; do
    sleep 3600 &
    wait $!
done
