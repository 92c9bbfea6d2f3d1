// A program that tests put into guests, which have none that answers datagrams:
//
//   peer serve PORT NAME                        listens for UDP and TCP on all addresses; returns once it does
//   peer ask udp|tcp 4|6 HOST PORT TEXT TRIES   sends TEXT by that protocol and family, and prints what answers
//
// The answer says who heard what from where: `NAME heard TEXT from ADDRESS`. The one that serves prints that, too.
#include <arpa/inet.h>
#include <netdb.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

static void need(int good, const char *what) {
    if (good) return;
    perror(what);
    exit(1);
}

static int bound(int type, int port) {
    struct sockaddr_in6 any = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    int one = 1, zero = 0, fd = socket(AF_INET6, type, 0);
    need(fd >= 0, "socket");
    // IPv4 as well, whatever the guest's default is.
    need(!setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof zero), "IPV6_V6ONLY");
    need(!setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one), "SO_REUSEADDR");
    need(!bind(fd, (struct sockaddr *)&any, sizeof any), "bind");
    return fd;
}

static int say(char *line, size_t size, const char *name, const char *text, const struct sockaddr_in6 *from) {
    char address[INET6_ADDRSTRLEN];
    inet_ntop(AF_INET6, &from->sin6_addr, address, sizeof address);
    int len = snprintf(line, size, "%s heard %s from %s\n", name, text, address);
    fputs(line, stdout);
    fflush(stdout);
    return len;
}

static _Noreturn void serve(int port, const char *name) {
    struct pollfd fds[] = {{bound(SOCK_DGRAM, port), POLLIN, 0}, {bound(SOCK_STREAM, port), POLLIN, 0}};
    need(!listen(fds[1].fd, 8), "listen");
    need(!daemon(1, 1), "daemon");
    signal(SIGPIPE, SIG_IGN);
    for (;;) {
        char text[512], line[1024];
        struct sockaddr_in6 from;
        socklen_t size = sizeof from;
        need(poll(fds, 2, -1) > 0, "poll");
        if (fds[0].revents) {
            ssize_t len = recvfrom(fds[0].fd, text, sizeof text - 1, 0, (struct sockaddr *)&from, &size);
            if (len < 0) continue;
            text[len] = 0;
            int said = say(line, sizeof line, name, text, &from);
            sendto(fds[0].fd, line, said, 0, (struct sockaddr *)&from, size);
        }
        size = sizeof from;
        if (fds[1].revents) {
            int fd = accept(fds[1].fd, (struct sockaddr *)&from, &size);
            ssize_t len = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
            if (len > 0) {
                text[len] = 0;
                if (write(fd, line, say(line, sizeof line, name, text, &from)) < 0) perror("write");
            }
            if (fd >= 0) close(fd);
        }
    }
}

static int ask(char **words) {
    struct addrinfo wish = {0}, *to;
    wish.ai_socktype = strcmp(words[0], "udp") ? SOCK_STREAM : SOCK_DGRAM;
    wish.ai_family = atoi(words[1]) == 6 ? AF_INET6 : AF_INET;
    int error = getaddrinfo(words[2], words[3], &wish, &to);
    if (error) {
        fprintf(stderr, "%s: %s\n", words[2], gai_strerror(error));
        return 1;
    }
    // A datagram may be lost, and so may the one that answers.
    for (int tries = atoi(words[5]); tries > 0; tries--) {
        char answer[1024];
        struct timeval patience = {2, 0};
        int fd = socket(to->ai_family, to->ai_socktype, 0);
        need(fd >= 0, "socket");
        // The second one holds for connect() as well.
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
        ssize_t len = -1;
        if (!connect(fd, to->ai_addr, to->ai_addrlen) && send(fd, words[4], strlen(words[4]), 0) > 0)
            len = recv(fd, answer, sizeof answer, 0);
        if (len > 0) return fwrite(answer, 1, len, stdout) != (size_t)len;
        perror(words[0]);
        close(fd);
        if (tries > 1) sleep(1);
    }
    return 1;
}

int main(int count, char **words) {
    if (count == 4 && !strcmp(words[1], "serve")) serve(atoi(words[2]), words[3]);
    if (count == 8 && !strcmp(words[1], "ask")) return ask(words + 2);
    return 2;
}
