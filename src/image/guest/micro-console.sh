#!/bin/sh
# A login on the virtio console, where there is one. init would start this over and over.
[ -c /dev/hvc0 ] || exec sleep 2147483647
exec getty -n -l /usr/lib/rvm/console-login 0 hvc0 vt220
