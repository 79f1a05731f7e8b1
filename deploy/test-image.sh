#!/usr/bin/env bash
# Builds the cpu image with buildah, runs it and asks it a real search over HTTP. Needs root on Debian, no container
# engine and no image registry: Debian's own Python 3.11 stands in for python:3.11-slim.
# KEEP=1 keeps the image storage and the base for a next run.
set -euo pipefail
cd "$(dirname "$0")/.."
export DEBIAN_FRONTEND=noninteractive
port=${PORT:-18000}
work=${WORK:-$PWD/.image}
buildah=(buildah --root "$work/root" --runroot "$work/run" --storage-driver vfs)
container='' root='' server=''

say() { printf '%4d s  %s\n' "$SECONDS" "$*"; }

cleanup() {
  status=$?
  [ -z "$server" ] || kill -KILL "$(cat "$root/tmp/pid")" "$server" 2>/dev/null || true
  [ -z "$container" ] || "${buildah[@]}" rm "$container" >/dev/null 2>&1 || true
  [ -n "${KEEP:-}" ] || rm -rf "$work"
  [ "$status" = 0 ] || say "failed"
}
trap cleanup EXIT
# An interrupt must reach the trap above as an exit, or the storage (gigabytes) stays behind.
trap 'exit 130' INT TERM

[ "$(id -u)" = 0 ] || { echo 'The image is built without an engine, which needs root.'; exit 1; }
for tool in buildah mmdebstrap curl; do
  command -v "$tool" >/dev/null || { apt-get update -qq; apt-get install -y -qq --no-install-recommends "$tool" >/dev/null; }
done
mkdir -p "$work"

if ! "${buildah[@]}" inspect --type image python:3.11-slim >/dev/null 2>&1; then
  say 'making the stand-in base'
  base=$("${buildah[@]}" from scratch)
  mmdebstrap --quiet --variant=minbase --include=python3,python3-venv,python3-pip,ca-certificates \
    bookworm "$("${buildah[@]}" mount "$base")"
  "${buildah[@]}" config --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$base"
  "${buildah[@]}" commit --quiet --rm "$base" python:3.11-slim >/dev/null
fi

say 'building the image'
# The certificates of this machine, so that an index behind a private authority can be reached from the build.
"${buildah[@]}" bud --isolation chroot --network host --pull-never --format docker --target cpu \
  --volume /etc/ssl/certs:/etc/ssl/certs:ro --tag momoseek:cpu . >"$work/build.log" 2>&1 ||
  { tail -40 "$work/build.log"; exit 1; }

container=$("${buildah[@]}" from --pull-never momoseek:cpu)
in_image=("${buildah[@]}" run --isolation chroot --network host --env "MOMOSEEK_PORT=$port" "$container" --)
root=$("${buildah[@]}" mount "$container")
say "image of $(du -sm "$root" | cut -f1) MB (base included), user $("${in_image[@]}" id -u)"

configured() {  # a list in the image's configuration, one entry a line
  "${buildah[@]}" inspect --type image --format "{{range $1}}{{println .}}{{end}}" momoseek:cpu | sed '/^$/d'
}
mapfile -t entry < <(configured .OCIv1.Config.Entrypoint)
mapfile -t health < <(configured .Docker.Config.Healthcheck.Test | sed 1d)
if [ "${#entry[@]}" = 0 ] || [ "${#health[@]}" = 0 ]; then echo "the image has no entry point or no health check"; exit 1; fi
! timeout 60 "${in_image[@]}" "${entry[@]}" serve >"$work/refusal.log" 2>&1 || { echo 'it is open to everybody'; exit 1; }
grep -q 'momoseek key create' "$work/refusal.log" || { cat "$work/refusal.log"; exit 1; }
key=$("${in_image[@]}" "${entry[@]}" key create test --scope read 2>/dev/null)
say 'without a key it refuses to listen; now there is one'

# buildah does not pass signals on as an engine does: the process leaves its number, and gets them from a second run.
# shellcheck disable=SC2016  # for the shell inside
"${in_image[@]}" sh -c 'echo $$ >/tmp/pid && exec "$@"' sh "${entry[@]}" serve --gallery >"$work/serve.log" 2>&1 &
server=$!
for _ in $(seq 120); do
  curl --silent --fail "http://127.0.0.1:$port/readyz" >/dev/null && break
  kill -0 "$server" 2>/dev/null || { cat "$work/serve.log"; exit 1; }
  sleep 0.5
done
say 'ready'

# Ready means that searches are answered; the gallery fills the collection a little later.
for _ in $(seq 120); do
  reply=$(curl --silent --show-error \
    --header "Authorization: Bearer $key" --header 'Content-Type: application/json' \
    --data '{"query": "a sailing ship", "limit": 3}' "http://127.0.0.1:$port/v1/collections/gallery/search")
  [[ $reply == *ship* ]] && break
  sleep 0.5
done
say "search: ${reply:0:200}"
[[ $reply == *ship* ]] || { cat "$work/serve.log"; exit 1; }

refused=$(curl --silent --output /dev/null --write-out '%{http_code}' "http://127.0.0.1:$port/v1/models")
[ "$refused" = 401 ] || { echo "without the key it answers $refused"; exit 1; }

"${in_image[@]}" "${health[@]}"
say 'the health check agrees, and nobody else is answered without the key'

# shellcheck disable=SC2016
"${in_image[@]}" sh -c 'kill -TERM "$(cat /tmp/pid)"'
wait "$server" || { echo "stopping ended with status $?"; tail -20 "$work/serve.log"; exit 1; }
server=''
! "${in_image[@]}" "${health[@]}" 2>/dev/null || { echo 'the health check passes without a server'; exit 1; }
say 'stopped on SIGTERM, and the health check noticed'
