// What every guest here shares: it does its work so many times, and prints a checksum and the nanoseconds that it took.
#ifndef TIMED_H
#define TIMED_H

#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

// Numbers that are the same everywhere (Knuth's constants for a linear congruential generator of 64 bits).
static uint64_t random_state = 42;

static inline uint32_t next_random(void) {
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 32);
}

// FNV-1a, so that a checksum depends on the order of what went into it.
static inline uint64_t mix(uint64_t sum, uint64_t value) {
    for (int shift = 0; shift < 64; shift += 8)
        sum = (sum ^ ((value >> shift) & 0xff)) * 1099511628211u;
    return sum;
}

static uint64_t nanoseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

// `prepare` isn't timed; `work` is, `argv[1]` times.
static int timed(void (*prepare)(void), uint64_t (*work)(void), int argc, char **argv) {
    int times = argc > 1 ? atoi(argv[1]) : 1;
    uint64_t sum = 14695981039346656037u;
    prepare();
    uint64_t started = nanoseconds();
    for (int i = 0; i < times; i++)
        sum = mix(sum, work());
    printf("%016" PRIx64 " %" PRIu64 "\n", sum, nanoseconds() - started);
    return 0;
}

#endif
