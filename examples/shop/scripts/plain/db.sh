#!/bin/sh
# Stands in for a database: tells how many articles there are to whom knows its name, user and password.
set -eu
mkdir -p /etc/shop /usr/local/bin
(umask 077 && printf '%s %s %s\n' "$DB_NAME" "$DB_USER" "$DB_PASSWORD" > /etc/shop/credentials)
cat > /usr/local/bin/shop-db <<'EOF'
#!/bin/sh
read -r said
if [ "$said" = "$(cat /etc/shop/credentials)" ]; then echo "3 articles"; else echo "access denied"; fi
EOF
chmod 755 /usr/local/bin/shop-db
busybox nc -ll -p 5432 -e /usr/local/bin/shop-db </dev/null >/dev/null 2>&1 &
