// First program of a guest that is measured: `bench=` on the kernel's command line says what it
// does. Results are lines `RESULT name value`; the first line is `HELLO`.
#define _GNU_SOURCE
#include "guest.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define DISK (64 * MIB)
#define RANDOM_READS 2000
#define RANDOM_WRITES 500
#define STREAM (64 * MIB)
#define ROUND_TRIPS 2000

char *buffer;

double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void end(void) {
    fflush(stdout);
    sync();
    reboot(RB_AUTOBOOT);
    for (;;) pause();
}

void need(int good, const char *what) {
    if (good) return;
    printf("ERROR %s: %s\n", what, strerror(errno));
    end();
}

static void result(const char *name, double value) { printf("RESULT %s %.3f\n", name, value); }

// The same places in each run: a generator of Knuth's.
static off_t place(void) {
    static unsigned long long x = 42;
    x = x * 6364136223846793005ULL + 1442695040888963407ULL;
    return (off_t)((x >> 33) % (DISK / 4096)) * 4096;
}

static void sequential(int disk, int write) {
    double begin = now();
    for (off_t at = 0; at < DISK; at += MIB) {
        ssize_t n = write ? pwrite(disk, buffer, MIB, at) : pread(disk, buffer, MIB, at);
        need(n == MIB, "sequential access");
    }
    need(!write || fsync(disk) == 0, "fsync");
    result(write ? "block_write_mib_s" : "block_read_mib_s", DISK / (double)MIB / (now() - begin));
}

static void scattered(int disk, int write) {
    int count = write ? RANDOM_WRITES : RANDOM_READS;
    double begin = now();
    for (int i = 0; i < count; i++) {
        ssize_t n = write ? pwrite(disk, buffer, 4096, place()) : pread(disk, buffer, 4096, place());
        need(n == 4096, "random access");
        need(!write || fsync(disk) == 0, "fsync");
    }
    result(write ? "block_write_4k_fsync_us" : "block_read_4k_us", (now() - begin) / count * 1e6);
}

static void block(void) {
    int disk = open("/dev/vda", O_RDWR | O_DIRECT);
    need(disk >= 0, "/dev/vda");
    sequential(disk, 1);
    sequential(disk, 0);
    scattered(disk, 0);
    scattered(disk, 1);
}

static void address(int request, const char *text) {
    struct ifreq card = {0};
    struct sockaddr_in *in = (struct sockaddr_in *)&card.ifr_addr;
    int control = socket(AF_INET, SOCK_DGRAM, 0);
    strcpy(card.ifr_name, "eth0");
    if (text) {
        in->sin_family = AF_INET;
        need(inet_aton(text, &in->sin_addr), text);
    } else {
        card.ifr_flags = IFF_UP | IFF_RUNNING;
    }
    need(ioctl(control, request, &card) == 0, "eth0");
    close(control);
}

// A connection to the host, which does as its first byte says.
static int dial(char order) {
    struct sockaddr_in host = {.sin_family = AF_INET, .sin_port = htons(5201)};
    int on = 1, stream = socket(AF_INET, SOCK_STREAM, 0);
    inet_aton("192.0.2.1", &host.sin_addr);
    setsockopt(stream, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    need(connect(stream, (struct sockaddr *)&host, sizeof host) == 0, "connect");
    need(write(stream, &order, 1) == 1, "order");
    return stream;
}

static const char *named(char *name, const char *way, const char *what) {
    snprintf(name, 64, "%s_%s", way, what);
    return name;
}

// `way`: what the names of the results begin with.
static void network(const char *way) {
    char name[64];
    address(SIOCSIFADDR, "192.0.2.2");
    address(SIOCSIFNETMASK, "255.255.255.0");
    address(SIOCSIFFLAGS, NULL);
    int stream = dial('s');
    double begin = now();
    for (long left = STREAM; left > 0; left -= MIB) need(write(stream, buffer, MIB) == MIB, "send");
    shutdown(stream, SHUT_WR);
    // The host closes once it has all of it.
    need(read(stream, buffer, 1) == 0, "end of stream");
    result(named(name, way, "out_mib_s"), STREAM / (double)MIB / (now() - begin));
    close(stream);

    stream = dial('r');
    long total = 0;
    ssize_t n;
    begin = now();
    while ((n = read(stream, buffer, MIB)) > 0) total += n;
    need(total == STREAM, "receive");
    result(named(name, way, "in_mib_s"), STREAM / (double)MIB / (now() - begin));
    close(stream);

    stream = dial('e');
    begin = now();
    for (int i = 0; i < ROUND_TRIPS; i++) {
        need(write(stream, buffer, 1) == 1, "ping");
        need(read(stream, buffer, 1) == 1, "pong");
    }
    result(named(name, way, "round_trip_us"), (now() - begin) / ROUND_TRIPS * 1e6);
    close(stream);
}

int main(void) {
    static char words[4096];
    // The archive holds no device nodes, so the kernel could open no console for us.
    mount("dev", "/dev", "devtmpfs", 0, NULL);
    int console = open("/dev/ttyS0", O_RDWR);
    for (int number = 0; number < 3; number++) dup2(console, number);
    // In one write: what `HELLO` is measured by.
    need(write(1, "HELLO\n", 6) == 6, "console");
    mount("proc", "/proc", "proc", 0, NULL);
    int file = open("/proc/cmdline", O_RDONLY);
    need(file >= 0 && read(file, words, sizeof words - 1) > 0, "command line");
    need(posix_memalign((void **)&buffer, 4096, MIB) == 0, "memory");
    memset(buffer, 0x5a, MIB);
    if (strstr(words, "bench=hold")) for (;;) pause();
    if (strstr(words, "bench=block")) block();
    if (strstr(words, "bench=net")) network("net");
    if (strstr(words, "bench=passt")) network("passt");
    if (strstr(words, "bench=vhost")) network("vhost");
    if (strstr(words, "bench=folders")) folders(words);
    if (strstr(words, "bench=projects")) projects(words);
    puts("DONE");
    end();
}
