#!/bin/sh
# Makes the files of secrets for compose.production.yml, with passwords and keys that are drawn here:
#   sh ops/secrets.sh [directory]
# Only the owner can enter the directory. The files in it can be read by the user of a container, who is another one.
set -eu
directory=${1:-$(dirname "$0")/secrets}
if [ -e "$directory" ]; then
    echo "$directory is there already, and nothing is changed." >&2
    exit 1
fi
drawn() { od -An -N "$1" -t x1 /dev/urandom | tr -d ' \n'; }
umask 077
mkdir -p "$directory"
owner=$(drawn 24)
serving=$(drawn 24)
printf %s "$owner" >"$directory/POSTGRES_PASSWORD"
printf %s "$serving" >"$directory/SERVING_PASSWORD"
printf 'postgresql://messaging_owner:%s@postgres:5432/messaging' "$owner" >"$directory/OWNER_DATABASE_URL"
printf 'postgresql://messaging_serving:%s@postgres:5432/messaging' "$serving" >"$directory/DATABASE_URL"
head -c 32 /dev/urandom | base64 >"$directory/WEBHOOK_SECRET"
head -c 32 /dev/urandom | base64 >"$directory/CONSENT_SECRET"
chmod 444 "$directory"/*
echo "$directory has the secrets. Keep a copy elsewhere: without CONSENT_SECRET, refusals of erased people are lost."
