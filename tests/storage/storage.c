/* Slow and failing storage under one process and its children: a library for LD_PRELOAD. By LD_AUDIT the same file counts
   what the loader of shared libraries looks for.

   STORAGE_ROOT     folders, separated by ':', that lie on this storage, 8 at most; a path counts for the first it is in
   STORAGE_META_US  how long each call that names a file takes
   STORAGE_READ_US  how long each read takes
   STORAGE_SHORT    most bytes that one read gives
   STORAGE_FAULTS   "KIND ERRNO PATTERN FIRST COUNT" separated by ';': of the calls of that kind on files that match, the
                    FIRST (from 1, in each process) and COUNT - 1 after it fail with that number
   STORAGE_COUNTS   a folder: each process counts its calls there, in a file of its own that outlives a kill

   Not seen: reads through a memory map, the entries of a folder once it is open, and fstat, which network filesystems
   answer from what the open brought. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fnmatch.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>

enum kind { OPEN, STAT, LIST, CHANGE, READ, WRITE, SYNC, LOADER, KINDS };
static const char *const NAMES[KINDS] = {"open", "stat", "list", "change", "read", "write", "sync", "loader"};
enum { FDS = 65536, FAULTS = 16, ROOTS = 8, CURRENT = -100 };

typedef struct { int kind, number; char pattern[256]; long first, count; _Atomic long seen; } fault;

extern long syscall(long, ...);
extern int getpid(void);
extern char *getcwd(char *, size_t);
extern long readlink(const char *, char *, size_t);

static char roots[4096], *counts_folder;
static long meta_us, read_us, longest;
static fault faults[FAULTS];
static int fault_count, ready;
static _Atomic uint64_t own[ROOTS][KINDS], (*counts)[KINDS] = own;
static unsigned char is_ours[FDS]; /* the number of its root, or 0 */

static void open_counts(void) {
    char path[4200];
    snprintf(path, sizeof path, "%s/%d", counts_folder, getpid());
    int fd = (int)syscall(SYS_open, path, 0102 /* O_RDWR | O_CREAT */, 0666);
    if (fd < 0) return;
    syscall(SYS_ftruncate, fd, sizeof own);
    void *found = mmap(NULL, sizeof own, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (found != MAP_FAILED) counts = found;
    syscall(SYS_close, fd);
}

__attribute__((constructor)) static void begin(void) {
    if (ready) return;
    ready = 1;
    const char *text = getenv("STORAGE_ROOT");
    if (text) snprintf(roots, sizeof roots, "%s", text);
    if ((text = getenv("STORAGE_META_US"))) meta_us = atol(text);
    if ((text = getenv("STORAGE_READ_US"))) read_us = atol(text);
    if ((text = getenv("STORAGE_SHORT"))) longest = atol(text);
    for (text = getenv("STORAGE_FAULTS"); text && *text && fault_count < FAULTS; text += *text == ';') {
        char name[16];
        fault *f = &faults[fault_count];
        if (sscanf(text, "%15s %d %255s %ld %ld", name, &f->number, f->pattern, &f->first, &f->count) == 5)
            for (f->kind = 0; f->kind < KINDS && strcmp(NAMES[f->kind], name);) f->kind++;
        fault_count++;
        text += strcspn(text, ";");
    }
    if ((counts_folder = getenv("STORAGE_COUNTS")) && *counts_folder) {
        open_counts();
        pthread_atfork(NULL, NULL, open_counts);
    }
}

/* The number of the root that the path lies below, from 1; or 0. */
static int starts_in_root(const char *path) {
    int number = 1;
    for (const char *root = roots; *root && number <= ROOTS; number++) {
        size_t length = strcspn(root, ":");
        if (length && !strncmp(path, root, length) && (path[length] == '/' || !path[length])) return number;
        root += length + (root[length] == ':');
    }
    return 0;
}

static int in_root(int folder, const char *path) {
    char where[4096];
    if (!ready) begin();
    if (!path || !*roots) return 0;
    if (*path == '/') return starts_in_root(path);
    if (folder != CURRENT) return folder >= 0 && folder < FDS ? is_ours[folder] : 0;
    return getcwd(where, sizeof where) ? starts_in_root(where) : 0;
}

static void wait_us(long us) {
    struct timespec left = {us / 1000000, us % 1000000 * 1000};
    int before = errno;
    while (us && nanosleep(&left, &left)) {}
    errno = before;
}

/* Counts and delays one call below a root, by its number from 1; whether it fails. */
static int fails(enum kind kind, int root, const char *path) {
    counts[root - 1][kind]++;
    wait_us(kind == READ ? read_us : kind == WRITE ? 0 : meta_us);
    for (fault *f = faults; f < faults + fault_count; f++) {
        if (f->kind != (int)kind || fnmatch(f->pattern, path, 0)) continue;
        long number = ++f->seen;
        if (number < f->first || number >= f->first + f->count) continue;
        errno = f->number;
        return 1;
    }
    return 0;
}

static int fd_fails(enum kind kind, int fd) {
    char link[32], path[4096];
    if (fd < 0 || fd >= FDS || !is_ours[fd]) return 0;
    long length = 0;
    if (fault_count) {
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        length = syscall(SYS_readlink, link, path, sizeof path - 1);
    }
    path[length > 0 ? length : 0] = 0;
    return fails(kind, is_ours[fd], path);
}

static int opened(int fd, int ours) {
    if (fd >= 0 && fd < FDS) is_ours[fd] = (unsigned char)ours;
    return fd;
}

#define ONCE(type, name, params) \
    static type(*real) params; \
    if (!real) real = (type(*) params)dlsym(RTLD_NEXT, #name)
#define NAMED(type, name, kind, folder, path, params, args) \
    type name params { \
        ONCE(type, name, params); \
        int root = in_root(folder, path); \
        if (root && fails(kind, root, path)) return (type)-1; \
        return real args; \
    }
#define BOTH(name, kind, folder, path, params, args) \
    NAMED(int, name, kind, folder, path, params, args) NAMED(int, name##64, kind, folder, path, params, args)

typedef const char *text;
BOTH(stat, STAT, CURRENT, p, (text p, void *s), (p, s))
BOTH(lstat, STAT, CURRENT, p, (text p, void *s), (p, s))
BOTH(fstatat, STAT, at, p, (int at, text p, void *s, int f), (at, p, s, f))
BOTH(statvfs, STAT, CURRENT, p, (text p, void *s), (p, s))
NAMED(int, statx, STAT, at, p, (int at, text p, int f, unsigned m, void *s), (at, p, f, m, s))
NAMED(int, access, STAT, CURRENT, p, (text p, int m), (p, m))
NAMED(int, faccessat, STAT, at, p, (int at, text p, int m, int f), (at, p, m, f))
NAMED(long, readlink, STAT, CURRENT, p, (text p, char *b, size_t n), (p, b, n))
NAMED(long, readlinkat, STAT, at, p, (int at, text p, char *b, size_t n), (at, p, b, n))
NAMED(int, mkdir, CHANGE, CURRENT, p, (text p, unsigned m), (p, m))
NAMED(int, mkdirat, CHANGE, at, p, (int at, text p, unsigned m), (at, p, m))
NAMED(int, rmdir, CHANGE, CURRENT, p, (text p), (p))
NAMED(int, unlink, CHANGE, CURRENT, p, (text p), (p))
NAMED(int, unlinkat, CHANGE, at, p, (int at, text p, int f), (at, p, f))
NAMED(int, rename, CHANGE, CURRENT, q, (text p, text q), (p, q))
NAMED(int, renameat, CHANGE, bt, q, (int at, text p, int bt, text q), (at, p, bt, q))
NAMED(int, link, CHANGE, CURRENT, q, (text p, text q), (p, q))
NAMED(int, linkat, CHANGE, bt, q, (int at, text p, int bt, text q, int f), (at, p, bt, q, f))
NAMED(int, symlink, CHANGE, CURRENT, q, (text p, text q), (p, q))
NAMED(int, chmod, CHANGE, CURRENT, p, (text p, unsigned m), (p, m))
NAMED(int, fchmodat, CHANGE, at, p, (int at, text p, unsigned m, int f), (at, p, m, f))
NAMED(int, utimensat, CHANGE, at, p, (int at, text p, const void *t, int f), (at, p, t, f))

#define OPENS(name) \
    int name(text p, int flags, ...) { \
        ONCE(int, name, (text, int, ...)); \
        va_list rest; \
        va_start(rest, flags); \
        unsigned mode = va_arg(rest, unsigned); \
        va_end(rest); \
        int ours = in_root(CURRENT, p); \
        return ours && fails(OPEN, ours, p) ? -1 : opened(real(p, flags, mode), ours); \
    }
#define OPENS_AT(name) \
    int name(int at, text p, int flags, ...) { \
        ONCE(int, name, (int, text, int, ...)); \
        va_list rest; \
        va_start(rest, flags); \
        unsigned mode = va_arg(rest, unsigned); \
        va_end(rest); \
        int ours = in_root(at, p); \
        return ours && fails(OPEN, ours, p) ? -1 : opened(real(at, p, flags, mode), ours); \
    }
#define OPENS_FILE(name) \
    FILE *name(text p, text mode) { \
        ONCE(FILE *, name, (text, text)); \
        int ours = in_root(CURRENT, p); \
        if (ours && fails(OPEN, ours, p)) return NULL; \
        FILE *file = real(p, mode); \
        if (file) opened(fileno(file), ours); \
        return file; \
    }
OPENS(open) OPENS(open64) OPENS_AT(openat) OPENS_AT(openat64) OPENS_FILE(fopen) OPENS_FILE(fopen64)

void *opendir(text p) {
    ONCE(void *, opendir, (text));
    int root = in_root(CURRENT, p);
    return root && fails(LIST, root, p) ? NULL : real(p);
}
void *fdopendir(int fd) {
    ONCE(void *, fdopendir, (int));
    return fd_fails(LIST, fd) ? NULL : real(fd);
}
int close(int fd) {
    ONCE(int, close, (int));
    opened(fd, 0);
    return real(fd);
}

#define SHORT(fd, n) (longest && fd >= 0 && fd < FDS && is_ours[fd] && (n) > (size_t)longest ? (size_t)longest : (n))
#define READS(name, params, args, fd) \
    long name params { \
        ONCE(long, name, params); \
        if (fd_fails(READ, fd)) return -1; \
        n = SHORT(fd, n); \
        return real args; \
    }
READS(read, (int fd, void *b, size_t n), (fd, b, n), fd)
READS(pread, (int fd, void *b, size_t n, long at), (fd, b, n, at), fd)
READS(pread64, (int fd, void *b, size_t n, long at), (fd, b, n, at), fd)

#define FD(type, name, kind, fd, params, args) \
    type name params { \
        ONCE(type, name, params); \
        return fd_fails(kind, fd) ? (type)-1 : real args; \
    }
FD(long, readv, READ, fd, (int fd, const void *v, int n), (fd, v, n))
FD(long, preadv, READ, fd, (int fd, const void *v, int n, long at), (fd, v, n, at))
FD(long, preadv64, READ, fd, (int fd, const void *v, int n, long at), (fd, v, n, at))
FD(long, write, WRITE, fd, (int fd, const void *b, size_t n), (fd, b, n))
FD(long, writev, WRITE, fd, (int fd, const void *v, int n), (fd, v, n))
FD(long, pwrite, WRITE, fd, (int fd, const void *b, size_t n, long at), (fd, b, n, at))
FD(long, pwrite64, WRITE, fd, (int fd, const void *b, size_t n, long at), (fd, b, n, at))
FD(int, fsync, SYNC, fd, (int fd), (fd))
FD(int, fdatasync, SYNC, fd, (int fd), (fd))
long sendfile(int out, int in, long *at, size_t n) {
    ONCE(long, sendfile, (int, int, long *, size_t));
    return fd_fails(READ, in) || fd_fails(WRITE, out) ? -1 : real(out, in, at, SHORT(in, n));
}
long sendfile64(int out, int in, long *at, size_t n) {
    ONCE(long, sendfile64, (int, int, long *, size_t));
    return fd_fails(READ, in) || fd_fails(WRITE, out) ? -1 : real(out, in, at, SHORT(in, n));
}

/* LD_AUDIT: the loader says each name that it is about to try. */
unsigned la_version(unsigned version) {
    begin();
    return version;
}
char *la_objsearch(const char *name, uintptr_t *cookie, unsigned flag) {
    (void)cookie;
    (void)flag;
    int root = *name == '/' ? starts_in_root(name) : 0;
    if (root) fails(LOADER, root, name);
    return (char *)name;
}
