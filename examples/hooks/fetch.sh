#!/bin/sh
# On this host, in the project folder.
exec rvm copy "$RVM_MACHINE:/var/backups/rows" dump
