#!/usr/bin/env bash
# Start the whole stack in containers, check it, and say where it is. Data of earlier runs stays.
# usage: ./start.sh            check what is needed, make secrets once, build, start, wait, run the installation check
#        ./start.sh down       stop and remove the containers; volumes stay
#        ./start.sh status     what runs
# ACORDO_ENV_FILE names another file than .env; ACORDO_START_WAIT_S is the longest wait for all to run (300).
# Exit code 0: every container runs, none is unhealthy, and the installation check passed.
set -Eeuo pipefail
trap 'printf "error: line %s of start.sh failed: %s\n" "$LINENO" "$BASH_COMMAND" >&2' ERR
cd "$(dirname "$0")"
env_file=${ACORDO_ENV_FILE:-.env}
wait_s=${ACORDO_START_WAIT_S:-300}
FORMAT=1   # of the volumes; raised when an older version could not use them
CODE=(kv backends coordinator node acordo cluster deploy)   # what the images are made of

fail() { printf 'error: %s\n' "$*" >&2; exit 1; }
say() { printf '%s\n' "$*"; }
random() { od -An -tx1 -N "$1" /dev/urandom | tr -d ' \n'; }
value() {  # value NAME [DEFAULT]: what the file says, else the default
    local found
    found=$(sed -n "s/^$1=//p" "$env_file" | tail -n 1)
    printf '%s\n' "${found:-${2:-}}"
}
chosen() { [[ ,$(value COMPOSE_PROFILES), == *,$1,* ]]; }
containers() { docker ps "$@" --filter "label=com.docker.compose.project=$project"; }
observers() { docker ps -aq --filter "label=acordo.project=$project"; }
known() { sed -n 's/^#\{0,1\}\([A-Z][A-Z0-9_]*\)=.*/\1/p' .env.example; }

# ---- Docker and Compose
find_docker() {
    local said have
    command -v docker >/dev/null || fail "Docker is missing. Debian, Ubuntu: sudo apt-get install docker.io docker-compose"
    if ! said=$(docker version --format '{{.Server.Version}}' 2>&1); then
        case $said in
            *ermission*) fail "no permission to talk to Docker: add yourself to its group (sudo usermod -aG docker ${USER:-YOU}, then log in again), or use sudo" ;;
            *) fail "the Docker engine does not answer: start it (sudo systemctl start docker). It said: $said" ;;
        esac
    fi
    [[ $said =~ ^([0-9]+)\. && ${BASH_REMATCH[1]} -ge 20 ]] || fail "Docker $said is too old: 20.10 or newer is needed"
    if docker compose version >/dev/null 2>&1; then compose=(docker compose); return; fi
    command -v docker-compose >/dev/null || fail "Docker Compose is missing. Debian, Ubuntu: sudo apt-get install docker-compose"
    have=$(docker-compose version --short 2>/dev/null) \
        || fail "docker-compose is there and does not run; it said: $(docker-compose version --short 2>&1 | tail -n 1)"
    case $have in
        1.29*|v2*|2.*|v[3-9]*|[3-9].*) compose=(docker-compose) ;;
        *) fail "docker-compose $have is too old: 1.29 or newer is needed" ;;
    esac
}

# ---- settings
first_settings() {  # print what the first .env holds
    local password socket name
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
    if [ -S "$socket" ]; then echo "ACORDO_DOCKER_SOCK=$socket"; echo "ACORDO_DOCKER_GID=$(stat -c %g "$socket")"; fi
    if [ -n "${ACORDO_HTTP_PORT:-}" ]; then echo "ACORDO_HTTP_PORT=$ACORDO_HTTP_PORT"; fi
}
write_first_settings() {
    local air='' volume
    volume=$(sed -n 's/^COMPOSE_PROJECT_NAME=//p' .env.example)_postgres
    if docker volume inspect "$volume" >/dev/null 2>&1; then
        fail "$env_file is not there, but the volume $volume of an earlier start is, and only that $env_file had its password:" \
            "put the old $env_file back, or give up that database on purpose (docker volume rm $volume); nothing was changed"
    fi
    if docker image inspect acordo-node:air >/dev/null 2>&1; then air=1; fi
    (umask 077; first_settings > "$env_file.new")  # nobody else reads what comes into it
    mv "$env_file.new" "$env_file"
    say "wrote $env_file${air:+ (images of the distribution, PostgreSQL in the place of CockroachDB, no Grafana)}"
}
forget_environment() {  # Compose prefers exported variables to the file: from here on the file alone decides
    local name
    for name in $(known); do
        if [ -n "${!name+set}" ] && [ "${!name}" != "$(value "$name")" ]; then
            say "note: $name of the environment is left aside; $env_file decides"
        fi
        unset "$name"
    done
    unset COMPOSE_FILE COMPOSE_ENV_FILES COMPOSE_PROJECT_DIRECTORY
}
thousandths() { local whole=${1%%.*} part=000; if [[ $1 == *.* ]]; then part=${1#*.}000; fi; echo $((10#$whole * 1000 + 10#${part:0:3})); }
within() {  # within NAME GIVEN LEAST MOST: a number with at most three decimals, and between them
    [[ $2 =~ ^[0-9]{1,9}([.][0-9]{1,3})?$ ]] || fail "$env_file: $1=$2 is no number ($3 to $4)"
    [ "$(thousandths "$2")" -ge "$(thousandths "$3")" ] && [ "$(thousandths "$2")" -le "$(thousandths "$4")" ] \
        || fail "$env_file: $1=$2 is not allowed: $3 to $4"
}
HOST='[A-Za-z0-9._-]+(:[0-9]{1,5})?'
LOGIN='[A-Za-z0-9._~%-]*(:[A-Za-z0-9._~%-]*)?@'
check_value() {  # check_value NAME GIVEN
    local each
    case $1 in
        *_PORT) [[ $2 =~ ^[0-9]{1,5}$ ]] && [ "$((10#$2))" -gt 0 ] && [ "$((10#$2))" -lt 65536 ] || fail "$env_file: $1=$2 is no port (1 to 65535)" ;;
        *_USER|*_PASSWORD|*_COOKIE)
            [[ $2 =~ ^[A-Za-z0-9._][A-Za-z0-9._-]*$ ]] || fail "$env_file: $1 may have letters, digits and . _ - only (- not first)"
            [ "$1" != ACORDO_GRAFANA_PASSWORD ] || [ "${#2}" -ge 4 ] || fail "$env_file: $1 has fewer than 4 characters, which Grafana refuses" ;;
        *_OBSERVERS_MIN|*_OBSERVERS_MAX) [[ $2 =~ ^[0-9]{1,9}$ ]] || fail "$env_file: $1=$2 is no whole number (0 to 16)"; within "$1" "$2" 0 16 ;;
        *_GID) [[ $2 =~ ^[0-9]{1,9}$ ]] || fail "$env_file: $1=$2 is no whole number" ;;
        *_PERIOD_S) within "$1" "$2" 0.1 3600 ;;
        *_COOL_DOWN_S) within "$1" "$2" 0 86400 ;;
        *_HIGH) within "$1" "$2" 0.001 1000000 ;;
        *_LOW) within "$1" "$2" 0 1000000 ;;
        ACORDO_IMAGE_*|ACORDO_BASE)
            [[ $2 =~ ^[A-Za-z0-9][A-Za-z0-9._/:@-]*$ ]] || fail "$env_file: $1=$2 is no name of an image (no quotes, no spaces)" ;;
        ACORDO_LOG_LEVEL) [[ $2 =~ ^(debug|info|warning|error)$ ]] || fail "$env_file: $1=$2 is not allowed: debug, info, warning, error" ;;
        ACORDO_STORE)  # may hold a password: it is not shown
            [[ $2 =~ ^(postgresql|cockroachdb)://($LOGIN)?$HOST(,$HOST)*/[A-Za-z0-9_-]+(\?[A-Za-z0-9_.=\&%/-]*)?$ ]] \
                || fail "$env_file: $1 is malformed; allowed: cockroachdb://USER@HOST[:PORT][,HOST]/DATABASE or postgresql://USER:PASSWORD@HOST[:PORT]/DATABASE" ;;
        ACORDO_CACHE)
            [[ $2 =~ ^(memory://|rediss?://($LOGIN)?$HOST(/[0-9]*)?|redis\+sentinel://($LOGIN)?$HOST(,$HOST)*/[A-Za-z0-9._-]+)$ ]] \
                || fail "$env_file: $1 is malformed; allowed: memory://, redis://[:PASSWORD@]HOST[:PORT][/DB] or redis+sentinel://[:PASSWORD@]HOST[,HOST]/MASTER" ;;
        COMPOSE_PROJECT_NAME) [[ $2 =~ ^[a-z0-9][a-z0-9_-]*$ ]] || fail "$env_file: $1 may have small letters, digits and _ - only" ;;
        COMPOSE_PROFILES)
            for each in ${2//,/ }; do
                case $each in crdb|crdb3|postgres|grafana) ;; *) fail "$env_file: profile $each is unknown; there are crdb, crdb3, postgres, grafana" ;; esac
            done ;;
    esac
}
check_pairs() {  # what is right alone and wrong together
    local low high stores=0 each
    for each in crdb crdb3 postgres; do if chosen "$each"; then stores=$((stores + 1)); fi; done
    [ "$stores" -le 1 ] || fail "$env_file: COMPOSE_PROFILES has more than one store; crdb, crdb3 and postgres stand in for each other"
    case ",$(value COMPOSE_PROFILES),$(value ACORDO_STORE)" in
        *,crdb,*cockroachdb://*|*,crdb3,*cockroachdb://*|*,postgres,*postgresql://*) ;;
        *) fail "$env_file: COMPOSE_PROFILES and ACORDO_STORE do not fit together; .env.example shows the pairs" ;;
    esac
    low=$(value ACORDO_OBSERVERS_MIN 0); high=$(value ACORDO_OBSERVERS_MAX 2)
    [ "$((10#$low))" -le "$((10#$high))" ] || fail "$env_file: ACORDO_OBSERVERS_MIN=$low is above ACORDO_OBSERVERS_MAX=$high"
    low=$(value ACORDO_AUTOSCALER_IN_FLIGHT_LOW 8); high=$(value ACORDO_AUTOSCALER_IN_FLIGHT_HIGH 32)
    [ "$(thousandths "$low")" -lt "$(thousandths "$high")" ] \
        || fail "$env_file: ACORDO_AUTOSCALER_IN_FLIGHT_LOW=$low must be below ACORDO_AUTOSCALER_IN_FLIGHT_HIGH=$high"
}
check_settings() {
    local line name number=0 names
    names=$(known)
    while IFS= read -r line || [ -n "$line" ]; do
        number=$((number + 1))
        case $line in ''|'#'*) continue ;; esac
        name=${line%%=*}
        [ "$name" != "$line" ] && [[ $name =~ ^[A-Z][A-Z0-9_]*$ ]] || fail "$env_file line $number is no NAME=value"
        grep -qx "$name" <<< "$names" || fail "$env_file line $number: $name is no setting; .env.example has them all"
        check_value "$name" "${line#*=}"
    done < "$env_file"
    check_pairs
}
check_socket() {  # the autoscaler's way to the engine; engine_far: it has none
    local socket
    socket=$(value ACORDO_DOCKER_SOCK /var/run/docker.sock)
    engine_far=
    case ${DOCKER_HOST:-unix://} in
        unix://*) [ -S "$socket" ] || fail "$env_file: ACORDO_DOCKER_SOCK=$socket is no socket; allowed: the path of the engine's own, as /var/run/docker.sock" ;;
        *) engine_far=1; say "note: the engine is at $DOCKER_HOST, not behind a socket of this machine: the autoscaler will have no engine, and no observer comes or goes" ;;
    esac
}

# ---- machine
check_readable() {  # containers' users read mounted files and what went into the images as others
    local paths=("${CODE[@]}" requirements-run.lock) closed
    [ -x .venv/bin/python ] || paths+=(tests)
    closed=$(find "${paths[@]}" -name __pycache__ -prune -o \( -type d ! -perm -005 -o -type f ! -perm -004 \) -print | head -n 1 || true)
    [ -z "$closed" ] || fail "$closed cannot be read by the containers' users (a clone under umask 077?): chmod -R go+rX ${paths[*]}"
}
check_machine() {
    local memory stamp
    memory=$(docker info --format '{{.MemTotal}}' 2>/dev/null) || memory=0
    if [[ $memory =~ ^[1-9][0-9]*$ ]] && [ "$memory" -lt 4000000000 ]; then
        fail "the engine has $((memory / 1000000)) MB of memory; the stack needs 4 GB, better 6"
    fi
    stamp=$(docker volume inspect "${project}_secrets" --format '{{index .Labels "acordo.format"}}' 2>/dev/null) || stamp=
    case $stamp in
        ''|'<no value>'|"$FORMAT") ;;
        *) fail "the volumes of $project are of format $stamp, this version knows $FORMAT: start the version that made them," \
            "or give this one another COMPOSE_PROJECT_NAME; nothing was changed" ;;
    esac
}
check_ports() {  # each once, and free or published by this very project
    local pairs=(HTTP:80 NODE1:8001 NODE2:8002 NODE3:8003 PROMETHEUS:9091 RABBITMQ:25673) pair port published
    local -A of=()
    if chosen crdb || chosen crdb3; then pairs+=(COCKROACH:8080); fi
    if chosen grafana; then pairs+=(GRAFANA:3000); fi
    published=$(containers --format '{{.Ports}}') || fail "docker ps failed"
    for pair in "${pairs[@]}"; do
        port=$(value "ACORDO_${pair%%:*}_PORT" "${pair##*:}")
        port=$((10#$port))
        [ -z "${of[$port]:-}" ] || fail "$env_file: ACORDO_${of[$port]}_PORT and ACORDO_${pair%%:*}_PORT are both $port"
        of[$port]=${pair%%:*}
        [[ $published != *":$port->"* ]] || continue
        if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
            fail "port $port is taken: stop what listens there, or set ACORDO_${pair%%:*}_PORT in $env_file"
        fi
    done
}

# ---- images
build_ours() {  # from the checkout's code as it is now; cached, so quick where nothing changed
    local services=() said
    [[ $node_image != acordo-*:local ]] || services+=(secret)
    [[ $nginx_image != acordo-*:local ]] || services+=(nginx)
    [ "${#services[@]}" -gt 0 ] || return 0
    say "building $node_image, $nginx_image"
    said=$("${compose[@]}" build --quiet "${services[@]}" 2>&1) \
        || fail "building failed; where no image registry is reached: make images, remove $env_file, ./start.sh. It said: $(tail -n 5 <<< "$said")"
}
tell_age() {  # tell_age IMAGE: `make images` made it, and does not run by itself
    local made newer
    made=$(docker image inspect "$1" --format '{{json .Metadata.LastTagTime}} {{.Created}}' 2>/dev/null) || return 0
    made=${made//\"/}
    case $made in 20*) made=${made%% *} ;; *) made=${made#* } ;; esac
    newer=$(find "${CODE[@]}" Dockerfile requirements-run.lock -name __pycache__ -prune -o -type f -newermt "$made" -print 2>/dev/null | head -n 1 || true)
    if [ -n "$newer" ]; then say "warning: $1 is of $made, and $newer is newer: what runs may be older code; make images makes it anew"
    else say "$1 is of $made; make images makes it anew"
    fi
}
fetch_images() {
    local config image images
    config=$("${compose[@]}" config 2>&1) || fail "docker-compose.yml cannot be used with $env_file: $(tail -n 5 <<< "$config")"
    readarray -t images < <(sed -n 's/^ *image: *//p' <<< "$config" | sort -u)
    for image in "${images[@]}"; do
        # Compose 1.29 lists also what no chosen profile has.
        case $image in
            *cockroach*) chosen crdb || chosen crdb3 || continue ;;
            *grafana*) chosen grafana || continue ;;
            *postgres*) chosen postgres || continue ;;
        esac
        ! docker image inspect "$image" >/dev/null 2>&1 || continue
        case $image in
            *:air|acordo-air-*) fail "image $image is not there: make images" ;;
            *) docker pull -q "$image" >/dev/null || fail "image $image cannot be pulled; where no image registry is reached: make images, remove $env_file, ./start.sh" ;;
        esac
    done
}

# ---- start
switched_off() {  # services of the profiles that are not chosen
    chosen crdb || say cockroach
    chosen crdb3 || printf '%s\n' cockroach1 cockroach2 cockroach3 cockroach-init
    chosen postgres || say postgres
    chosen grafana || say grafana
}
remove_switched_off() {  # they would hold ports and memory; their volumes stay
    local service found
    for service in $(switched_off); do
        found=$(containers -aq --filter "label=com.docker.compose.service=$service")
        [ -n "$found" ] || continue
        say "stopping $service: its profile is switched off"
        xargs docker stop <<< "$found" >/dev/null
        xargs docker rm <<< "$found" >/dev/null
    done
}
remove_old_observers() {  # one that is older than node1, or of another image, has an image or settings of before
    local model made image observer its_made its_image
    model=$(containers -aq --filter "label=com.docker.compose.service=node1")
    [ -n "$model" ] || return 0
    read -r made image < <(docker inspect --format '{{.Created}} {{.Image}}' "$model")
    for observer in $(observers); do
        # The autoscaler may take one away at any time.
        read -r its_made its_image < <(docker inspect --format '{{.Created}} {{.Image}}' "$observer" 2>/dev/null) || continue
        if [[ $its_image != "$image" || ${its_made%%.*} < ${made%%.*} ]]; then
            say "removing observer $observer: it is of an earlier start; the autoscaler makes new ones"
            docker rm -fv "$observer" >/dev/null || true
        fi
    done
}
rabbit() { "${compose[@]}" exec -T rabbit1 rabbitmqctl "$@" </dev/null 2>&1; }
rabbit_password() { "${compose[@]}" exec -T rabbit1 rabbitmqctl "$1" "$2" <<< "$3" 2>&1; }  # on its input: no process list shows it
set_rabbit_login() {  # RabbitMQ takes its first user from the settings only while its volume is empty
    local user=$1 password=$2
    rabbit await_startup || return 1
    rabbit_password authenticate_user "$user" "$password" || rabbit_password add_user "$user" "$password" \
        || rabbit_password change_password "$user" "$password" || return 1
    rabbit set_permissions -p / "$user" '.*' '.*' '.*' && rabbit set_user_tags "$user" administrator
}
make_rabbit_login_true() {
    local user password said end=$((SECONDS + wait_s))
    user=$(value ACORDO_RABBITMQ_USER admin); password=$(value ACORDO_RABBITMQ_PASSWORD admin)
    until said=$(set_rabbit_login "$user" "$password"); do
        [ "$SECONDS" -lt "$end" ] || fail "RabbitMQ did not take the login of $env_file within $wait_s s; it said: $(tail -n 3 <<< "$said")"
        sleep 2
    done
    if [ "$user" != admin ] && rabbit_password authenticate_user admin admin >/dev/null; then
        say "warning: RabbitMQ still lets admin/admin in: ${compose[*]} exec rabbit1 rabbitmqctl delete_user admin"
    fi
}
make_grafana_password_true() {  # Grafana likewise; one that was set in its pages stays where the file names none
    local password said
    password=$(value ACORDO_GRAFANA_PASSWORD)
    if ! chosen grafana || [ -z "$password" ]; then return; fi
    said=$("${compose[@]}" exec -T grafana grafana cli admin reset-admin-password --password-from-stdin <<< "$password" 2>&1) \
        || fail "Grafana did not take ACORDO_GRAFANA_PASSWORD; it said: $(tail -n 3 <<< "$said")"
}
STATE='{{.Name}} {{index .Config.Labels "com.docker.compose.service"}} {{.State.Status}} {{if .State.Health}}{{.State.Health.Status}}{{else}}-{{end}} {{.State.ExitCode}} {{.RestartCount}}'
look() {  # sets `seen` to the state of every container of the project, `troubled` to those that are not up
    local found name service status health code restarts
    seen='' troubled=()
    found=$(containers -aq) || fail "docker ps failed"
    [ -n "$found" ] || fail "no container of $project is there"
    # One that goes between the two calls makes inspect fail; the next look counts.
    seen=$(xargs docker inspect --format "$STATE" <<< "$found" 2>/dev/null) || { troubled=("$project (changing)"); return 0; }
    while read -r name service status health code restarts; do
        case $service:$status:$health:$code in
            secret:exited:*:0|cockroach-init:exited:*:0) ;;
            secret:running:*|cockroach-init:running:*) troubled+=("${name#/} (still at work, started again $restarts times)") ;;
            *:running:healthy:*|*:running:-:*) ;;
            autoscaler:*) [ -n "$engine_far" ] || troubled+=("${name#/} ($status $health, started again $restarts times)") ;;
            *) troubled+=("${name#/} ($status $health, started again $restarts times)") ;;
        esac
    done <<< "$seen"
}
tell_troubled() {
    local each
    for each in "${troubled[@]}"; do
        say "== $each, its last lines:"
        docker logs --tail 10 "${each%% *}" 2>&1 || true
    done
}
wait_for_all() {  # two looks alike: what crashes again and again runs for a moment in between
    local seen troubled told='' before='' end=$((SECONDS + wait_s))
    while look; do
        if [ "${#troubled[@]}" -eq 0 ]; then
            [ "$seen" != "$before" ] || return 0
            before=$seen
        else
            before=
            [ "${troubled[*]}" = "$told" ] || say "waiting for $(printf '%s; ' "${troubled[@]}")"
            told=${troubled[*]}
        fi
        if [ "$SECONDS" -ge "$end" ]; then
            tell_troubled
            fail "not everything runs after $wait_s s: $(printf '%s; ' "${troubled[@]:-$project keeps changing}")"
        fi
        sleep 5
    done
}
up() {
    say "starting $project; the first time takes a minute or two"
    remove_switched_off
    if ! "${compose[@]}" up -d --no-build --remove-orphans; then
        look
        tell_troubled
        fail "the stack did not come up; see: ${compose[*]} logs"
    fi
    remove_old_observers
    make_rabbit_login_true
    make_grafana_password_true
    wait_for_all
}
down() {  # the autoscaler first: it would start another observer, and the network could not go
    local found
    found=$(containers -q --filter "label=com.docker.compose.service=autoscaler")
    [ -z "$found" ] || xargs docker stop <<< "$found" >/dev/null
    found=$(observers)
    [ -z "$found" ] || xargs docker rm -fv <<< "$found" >/dev/null
    remove_switched_off
    "${compose[@]}" down --remove-orphans
}

check_installation() {
    local python=.venv/bin/python check
    if [ -x "$python" ]; then check=("$python" -m tests.installation "$url")
    else check=(docker run --rm --network host -v "$PWD/tests:/app/tests:ro" "$node_image" python -m tests.installation "$url")
    fi
    "${check[@]}" || fail "the installation check failed"
}
login() {
    if [ -n "$(value "ACORDO_$1_PASSWORD")" ]; then say "login as in $env_file"
    else say "login $(value "ACORDO_$1_USER" admin)/admin: set ACORDO_$1_PASSWORD in $env_file"
    fi
}
tell_addresses() {
    local at=http://127.0.0.1 n
    say
    say "  API and page   $url/"
    for n in 1 2 3; do say "  node $n         $at:$(value "ACORDO_NODE${n}_PORT" "800$n")/"; done
    say "  Prometheus     $at:$(value ACORDO_PROMETHEUS_PORT 9091)/"
    if chosen grafana; then say "  Grafana        $at:$(value ACORDO_GRAFANA_PORT 3000)/   $(login GRAFANA)"; fi
    say "  RabbitMQ       $at:$(value ACORDO_RABBITMQ_PORT 25673)/   $(login RABBITMQ)"
    if chosen crdb || chosen crdb3; then say "  CockroachDB    $at:$(value ACORDO_COCKROACH_PORT 8080)/"; fi
    say "  between nodes  authenticated by a secret made once, not encrypted: for more than one host see docs/security.md"
    say "./start.sh down stops it; its data stays."
}

command=${1:-up}
[[ $command =~ ^(up|down|status)$ ]] || fail "'$command' is no command; there are down and status"
[[ $wait_s =~ ^[0-9]{1,6}$ ]] || fail "ACORDO_START_WAIT_S=$wait_s is no whole number of seconds"
find_docker
if [ ! -e "$env_file" ] && [ "$command" = up ]; then write_first_settings; fi
[ -e "$env_file" ] || fail "$env_file is not there: ./start.sh makes it"
forget_environment
project=$(value COMPOSE_PROJECT_NAME acordo)
check_value COMPOSE_PROJECT_NAME "$project"
compose+=(--env-file "$env_file" -p "$project")
case $command in
    down) down; exit ;;
    status) exec "${compose[@]}" ps ;;
esac
check_settings
check_socket
check_readable
check_machine
check_ports
node_image=$(value ACORDO_IMAGE_NODE acordo-node:local)
nginx_image=$(value ACORDO_IMAGE_NGINX acordo-nginx:local)
url=http://127.0.0.1:$(value ACORDO_HTTP_PORT 80)
build_ours
for image in "$node_image" "$nginx_image"; do
    [[ $image != *:air ]] || tell_age "$image"
done
fetch_images
up
check_installation
tell_addresses
