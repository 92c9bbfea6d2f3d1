#!/bin/sh
# role.sh ROLE NUMBER
echo "$1 $2" > /etc/role
