/* Stand between a process and its files, so that they can be taken back to what was synced.
 *
 * Loaded with LD_PRELOAD by chaos/targets/memberdisk.py, which says what the files of the side
 * directory mean. Below ACORDO_TEST_DISK_ROOT, what each write or truncation overwrites is kept in
 * an undo log of its inode, in ACORDO_TEST_DISK_SIDE, until a sync of that inode has returned. Syncs
 * of the store's files can be delayed, and their writes refused. Names (creation, renaming,
 * deletion) count as durable at once. It never changes what the process writes.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define FDS 65536
#define HEADER 8 /* of an undo log: where its live records begin */
#define UNDOS 1024
#define CHUNK 65536
#define STORE "store.sqlite"
#define SHARED_MEMORY "-shm" /* mapped, not written, and worthless after a crash */

enum { UNTRACKED, TRACKED, TRACKED_STORE };

/* The page that is shared with memberdisk.py; its order is that of memberdisk.Control. */
struct control {
    uint64_t store_sync_ms, store_write_errno;          /* set from outside */
    uint64_t delayed_syncs, refused_writes, syncs, records; /* counted here */
};

struct record { /* of an undo log; `length` bytes follow, which stood at `offset` */
    uint64_t offset, length, size_before;
};

struct undo {
    dev_t dev;
    ino_t ino;
    int fd;              /* of the undo log; 0: this place is free */
    uint64_t start, end; /* of its live records */
    uint64_t dropped;    /* bytes before its file's first, so that positions never fall */
};

static char root[PATH_MAX], side[PATH_MAX];
static size_t root_length;
static unsigned char tracked[FDS];
static struct undo undos[UNDOS];
static struct control nothing, *control = &nothing;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t newest; /* position that a log had when its place was given to another */

#define REAL(name)                                         \
    (*({                                                   \
        static __typeof__(&name) found;                    \
        if (found == NULL) found = (__typeof__(&name))real(#name); \
        found;                                             \
    }))

static void *real(const char *name) {
    void *found = dlsym(RTLD_NEXT, name);
    if (found == NULL) abort();
    return found;
}

__attribute__((constructor)) static void begin(void) {
    const char *under = getenv("ACORDO_TEST_DISK_ROOT"), *beside = getenv("ACORDO_TEST_DISK_SIDE");
    char path[PATH_MAX + 16];
    if (under == NULL || beside == NULL || realpath(under, root) == NULL) return;
    snprintf(side, sizeof side, "%s", beside);
    snprintf(path, sizeof path, "%s/control", side);
    int fd = REAL(open)(path, O_RDWR | O_CLOEXEC);
    if (fd < 0) return;
    void *page = mmap(NULL, sizeof nothing, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    REAL(close)(fd);
    if (page == MAP_FAILED) return;
    control = page;
    root_length = strlen(root);
}

static void count(uint64_t *counter) { __atomic_add_fetch(counter, 1, __ATOMIC_RELAXED); }

/* ------------------------------------------------------------------------------------ undo logs */

static void undo_path(char *path, size_t size, dev_t dev, ino_t ino) {
    snprintf(path, size, "%s/%llu-%llu.undo", side, (unsigned long long)dev,
             (unsigned long long)ino);
}

/* Take up a log that an earlier process left, without a record that it had not finished. */
static void resume(struct undo *undo) {
    struct stat seen;
    struct record each;
    if (REAL(pread)(undo->fd, &undo->start, HEADER, 0) != HEADER) undo->start = HEADER;
    undo->end = undo->start;
    if (fstat(undo->fd, &seen) != 0) abort();
    while (REAL(pread)(undo->fd, &each, sizeof each, (off_t)undo->end) == sizeof each &&
           undo->end + sizeof each + each.length <= (uint64_t)seen.st_size)
        undo->end += sizeof each + each.length;
    if (REAL(ftruncate)(undo->fd, (off_t)undo->end) != 0) abort();
    if (REAL(pwrite)(undo->fd, &undo->start, HEADER, 0) != HEADER) abort();
}

static void release(struct undo *undo) {
    if (undo->dropped + undo->end > newest) newest = undo->dropped + undo->end;
    REAL(close)(undo->fd);
    undo->fd = 0;
}

static struct undo *undo_of(dev_t dev, ino_t ino, int make) {
    char path[PATH_MAX + 64];
    struct undo *free_place = NULL;
    for (int n = 0; n < UNDOS; n++) {
        if (undos[n].fd == 0) {
            if (free_place == NULL) free_place = &undos[n];
        } else if (undos[n].dev == dev && undos[n].ino == ino)
            return &undos[n];
    }
    undo_path(path, sizeof path, dev, ino);
    int fd = REAL(open)(path, O_RDWR | O_CLOEXEC | (make ? O_CREAT : 0), 0600);
    if (fd < 0) {
        if (make) abort();
        return NULL;
    }
    for (int n = 0; n < UNDOS && free_place == NULL; n++) {
        if (undos[n].start == undos[n].end) {
            release(&undos[n]);
            free_place = &undos[n];
        }
    }
    if (free_place == NULL) abort(); /* more unsynced files than a member ever has */
    *free_place = (struct undo){dev, ino, fd, HEADER, HEADER, newest};
    resume(free_place);
    return free_place;
}

/* Forget an inode whose last name goes: another file may get its number. */
static void forget(const char *path) {
    struct stat seen;
    char log[PATH_MAX + 64];
    if (root_length == 0 || lstat(path, &seen) != 0 || !S_ISREG(seen.st_mode) || seen.st_nlink > 1)
        return;
    pthread_mutex_lock(&lock);
    struct undo *undo = undo_of(seen.st_dev, seen.st_ino, 0);
    if (undo != NULL) {
        undo_path(log, sizeof log, seen.st_dev, seen.st_ino);
        REAL(unlink)(log);
        release(undo);
    }
    pthread_mutex_unlock(&lock);
}

/* Keep what stands at `offset`, `length` bytes of it. The lock is held. */
static void keep(int fd, const struct stat *seen, uint64_t offset, uint64_t length) {
    char bytes[CHUNK];
    uint64_t size = (uint64_t)seen->st_size;
    uint64_t held = offset >= size ? 0 : (offset + length > size ? size - offset : length);
    struct undo *undo = undo_of(seen->st_dev, seen->st_ino, 1);
    struct record record = {offset, held, size};
    char self[64];
    int reading = fd;
    if (held > 0 && (fcntl(fd, F_GETFL) & O_ACCMODE) == O_WRONLY) {
        snprintf(self, sizeof self, "/proc/self/fd/%d", fd);
        reading = REAL(open)(self, O_RDONLY | O_CLOEXEC);
        if (reading < 0) abort();
    }
    uint64_t at = undo->end;
    if (REAL(pwrite)(undo->fd, &record, sizeof record, (off_t)at) != sizeof record) abort();
    at += sizeof record;
    for (uint64_t done = 0; done < held;) {
        size_t wanted = held - done < CHUNK ? (size_t)(held - done) : CHUNK;
        ssize_t got = REAL(pread)(reading, bytes, wanted, (off_t)(offset + done));
        if (got <= 0 || REAL(pwrite)(undo->fd, bytes, (size_t)got, (off_t)at) != got) abort();
        done += (uint64_t)got;
        at += (uint64_t)got;
    }
    if (reading != fd) REAL(close)(reading);
    undo->end = at;
    count(&control->records);
}

/* ---------------------------------------------------------------------------- which files it is */

static int kind_of(int fd) {
    char self[64], path[PATH_MAX];
    struct stat seen;
    if (root_length == 0 || fd < 0 || fd >= FDS || fstat(fd, &seen) != 0 || !S_ISREG(seen.st_mode))
        return UNTRACKED;
    snprintf(self, sizeof self, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(self, path, sizeof path - 1);
    if (length <= (ssize_t)root_length) return UNTRACKED;
    path[length] = 0;
    if (strncmp(path, root, root_length) != 0 || path[root_length] != '/') return UNTRACKED;
    if (strcmp(path + length - strlen(SHARED_MEMORY), SHARED_MEMORY) == 0) return UNTRACKED;
    const char *name = strrchr(path, '/') + 1;
    return strncmp(name, STORE, strlen(STORE)) == 0 ? TRACKED_STORE : TRACKED;
}

static int opened(int fd) {
    int before = errno;
    if (fd >= 0 && fd < FDS) tracked[fd] = (unsigned char)kind_of(fd);
    errno = before;
    return fd;
}

/* Return how a descriptor is tracked, and what its file is now. */
static int look(int fd, struct stat *seen) {
    if (fd < 0 || fd >= FDS || tracked[fd] == UNTRACKED) return UNTRACKED;
    if (fstat(fd, seen) == 0 && S_ISREG(seen->st_mode)) return tracked[fd];
    return tracked[fd] = UNTRACKED;
}

static int refused(int kind) {
    int error = kind == TRACKED_STORE ? (int)control->store_write_errno : 0;
    if (error == 0) return 0;
    count(&control->refused_writes);
    errno = error;
    return 1;
}

/* -------------------------------------------------------------------------------------- opening */

static void before_truncating(const char *path) {
    struct stat seen;
    int fd = REAL(open)(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) return;
    if (kind_of(fd) != UNTRACKED && fstat(fd, &seen) == 0 && seen.st_size > 0) {
        pthread_mutex_lock(&lock);
        keep(fd, &seen, 0, (uint64_t)seen.st_size);
        pthread_mutex_unlock(&lock);
    }
    REAL(close)(fd);
}

#define MODE(flags)                                         \
    mode_t mode = 0;                                        \
    if ((flags) & (O_CREAT | __O_TMPFILE)) {                \
        va_list more;                                       \
        va_start(more, flags);                              \
        mode = va_arg(more, mode_t);                        \
        va_end(more);                                       \
    }                                                       \
    if (root_length && ((flags) & O_TRUNC)) before_truncating(path)

int open(const char *path, int flags, ...) {
    MODE(flags);
    return opened(REAL(open)(path, flags, mode));
}

int open64(const char *path, int flags, ...) {
    MODE(flags);
    return opened(REAL(open64)(path, flags, mode));
}

int openat(int at, const char *path, int flags, ...) {
    MODE(flags);
    return opened(REAL(openat)(at, path, flags, mode));
}

int openat64(int at, const char *path, int flags, ...) {
    MODE(flags);
    return opened(REAL(openat64)(at, path, flags, mode));
}

int close(int fd) {
    if (fd >= 0 && fd < FDS) tracked[fd] = UNTRACKED;
    return REAL(close)(fd);
}

/* -------------------------------------------------------------------------------------- writing */

#define WRITTEN(fd, offset, length, call)                       \
    struct stat seen;                                           \
    int kind = look(fd, &seen);                                 \
    if (kind == UNTRACKED) return call;                         \
    if (refused(kind)) return -1;                               \
    pthread_mutex_lock(&lock);                                  \
    if (fstat(fd, &seen) == 0) keep(fd, &seen, offset, length); \
    __typeof__(call) done = call;                               \
    int error = errno;                                          \
    pthread_mutex_unlock(&lock);                                \
    errno = error;                                              \
    return done

static uint64_t here(int fd, const struct stat *seen) {
    if (fcntl(fd, F_GETFL) & O_APPEND) return (uint64_t)seen->st_size;
    off_t at = lseek(fd, 0, SEEK_CUR);
    return at < 0 ? 0 : (uint64_t)at;
}

static uint64_t total(const struct iovec *parts, int n) {
    uint64_t bytes = 0;
    for (int i = 0; i < n; i++) bytes += parts[i].iov_len;
    return bytes;
}

ssize_t write(int fd, const void *bytes, size_t length) {
    WRITTEN(fd, here(fd, &seen), length, REAL(write)(fd, bytes, length));
}

ssize_t writev(int fd, const struct iovec *parts, int n) {
    WRITTEN(fd, here(fd, &seen), total(parts, n), REAL(writev)(fd, parts, n));
}

ssize_t pwrite(int fd, const void *bytes, size_t length, off_t at) {
    WRITTEN(fd, (uint64_t)at, length, REAL(pwrite)(fd, bytes, length, at));
}

ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t at) {
    WRITTEN(fd, (uint64_t)at, length, REAL(pwrite64)(fd, bytes, length, at));
}

ssize_t pwritev(int fd, const struct iovec *parts, int n, off_t at) {
    WRITTEN(fd, (uint64_t)at, total(parts, n), REAL(pwritev)(fd, parts, n, at));
}

ssize_t pwritev64(int fd, const struct iovec *parts, int n, off64_t at) {
    WRITTEN(fd, (uint64_t)at, total(parts, n), REAL(pwritev64)(fd, parts, n, at));
}

ssize_t pwritev2(int fd, const struct iovec *parts, int n, off_t at, int flags) {
    WRITTEN(fd, at < 0 ? here(fd, &seen) : (uint64_t)at, total(parts, n),
            REAL(pwritev2)(fd, parts, n, at, flags));
}

ssize_t pwritev64v2(int fd, const struct iovec *parts, int n, off64_t at, int flags) {
    WRITTEN(fd, at < 0 ? here(fd, &seen) : (uint64_t)at, total(parts, n),
            REAL(pwritev64v2)(fd, parts, n, at, flags));
}

/* What is cut off is what stands behind the new end; a file that only grows loses nothing. */
static uint64_t behind(const struct stat *seen, off_t size) {
    return seen->st_size > size ? (uint64_t)(seen->st_size - size) : 0;
}

int ftruncate(int fd, off_t size) {
    WRITTEN(fd, (uint64_t)size, behind(&seen, size), REAL(ftruncate)(fd, size));
}

int ftruncate64(int fd, off64_t size) {
    WRITTEN(fd, (uint64_t)size, behind(&seen, size), REAL(ftruncate64)(fd, size));
}

int fallocate(int fd, int mode, off_t at, off_t length) {
    WRITTEN(fd, (uint64_t)at, (uint64_t)length, REAL(fallocate)(fd, mode, at, length));
}

int posix_fallocate(int fd, off_t at, off_t length) {
    struct stat file;
    if (look(fd, &file) == TRACKED_STORE && refused(TRACKED_STORE)) return errno;
    WRITTEN(fd, (uint64_t)at, 0, REAL(posix_fallocate)(fd, at, length));
}

int posix_fallocate64(int fd, off64_t at, off64_t length) {
    struct stat file;
    if (look(fd, &file) == TRACKED_STORE && refused(TRACKED_STORE)) return errno;
    WRITTEN(fd, (uint64_t)at, 0, REAL(posix_fallocate64)(fd, at, length));
}

/* Copying inside the kernel is refused, so that the caller copies by writing. */
ssize_t sendfile(int out, int in, off_t *at, size_t n);
ssize_t sendfile(int out, int in, off_t *at, size_t n) {
    struct stat seen;
    if (look(out, &seen) == UNTRACKED) return REAL(sendfile)(out, in, at, n);
    errno = ENOSYS;
    return -1;
}

ssize_t sendfile64(int out, int in, off64_t *at, size_t n);
ssize_t sendfile64(int out, int in, off64_t *at, size_t n) {
    struct stat seen;
    if (look(out, &seen) == UNTRACKED) return REAL(sendfile64)(out, in, at, n);
    errno = ENOSYS;
    return -1;
}

ssize_t copy_file_range(int in, off64_t *from, int out, off64_t *to, size_t n, unsigned flags) {
    struct stat seen;
    if (look(out, &seen) == UNTRACKED) return REAL(copy_file_range)(in, from, out, to, n, flags);
    errno = ENOSYS;
    return -1;
}

/* -------------------------------------------------------------------------------------- syncing */

static void delay(int kind) {
    uint64_t ms = kind == TRACKED_STORE ? control->store_sync_ms : 0;
    if (ms == 0) return;
    struct timespec left = {(time_t)(ms / 1000), (long)(ms % 1000) * 1000000};
    while (nanosleep(&left, &left) != 0 && errno == EINTR) {
    }
    count(&control->delayed_syncs);
}

/* A write that began after the sync is not covered by it. */
static int synced(int fd, int (*sync)(int)) {
    struct stat seen;
    struct undo *undo;
    uint64_t covered = 0;
    int kind = look(fd, &seen);
    if (kind == UNTRACKED) return sync(fd);
    delay(kind);
    pthread_mutex_lock(&lock);
    if ((undo = undo_of(seen.st_dev, seen.st_ino, 0)) != NULL) covered = undo->dropped + undo->end;
    pthread_mutex_unlock(&lock);
    int done = sync(fd), error = errno;
    count(&control->syncs);
    if (done == 0 && covered > 0) {
        pthread_mutex_lock(&lock);
        undo = undo_of(seen.st_dev, seen.st_ino, 0);
        if (undo != NULL && covered > undo->dropped + undo->start) {
            undo->start = covered - undo->dropped;
            if (undo->start == undo->end) {
                /* The header first: a process that dies in between leaves an empty log. */
                uint64_t begin = HEADER;
                if (REAL(ftruncate)(undo->fd, HEADER) != 0) abort();
                if (REAL(pwrite)(undo->fd, &begin, HEADER, 0) != HEADER) abort();
                undo->dropped += undo->end - HEADER;
                undo->start = undo->end = HEADER;
            } else if (REAL(pwrite)(undo->fd, &undo->start, HEADER, 0) != HEADER)
                abort();
        }
        pthread_mutex_unlock(&lock);
    }
    errno = error;
    return done;
}

int fsync(int fd) { return synced(fd, REAL(fsync)); }

int fdatasync(int fd) { return synced(fd, REAL(fdatasync)); }

/* ---------------------------------------------------------------------------------------- names */

int unlink(const char *path) {
    forget(path);
    return REAL(unlink)(path);
}

int unlinkat(int at, const char *path, int flags) {
    char whole[PATH_MAX + 64];
    if (path[0] != '/' && at != AT_FDCWD) {
        snprintf(whole, sizeof whole, "/proc/self/fd/%d/%s", at, path);
        forget(whole);
    } else
        forget(path);
    return REAL(unlinkat)(at, path, flags);
}

int rename(const char *old, const char *new) {
    struct stat a, b;
    if (lstat(old, &a) == 0 && lstat(new, &b) == 0 && a.st_ino != b.st_ino) forget(new);
    return REAL(rename)(old, new);
}
