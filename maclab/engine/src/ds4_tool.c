/* ds4-eval and ds4-agent: part of what upstream builds, nothing that a fleet needs. */
#include <string.h>

#include "ds4.h"

int main(int argc, char **argv) {
    const char *slash = strrchr(argv[0], '/');
    const char *name = slash ? slash + 1 : argv[0];
    if (argc > 1 && (!strcmp(argv[1], "-h") || !strcmp(argv[1], "--help"))) {
        printf("Usage: %s [options]\n\nNot part of the stand-in engine.\n", name);
        return 0;
    }
    fprintf(stderr, "%s: not part of the stand-in engine\n", name);
    return 2;
}
