#!/bin/sh
# Runs once, in the container of a new PostgreSQL: the role that only serves (docs/database.md).
set -eu
psql --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" --set ON_ERROR_STOP=1 \
    --set password="$(cat /run/secrets/SERVING_PASSWORD)" <<'SQL'
create role messaging_serving login password :'password';
alter default privileges in schema public grant select, insert, update, delete on tables to messaging_serving;
SQL
