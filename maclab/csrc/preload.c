/*
 * What a program on the simulated Mac asks the kernel and must hear as on a Mac: uname(2), sysctlbyname(3),
 * clonefile(2), and fsync(2), which leaves what was written in the drive's cache, unlike fcntl(2) with F_FULLFSYNC.
 * Named in the Mac's /etc/ld.so.preload. Values lie in files that PID 1 and the simulated sysctl keep:
 * /.lab/run/uname (release and version, one a line), /.lab/run/sysctl/<oid> ("int N", "quad N" or "string TEXT").
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#ifndef FICLONE
#define FICLONE _IOW(0x94, 9, int)
#endif

static ssize_t slurp(const char *path, char *buffer, size_t size)
{
    int saved = errno, fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        errno = saved;
        return -1;
    }
    ssize_t n = read(fd, buffer, size - 1);
    close(fd);
    errno = saved;
    if (n >= 0)
        buffer[n] = 0;
    return n;
}

int uname(struct utsname *name)
{
    char text[512], *version;
    if (syscall(SYS_uname, name) < 0)
        return -1;
    if (slurp("/.lab/run/uname", text, sizeof text) <= 0)
        return 0;
    version = strchr(text, '\n');
    if (version)
        *version++ = 0;
    snprintf(name->sysname, sizeof name->sysname, "Darwin");
    snprintf(name->machine, sizeof name->machine, "arm64");
    snprintf(name->release, sizeof name->release, "%.60s", text);
    if (version) {
        version[strcspn(version, "\n")] = 0;
        snprintf(name->version, sizeof name->version, "%.64s", version);
    }
    return 0;
}

int sysctlbyname(const char *oid, void *old, size_t *old_size, void *new_value, size_t new_size)
{
    char path[300], text[1024];
    (void)new_size;
    if (new_value) {
        errno = EPERM;
        return -1;
    }
    if (strchr(oid, '/') || strlen(oid) > 200) {
        errno = ENOENT;
        return -1;
    }
    snprintf(path, sizeof path, "/.lab/run/sysctl/%s", oid);
    ssize_t n = slurp(path, text, sizeof text);
    char *value = n > 0 ? strchr(text, ' ') : NULL;
    if (!value) {
        errno = ENOENT;
        return -1;
    }
    *value++ = 0;
    value[strcspn(value, "\n")] = 0;
    int32_t small = (int32_t)strtoll(value, NULL, 10);
    int64_t large = (int64_t)strtoull(value, NULL, 10);
    const void *from = value;
    size_t size = strlen(value) + 1;
    if (!strcmp(text, "int")) {
        from = &small;
        size = sizeof small;
    } else if (!strcmp(text, "quad")) {
        from = &large;
        size = sizeof large;
    }
    if (!old) {
        if (old_size)
            *old_size = size;
        return 0;
    }
    if (!old_size || *old_size < size) {
        errno = ENOMEM;
        return -1;
    }
    memcpy(old, from, size);
    *old_size = size;
    return 0;
}

int clonefile(const char *from, const char *to, int flags)
{
    struct stat info;
    (void)flags;
    int in = open(from, O_RDONLY | O_CLOEXEC);
    if (in < 0)
        return -1;
    if (fstat(in, &info) < 0 || !S_ISREG(info.st_mode)) {
        close(in);
        errno = ENOTSUP;
        return -1;
    }
    int out = open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, info.st_mode & 07777);
    if (out < 0) {
        int why = errno;
        close(in);
        errno = why;
        return -1;
    }
    int status = ioctl(out, FICLONE, in), why = errno;
    close(in);
    close(out);
    if (status < 0) {
        unlink(to);
        errno = why == EOPNOTSUPP || why == EINVAL || why == ENOTTY ? ENOTSUP : why;
        return -1;
    }
    return 0;
}

/* The drive's cache is memory here, where a write is already: a power cut takes it (maclab.machine.medium). */
static int to_the_drive(int fd)
{
    return syscall(SYS_fcntl, fd, F_GETFD) < 0 ? -1 : 0;
}

int fsync(int fd)
{
    return to_the_drive(fd);
}

int fdatasync(int fd)
{
    return to_the_drive(fd);
}

#define MAC_F_FULLFSYNC 51

static int control(int fd, int command, void *argument)
{
    static int (*next)(int, int, ...);
    if (command == MAC_F_FULLFSYNC)
        return (int)syscall(SYS_fsync, fd);
    if (!next) {
        next = (int (*)(int, int, ...))dlsym(RTLD_NEXT, "fcntl64");
        if (!next)
            next = (int (*)(int, int, ...))dlsym(RTLD_NEXT, "fcntl");
    }
    return next(fd, command, argument);
}

#define CONTROL(name)                            \
    int name(int fd, int command, ...)           \
    {                                            \
        va_list words;                           \
        va_start(words, command);                \
        void *argument = va_arg(words, void *);  \
        va_end(words);                           \
        return control(fd, command, argument);   \
    }

CONTROL(fcntl)
CONTROL(fcntl64)
