#!/bin/sh
# The power button was pressed.
exec /sbin/poweroff
