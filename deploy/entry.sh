#!/bin/bash
# Run a command as the container's main process. If it exits with 78, its settings or its data need
# an operator. Restarting it again and again would change nothing and bury its message, so the
# container stays up, unhealthy, until it is stopped.
# usage: entry.sh COMMAND...
"$@" &
child=$!
trap 'kill -TERM "$child" 2>/dev/null' TERM INT
wait "$child"
code=$?
while kill -0 "$child" 2>/dev/null; do  # `wait` was ended by a signal, the command still runs
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
