#!/bin/sh
# Folders for all sites, and the names that they have on the server itself.
set -eu
mkdir -p /srv/www /etc/sites
echo "$DOMAIN" > /etc/sites/domain
