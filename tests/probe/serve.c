/*
 * The probe as a server, for published ports. Included by probe.c.
 *
 *   probe serve HOW ADDRESS PORT [BYTES]   listens on 127.0.0.1 or ::1, and makes /safe_outputs/listening
 *     echo    sends back what it gets, until the other side ends its half
 *     count   reads to the end, then says how many bytes of the pattern it got
 *     flood   sends BYTES of the pattern; once stuck for a second, /safe_outputs/stuck says after how many
 *     last    sends BYTES of the pattern to the first that comes, and exits without waiting
 *
 * Each connection has a process of its own.
 */

/* Byte `at` of the pattern: no shift of it by a page or a buffer is the same. */
static unsigned char pattern(uint64_t at) { return (unsigned char)(at ^ at >> 8 ^ at >> 16 ^ at >> 24); }

static int send_all(int fd, const unsigned char *bytes, size_t n) {
    while (n > 0) {
        ssize_t done = write(fd, bytes, n);
        if (done < 0) return -1;
        bytes += done;
        n -= (size_t)done;
    }
    return 0;
}

static void serve_echo(int fd) {
    static unsigned char buffer[1 << 18];
    ssize_t n;
    while ((n = read(fd, buffer, sizeof buffer)) > 0)
        if (send_all(fd, buffer, (size_t)n) < 0) return;
}

static void serve_count(int fd) {
    static unsigned char buffer[1 << 18];
    uint64_t right = 0;
    ssize_t n;
    while ((n = read(fd, buffer, sizeof buffer)) > 0)
        for (ssize_t i = 0; i < n; i++) right += buffer[i] == pattern(right);
    dprintf(fd, "%llu\n", (unsigned long long)right);
}

static void serve_flood(int fd, uint64_t bytes, int watch) {
    static unsigned char buffer[1 << 16];
    for (uint64_t at = 0; at < bytes;) {
        size_t n = sizeof buffer < bytes - at ? sizeof buffer : (size_t)(bytes - at);
        for (size_t i = 0; i < n; i++) buffer[i] = pattern(at + i);
        for (size_t sent = 0; sent < n;) {
            struct pollfd room = {.fd = fd, .events = POLLOUT};
            if (watch && poll(&room, 1, 1000) == 0) {
                int told = open("/safe_outputs/stuck", O_CREAT | O_WRONLY, 0600);
                if (told >= 0) dprintf(told, "%llu\n", (unsigned long long)(at + sent));
                close(told);
                watch = 0;
            }
            ssize_t done = send(fd, buffer + sent, n - sent, watch ? MSG_DONTWAIT : 0);
            if (done < 0 && errno != EAGAIN) return;
            if (done > 0) sent += (size_t)done;
        }
        at += n;
    }
}

static int serve(int argc, char **argv) {
    const char *how = argv[2];
    int six = strchr(argv[3], ':') != NULL, one = 1;
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[4]))};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = v4.sin_port};
    inet_pton(six ? AF_INET6 : AF_INET, argv[3], six ? (void *)&v6.sin6_addr : (void *)&v4.sin_addr);
    uint64_t bytes = argc > 5 ? strtoull(argv[5], NULL, 10) : 0;
    int listener = socket(six ? AF_INET6 : AF_INET, SOCK_STREAM, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, six ? (void *)&v6 : (void *)&v4, six ? sizeof v6 : sizeof v4) < 0 || listen(listener, 1024) < 0) {
        perror("listen");
        return 1;
    }
    signal(SIGCHLD, SIG_IGN);
    close(open("/safe_outputs/listening", O_CREAT | O_WRONLY, 0600));
    for (;;) {
        int fd = accept(listener, NULL, NULL);
        if (fd < 0) { perror("accept"); return 1; }
        if (!strcmp(how, "last")) {
            serve_flood(fd, bytes, 0);
            return 0;
        }
        if (fork() == 0) {
            close(listener);
            if (!strcmp(how, "echo")) serve_echo(fd);
            else if (!strcmp(how, "count")) serve_count(fd);
            else serve_flood(fd, bytes, 1);
            _exit(0);
        }
        close(fd);
    }
}
