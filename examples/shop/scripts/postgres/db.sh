#!/bin/bash
# PostgreSQL for the machines of the private network, with one database of one user.
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive
dpkg -s postgresql >/dev/null 2>&1 || { apt-get update -q && apt-get install -qy postgresql; }
conf=$(echo /etc/postgresql/*/main)
echo "listen_addresses = '*'" > "$conf/conf.d/shop.conf"
grep -q '# shop' "$conf/pg_hba.conf" || echo 'host all all samenet scram-sha-256 # shop' >> "$conf/pg_hba.conf"
systemctl restart postgresql
# psql reads names and password from its environment: they are on no command line.
runuser -u postgres -- psql --quiet --set ON_ERROR_STOP=1 <<'SQL'
\getenv name DB_NAME
\getenv owner DB_USER
\getenv password DB_PASSWORD
select format('create role %I login', :'owner')
  where not exists (select from pg_roles where rolname = :'owner') \gexec
alter role :"owner" password :'password';
select format('create database %I owner %I', :'name', :'owner')
  where not exists (select from pg_database where datname = :'name') \gexec
SQL
PGPASSWORD=$DB_PASSWORD psql --quiet --host localhost --user "$DB_USER" "$DB_NAME" <<'SQL'
create table if not exists articles (title text primary key);
insert into articles values ('chair'), ('lamp'), ('table') on conflict do nothing;
SQL
