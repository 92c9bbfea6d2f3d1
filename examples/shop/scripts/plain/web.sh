#!/bin/sh
# Asks the database by its name and writes a page of what it says.
set -eu
answer=$(printf '%s %s %s\n' "$DB_NAME" "$DB_USER" "$DB_PASSWORD" | busybox nc -w 20 "$DB_HOST" 5432)
mkdir -p /srv/www
echo "<h1>$(hostname): $answer in $DB_NAME on $DB_HOST</h1>" > /srv/www/index.html
busybox httpd -p 80 -h /srv/www
