// What the parts of the guest's program have in common.
#pragma once

#define MIB (1024L * 1024)

// MIB bytes.
extern char *buffer;

// Seconds of a clock that only goes on.
double now(void);
// Ends the guest with a line that says why, unless all is well.
void need(int good, const char *what);

// Work in shared folders, as the kernel's command line says.
void folders(const char *words);
