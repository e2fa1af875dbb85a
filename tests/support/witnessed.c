/* What a payload does that would have its witness fail, lie, wait or wear out. Each attack ends with 0 where every call got the answer
 * that it gets in a run. Built by tests/privileged/rehearsed_badly.rs. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

/* A listener of its own: the kernel gives one to a chain of filters. */
static int notifies(void) {
    struct sock_filter all[] = {BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF)};
    struct sock_fprog program = {1, all};
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    long fd = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program);
    return fd < 0 && (errno == EBUSY || errno == EPERM || errno == ENOSYS) ? 0 : 1;
}

/* No descriptor that it has, or can open of another process, is the witness's. */
static int answers(void) {
    struct seccomp_notif told;
    struct seccomp_notif_resp reply = {.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE};
    for (int fd = 0; fd < 1024; fd++) {
        memset(&told, 0, sizeof told);
        if (!ioctl(fd, SECCOMP_IOCTL_NOTIF_RECV, &told)) return 1;
        for (reply.id = 0; reply.id < 64; reply.id++)
            if (!ioctl(fd, SECCOMP_IOCTL_NOTIF_SEND, &reply)) return 2;
    }
    return 0;
}

static char path[4096];
static volatile int over;
static void *flip(void *none) {
    (void)none;
    while (!over) { strcpy(path, "/etc/passwd"); strcpy(path, "/etc/shadow"); }
    return NULL;
}

/* A path that changes while it is looked at: the kernel reads it anew. */
static int races(void) {
    pthread_t thread;
    pthread_create(&thread, NULL, flip, NULL);
    for (int n = 0; n < 20000; n++) {
        int fd = open(path, O_RDONLY);
        if (fd < 0) continue;
        char name[64] = "", link[64];
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        if (readlink(link, name, sizeof name - 1) > 0 && strcmp(name, "/etc/passwd")) return 1;
        close(fd);
    }
    over = 1;
    pthread_join(thread, NULL);
    return 0;
}

/* Children that are killed while they wait for an answer. */
static int kills(int count) {
    for (int n = 0; n < count; n++) {
        pid_t child = fork();
        if (child < 0) return 1;
        if (!child) for (;;) access("/none", F_OK);
        usleep((useconds_t)(rand() % 400));
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
    }
    return 0;
}

static int forks(int count) {
    for (int n = 0; n < count; n++) {
        pid_t child = fork();
        if (child < 0) return 1;
        if (!child) _exit(access("/etc/passwd", R_OK) != 0);
        int status;
        if (waitpid(child, &status, 0) != child || status) return 2;
    }
    return 0;
}

/* Executes itself again and again. */
static int executes(char **words, int left) {
    if (!left) return 0;
    char number[16];
    snprintf(number, sizeof number, "%d", left - 1);
    words[2] = number;
    execv(words[0], words);
    return 1;
}

static void *calls(void *none) {
    (void)none;
    for (int n = 0; n < 2000; n++) access("/etc/passwd", R_OK);
    exit(0);
}

/* The first thread is gone while others call. */
static int leaves(void) {
    pthread_t thread;
    pthread_create(&thread, NULL, calls, NULL);
    pthread_exit(NULL);
}

static void caught(int signal) { (void)signal; }

/* A signal every half millisecond, without SA_RESTART. */
static int signals(void) {
    struct sigaction act = {.sa_handler = caught};
    sigaction(SIGALRM, &act, NULL);
    struct itimerval often = {{0, 500}, {0, 500}};
    setitimer(ITIMER_REAL, &often, NULL);
    for (int n = 0; n < 20000; n++)
        if (access("/etc/passwd", R_OK) && errno != EINTR) return 1;
    return 0;
}

/* The message that is not told is still one of the kernel's: nothing comes of it but what came of it before. */
static int sends(void) {
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair)) return 1;
    struct iovec part = {"x", 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    for (int n = 0; n < 100; n++) {
        char one;
        if (sendmsg(pair[0], &message, MSG_NOSIGNAL | MSG_PROXY) != 1 || read(pair[1], &one, 1) != 1) return 2;
    }
    return 0;
}

/* Names and arguments that are none, are too long, end with their page, or are made to be printed. */
static int names(void) {
    char *page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    munmap(page + 4096, 4096);
    memset(page, 'a', 4096);
    if (!access(page + 96, F_OK) || errno != EFAULT) return 1;
    if (!access((char *)8, F_OK) || errno != EFAULT) return 2;
    static char whole[8192];
    memset(whole, '/', sizeof whole - 1);
    if (!access(whole, F_OK) || errno != ENAMETOOLONG) return 3;
    for (int n = 0; n < 4095; n++) whole[n] = "\x1b]0;owned\x07/\xff"[n % 12];
    whole[4095] = 0;
    if (!access(whole, F_OK)) return 4;
    char *words[] = {whole, (char *)8, NULL};
    if (execv("/proc/self/exe", words) != -1 || errno != EFAULT) return 5;
    if (syscall(SYS_execve, "/proc/self/exe", 12, NULL) != -1 || errno != EFAULT) return 6;
    if (syscall(SYS_openat, 77, "x", O_RDONLY) != -1 || errno != EBADF) return 7;
    if (syscall(SYS_connect, 77, (void *)8, 1u << 31) != -1) return 8;
    return 0;
}

int main(int count, char **words) {
    const char *how = count > 1 ? words[1] : "";
    int number = count > 2 ? atoi(words[2]) : 0;
    if (!strcmp(how, "notifies")) return notifies();
    if (!strcmp(how, "answers")) return answers();
    if (!strcmp(how, "races")) return races();
    if (!strcmp(how, "kills")) return kills(number);
    if (!strcmp(how, "forks")) return forks(number);
    if (!strcmp(how, "executes")) return executes(words, number);
    if (!strcmp(how, "leaves")) return leaves();
    if (!strcmp(how, "signals")) return signals();
    if (!strcmp(how, "sends")) return sends();
    if (!strcmp(how, "names")) return names();
    return 99;
}
