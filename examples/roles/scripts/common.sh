#!/bin/sh
# What every machine of the project needs.
set -eu
echo "common" > /etc/common
