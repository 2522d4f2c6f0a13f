#!/bin/bash
# Exit with 0 if http://127.0.0.1:PORT/PATH of this container answers 200. usage: healthy.sh PORT
# PATH
# It uses only the shell: it runs every few seconds in every container, and starting Python costs
# ten times as much. A node that serves HTTPS is asked by Python all the same, which trusts the
# node's own certificate and nothing else.
if [ -n "$ACORDO_HTTP_TLS_CERT_FILE" ] && [ "$1" = "$ACORDO_HTTP_PORT" ]; then
    exec python3 -m deploy.healthy "$1" "$2"
fi
exec 3<>"/dev/tcp/127.0.0.1/$1" || exit 1
printf 'GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' "$2" >&3
read -r -t 10 _ status _ <&3
[ "$status" = 200 ]
