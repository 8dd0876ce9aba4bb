/* Runs a fuzz target over every file of a corpus directory: the regression half of a fuzzer.
 * usage: fuzz_x DIRECTORY */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void replay(const char *path)
{
    FILE *f = fopen(path, "rb");
    if (!f) return;
    uint8_t *bytes = malloc(1 << 24);
    size_t size = bytes ? fread(bytes, 1, 1 << 24, f) : 0;
    fclose(f);
    LLVMFuzzerTestOneInput(bytes, size);
    free(bytes);
}

int main(int argc, char **argv)
{
    DIR *dir = argc == 2 ? opendir(argv[1]) : NULL;
    unsigned files = 0;
    if (!dir) {
        fprintf(stderr, "usage: %s DIRECTORY (which must exist)\n", argv[0]);
        return 1;
    }
    for (struct dirent *e; (e = readdir(dir));) {
        char path[4096];
        if (e->d_name[0] == '.') continue;
        snprintf(path, sizeof path, "%s/%s", argv[1], e->d_name);
        replay(path);
        files++;
    }
    closedir(dir);
    printf("%u inputs replayed\n", files);
    return files ? 0 : 1;
}
