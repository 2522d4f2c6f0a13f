#!/usr/bin/env bash
# Start the whole stack in containers, check it, and say where it is. Data of earlier runs stays.
# usage: ./start.sh            check what is needed, make secrets once, start, wait, run the installation check
#        ./start.sh down       stop and remove the containers; volumes stay
#        ./start.sh status     what runs
# ACORDO_ENV_FILE names another file than .env. Exit code 0: all is up and passed the check.
set -euo pipefail
cd "$(dirname "$0")"
env_file=${ACORDO_ENV_FILE:-.env}
FORMAT=1   # of the volumes; raised when an older version could not use them

fail() { printf 'error: %s\n' "$*" >&2; exit 1; }
say() { printf '%s\n' "$*"; }
value() { sed -n "s/^$1=//p" "$env_file" 2>/dev/null | tail -n 1; }
random() { od -An -tx1 -N "$1" /dev/urandom | tr -d ' \n'; }

# ---- Docker and Compose
command -v docker >/dev/null || fail "Docker is missing. Debian, Ubuntu: sudo apt-get install docker.io docker-compose"
if ! said=$(docker version --format '{{.Server.Version}}' 2>&1); then
    case $said in
        *ermission*) fail "no permission to talk to Docker: add yourself to its group (sudo usermod -aG docker $USER, then log in again), or use sudo" ;;
        *) fail "the Docker engine does not answer: start it (sudo systemctl start docker). It said: $said" ;;
    esac
fi
major=${said%%.*}
[ "${major:-0}" -ge 20 ] 2>/dev/null || fail "Docker $said is too old: 20.10 or newer is needed"
if docker compose version >/dev/null 2>&1; then compose=(docker compose)
elif command -v docker-compose >/dev/null; then
    have=$(docker-compose version --short 2>/dev/null)
    case $have in 1.29*|v2*|2.*|v[3-9]*|[3-9].*) compose=(docker-compose) ;;
        *) fail "docker-compose $have is too old: 1.29 or newer is needed" ;;
    esac
else fail "Docker Compose is missing. Debian, Ubuntu: sudo apt-get install docker-compose"
fi
compose+=(--env-file "$env_file")

# ---- settings
if [ ! -e "$env_file" ] && [ "${1:-up}" = up ]; then
    air=
    docker image inspect acordo-node:air >/dev/null 2>&1 && air=1
    (umask 077; : > "$env_file.new")  # nobody else reads what comes into it
    (
        password=$(random 16)
        if [ -n "$air" ]; then
            grep -v -e '^COMPOSE_PROFILES=' -e '^ACORDO_STORE=' .env.example
            echo "COMPOSE_PROFILES=postgres"
            echo "ACORDO_STORE=postgresql://acordo:$password@postgres/acordo"
            echo "ACORDO_IMAGE_NODE=acordo-node:air"
            echo "ACORDO_IMAGE_NGINX=acordo-nginx:air"
            for name in redis rabbitmq postgres prometheus; do echo "ACORDO_IMAGE_${name^^}=acordo-air-$name:bookworm"; done
        else
            cat .env.example
        fi
        echo "ACORDO_POSTGRES_PASSWORD=$password"
        echo "ACORDO_RABBITMQ_COOKIE=$(random 16)"
        socket=${DOCKER_HOST:-unix:///var/run/docker.sock}
        socket=${socket#unix://}
        [ ! -S "$socket" ] || { echo "ACORDO_DOCKER_SOCK=$socket"; echo "ACORDO_DOCKER_GID=$(stat -c %g "$socket")"; }
        if [ -n "${ACORDO_HTTP_PORT:-}" ]; then echo "ACORDO_HTTP_PORT=$ACORDO_HTTP_PORT"; fi
    ) > "$env_file.new"
    mv "$env_file.new" "$env_file"
    say "wrote $env_file${air:+ (images of the distribution, PostgreSQL in the place of CockroachDB, no Grafana)}"
fi
[ -e "$env_file" ] || fail "$env_file is not there: ./start.sh makes it"
known=$(sed -n 's/^#\{0,1\}\([A-Z][A-Z0-9_]*\)=.*/\1/p' .env.example)
number=0
while IFS= read -r line || [ -n "$line" ]; do
    number=$((number + 1))
    case $line in ''|'#'*) continue ;; esac
    name=${line%%=*}
    [ "$name" != "$line" ] && [[ $name =~ ^[A-Z][A-Z0-9_]*$ ]] || fail "$env_file line $number is no NAME=value"
    grep -qx "$name" <<< "$known" || fail "$env_file line $number: $name is no setting; .env.example has them all"
    given=${line#*=}
    case $name in
        *_PORT) [[ $given =~ ^[0-9]{1,5}$ ]] && [ "$given" -gt 0 ] && [ "$given" -lt 65536 ] || fail "$env_file: $name=$given is no port (1 to 65535)" ;;
        *_USER|*_PASSWORD|*_COOKIE) [[ $given =~ ^[A-Za-z0-9._-]+$ ]] || fail "$env_file: $name may have letters, digits and . _ - only" ;;
        *_OBSERVERS_MIN|*_OBSERVERS_MAX|*_GID) [[ $given =~ ^[0-9]{1,9}$ ]] || fail "$env_file: $name=$given is no whole number" ;;
        *_PERIOD_S|*_COOL_DOWN_S|*_HIGH|*_LOW) [[ $given =~ ^[0-9]+([.][0-9]+)?$ ]] || fail "$env_file: $name=$given is no number" ;;
        COMPOSE_PROJECT_NAME) [[ $given =~ ^[a-z0-9][a-z0-9_-]*$ ]] || fail "$env_file: $name may have small letters, digits and _ - only" ;;
        COMPOSE_PROFILES)
            for each in ${given//,/ }; do case $each in crdb|crdb3|postgres|grafana) ;; *) fail "$env_file: profile $each is unknown; there are crdb, crdb3, postgres, grafana" ;; esac; done ;;
    esac
done < "$env_file"
case ",$(value COMPOSE_PROFILES),$(value ACORDO_STORE)" in
    *,crdb,*cockroachdb://*|*,crdb3,*cockroachdb://*|*,postgres,*postgresql://*) ;;
    *) fail "$env_file: COMPOSE_PROFILES and ACORDO_STORE do not fit together; .env.example shows the pairs" ;;
esac
project=$(value COMPOSE_PROJECT_NAME); project=${project:-acordo}
port() { local p; p=$(value "$1"); echo "${p:-$2}"; }

case ${1:-up} in
    up) ;;
    down) exec_down() { docker ps -aq --filter "label=acordo.project=$project" | xargs -r docker rm -f >/dev/null; "${compose[@]}" down --remove-orphans; }
        exec_down; exit ;;
    status) exec "${compose[@]}" ps ;;
    *) fail "'$1' is no command; there are down and status" ;;
esac

# ---- machine
memory=$(docker info --format '{{.MemTotal}}' 2>/dev/null || echo 0)
[ "$memory" -eq 0 ] || [ "$memory" -ge 4000000000 ] || fail "the engine has $((memory / 1000000)) MB of memory; the stack needs 4 GB, better 6"
stamp=$(docker volume inspect "${project}_secrets" --format '{{index .Labels "acordo.format"}}' 2>/dev/null || true)
case $stamp in ''|'<no value>'|"$FORMAT") ;; *) fail "the volumes of $project are of format $stamp, this version knows $FORMAT: start the version that made them, or give this one another COMPOSE_PROJECT_NAME; nothing was changed" ;; esac
running=$("${compose[@]}" ps -q 2>/dev/null | head -n 1)
if [ -z "$running" ]; then
    pairs=(HTTP:80 NODE1:8001 NODE2:8002 NODE3:8003 PROMETHEUS:9091 RABBITMQ:25673)
    case ,$(value COMPOSE_PROFILES), in *,crdb*) pairs+=(COCKROACH:8080) ;; esac
    case ,$(value COMPOSE_PROFILES), in *,grafana,*) pairs+=(GRAFANA:3000) ;; esac
    for pair in "${pairs[@]}"; do
        taken=$(port "ACORDO_${pair%%:*}_PORT" "${pair##*:}")
        if (exec 3<>"/dev/tcp/127.0.0.1/$taken") 2>/dev/null; then
            fail "port $taken is taken: stop what listens there, or set ACORDO_${pair%%:*}_PORT in $env_file"
        fi
    done
fi

# ---- images and start
missing=()
profiles=,$(value COMPOSE_PROFILES),
while IFS= read -r image; do
    # Compose 1.29 lists also what no chosen profile has.
    case $image in
        *cockroach*) [[ $profiles == *,crdb* ]] || continue ;;
        *grafana*) [[ $profiles == *,grafana,* ]] || continue ;;
        *postgres*) [[ $profiles == *,postgres,* ]] || continue ;;
    esac
    docker image inspect "$image" >/dev/null 2>&1 || missing+=("$image")
done < <("${compose[@]}" config 2>/dev/null | sed -n 's/^ *image: *//p' | sort -u)
for image in "${missing[@]}"; do
    case $image in
        *:air|acordo-air-*) fail "image $image is not there: make images" ;;
        acordo-*:local) say "building $image"; "${compose[@]}" build secret nginx || fail "building failed; where no image registry is reached: make images, remove $env_file, ./start.sh" ;;
        *) docker pull -q "$image" >/dev/null || fail "image $image cannot be pulled; where no image registry is reached: make images, remove $env_file, ./start.sh" ;;
    esac
done
say "starting $project; the first time takes a minute or two"
"${compose[@]}" up -d --no-build --remove-orphans || { "${compose[@]}" ps; fail "the stack did not come up; see: ${compose[*]} logs"; }

url=http://127.0.0.1:$(port ACORDO_HTTP_PORT 80)
python=.venv/bin/python
if [ -x "$python" ]; then check=("$python" -m tests.installation "$url")
else
    image=$(value ACORDO_IMAGE_NODE)
    check=(docker run --rm --network host -v "$PWD/tests:/app/tests:ro" "${image:-acordo-node:local}" python -m tests.installation "$url")
fi
"${check[@]}" || fail "the installation check failed"

login() { local u p; u=$(value "ACORDO_$1_USER"); p=$(value "ACORDO_$1_PASSWORD"); if [ -n "$p" ]; then echo "login as in $env_file"; else echo "login ${u:-admin}/admin: set ACORDO_$1_PASSWORD in $env_file"; fi; }
say
say "  API and page   $url/"
for n in 1 2 3; do say "  node $n         http://127.0.0.1:$(port ACORDO_NODE${n}_PORT 800$n)/"; done
say "  Prometheus     http://127.0.0.1:$(port ACORDO_PROMETHEUS_PORT 9091)/"
case ",$(value COMPOSE_PROFILES)," in *,grafana,*) say "  Grafana        http://127.0.0.1:$(port ACORDO_GRAFANA_PORT 3000)/   $(login GRAFANA)" ;; esac
say "  RabbitMQ       http://127.0.0.1:$(port ACORDO_RABBITMQ_PORT 25673)/   $(login RABBITMQ)"
case $(value COMPOSE_PROFILES) in *crdb*) say "  CockroachDB    http://127.0.0.1:$(port ACORDO_COCKROACH_PORT 8080)/" ;; esac
say "./start.sh down stops it; its data stays."
