// Runs one command and measures it from outside. Results are lines `RESULT name value` on standard
// output; what the command prints goes to standard error with -v.
//
//   runner [-v] boot MIB CMD...    milliseconds from exec to the line HELLO
//   runner [-v] entry MIB CMD...   milliseconds from exec to the first entry into the guest (KVM tracepoint)
//   runner [-v] hold MIB CMD...    threads, and memory beside the guest's, when it has said HELLO
//   runner [-v] work MIB CMD...    passes the guest's own results on; serves its network on port 5201
//   runner process MIB PID         the same of a process that runs
//   runner wall COUNT CMD...       milliseconds of wall clock, the median of so many runs
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define TRACING "/sys/kernel/tracing/"
#define MIB (1024L * 1024)
#define STREAM (64 * MIB)
// What a guest may take; more is a failure.
#define LIMIT_MS 300000

static int verbose;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}

static void die(const char *what) {
    perror(what);
    exit(1);
}

static void put(const char *path, const char *text) {
    int file = open(path, O_WRONLY | O_TRUNC);
    if (file < 0 || write(file, text, strlen(text)) < 0) die(path);
    close(file);
}

static void result(const char *name, double value) { printf("RESULT %s %.3f\n", name, value); }

// The child's standard output and error come through the pipe.
static pid_t start(char **command, int *output) {
    int pipe_[2];
    if (pipe2(pipe_, O_CLOEXEC)) die("pipe");
    int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
    pid_t child = vfork();
    if (child < 0) die("vfork");
    if (child == 0) {
        dup2(null, 0);
        dup2(pipe_[1], 1);
        dup2(pipe_[1], 2);
        execvp(command[0], command);
        _exit(127);
    }
    close(pipe_[1]);
    close(null);
    *output = pipe_[0];
    return child;
}

// Reads up to the line `word`; gives when it came. What comes is shown with -v, and with `pass`
// its results are passed on.
static double await(int output, const char *word, int pass) {
    static char text[1 << 20];
    size_t length = 0, shown = 0;
    double deadline = now() + LIMIT_MS;
    for (;;) {
        struct pollfd ready = {output, POLLIN, 0};
        if (now() > deadline || poll(&ready, 1, (int)(deadline - now())) <= 0) break;
        ssize_t n = read(output, text + length, sizeof text - length - 1);
        double at = now();
        if (n <= 0) break;
        length += (size_t)n;
        text[length] = 0;
        char *line;
        while ((line = text + shown, strchr(line, '\n'))) {
            char *stop = strchr(line, '\n');
            shown = (size_t)(stop - text) + 1;
            *stop = 0;
            if (stop > line && stop[-1] == '\r') stop[-1] = 0;
            if (verbose) fprintf(stderr, "  | %s\n", line);
            char *answer = strstr(line, "RESULT ");
            if (pass && answer) puts(answer);
            if (strstr(line, "ERROR ")) fprintf(stderr, "the guest says: %s\n", line);
            if (strstr(line, word)) return at;
        }
    }
    fprintf(stderr, "no %s; the last of the output: %s\n", word, length > 600 ? text + length - 600 : text);
    return -1;
}

static int finish(pid_t child, int signal) {
    int status;
    if (signal) kill(child, signal);
    waitpid(child, &status, 0);
    return status;
}

// Pss in KiB of all mappings but the guest's memory: the writable ones of at least three quarters
// of its size.
static void memory(pid_t child, long mib) {
    char path[64], line[512];
    snprintf(path, sizeof path, "/proc/%d/smaps", child);
    FILE *maps = fopen(path, "r");
    if (!maps) die(path);
    long beside = 0, value;
    int guest = 0;
    while (fgets(line, sizeof line, maps)) {
        unsigned long from, to;
        char mode[8];
        if (sscanf(line, "%lx-%lx %7s", &from, &to, mode) == 3)
            guest = mode[1] == 'w' && (long)((to - from) / (unsigned long)MIB) >= mib * 3 / 4;
        else if (!guest && sscanf(line, "Pss: %ld", &value) == 1)
            beside += value;
    }
    fclose(maps);
    result("beside_guest_kib", (double)beside);
    snprintf(path, sizeof path, "/proc/%d/status", child);
    FILE *status = fopen(path, "r");
    while (status && fgets(line, sizeof line, status))
        if (sscanf(line, "Threads: %ld", &value) == 1) result("threads", (double)value);
    if (status) fclose(status);
}

// The host's end of the guest's connections: takes all, gives all, or sends back each byte.
static void *serve(void *listener) {
    static char buffer[MIB];
    for (;;) {
        int stream = accept(*(int *)listener, NULL, NULL), on = 1;
        char order = 0;
        if (stream < 0) return NULL;
        setsockopt(stream, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        if (read(stream, &order, 1) != 1) order = 0;
        if (order == 's') while (read(stream, buffer, MIB) > 0);
        if (order == 'r') {
            for (long left = STREAM; left > 0;) {
                ssize_t n = write(stream, buffer, left < MIB ? (size_t)left : (size_t)MIB);
                if (n <= 0) break;
                left -= n;
            }
        }
        if (order == 'e') while (read(stream, buffer, 1) == 1 && write(stream, buffer, 1) == 1);
        close(stream);
    }
}

static void serve_network(void) {
    static int listener;
    struct sockaddr_in any = {.sin_family = AF_INET, .sin_port = htons(5201)};
    int on = 1;
    pthread_t thread;
    listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&any, sizeof any) || listen(listener, 4)) die("port 5201");
    signal(SIGPIPE, SIG_IGN);
    if (pthread_create(&thread, NULL, serve, &listener)) die("thread");
}

static void trace_on(void) {
    put(TRACING "tracing_on", "0");
    put(TRACING "trace", " ");
    put(TRACING "trace_clock", "mono");
    put(TRACING "events/kvm/kvm_entry/enable", "1");
    put(TRACING "tracing_on", "1");
}

// Milliseconds on the monotonic clock of the first entry, -1 without one.
static double first_entry(void) {
    char line[1024];
    double at = -1;
    FILE *trace = fopen(TRACING "trace", "r");
    while (trace && at < 0 && fgets(line, sizeof line, trace)) {
        char *event = line[0] == '#' ? NULL : strstr(line, ": kvm_entry");
        if (!event) continue;
        while (event > line && event[-1] != ' ') event--;
        at = atof(event) * 1e3;
    }
    if (trace) fclose(trace);
    put(TRACING "events/kvm/kvm_entry/enable", "0");
    return at;
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static int wall(int count, char **command) {
    double times[count];
    for (int i = 0; i < count; i++) {
        int output;
        char sink[65536];
        double begin = now();
        pid_t child = start(command, &output);
        while (read(output, sink, sizeof sink) > 0);
        int status = finish(child, 0);
        times[i] = now() - begin;
        close(output);
        if (status) return fprintf(stderr, "%s: status %d\n%s\n", command[0], status, sink), 1;
    }
    qsort(times, (size_t)count, sizeof *times, compare);
    result("wall_ms", times[count / 2]);
    return 0;
}

int main(int argc, char **argv) {
    if (argc > 1 && !strcmp(argv[1], "-v")) verbose = 1, argc--, argv++;
    if (argc < 4) return fprintf(stderr, "usage: see the head of runner.c\n"), 2;
    const char *mode = argv[1];
    int number = atoi(argv[2]), output;
    char **command = argv + 3;
    if (!strcmp(mode, "process")) return memory(atoi(*command), number), 0;
    if (!strcmp(mode, "wall")) return wall(number, command);
    if (!strcmp(mode, "work")) serve_network();
    if (!strcmp(mode, "entry")) trace_on();
    double begin = now();
    pid_t child = start(command, &output);
    double hello = await(output, "HELLO", 0);
    if (hello < 0) return finish(child, SIGKILL), 1;
    if (!strcmp(mode, "boot")) result("start_to_init_ms", hello - begin);
    if (!strcmp(mode, "entry")) {
        put(TRACING "tracing_on", "0");
        double entry = first_entry();
        if (entry < 0) return finish(child, SIGKILL), 1;
        result("start_to_guest_ms", entry - begin);
    }
    if (!strcmp(mode, "hold")) {
        // Its threads are asleep soon; what they touch until then counts. A hypervisor may give back what
        // its start needed.
        struct timespec rest = {3, 0};
        nanosleep(&rest, NULL);
        memory(child, number);
    }
    int good = 1;
    if (!strcmp(mode, "work")) good = await(output, "DONE", 1) >= 0;
    finish(child, SIGKILL);
    return !good;
}
