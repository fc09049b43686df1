/* What the engine asks of the Mac it runs on. On a simulated Mac sysctlbyname() comes from a preloaded
 * library; elsewhere the values are files below DS4_LAB_RUN, or unknown, and then nothing is limited. */
#include "ds4.h"

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef RTLD_DEFAULT /* glibc shows it only with _GNU_SOURCE */
#define RTLD_DEFAULT ((void *)0)
#endif

typedef int (*sysctl_function)(const char *, void *, size_t *, void *, size_t);

static char wired_path[600];

static const char *run_dir(void) {
    const char *dir = getenv("DS4_LAB_RUN");
    return dir && dir[0] ? dir : "/.lab/run";
}

static bool read_small_file(const char *path, char *out, size_t size) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return false;
    ssize_t n = read(fd, out, size - 1);
    close(fd);
    if (n < 0) return false;
    out[n] = '\0';
    while (n > 0 && (out[n - 1] == '\n' || out[n - 1] == ' ')) out[--n] = '\0';
    return true;
}

static sysctl_function sysctl_symbol(void) {
    sysctl_function found = NULL;
    void *symbol = dlsym(RTLD_DEFAULT, "sysctlbyname");
    memcpy(&found, &symbol, sizeof(found));
    return found;
}

bool mac_sysctl_text(const char *name, char *out, size_t size) {
    sysctl_function by_name = sysctl_symbol();
    size_t len = size - 1;
    if (by_name && !getenv("DS4_LAB_RUN")) {
        if (by_name(name, out, &len, NULL, 0) != 0) return false;
        out[len < size ? len : size - 1] = '\0';
        return true;
    }
    char path[700];
    snprintf(path, sizeof(path), "%s/sysctl/%s", run_dir(), name);
    return read_small_file(path, out, size);
}

bool mac_sysctl(const char *name, uint64_t *value) {
    sysctl_function by_name = sysctl_symbol();
    if (by_name && !getenv("DS4_LAB_RUN")) {
        uint64_t wide = 0;
        size_t len = sizeof(wide);
        if (by_name(name, &wide, &len, NULL, 0) != 0) return false;
        if (len == sizeof(uint32_t)) {
            uint32_t narrow;
            memcpy(&narrow, &wide, sizeof(narrow));
            wide = narrow;
        }
        *value = wide;
        return true;
    }
    char text[64];
    if (!mac_sysctl_text(name, text, sizeof(text)) || !text[0]) return false;
    *value = strtoull(text, NULL, 10);
    return true;
}

double mac_setting(const char *name, double fallback) {
    char path[700], text[4096];
    snprintf(path, sizeof(path), "%s/engine.conf", run_dir());
    if (!read_small_file(path, text, sizeof(text))) return fallback;
    const size_t n = strlen(name);
    char *rest = NULL;
    for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest))
        if (!strncmp(line, name, n) && line[n] == '=') return strtod(line + n + 1, NULL);
    return fallback;
}

uint64_t mac_wired_by_others(void) {
    char path[1000], text[64];
    uint64_t sum = 0;
    snprintf(path, sizeof(path), "%s/wired", run_dir());
    DIR *dir = opendir(path);
    if (!dir) return 0;
    for (struct dirent *d; (d = readdir(dir));) {
        char *end;
        long pid = strtol(d->d_name, &end, 10);
        if (*end || pid <= 0 || pid == (long)getpid()) continue;
        if (kill((pid_t)pid, 0) != 0 && errno == ESRCH) continue;
        snprintf(path, sizeof(path), "%s/wired/%s", run_dir(), d->d_name);
        if (read_small_file(path, text, sizeof(text))) sum += strtoull(text, NULL, 10);
    }
    closedir(dir);
    return sum;
}

void mac_unregister_wired(void) {
    if (wired_path[0]) unlink(wired_path);
}

void mac_register_wired(uint64_t bytes) {
    snprintf(wired_path, sizeof(wired_path), "%s/wired/%ld", run_dir(), (long)getpid());
    int fd = open(wired_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0) {
        wired_path[0] = '\0';
        return;
    }
    dprintf(fd, "%llu\n", (unsigned long long)bytes);
    close(fd);
}

void mac_end_as(const char *fault) {
    char path[700];
    snprintf(path, sizeof(path), "%s%s", run_dir(), fault);
    const char *job = getenv("XPC_SERVICE_NAME");
    if (access(path, F_OK) == 0 && job && job[0] && strcmp(job, "0") != 0) raise(SIGKILL);
}

/* The switch file hides the GPU from jobs of launchd, which names itself in their environment, or from
 * every process when it says "all". */
bool mac_metal_is_nil(void) {
    char path[700], text[16];
    snprintf(path, sizeof(path), "%s/faults/metal-nil", run_dir());
    if (!read_small_file(path, text, sizeof(text))) return false;
    if (!strcmp(text, "all")) return true;
    const char *job = getenv("XPC_SERVICE_NAME");
    return job && job[0] && strcmp(job, "0") != 0;
}

void mac_panic(const char *reason) {
    char path[700];
    snprintf(path, sizeof(path), "%s/panic", run_dir());
    int fd = open(path, O_WRONLY | O_APPEND | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) return;
    dprintf(fd, "panic %s\n", reason);
    close(fd);
    /* The machine is gone now; no request gets an answer any more. */
    signal(SIGTERM, SIG_IGN);
    signal(SIGINT, SIG_IGN);
    for (;;) sleep_s(3600);
}
