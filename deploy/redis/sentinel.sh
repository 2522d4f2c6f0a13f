#!/bin/sh
# Run a Sentinel that knows the other containers by name, so that one may come back under another
# address.
# usage: sentinel.sh OWN_NAME. It keeps its state in /tmp: after a restart it learns it again from
# the others.
set -eu
# If it cannot resolve redis1 yet, it exits and is started again.
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
