# Start the member of this pod: its id, its address and what it proves itself with follow from the
# pod's name. Kubernetes mounts secrets readable by the pod's group, and a node refuses a secret that
# others can read, so what is needed is copied into memory first.
set -eu
root=${ROOT:-}  # tests run it elsewhere
. "$root/settings/members"              # FIRST: the first members, ID=ADDRESS,…, the same for all pods, for ever
id=$POD_NAME
[ ! -r "$root/replaced/$POD_NAME" ] || id=$(cat "$root/replaced/$POD_NAME")
address=$POD_NAME.acordo-members:9001
members=$FIRST
if [ "$id" != "$POD_NAME" ]; then   # it takes the place of a member whose disk is lost: see README.md
    members=$(printf '%s' "$FIRST" | tr ',' '\n' | grep -v "^$POD_NAME=" | tr '\n' ',')$id=$address/observer
fi
umask 077
# -f: when only the container starts again, what it copied before is there, and read-only.
tls=$root/tls/$POD_NAME
if [ -e "$tls/tls.crt" ]; then
    cp -f "$tls/tls.crt" "$tls/tls.key" "$tls/ca.crt" "$KEYS/"
    export ACORDO_TLS_CERT_FILE="$KEYS/tls.crt" ACORDO_TLS_KEY_FILE="$KEYS/tls.key" ACORDO_TLS_CA_FILE="$KEYS/ca.crt"
else
    cp -f "$root/secrets/raft" "$KEYS/raft"
    export ACORDO_SECRET_FILE="$KEYS/raft"
fi
scheme=http  # which a node refuses, unless ACORDO_HTTP_OPEN says that something else keeps strangers out
if [ -e "$root/https/tls.crt" ]; then
    cp -f "$root/https/tls.crt" "$KEYS/https.crt"
    cp -f "$root/https/tls.key" "$KEYS/https.key"
    export ACORDO_HTTP_TLS_CERT_FILE="$KEYS/https.crt" ACORDO_HTTP_TLS_KEY_FILE="$KEYS/https.key"
    scheme=https
fi
export ACORDO_NODE_ID="$id" ACORDO_MEMBERS="$members" ACORDO_RAFT_ADDRESS="$address"
export ACORDO_ADVERTISED_URL="$scheme://$POD_NAME.acordo-members:8000"
exec python -m node
