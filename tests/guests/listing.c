// Makes so many files as its second argument says below its first, and lists them in every way.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MOST 5000
static char seen[MOST];

static void count(DIR *dir, const char *label, int all) {
    int files = 0, directories = 0, links = 0, dots = 0, twice = 0, unknown = 0;
    memset(seen, 0, sizeof seen);
    for (struct dirent *entry; (entry = readdir(dir));) {
        int number = -1;
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
            dots++;
        else if (entry->d_type == DT_DIR)
            directories++;
        else if (entry->d_type == DT_LNK)
            links++;
        else if (entry->d_type == DT_REG && sscanf(entry->d_name, "a-rather-long-name-%d.txt", &number) == 1) {
            files++;
            twice += seen[number]++;
        } else
            unknown++;
    }
    printf("%s: %d files, %d directories, %d links, %d dots, %d twice, %d unknown\n", label, files, directories, links,
           dots, twice, unknown);
    for (int i = 0; i < all; i++)
        if (!seen[i])
            printf("%d is missing\n", i);
}

int main(int argc, char **argv) {
    char path[512];
    int all = argc > 2 ? atoi(argv[2]) : 0;
    if (all > MOST)
        return 2;
    DIR *dir = opendir(argv[1]);
    count(dir, "empty", 0);
    closedir(dir);
    for (int i = 0; i < all; i++) {
        snprintf(path, sizeof path, "%s/a-rather-long-name-%d.txt", argv[1], i);
        close(open(path, O_CREAT | O_WRONLY, 0644));
    }
    snprintf(path, sizeof path, "%s/directory", argv[1]);
    mkdir(path, 0755);
    snprintf(path, sizeof path, "%s/link", argv[1]);
    symlink("directory", path);
    dir = opendir(argv[1]);
    count(dir, "full", all);
    count(dir, "at the end", 0);
    rewinddir(dir);
    count(dir, "again", all);
    rewinddir(dir);
    for (int i = 0; i < 100 && readdir(dir); i++) {
    }
    long place = telldir(dir);
    struct dirent *entry = readdir(dir);
    char name[256];
    snprintf(name, sizeof name, "%s", entry ? entry->d_name : "");
    while (readdir(dir)) {
    }
    seekdir(dir, place);
    entry = readdir(dir);
    printf("back at the same: %d\n", entry && !strcmp(name, entry->d_name));
    closedir(dir);
    for (int i = 0; i < all; i++) {
        snprintf(path, sizeof path, "%s/a-rather-long-name-%d.txt", argv[1], i);
        if (unlink(path))
            printf("%d can't be removed: %d\n", i, errno);
    }
    dir = opendir(argv[1]);
    count(dir, "removed", 0);
    closedir(dir);
    return 0;
}
