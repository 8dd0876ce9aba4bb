#include "runtime/model/read_file.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

static rc_code read_all(int fd, const char *path, size_t bytes_max, char **bytes, size_t *count, rc_msg *msg)
{
    struct stat st;
    if (fstat(fd, &st) != 0) return rc_fail(RC_INTERNAL, msg, "%.255s: %s", path, strerror(errno));
    if (!S_ISREG(st.st_mode)) return rc_fail(RC_INVALID_ARGUMENT, msg, "%.255s: not a regular file", path);
    if ((unsigned long long)st.st_size > bytes_max)
        return rc_fail(RC_INVALID_ARGUMENT, msg, "%.255s: %lld bytes, expected at most %zu", path,
                       (long long)st.st_size, bytes_max);
    size_t size = (size_t)st.st_size, done = 0;
    char *text = malloc(size + 1);
    if (!text) return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "%.255s: no memory for its %zu bytes", path, size);
    while (done < size) {
        ssize_t n = read(fd, text + done, size - done);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) {
            int error = errno;
            free(text);
            return rc_fail(RC_INTERNAL, msg, "%.255s: %s", path, strerror(error));
        }
        if (n == 0) break;
        done += (size_t)n;
    }
    text[done] = 0;
    *bytes = text;
    *count = done;
    return RC_OK;
}

rc_code rt__read_file(const char *path, size_t bytes_max, char **bytes, size_t *count, rc_msg *msg)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return rc_fail(errno == ENOENT || errno == ENOTDIR ? RC_NOT_FOUND : RC_INTERNAL, msg, "%.255s: %s",
                       path, strerror(errno));
    rc_code code = read_all(fd, path, bytes_max, bytes, count, msg);
    close(fd);
    return code;
}
