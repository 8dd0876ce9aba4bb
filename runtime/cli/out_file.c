#include "runtime/cli/out_file.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

static rc_code fail_file(const char *path, int error, rc_msg *msg)
{
    return rc_fail(RC_INTERNAL, msg, "cannot write '%.400s': %s", path, strerror(error));
}

rc_code rt__out_file_check(const char *path, rc_msg *msg)
{
    struct stat s;
    if (!path) return RC_OK;
    if (stat(path, &s) == 0) {
        if (S_ISDIR(s.st_mode)) return fail_file(path, EISDIR, msg);
        return access(path, W_OK) == 0 ? RC_OK : fail_file(path, errno, msg);
    }
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0) return fail_file(path, errno, msg);
    close(fd);
    unlink(path);
    return RC_OK;
}

rc_code rt__out_file_write(const char *path, const rt_bytes *bytes, rc_msg *msg)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666), error = 0;
    if (fd < 0) return fail_file(path, errno, msg);
    for (size_t at = 0; at < bytes->count && !error;) {
        ssize_t n = write(fd, bytes->data + at, bytes->count - at);
        if (n > 0)
            at += (size_t)n;
        else
            error = n ? errno : ENOSPC;
    }
    if (close(fd) != 0 && !error) error = errno;
    return error ? fail_file(path, error, msg) : RC_OK;
}
