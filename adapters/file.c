#include "adapters/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static rc_code fail_errno(rc_msg *msg, const char *path, const char *what, int error)
{
    rc_code code = error == ENOENT || error == ENOTDIR ? RC_NOT_FOUND : RC_INTERNAL;
    return rc_fail(code, msg, "'%.300s': cannot %s: %s", path, what, strerror(error));
}

/* O_NONBLOCK, so that a path that is a pipe is refused instead of waiting for its writer. */
static rc_code open_regular(const char *path, int *fd, size_t *count, rc_msg *msg)
{
    struct stat st;
    int f = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (f < 0) return fail_errno(msg, path, "open", errno);
    rc_code code = RC_OK;
    if (fstat(f, &st) != 0)
        code = fail_errno(msg, path, "stat", errno);
    else if (!S_ISREG(st.st_mode))
        code = rc_fail(RC_INVALID_ARGUMENT, msg, "'%.300s': not a regular file", path);
    else if (st.st_size <= 0)
        code = rc_fail(RC_INVALID_ARGUMENT, msg, "'%.300s': the file is empty", path);
    if (code != RC_OK) {
        close(f);
        return code;
    }
    *fd = f;
    *count = (size_t)st.st_size;
    return RC_OK;
}

rc_code adapter_file_map(const char *path, adapter_map *out, rc_msg *msg)
{
    int fd = -1;
    size_t count = 0;
    RC_TRY(open_regular(path, &fd, &count, msg));
    void *bytes = mmap(NULL, count, PROT_READ, MAP_PRIVATE, fd, 0);
    int error = errno;
    close(fd);
    if (bytes == MAP_FAILED) return fail_errno(msg, path, "map", error);
    *out = (adapter_map){bytes, count};
    return RC_OK;
}

void adapter_file_unmap(adapter_map *m)
{
    if (m->bytes) munmap((void *)(uintptr_t)m->bytes, m->count);
    *m = (adapter_map){0};
}

static rc_code read_all(int fd, const char *path, char *text, size_t count, rc_msg *msg)
{
    for (size_t done = 0; done < count;) {
        ssize_t got = read(fd, text + done, count - done);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return fail_errno(msg, path, "read", errno);
        if (got == 0) return rc_fail(RC_INTERNAL, msg, "'%.300s': it shrank while being read", path);
        done += (size_t)got;
    }
    text[count] = 0;
    return RC_OK;
}

rc_code adapter_file_read(const char *path, size_t max, char **text, size_t *count, rc_msg *msg)
{
    int fd = -1;
    size_t bytes = 0;
    RC_TRY(open_regular(path, &fd, &bytes, msg));
    rc_code code;
    char *buffer = NULL;
    if (bytes > max)
        code =
            rc_fail(RC_INVALID_ARGUMENT, msg, "'%.300s': %zu bytes, at most %zu are read", path, bytes, max);
    else if (!(buffer = malloc(bytes + 1)))
        code = rc_fail(RC_RESOURCE_EXHAUSTED, msg, "'%.300s': no memory for %zu bytes", path, bytes);
    else
        code = read_all(fd, path, buffer, bytes, msg);
    close(fd);
    if (code != RC_OK) {
        free(buffer);
        return code;
    }
    *text = buffer;
    *count = bytes;
    return RC_OK;
}
