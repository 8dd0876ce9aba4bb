#include "runtime/cli/batch_output.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/base/lines.h"

enum { LINE_BYTES_MAX = 1 << 30 }; /* answers may be far longer than requests */

static rc_code fail_system(const char *what, const char *path, rc_msg *msg)
{
    return rc_fail(RC_INTERNAL, msg, "%s '%.400s': %s", what, path, strerror(errno));
}

static bool is_stdout(const rt_batch_output *o)
{
    return !strcmp(o->path, "-");
}

/* What a line of an earlier run says. */
typedef enum line_kind { LINE_ANSWERED = 1, LINE_FAILED, LINE_FOREIGN } line_kind;

static line_kind kind_of(const json_t *root)
{
    const json_t *id = json_object_get(root, "custom_id");
    if (!id || (!json_is_string(id) && !json_is_null(id))) return LINE_FOREIGN;
    const json_t *response = json_object_get(root, "response");
    if (!response && !json_object_get(root, "error")) return LINE_FOREIGN;
    const json_t *status = json_object_get(response, "status_code");
    return json_is_string(id) && json_integer_value(status) == 200 ? LINE_ANSWERED : LINE_FAILED;
}

/* A token of a NUL byte is a key of top_logprobs, which jansson cannot hold; what is asked here is not in
 * there. */
static json_t *read_without_nul(const char *line, size_t bytes)
{
    static const char nul[] = "\\u0000";
    char *copy = malloc(bytes + 1), *at = copy;
    if (!copy) return NULL;
    memcpy(copy, line, bytes);
    copy[bytes] = 0;
    while ((at = memmem(at, bytes - (size_t)(at - copy), nul, sizeof nul - 1)))
        memcpy(at, "\\ufffd", sizeof nul - 1);
    json_t *root = json_loadb(copy, bytes, 0, NULL);
    free(copy);
    return root;
}

static json_t *read_answer(const char *line, size_t bytes)
{
    json_error_t error = {0};
    json_t *root = json_loadb(line, bytes, JSON_ALLOW_NUL, &error);
    bool is_about_nul = !root && json_error_code(&error) == json_error_null_byte_in_key;
    return is_about_nul ? read_without_nul(line, bytes) : root;
}

/* Whether a line stays: the first answer of its id. */
static rc_code sort_line(const char *line, size_t bytes, rt_id_set *ids, bool *stays, bool *is_foreign,
                         rc_msg *msg)
{
    json_t *root = read_answer(line, bytes);
    line_kind kind = kind_of(root);
    uint32_t before = 0;
    rc_code code = RC_OK;
    *stays = false;
    *is_foreign = kind == LINE_FOREIGN;
    if (kind == LINE_ANSWERED) {
        const json_t *id = json_object_get(root, "custom_id");
        code = rt__id_set_mark(ids, json_string_value(id), json_string_length(id), RT_ID_DONE, &before, msg);
        *stays = !before;
    }
    json_decref(root);
    return code;
}

/* The beginning of an answer, or what a crash of the machine leaves in its place. */
static bool may_be_torn(const char *line, size_t bytes)
{
    return !bytes || line[0] == '{' || !line[0];
}

static rc_code fail_foreign(const rt_batch_output *o, uint64_t number, rc_msg *msg)
{
    return rc_fail(RC_INVALID_ARGUMENT, msg,
                   "'%.400s' line %llu is no batch answer; expected what an earlier run wrote", o->path,
                   (unsigned long long)number);
}

static rc_code keep(rt_batch_output *o, int to, uint64_t start, const char *line, size_t bytes, rc_msg *msg)
{
    if (o->kept_bytes != start) o->needs_rewrite = true;
    o->kept_bytes += bytes;
    o->kept_lines++;
    if (to < 0 || write(to, line, bytes) == (ssize_t)bytes) return RC_OK;
    return fail_system("cannot write beside", o->path, msg);
}

/* Goes through an earlier run's lines; copies those that stay to `to`, unless it is -1. A line that is none
 * of ours is refused, so that no other file is emptied by mistake; the last one may be torn. */
static rc_code scan(rt_batch_output *o, int from, int to, rt_id_set *ids, rc_msg *msg)
{
    rt_lines lines;
    const char *line;
    size_t bytes;
    rc_code code = RC_OK;
    uint64_t torn = 0; /* number of a line that is allowed as the last one only */
    rt_lines_init(&lines, from, LINE_BYTES_MAX);
    o->kept_bytes = o->kept_lines = 0;
    o->needs_rewrite = false;
    while (code == RC_OK) {
        uint64_t start = lines.offset;
        bool stays = false, is_foreign = false;
        rt_line_state state = rt_lines_next(&lines, &line, &bytes);
        if (state == RT_LINE_END) break;
        if (state == RT_LINE_NEEDS) {
            code = rt_lines_fill(&lines, msg);
            continue;
        }
        if (torn || state == RT_LINE_TOO_LONG) {
            code = fail_foreign(o, torn ? torn : lines.number, msg);
            break;
        }
        if (state == RT_LINE && bytes) code = sort_line(line, bytes, ids, &stays, &is_foreign, msg);
        if (is_foreign || state == RT_LINE_TORN) torn = lines.number;
        if (torn && !may_be_torn(line, bytes)) code = fail_foreign(o, torn, msg);
        if (code == RC_OK && stays) code = keep(o, to, start, line, bytes + 1, msg);
    }
    rt_lines_deinit(&lines);
    return code;
}

static rc_code check_new(const char *path, rc_msg *msg)
{
    char *directory = strdup(path);
    if (!directory) return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for a path");
    char *slash = strrchr(directory, '/');
    if (slash) slash[slash == directory] = 0;
    bool is_good = access(slash ? directory : ".", W_OK | X_OK) == 0;
    rc_code code = is_good ? RC_OK : fail_system("cannot write", path, msg);
    free(directory);
    return code;
}

rc_code rt__batch_output_check(rt_batch_output *o, const char *path, bool resume, int input_fd,
                               rt_id_set *ids, rc_msg *msg)
{
    struct stat output, input;
    *o = (rt_batch_output){.path = path, .fd = -1, .resume = resume};
    if (is_stdout(o) && resume)
        return rc_fail(RC_INVALID_ARGUMENT, msg, "--resume: expected a file as -o, not stdout");
    if (is_stdout(o)) return RC_OK;
    if (stat(path, &output) != 0)
        return errno == ENOENT ? check_new(path, msg) : fail_system("cannot write", path, msg);
    if (S_ISDIR(output.st_mode))
        return rc_fail(RC_INVALID_ARGUMENT, msg, "cannot write '%.400s': it is a directory", path);
    if (access(path, W_OK) != 0) return fail_system("cannot write", path, msg);
    if (S_ISREG(output.st_mode) && fstat(input_fd, &input) == 0 && input.st_dev == output.st_dev &&
        input.st_ino == output.st_ino)
        return rc_fail(RC_INVALID_ARGUMENT, msg, "-o '%.400s' is the input file: expected another", path);
    if (!resume) return RC_OK;
    if (!S_ISREG(output.st_mode))
        return rc_fail(RC_INVALID_ARGUMENT, msg, "--resume: '%.400s' is not a regular file", path);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return fail_system("cannot read", path, msg);
    rc_code code = scan(o, fd, -1, ids, msg);
    close(fd);
    return code;
}

/* Copies what stays into a file beside the output and puts it in its place. */
static rc_code rewrite_at(rt_batch_output *o, const char *path, const char *beside, rc_msg *msg)
{
    rt_id_set again = {0};
    struct stat s;
    int from = open(path, O_RDONLY | O_CLOEXEC);
    int to = from < 0 ? -1 : open(beside, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    rc_code code = to < 0 ? fail_system("cannot rewrite", path, msg) : scan(o, from, to, &again, msg);
    if (code == RC_OK && (fstat(from, &s) != 0 || fchmod(to, s.st_mode & 07777) != 0 || fsync(to) != 0 ||
                          rename(beside, path) != 0))
        code = fail_system("cannot rewrite", path, msg);
    if (code != RC_OK && to >= 0) unlink(beside);
    if (from >= 0) close(from);
    if (to >= 0) close(to);
    rt__id_set_deinit(&again);
    return code;
}

/* rename(2) replaces a symbolic link, so the file behind it is looked for. */
static rc_code rewrite(rt_batch_output *o, rc_msg *msg)
{
    char *path = realpath(o->path, NULL), *beside = NULL;
    rc_code code = RC_OK;
    if (!path)
        code = fail_system("cannot find", o->path, msg);
    else if (asprintf(&beside, "%s.resume", path) < 0)
        code = rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for a path");
    if (code == RC_OK) code = rewrite_at(o, path, beside, msg);
    free(path);
    free(beside);
    return code;
}

rc_code rt__batch_output_open(rt_batch_output *o, rc_msg *msg)
{
    if (is_stdout(o)) {
        o->fd = STDOUT_FILENO;
        return RC_OK;
    }
    if (o->resume && o->needs_rewrite) RC_TRY(rewrite(o, msg));
    o->fd = open(o->path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | (o->resume ? 0 : O_TRUNC), 0666);
    if (o->fd < 0) return fail_system("cannot write", o->path, msg);
    if (o->resume && ftruncate(o->fd, (off_t)o->kept_bytes) != 0) {
        rt__batch_output_close(o);
        return fail_system("cannot write", o->path, msg);
    }
    return RC_OK;
}

rc_code rt__batch_output_write(rt_batch_output *o, const char *line, size_t bytes, rc_msg *msg)
{
    size_t done = 0;
    while (done < bytes) {
        ssize_t n = write(o->fd, line + done, bytes - done);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) break;
        done += (size_t)n;
    }
    if (done == bytes) return RC_OK;
    rc_code code = fail_system("cannot write", o->path, msg);
    struct stat s;
    if (done && fstat(o->fd, &s) == 0 && S_ISREG(s.st_mode) && ftruncate(o->fd, s.st_size - (off_t)done) != 0)
        rc_fail(code, msg, "cannot write '%.400s', and its last line is torn", o->path);
    return code;
}

void rt__batch_output_close(rt_batch_output *o)
{
    if (o->fd >= 0 && !is_stdout(o)) close(o->fd);
    o->fd = -1;
}
