// What the parts of the guest's program have in common.
#pragma once

#define MIB (1024L * 1024)
// Seconds: longer than a guest believes what it was told of a file.
#define FORGETS 3

// MIB bytes.
extern char *buffer;

// Seconds of a clock that only goes on.
double now(void);
// Ends the guest with a line that says why, unless all is well.
void need(int good, const char *what);

// Mounts the shared folder that `peer=` of the words names at /mnt/NAME; gives the name.
const char *mount_peer(const char *words);
// Goes into that folder.
void enter(const char *peer);
// Writes and reads a large file in it: whoever comes first would pay for the guest's memory, and each server for its own
// map of it.
void warm_up(void);
// Drops what the guest has cached.
void forget(void);

// Work in a shared folder, as the kernel's command line says.
void folders(const char *words);
void projects(const char *words);
