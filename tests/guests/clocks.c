// Reads the clocks, sleeps 20 ms, and says what held: one word a line.
#include <errno.h>
#include <stdio.h>
#include <time.h>

static long long nanoseconds(struct timespec t) { return t.tv_sec * 1000000000LL + t.tv_nsec; }

int main(void) {
    struct timespec before, after, wall, resolution;
    struct timespec pause = {0, 20 * 1000 * 1000};
    if (clock_gettime(CLOCK_MONOTONIC, &before) || clock_gettime(CLOCK_REALTIME, &wall))
        return 1;
    if (clock_getres(CLOCK_MONOTONIC, &resolution) || nanosleep(&pause, NULL))
        return 2;
    if (clock_gettime(CLOCK_MONOTONIC, &after))
        return 3;
    if (nanoseconds(after) - nanoseconds(before) >= nanoseconds(pause))
        puts("slept");
    if (wall.tv_sec > 1700000000)
        puts("wall");
    if (nanoseconds(resolution) > 0)
        puts("resolution");
    if (nanoseconds(before) < 60 * 1000000000LL)
        puts("from-start");
    return 0;
}
