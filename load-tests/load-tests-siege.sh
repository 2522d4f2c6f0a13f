#!/usr/bin/env bash
# Load a running installation with siege: load-tests-siege.sh read|write|mixed|all [URL]
# URL is http://127.0.0.1 unless given.
# CONCURRENT=20 TIME=30S; keys lie under load-test/ and are left there. See README-load-tests.md.
set -euo pipefail
what=${1:-all} url=${2:-${ACORDO_URL:-http://127.0.0.1}}
concurrent=${CONCURRENT:-20} time=${TIME:-30S}
command -v siege >/dev/null || { echo "siege is missing (Debian, Ubuntu: sudo apt-get install siege)" >&2; exit 1; }
command -v curl >/dev/null || { echo "curl is missing" >&2; exit 1; }
curl -fsS -m 5 -o /dev/null "$url/readyz" || { echo "$url is not ready" >&2; exit 1; }
folder=$(mktemp -d)
trap 'rm -r "$folder"' EXIT
for n in $(seq 100); do
    echo "$url/kv?key=load-test/$n" >> "$folder/read"
    echo "$url/kv PUT {\"data\":{\"key\":\"load-test/$n\",\"value\":\"value $n\"}}" >> "$folder/write"
    curl -fsS -o /dev/null -X PUT -H 'Content-Type: application/json' -d "{\"data\":{\"key\":\"load-test/$n\",\"value\":\"$n\"}}" "$url/kv"
done
cat "$folder/read" "$folder/read" "$folder/read" "$folder/write" > "$folder/mixed"
run() { echo "== $1: $concurrent users, $time"; siege -q -b -i -c "$concurrent" -t "$time" --content-type=application/json -f "$folder/$1" 2>&1 || true; }
case $what in
    read|write|mixed) run "$what" ;;
    all) for each in read write mixed; do run "$each"; done ;;
    *) echo "usage: $0 read|write|mixed|all [URL]" >&2; exit 2 ;;
esac
