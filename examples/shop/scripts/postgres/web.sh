#!/bin/bash
# A page with what the database says, served by nginx.
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive
dpkg -s nginx-light postgresql-client >/dev/null 2>&1 ||
  { apt-get update -q && apt-get install -qy nginx-light postgresql-client; }
count=$(PGPASSWORD=$DB_PASSWORD psql --host "$DB_HOST" --user "$DB_USER" --tuples-only --no-align "$DB_NAME" \
  --command 'select count(*) from articles')
echo "<h1>$(hostname): $count articles in $DB_NAME on $DB_HOST</h1>" > /var/www/html/index.html
