/*
 * The probe: a payload that reports facts as JSON on standard output and judges nothing; the tests judge.
 *
 *   probe facts [WORD=VALUE...]   ids, namespaces, descriptors, environment, network, processes; abstract=NAME and
 *                                 socket=PATH are connected to
 *   probe look PATH...            each path: kind, device, entries, bytes read, what writing and creating below give
 *   probe writable DIR...         files below that open for writing, directories that take a new file
 *   probe devices DIR...          block and character devices below
 *   probe calls                   dangerous system calls, made for real: name and error number
 *   probe needed                  what programs do beside those: name and error number, 0 (modes.c)
 *   probe enter NUMBER HOW        one call by another entry: x32, int80
 *   probe ids                     real, effective and saved ids (a setuid copy is executed like this)
 *   probe drop ID PROGRAM...      becomes ID, then executes
 *   probe zombies N, orphans N, forks    takes what it can get, then says how much that was
 *   probe deep DIR N              directories in directories
 *   probe serve HOW ADDRESS PORT [BYTES]   a server, see serve.c
 *
 * Static, so that it needs nothing of the image it runs in.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void text(const char *s, size_t n) {
    putchar('"');
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        if (c == '"' || c == '\\') printf("\\%c", c);
        else if (c < 32 || c > 126) printf("\\u%04x", c);
        else putchar(c);
    }
    putchar('"');
}

static void word(const char *s) { text(s, strlen(s)); }

/* A whole file as one JSON string; null if it cannot be opened. */
static void file(const char *key, const char *path) {
    printf(",\"%s\":", key);
    FILE *f = fopen(path, "r");
    if (!f) { printf("null"); return; }
    static char buffer[1 << 20];
    size_t n = fread(buffer, 1, sizeof buffer, f);
    fclose(f);
    text(buffer, n);
}

static void namespaces(void) {
    static const char *names[] = {"user", "mnt", "pid", "net", "ipc", "uts", "cgroup"};
    printf(",\"namespaces\":{");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[64], link[64] = "";
        snprintf(path, sizeof path, "/proc/self/ns/%s", names[i]);
        if (readlink(path, link, sizeof link - 1) < 0) snprintf(link, sizeof link, "error %d", errno);
        printf("%s\"%s\":", i ? "," : "", names[i]);
        word(link);
    }
    printf("}");
}

/* The entries of a directory; with `links`, what each links to. */
static void entries(const char *key, const char *dir, int links, int numbers) {
    printf(",\"%s\":[", key);
    DIR *d = opendir(dir);
    int first = 1;
    for (struct dirent *e; d && (e = readdir(d));) {
        if (e->d_name[0] == '.' || (numbers && (e->d_name[0] < '0' || e->d_name[0] > '9'))) continue;
        /* The descriptor of this very listing. */
        if (links && atoi(e->d_name) == dirfd(d)) continue;
        printf(first ? "" : ",");
        first = 0;
        if (!links) { word(e->d_name); continue; }
        char path[300], link[300] = "";
        snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
        if (readlink(path, link, sizeof link - 1) < 0) link[0] = 0;
        printf("{\"fd\":%d,\"is\":", atoi(e->d_name));
        word(link);
        printf("}");
    }
    if (d) closedir(d);
    printf("]");
}

static void tried(const char *what, int error, const struct timespec *began) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    long ms = (now.tv_sec - began->tv_sec) * 1000 + (now.tv_nsec - began->tv_nsec) / 1000000;
    printf("{\"to\":");
    word(what);
    printf(",\"errno\":%d,\"ms\":%ld}", error, ms);
}

static void connects(int argc, char **argv) {
    static const char *addresses[] = {"192.0.2.1", "169.254.169.254", "10.0.0.1", "2001:db8::1", "fe80::1"};
    struct timespec began;
    printf(",\"connects\":[");
    for (size_t i = 0; i < sizeof addresses / sizeof *addresses; i++)
        for (int type = SOCK_STREAM; type <= SOCK_DGRAM; type++) {
            int six = strchr(addresses[i], ':') != NULL;
            struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(80)};
            struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons(80), .sin6_scope_id = 1};
            inet_pton(six ? AF_INET6 : AF_INET, addresses[i], six ? (void *)&v6.sin6_addr : (void *)&v4.sin_addr);
            clock_gettime(CLOCK_MONOTONIC, &began);
            int fd = socket(six ? AF_INET6 : AF_INET, type, 0), error = fd < 0 ? errno : 0;
            if (fd >= 0 && connect(fd, six ? (void *)&v6 : (void *)&v4, six ? sizeof v6 : sizeof v4) < 0) error = errno;
            if (i || type != SOCK_STREAM) putchar(',');
            tried(addresses[i], error, &began);
            if (fd >= 0) close(fd);
        }
    for (int i = 2; i < argc; i++) {
        int abstract = !strncmp(argv[i], "abstract=", 9);
        if (!abstract && strncmp(argv[i], "socket=", 7)) continue;
        const char *name = strchr(argv[i], '=') + 1;
        struct sockaddr_un un = {.sun_family = AF_UNIX};
        strncpy(un.sun_path + abstract, name, sizeof un.sun_path - 2);
        clock_gettime(CLOCK_MONOTONIC, &began);
        int fd = socket(AF_UNIX, SOCK_STREAM, 0), error = fd < 0 ? errno : 0;
        socklen_t length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + abstract + strlen(name));
        if (fd >= 0 && connect(fd, (void *)&un, length + !abstract) < 0) error = errno;
        putchar(',');
        tried(argv[i], error, &began);
        if (fd >= 0) close(fd);
    }
    printf("]");
}

static void facts(int argc, char **argv, char **env) {
    char name[300] = "";
    gethostname(name, sizeof name - 1);
    printf("{\"hostname\":");
    word(name);
    printf(",\"environment\":[");
    for (char **e = env; *e; e++) {
        printf(e == env ? "" : ",");
        word(*e);
    }
    printf("]");
    entries("descriptors", "/proc/self/fd", 1, 1);
    entries("processes", "/proc", 0, 1);
    namespaces();
    printf(",\"interfaces\":[");
    struct if_nameindex *all = if_nameindex();
    for (struct if_nameindex *i = all; i && i->if_index; i++) {
        printf(i == all ? "" : ",");
        word(i->if_name);
    }
    printf("]");
    file("status", "/proc/self/status");
    file("init_status", "/proc/1/status");
    file("init_environment", "/proc/1/environ");
    file("init_command", "/proc/1/cmdline");
    file("mountinfo", "/proc/self/mountinfo");
    file("limits", "/proc/self/limits");
    file("cgroup", "/proc/self/cgroup");
    file("uid_map", "/proc/self/uid_map");
    file("oom_score_adj", "/proc/self/oom_score_adj");
    file("devices", "/proc/net/dev");
    file("routes", "/proc/net/route");
    file("routes6", "/proc/net/ipv6_route");
    file("unix_sockets", "/proc/net/unix");
    file("sysvipc", "/proc/sysvipc/shm");
    file("resolvers", "/etc/resolv.conf");
    connects(argc, argv);
    printf(",\"terminal\":%d", open("/dev/tty", O_RDWR) < 0 ? errno : 0);
    printf("}\n");
}

static void look(const char *path) {
    struct stat s;
    printf("{\"path\":");
    word(path);
    if (lstat(path, &s) < 0) { printf(",\"kind\":\"absent\",\"errno\":%d}", errno); return; }
    const char *kind = S_ISDIR(s.st_mode) ? "dir" : S_ISCHR(s.st_mode) ? "chr" : S_ISREG(s.st_mode) ? "file" :
        S_ISLNK(s.st_mode) ? "link" : "other";
    printf(",\"kind\":\"%s\",\"device\":\"%u:%u\"", kind, major(s.st_rdev), minor(s.st_rdev));
    if (S_ISDIR(s.st_mode)) {
        int count = 0;
        DIR *d = opendir(path);
        for (struct dirent *e; d && (e = readdir(d));) count += strcmp(e->d_name, ".") && strcmp(e->d_name, "..");
        printf(",\"entries\":%d", d ? count : -errno);
        if (d) closedir(d);
        char below[4200];
        snprintf(below, sizeof below, "%s/.probe", path);
        int fd = open(below, O_CREAT | O_EXCL | O_WRONLY, 0600);
        printf(",\"create\":%d", fd < 0 ? errno : 0);
        if (fd >= 0) { close(fd); unlink(below); }
    } else {
        char buffer[4096];
        int fd = open(path, O_RDONLY | O_NONBLOCK);
        ssize_t n = fd < 0 ? -errno : read(fd, buffer, sizeof buffer);
        printf(",\"read\":%zd", fd >= 0 && n < 0 ? (ssize_t)-errno : n);
        if (fd >= 0) close(fd);
        fd = open(path, O_WRONLY | O_NONBLOCK);
        printf(",\"write\":%d", fd < 0 ? errno : 0);
        if (fd >= 0) close(fd);
    }
    printf("}");
}

static int listed;

static void item(const char *path) {
    printf(listed++ ? "," : "");
    word(path);
}

/* Walks without following links; `devices` lists devices, else what can be written. */
static void walk(const char *dir, int devices, int depth) {
    DIR *d = depth < 40 ? opendir(dir) : NULL;
    if (!d) return;
    if (!devices) {
        char below[4200];
        snprintf(below, sizeof below, "%s/.probe", dir);
        int fd = open(below, O_CREAT | O_EXCL | O_WRONLY, 0600);
        if (fd >= 0) { close(fd); unlink(below); item(dir); }
    }
    for (struct dirent *e; (e = readdir(d));) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
        char path[4200];
        struct stat s;
        if (snprintf(path, sizeof path, "%s/%s", strcmp(dir, "/") ? dir : "", e->d_name) >= 4096) continue;
        if (lstat(path, &s) < 0) continue;
        if (S_ISDIR(s.st_mode)) {
            if (devices && !strcmp(path, "/proc")) continue;
            walk(path, devices, depth + 1);
        } else if (devices && (S_ISCHR(s.st_mode) || S_ISBLK(s.st_mode))) {
            char line[4300];
            snprintf(line, sizeof line, "%s %c %u:%u", path, S_ISCHR(s.st_mode) ? 'c' : 'b', major(s.st_rdev),
                     minor(s.st_rdev));
            item(line);
        } else if (!devices && S_ISREG(s.st_mode)) {
            int fd = open(path, O_WRONLY | O_NONBLOCK);
            if (fd >= 0) { close(fd); item(path); }
        }
    }
    closedir(d);
}

#define HIGH 0x100000000UL

static void called(const char *name, long number, unsigned long a, unsigned long b, unsigned long c, unsigned long d) {
    errno = 0;
    long result = syscall(number, a, b, c, d, 0UL, 0UL);
    int error = result == -1 ? errno : 0;
    printf("%s{\"call\":", listed++ ? "," : "");
    word(name);
    printf(",\"errno\":%d}", error);
    fflush(stdout);
    /* A clone that went through is two processes. */
    if (number == SYS_clone && result == 0) _exit(0);
}

#include "modes.c"

static void calls(void) {
    static uint64_t args[11] = {0x10000000}; /* CLONE_NEWUSER */
    static char buffer[256];
    unsigned long b = (unsigned long)buffer, null = 0;
    unsigned long proc = (unsigned long)"proc", tmp = (unsigned long)"/tmp", root = (unsigned long)"/";
    printf("[");
    called("mount", SYS_mount, proc, tmp, proc, null);
    called("mount remount", SYS_mount, null, root, null, 32);
    called("umount2", SYS_umount2, (unsigned long)"/proc", 2, 0, 0);
    called("pivot_root", SYS_pivot_root, tmp, tmp, 0, 0);
    called("chroot", SYS_chroot, tmp, 0, 0, 0);
    called("open_tree", SYS_open_tree, AT_FDCWD, root, 1, 0);
    called("move_mount", SYS_move_mount, AT_FDCWD, tmp, AT_FDCWD, root);
    called("fsopen", SYS_fsopen, proc, 0, 0, 0);
    called("fspick", SYS_fspick, AT_FDCWD, root, 0, 0);
    called("mount_setattr", SYS_mount_setattr, AT_FDCWD, root, 0, b);
    static const unsigned long kinds[] = {0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000, 0x80};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        char name[64];
        snprintf(name, sizeof name, "unshare %#lx", kinds[i]);
        called(name, SYS_unshare, kinds[i], 0, 0, 0);
        snprintf(name, sizeof name, "unshare %#lx high", kinds[i]);
        called(name, SYS_unshare, kinds[i] | HIGH, 0, 0, 0);
        if (kinds[i] == 0x80) continue;
        snprintf(name, sizeof name, "clone %#lx", kinds[i]);
        called(name, SYS_clone, kinds[i] | 17, 0, 0, 0);
        snprintf(name, sizeof name, "clone %#lx high", kinds[i]);
        called(name, SYS_clone, kinds[i] | 17 | HIGH, 0, 0, 0);
    }
    called("clone3", SYS_clone3, (unsigned long)args, 64, 0, 0);
    int ns = open("/proc/1/ns/net", O_RDONLY);
    called("setns", SYS_setns, (unsigned long)ns, 0, 0, 0);
    called("ptrace init", SYS_ptrace, 16, 1, 0, 0);
    called("ptrace seize init", SYS_ptrace, 0x4206, 1, 0, 0);
    called("ptrace traceme", SYS_ptrace, 0, 0, 0, 0);
    called("process_vm_readv init", SYS_process_vm_readv, 1, b, 0, b);
    called("process_vm_writev init", SYS_process_vm_writev, 1, b, 0, b);
    called("kcmp", SYS_kcmp, 1, (unsigned long)getpid(), 0, 0);
    called("pidfd_getfd", SYS_pidfd_getfd, (unsigned long)syscall(SYS_pidfd_open, 1, 0), 0, 0, 0);
    called("perf_event_open", SYS_perf_event_open, b, 0, (unsigned long)-1, (unsigned long)-1);
    called("bpf", SYS_bpf, 0, b, 64, 0);
    called("keyctl session", SYS_keyctl, 0, (unsigned long)-3, 0, 0);
    called("keyctl join", SYS_keyctl, 1, 0, 0, 0);
    called("add_key", SYS_add_key, (unsigned long)"user", (unsigned long)"probe", b, 1);
    called("request_key", SYS_request_key, (unsigned long)"user", (unsigned long)"probe", 0, 0);
    called("userfaultfd", SYS_userfaultfd, 1, 0, 0, 0);
    called("open_by_handle_at", SYS_open_by_handle_at, AT_FDCWD, b, 0, 0);
    called("name_to_handle_at", SYS_name_to_handle_at, AT_FDCWD, root, b, (unsigned long)(buffer + 128));
    called("init_module", SYS_init_module, b, 16, (unsigned long)"", 0);
    called("finit_module", SYS_finit_module, 0, (unsigned long)"", 0, 0);
    called("delete_module", SYS_delete_module, (unsigned long)"probe", 0, 0, 0);
    called("kexec_load", SYS_kexec_load, 0, 0, 0, 0);
    called("kexec_file_load", SYS_kexec_file_load, (unsigned long)-1, (unsigned long)-1, 0, 0);
    /* Were it let through, the wrong magic would make it EINVAL. */
    called("reboot", SYS_reboot, 1, 2, 3, 0);
    called("swapon", SYS_swapon, (unsigned long)"/no/such", 0, 0, 0);
    called("swapoff", SYS_swapoff, (unsigned long)"/no/such", 0, 0, 0);
    called("acct", SYS_acct, (unsigned long)"/no/such", 0, 0, 0);
    called("syslog", SYS_syslog, 3, b, 16, 0);
    called("quotactl", SYS_quotactl, 0, 0, 0, b);
    called("settimeofday", SYS_settimeofday, (unsigned long)-1, 0, 0, 0);
    called("clock_settime", SYS_clock_settime, 0, (unsigned long)-1, 0, 0);
    called("clock_adjtime", SYS_clock_adjtime, 0, b, 0, 0);
    called("sethostname", SYS_sethostname, b, 4, 0, 0);
    called("setdomainname", SYS_setdomainname, b, 4, 0, 0);
    called("vhangup", SYS_vhangup, 0, 0, 0, 0);
    called("fanotify_init", SYS_fanotify_init, 0, 0, 0, 0);
    called("move_pages", SYS_move_pages, 1, 0, 0, 0);
    called("io_uring_setup", SYS_io_uring_setup, 8, b, 0, 0);
    called("io_setup", SYS_io_setup, 8, b, 0, 0);
    called("splice", SYS_splice, 0, 0, 1, 0);
    called("vmsplice", SYS_vmsplice, 1, b, 0, 0);
    called("tee", SYS_tee, 0, 1, 1, 0);
    called("memfd_secret", 447, 0, 0, 0, 0);
    called("mknodat chr", SYS_mknodat, AT_FDCWD, (unsigned long)"/tmp/.dev", S_IFCHR | 0666, makedev(1, 1));
    called("mknodat chr high", SYS_mknodat, AT_FDCWD, (unsigned long)"/tmp/.dev", S_IFCHR | 0666 | HIGH, makedev(1, 1));
    called("mknodat whiteout", SYS_mknodat, AT_FDCWD, (unsigned long)"/tmp/.dev", S_IFCHR, 0);
    called("mknodat blk", SYS_mknodat, AT_FDCWD, (unsigned long)"/tmp/.dev", S_IFBLK | 0666, makedev(8, 0));
    called("ioctl TIOCSTI", SYS_ioctl, 0, 0x5412, b, 0);
    called("ioctl TIOCSTI high", SYS_ioctl, 0, 0x5412 | HIGH, b, 0);
    called("ioctl TIOCLINUX", SYS_ioctl, 0, 0x541C, b, 0);
    called("ioctl TIOCLINUX high", SYS_ioctl, 0, 0x541C | HIGH, b, 0);
    called("personality ADDR_NO_RANDOMIZE", SYS_personality, 0x40000, 0, 0, 0);
    called("personality READ_IMPLIES_EXEC", SYS_personality, 0x400000, 0, 0, 0);
    called("personality high", SYS_personality, HIGH, 0, 0, 0);
    static const struct { const char *name; unsigned long family, type, protocol; } families[] = {
        {"AF_VSOCK", 40, 1, 0}, {"AF_ALG", 38, 5, 0}, {"AF_PACKET", 17, 3, 0}, {"AF_KEY", 15, 3, 2},
        {"AF_RXRPC", 33, 2, 0}, {"AF_TIPC", 30, 2, 0}, {"AF_BLUETOOTH", 31, 3, 1}, {"AF_CAN", 29, 3, 1},
        {"AF_XDP", 44, 3, 0}, {"AF_RDS", 21, 5, 0}, {"AF_KCM", 41, 5, 0}, {"AF_SMC", 43, 1, 0}, {"AF_QIPCRTR", 42, 2, 0}};
    for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
        char name[64];
        snprintf(name, sizeof name, "socket %s", families[i].name);
        called(name, SYS_socket, families[i].family, families[i].type, families[i].protocol, 0);
        snprintf(name, sizeof name, "socket %s high", families[i].name);
        called(name, SYS_socket, families[i].family | HIGH, families[i].type, families[i].protocol, 0);
    }
    static const struct { const char *name; unsigned long protocol; } netlinks[] = {
        {"xfrm", 6}, {"audit", 9}, {"connector", 11}, {"netfilter", 12}, {"uevent", 15}, {"generic", 16}, {"crypto", 21}};
    for (size_t i = 0; i < sizeof netlinks / sizeof *netlinks; i++) {
        char name[64];
        snprintf(name, sizeof name, "socket netlink %s", netlinks[i].name);
        called(name, SYS_socket, AF_NETLINK, SOCK_RAW, netlinks[i].protocol, 0);
        snprintf(name, sizeof name, "socket netlink %s high", netlinks[i].name);
        called(name, SYS_socket, AF_NETLINK, SOCK_RAW, netlinks[i].protocol | HIGH, 0);
    }
    called("socket raw", SYS_socket, AF_INET, SOCK_RAW, IPPROTO_TCP, 0);
    refused_modes();
    called("no such call", 1000000, 0, 0, 0, 0);
#ifdef __x86_64__
    called("mknod chr", SYS_mknod, (unsigned long)"/tmp/.dev", S_IFCHR | 0666, makedev(1, 1), 0);
    called("iopl", SYS_iopl, 3, 0, 0, 0);
    called("ioperm", SYS_ioperm, 0x80, 1, 1, 0);
    called("modify_ldt", SYS_modify_ldt, 0, b, 16, 0);
    called("uselib", 134, tmp, 0, 0, 0);
#endif
    printf("]\n");
}

static void ids(void) {
    uid_t r, e, s;
    gid_t gr, ge, gs;
    getresuid(&r, &e, &s);
    getresgid(&gr, &ge, &gs);
    printf("{\"uids\":[%u,%u,%u],\"gids\":[%u,%u,%u]}\n", r, e, s, gr, ge, gs);
}

/* Children that end and are not waited for; more are tried than there may be. */
static void zombies(int wanted) {
    int made = 0;
    for (int i = 0; i < wanted; i++) {
        pid_t pid = fork();
        if (pid == 0) _exit(0);
        if (pid < 0) break;
        made++;
    }
    printf("%d\n", made);
}

/* Children that are given away to PID 1 by a parent that ends. */
static void orphans(int wanted) {
    int made = 0;
    for (int i = 0; i < wanted; i++) {
        pid_t pid = fork();
        if (pid == 0) {
            if (fork() == 0) _exit(0);
            _exit(0);
        }
        if (pid < 0) break;
        waitpid(pid, NULL, 0);
        made++;
    }
    printf("%d\n", made);
}

/* Directories in directories, deeper than any path is long. */
static int deep(const char *dir, int wanted) {
    if (chdir(dir) < 0) return 1;
    for (int i = 0; i < wanted; i++)
        if (mkdir("d", 0700) < 0 || chdir("d") < 0) { perror("d"); return 1; }
    return close(open("leaf", O_CREAT | O_WRONLY, 0600)) < 0;
}

static void forks(void) {
    int made = 0;
    for (;;) {
        pid_t pid = fork();
        if (pid == 0) { pause(); _exit(0); }
        if (pid < 0) break;
        made++;
    }
    printf("{\"made\":%d,\"errno\":%d}\n", made, errno);
    fflush(stdout);
}

#include "serve.c"

int main(int argc, char **argv, char **env) {
    const char *what = argc > 1 ? argv[1] : "";
    if (!strcmp(what, "facts")) facts(argc, argv, env);
    else if (!strcmp(what, "calls")) calls();
    else if (!strcmp(what, "needed")) needed();
    else if (!strcmp(what, "ids")) ids();
    else if (!strcmp(what, "zombies") && argc > 2) zombies(atoi(argv[2]));
    else if (!strcmp(what, "orphans") && argc > 2) orphans(atoi(argv[2]));
    else if (!strcmp(what, "forks")) forks();
    else if (!strcmp(what, "serve") && argc > 4) return serve(argc, argv);
    else if (!strcmp(what, "deep") && argc > 3) return deep(argv[2], atoi(argv[3]));
    else if (!strcmp(what, "enter") && argc > 3) return enter(atol(argv[2]), argv[3]);
    else if (!strcmp(what, "drop") && argc > 3) {
        unsigned id = (unsigned)atoi(argv[2]);
        if (setgid(id) < 0 || setuid(id) < 0) { perror("drop"); return 1; }
        execv(argv[3], argv + 3);
        perror(argv[3]);
        return 1;
    } else if (!strcmp(what, "look")) {
        printf("[");
        for (int i = 2; i < argc; i++) {
            printf(i > 2 ? "," : "");
            look(argv[i]);
        }
        printf("]\n");
    } else if (!strcmp(what, "writable") || !strcmp(what, "devices")) {
        printf("[");
        for (int i = 2; i < argc; i++) walk(argv[i], !strcmp(what, "devices"), 0);
        printf("]\n");
    } else {
        fprintf(stderr, "probe: facts, look, writable, devices, calls, needed, enter, ids, drop, zombies, orphans, forks or serve\n");
        return 2;
    }
    return 0;
}
