/* What an attacker does that no shell can: exchange two names in a loop, and talk over a socket pair. Built by the tests that
 * need it (`support::attack`). */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile sig_atomic_t over;
static void end(int signal) { (void)signal; over = 1; }

/* Exchanges A and B until SIGTERM, or as often as is said; leaves them as they were, and says how often it was done. */
static int swap(const char *a, const char *b, long most) {
    struct sigaction act = {.sa_handler = end};
    sigaction(SIGTERM, &act, NULL);
    long done = 0;
    while (!over && (!most || done < most)) {
        if (renameat2(AT_FDCWD, a, AT_FDCWD, b, RENAME_EXCHANGE) == 0) done++;
        if (rand() % 3 == 0) usleep((useconds_t)(rand() % 300));
    }
    if (done % 2) renameat2(AT_FDCWD, a, AT_FDCWD, b, RENAME_EXCHANGE);
    printf("%ld\n", done);
    return 0;
}

/* Exchanges a0 and b0, a1 and b1, and so on, all in one directory, until SIGTERM and without a pause. */
static int spin(const char *directory, int pairs) {
    struct sigaction act = {.sa_handler = end};
    sigaction(SIGTERM, &act, NULL);
    long done = 0;
    int dir = -1;
    while (!over) {
        if (dir < 0) dir = open(directory, O_PATH | O_DIRECTORY);
        for (int n = 0; n < pairs && !over; n++) {
            char a[32], b[32];
            snprintf(a, sizeof a, "a%d", n);
            snprintf(b, sizeof b, "b%d", n);
            if (renameat2(dir, a, dir, b, RENAME_EXCHANGE) == 0) done++;
        }
    }
    printf("%ld\n", done);
    return 0;
}

/* Executes a command whose three streams and descriptors 3 and 4 are one end of a socket pair of that type, sends it what stands
 * in a file, with a descriptor of / in the first packet, and prints what comes back within a moment. */
static int talk(const char *type, const char *said, char **command) {
    int kind = strcmp(type, "packets") == 0 ? SOCK_SEQPACKET : SOCK_STREAM, pair[2];
    if (socketpair(AF_UNIX, kind, 0, pair) != 0) return 1;
    pid_t child = fork();
    if (child == 0) {
        int end = fcntl(pair[1], F_DUPFD, 10);
        for (int fd = 0; fd < 5; fd++) dup2(end, fd);
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        execvp(command[0], command);
        _exit(126);
    }
    close(pair[1]);
    char text[65536];
    int file = open(said, O_RDONLY), root = open("/", O_PATH);
    ssize_t length = read(file, text, sizeof text);
    char room[CMSG_SPACE(sizeof(int) * 4)] = {0};
    struct iovec part = {text, length > 0 ? (size_t)length : 0};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room};
    struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(sizeof(int) * 4);
    int passed[4] = {file, root, root, root};
    memcpy(CMSG_DATA(rights), passed, sizeof passed);
    for (int n = 0; n < 3; n++) sendmsg(pair[0], &message, MSG_NOSIGNAL);
    struct pollfd waits = {.fd = pair[0], .events = POLLIN};
    for (int n = 0; n < 100 && poll(&waits, 1, 300) == 1; n++) {
        ssize_t got = recv(pair[0], text, sizeof text, 0);
        if (got <= 0) break;
        fwrite(text, 1, (size_t)got, stdout);
    }
    shutdown(pair[0], SHUT_RDWR);
    close(pair[0]);
    int status = 0;
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int main(int count, char **words) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    srand((unsigned)getpid());
    if (count >= 4 && strcmp(words[1], "swap") == 0) return swap(words[2], words[3], count > 4 ? atol(words[4]) : 0);
    if (count == 4 && strcmp(words[1], "spin") == 0) return spin(words[2], atoi(words[3]));
    if (count >= 5 && strcmp(words[1], "talk") == 0) return talk(words[2], words[3], words + 4);
    return 2;
}
