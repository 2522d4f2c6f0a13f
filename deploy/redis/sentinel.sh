#!/bin/sh
# Run a Sentinel that knows its fellows by name, so that a container may come back under another address.
# usage: sentinel.sh OWN_NAME. It writes its state to /tmp: what it needs to know it learns anew from the others.
set -eu
# It ends where it cannot look redis1 up yet, and is started again.
cat > /tmp/sentinel.conf <<CONF
port 26379
dir /tmp
protected-mode no
sentinel resolve-hostnames yes
sentinel announce-hostnames yes
sentinel announce-ip $1
sentinel monitor acordo redis1 6379 2
sentinel auth-pass acordo $REDIS_PASSWORD
sentinel down-after-milliseconds acordo 2000
sentinel failover-timeout acordo 6000
sentinel parallel-syncs acordo 2
CONF
exec redis-sentinel /tmp/sentinel.conf
