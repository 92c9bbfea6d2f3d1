#!/bin/sh
# site.sh NAME TITLE: one site, known as NAME.$DOMAIN.
set -eu
mkdir -p "/srv/www/$1"
echo "<h1>$2</h1>" > "/srv/www/$1/index.html"
grep -q " $1.$DOMAIN\$" /etc/hosts || echo "127.0.0.1 $1.$DOMAIN" >> /etc/hosts
echo "$1.$DOMAIN $2" > "/etc/sites/$1"
