#!/bin/bash
# Exit with 0 if http://127.0.0.1:PORT/PATH of this container answers 200. usage: healthy.sh PORT
# PATH
# It uses only the shell: it runs every few seconds in every container, and starting Python costs
# ten times as much.
exec 3<>"/dev/tcp/127.0.0.1/$1" || exit 1
printf 'GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' "$2" >&3
read -r -t 10 _ status _ <&3
[ "$status" = 200 ]
