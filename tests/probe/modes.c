/* Calls whose mode, protocol or command decides: those that are refused, and those beside them that programs need; and calls by
 * other entries into the kernel. */

/* By every call that takes a mode, with set-user-ID, set-group-ID and both; the file is the caller's own, so that the kernel
 * alone would do it. */
static void refused_modes(void) {
    unsigned long new = (unsigned long)"/tmp/.set-id", at = (unsigned long)AT_FDCWD, own = (unsigned long)"/tmp/.own";
    int fd = open("/tmp/.own", O_CREAT | O_RDWR, 0600);
    static const unsigned long bits[] = {04000, 02000, 06000, 04000 | HIGH, 02000 | HIGH};
    for (size_t i = 0; i < sizeof bits / sizeof *bits; i++) {
        unsigned long mode = bits[i] | 0755;
        char name[64];
#define MODE(what, number, a, b, c, d) \
    snprintf(name, sizeof name, what " %lo%s", mode & 07777, mode & HIGH ? " high" : ""); \
    called(name, number, a, b, c, d)
        MODE("fchmod", SYS_fchmod, (unsigned long)fd, mode, 0, 0);
        MODE("fchmodat", SYS_fchmodat, at, own, mode, 0);
        MODE("fchmodat2", 452, at, own, mode, 0);
        MODE("openat creat", SYS_openat, at, new, O_CREAT | O_WRONLY, mode);
        MODE("openat creat flags", SYS_openat, at, new, O_CREAT | O_WRONLY | HIGH, mode);
        MODE("openat tmpfile", SYS_openat, at, (unsigned long)"/tmp", O_TMPFILE | O_RDWR, mode);
        MODE("openat tmpfile creat", SYS_openat, at, (unsigned long)"/tmp", O_TMPFILE | O_CREAT | O_RDWR, mode);
        MODE("mknodat", SYS_mknodat, at, new, S_IFREG | mode, 0);
        MODE("mknodat untyped", SYS_mknodat, at, new, mode, 0);
        MODE("mknodat fifo", SYS_mknodat, at, new, S_IFIFO | mode, 0);
#ifdef __x86_64__
        MODE("chmod", SYS_chmod, own, mode, 0, 0);
        MODE("creat", SYS_creat, new, mode, 0, 0);
        MODE("open creat", SYS_open, new, O_CREAT | O_WRONLY, mode, 0);
        MODE("open tmpfile", SYS_open, (unsigned long)"/tmp", O_TMPFILE | O_RDWR, mode, 0);
        MODE("mknod", SYS_mknod, new, S_IFREG | mode, 0, 0);
#endif
    }
    static uint64_t how[3] = {O_CREAT | O_WRONLY, 04755, 0};
    called("openat2", SYS_openat2, at, new, (unsigned long)how, sizeof how);
    called("openat2 plain", SYS_openat2, at, own, (unsigned long)(how + 2), 8);

    static const struct { const char *name; unsigned long command; } flags[] = {
        {"SETFLAGS", 0x40086602}, {"32_SETFLAGS", 0x40046602}, {"SETVERSION", 0x40087602}, {"32_SETVERSION", 0x40047602},
        {"FSSETXATTR", 0x401c5820}, {"SET_ENCRYPTION_POLICY", 0x800c6613}, {"ENABLE_VERITY", 0x40806685}};
    static char room[256];
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        char name[64];
        snprintf(name, sizeof name, "flags FS_IOC_%s", flags[i].name);
        called(name, SYS_ioctl, (unsigned long)fd, flags[i].command, (unsigned long)room, 0);
        snprintf(name, sizeof name, "flags FS_IOC_%s high", flags[i].name);
        called(name, SYS_ioctl, (unsigned long)fd, flags[i].command | HIGH, (unsigned long)room, 0);
    }
    static const struct { const char *name; unsigned long type, protocol; } protocols[] = {
        {"MPTCP", SOCK_STREAM, 262}, {"UDP-Lite", SOCK_DGRAM, 136}, {"SCTP", SOCK_STREAM, 132}, {"DCCP", 6, 33},
        {"SMC", SOCK_STREAM, 256}, {"ICMP", SOCK_DGRAM, 1}, {"ICMPv6", SOCK_DGRAM, 58}, {"raw ICMP", SOCK_RAW, 1},
        {"raw", SOCK_RAW, 255}};
    for (size_t i = 0; i < sizeof protocols / sizeof *protocols; i++)
        for (unsigned long family = AF_INET; family <= AF_INET6; family += AF_INET6 - AF_INET) {
            char name[64];
            snprintf(name, sizeof name, "protocol %s of %lu", protocols[i].name, family);
            called(name, SYS_socket, family, protocols[i].type, protocols[i].protocol, 0);
            snprintf(name, sizeof name, "protocol %s of %lu high", protocols[i].name, family);
            called(name, SYS_socket, family, protocols[i].type, protocols[i].protocol | HIGH, 0);
        }
    close(fd);
    unlink("/tmp/.own");
}

/* What programs do all day and the rules above must not touch. */
static void needed(void) {
    unsigned long file = (unsigned long)"/tmp/.needed", at = (unsigned long)AT_FDCWD, dir = (unsigned long)"/tmp/.needed-dir";
    unsigned long tmp = (unsigned long)"/tmp";
    static char room[256];
    printf("[");
    called("openat creat 0644", SYS_openat, at, file, O_CREAT | O_EXCL | O_RDWR, 0644);
    called("openat creat 01777", SYS_openat, at, file, O_CREAT | O_RDWR, 01777);
    /* Nobody passes a mode there: whatever the register held. */
    called("openat with 06755 left over", SYS_openat, at, file, O_RDONLY | O_CLOEXEC, 06755);
    called("openat with ~0 left over", SYS_openat, at, file, O_WRONLY | O_TRUNC, ~0UL);
    called("openat directory with ~0 left over", SYS_openat, at, tmp, O_DIRECTORY | O_NOFOLLOW, ~0UL);
    called("openat path with ~0 left over", SYS_openat, at, file, O_PATH, ~0UL);
    called("openat tmpfile 0600", SYS_openat, at, tmp, O_TMPFILE | O_RDWR, 0600);
    int fd = open("/tmp/.needed", O_RDWR);
    called("fchmod 0755", SYS_fchmod, (unsigned long)fd, 0755, 0, 0);
    called("fchmodat 0640", SYS_fchmodat, at, file, 0640, 0);
    /* The kernel takes no such bits here: nothing needs refusing, and cp -r passes those of the directory it copies. */
    called("mkdirat 06755", SYS_mkdirat, at, dir, 06755, 0);
    struct stat made = {0};
    int found = stat("/tmp/.needed-dir", &made);
    printf(",{\"call\":\"mkdirat 06755: set-ID bits\",\"errno\":%d}", found < 0 ? errno : (int)(made.st_mode & 06000));
    rmdir("/tmp/.needed-dir");
    called("mkdirat 0755", SYS_mkdirat, at, dir, 0755, 0);
    called("fchmodat 01777", SYS_fchmodat, at, dir, 01777, 0);
    called("fchmodat 0100644", SYS_fchmodat, at, file, 0100644, 0);
    called("mknodat fifo", SYS_mknodat, at, (unsigned long)"/tmp/.needed-fifo", S_IFIFO | 0600, 0);
    called("mknodat file", SYS_mknodat, at, (unsigned long)"/tmp/.needed-file", S_IFREG | 0644, 0);
    unlink("/tmp/.needed-fifo");
    unlink("/tmp/.needed-file");
    rmdir("/tmp/.needed-dir");
#ifdef __x86_64__
    called("open with ~0 left over", SYS_open, file, O_RDONLY, ~0UL, 0);
    called("open creat 0600", SYS_open, file, O_CREAT | O_RDWR, 0600, 0);
    called("creat 0644", SYS_creat, file, 0644, 0, 0);
    called("chmod 0755", SYS_chmod, file, 0755, 0, 0);
    called("mkdir 0700", SYS_mkdir, dir, 0700, 0, 0);
    rmdir("/tmp/.needed-dir");
#endif
    for (unsigned long family = AF_INET; family <= AF_INET6; family += AF_INET6 - AF_INET) {
        called("TCP", SYS_socket, family, SOCK_STREAM, 0, 0);
        called("TCP by number", SYS_socket, family, SOCK_STREAM | SOCK_CLOEXEC, IPPROTO_TCP, 0);
        called("UDP", SYS_socket, family, SOCK_DGRAM, 0, 0);
        called("UDP by number", SYS_socket, family, SOCK_DGRAM | SOCK_NONBLOCK, IPPROTO_UDP, 0);
    }
    called("unix", SYS_socket, AF_UNIX, SOCK_STREAM, 0, 0);
    called("netlink routes", SYS_socket, AF_NETLINK, SOCK_RAW, 0, 0);
    called("ioctl FIONREAD", SYS_ioctl, (unsigned long)fd, FIONREAD, (unsigned long)room, 0);
    unlink("/tmp/.needed");
    printf("]\n");
}

static int enter(long number, const char *how) {
#ifdef __x86_64__
    long result;
    if (!strcmp(how, "int80")) {
        __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(0L), "c"(0L), "d"(0L) : "memory", "r8", "r9", "r10", "r11");
        /* The 32-bit entry leaves its result in the lower half. */
        result = (int)result;
    } else {
        result = syscall(number | 0x40000000, 0, 0, 0);
        if (result == -1) result = -errno;
    }
    printf("%ld\n", result);
    return 0;
#else
    (void)number, (void)how;
    printf("-38\n");
    return 0;
#endif
}
