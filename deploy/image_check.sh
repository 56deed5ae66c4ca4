#!/usr/bin/env bash
# Builds the Dockerfile without a Docker engine or a registry, and tries what the image is for, as its own user.
# Needs root and Debian's packages buildah and mmdebstrap; takes three to seven minutes and 5 GB in ${TMPDIR:-/tmp}.
#   BASE=image    build on this image instead of a Debian base made here
#   KEEP=folder   keep the images and layers there (localhost/runway-pipelines); the next build starts from them
#   DRIVER=vfs    how layers are stored, where overlay file systems cannot be mounted
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '\n== %s\n' "$*"; }
fail() { printf 'image-check: %s\n' "$*" >&2; exit 1; }

[ "$(id -u)" = 0 ] || fail "needs root: buildah's chroot isolation mounts, and mmdebstrap makes device nodes"
for package in buildah mmdebstrap; do
    command -v "$package" >/dev/null || fail "needs Debian's package $package: apt-get install $package"
done

work=$(mktemp -d)
storage=${KEEP:-$work/storage}
builder=(buildah --root "$storage" --runroot "$work/run" --storage-driver "${DRIVER:-overlay}")
image=localhost/runway-pipelines
container=
started=()
clean_up() {
    for pid in "${started[@]}"; do kill -KILL "$pid" 2>/dev/null || true; done
    wait
    [ -z "$container" ] || "${builder[@]}" rm "$container" >/dev/null || true
    rm -rf "$work"
}
trap clean_up EXIT

# The builder reaches the package index as this machine's pip does.
volumes=()
printf '[global]\n' >"$work/pip.conf"
for key in index-url proxy cert; do
    variable=PIP_$(tr a-z- A-Z_ <<<"$key")
    value=${!variable:-$(python3 -m pip config get "global.$key" 2>/dev/null || true)}
    [ -z "$value" ] || printf '%s = %s\n' "$key" "$value" >>"$work/pip.conf"
    [ "$key" != cert ] || [ -z "$value" ] || volumes+=(--volume "$value:$value:ro")
done
volumes+=(--volume "$work/pip.conf:/etc/pip.conf:ro")

if [ -z "${BASE:-}" ]; then
    say "a base of Debian's packages, in place of python:3.11-slim-bookworm"
    # shellcheck disable=SC2016 # mmdebstrap's $1, not ours
    mmdebstrap --quiet --mode=root --variant=minbase \
        --include=python3.11,python3.11-venv,python3-pip,ca-certificates \
        --setup-hook='mkdir -p "$1/usr/local/bin" && ln -s /usr/bin/python3.11 "$1/usr/local/bin/python"' \
        bookworm "$work/base.tar"
    container=$("${builder[@]}" from scratch)
    "${builder[@]}" add --quiet "$container" "$work/base.tar" / >/dev/null
    BASE=localhost/runway-base
    "${builder[@]}" commit --quiet --rm "$container" "$BASE" >/dev/null
    container=
    rm "$work/base.tar"
    pull=--pull-never
fi

say "the Dockerfile on $BASE"
"${builder[@]}" bud --layers --isolation chroot --format docker ${pull:+"$pull"} --build-arg "BASE=$BASE" "${volumes[@]}" \
    --tag "$image" .

container=$("${builder[@]}" from --pull-never "$image")
configured() { "${builder[@]}" inspect --type image --format "{{$1}}" "$image"; }
inside() { "${builder[@]}" run --isolation chroot "$container" -- "$@"; }
# Starts a command in the container, its log in $log, its process id in $pid. A shell's background process ignores SIGINT,
# and Dagster takes SIGTERM as it takes SIGINT: a container's first process ignores neither.
start() {
    log=$work/${#started[@]}.log
    "${builder[@]}" run --isolation chroot --volume "$work/pids:/pids" "$container" -- \
        sh -c 'echo $$ >/pids/pid && exec env --default-signal=INT "$@"' sh "$@" >"$log" 2>&1 &
    for _ in $(seq 50); do [ -s "$work/pids/pid" ] && break; sleep 0.2; done
    pid=$(cat "$work/pids/pid") && rm "$work/pids/pid" && started+=("$pid")
}
mkdir -m 0777 "$work/pids"

say "who it runs as, and what is not in it"
[ "$(configured .Docker.Config.User)" = 10001:10001 ] || fail "the image's user is not 10001:10001"
[ "$(inside id -u)" = 10001 ] || fail "commands do not run as 10001"
inside sh -c '! touch /opt/runway/x /opt/dagster/x /etc/x 2>/dev/null' || fail "its user can change the image"
inside sh -c 'touch /var/lib/dagster/x' || fail "its user cannot write to /var/lib/dagster"
for tool in gcc make git curl hatchling; do
    ! inside sh -c "command -v $tool" || fail "$tool is in the image"
done
inside python -c 'import sys; sys.exit(sys.prefix != "/opt/runway")' || fail "python is not the environment's"
inside /usr/local/bin/python -m pip --python /opt/runway/bin/python check

say "the code location, and our own command"
inside sh -c 'mkdir /tmp/home && DAGSTER_HOME=/tmp/home dagster definitions validate -m runway_pipelines.definitions'
inside runway-pipelines settings >/dev/null

say "the image's command, checked by the image's health check"
mapfile -t command < <(configured 'range .Docker.Config.Cmd}}{{.}}{{"\n"}}{{end')
mapfile -t health < <(configured 'range .Docker.Config.Healthcheck.Test}}{{.}}{{"\n"}}{{end' | tail -n +2)
is_healthy() { inside "${health[@]}" >/dev/null 2>&1; }
! is_healthy || fail "healthy before it was started: is port 4000 taken?"
start "${command[@]}"
code_server=$pid
for _ in $(seq 30); do is_healthy && break; sleep 1; done
is_healthy || { cat "$log"; fail "the code server did not become healthy"; }

say "the webserver, with the image's workspace"
start env DAGSTER_HOME=/tmp/home RUNWAY_CODE_SERVER_HOST=127.0.0.1 \
    dagster-webserver --host 127.0.0.1 --port 3999 --workspace /opt/dagster/workspace.yaml --log-format json
webserver=$pid
query='{"query": "{ workspaceOrError { ... on Workspace { locationEntries { name loadStatus } } } }"}'
loaded='"name":"runway_pipelines","loadStatus":"LOADED"'
ask='import sys, urllib.request as r; print(r.urlopen(r.Request("http://127.0.0.1:3999/graphql", sys.argv[1].encode(), {"Content-Type": "application/json"})).read().decode())'
for _ in $(seq 40); do
    answer=$(inside python -c "$ask" "$query" 2>/dev/null || true)
    [[ ${answer// /} == *"$loaded"* ]] && break
    sleep 1
done
[[ ${answer// /} == *"$loaded"* ]] || { cat "$log"; fail "the webserver does not see the code: $answer"; }

say "the daemon, with the image's workspace"
start env DAGSTER_HOME=/tmp/home RUNWAY_CODE_SERVER_HOST=127.0.0.1 \
    dagster-daemon run --workspace /opt/dagster/workspace.yaml --log-format json
daemon=$pid
for _ in $(seq 60); do
    inside sh -c 'DAGSTER_HOME=/tmp/home dagster-daemon liveness-check' >/dev/null 2>&1 && break
    sleep 1
done
inside sh -c 'DAGSTER_HOME=/tmp/home dagster-daemon liveness-check' || { cat "$log"; fail "no heartbeat"; }

say "the roster stream, with the health check of its task definition"
start env ENVLABEL=dev AWS_REGION=us-west-2 RUNWAY_BUCKET=none RUNWAY_STREAM_TOKEN_KEY="$(head -c 24 /dev/urandom | base64)" \
    runway-pipelines serve --host 127.0.0.1 --port 8080
stream=$pid
answers='import urllib.request; urllib.request.urlopen("http://127.0.0.1:8080/healthz", timeout=5)'
for _ in $(seq 30); do inside python -c "$answers" 2>/dev/null && break; sleep 1; done
inside python -c "$answers" || { cat "$log"; fail "the roster stream does not answer"; }

for role in code_server webserver daemon stream; do
    printf '%s: %s MB resident at most\n' "$role" "$(awk '/^VmHWM/ {print int($2 / 1024)}' "/proc/${!role}/status")"
done

say "all of them end by themselves when they are told to"
for pid in "$stream" "$daemon" "$webserver" "$code_server"; do
    kill -TERM "$pid"
    for _ in $(seq 60); do kill -0 "$pid" 2>/dev/null || continue 2; sleep 1; done
    fail "process $pid is still there 60 seconds after SIGTERM"
done
! is_healthy || fail "healthy after it ended"

say "the image is built and does what it is for"
