// Compresses text by back references found through a hash table (as LZ4 does), expands it again, and compares.
#include <string.h>

#include "timed.h"

enum { SIZE = 1 << 18, TABLE = 1 << 14, SHORTEST = 4, FARTHEST = 65535 };

static unsigned char text[SIZE], packed[SIZE * 2], unpacked[SIZE];
static uint32_t last_seen[TABLE];

static void prepare(void) {
    static const char *words[] = {"worker ", "runner ", "sealed ", "module ", "zygote ", "a ", "the ", "fork\n"};
    size_t at = 0;
    while (at + 16 < SIZE) {
        const char *word = words[next_random() % 8];
        memcpy(text + at, word, strlen(word));
        at += strlen(word);
        if (next_random() % 5 == 0)
            text[at++] = (unsigned char)(next_random() % 94 + 33);
    }
    memset(text + at, '.', SIZE - at);
}

static uint32_t four(const unsigned char *at) {
    uint32_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

static unsigned char *put_length(unsigned char *out, size_t length) {
    for (; length >= 255; length -= 255)
        *out++ = 255;
    *out++ = (unsigned char)length;
    return out;
}

static const unsigned char *get_length(const unsigned char *in, size_t *length) {
    *length = 0;
    do
        *length += *in;
    while (*in++ == 255);
    return in;
}

// A run: the number of literals, they, the number of bytes that are repeated, and from how far back (0: the end).
static size_t compress(void) {
    unsigned char *out = packed;
    size_t at = 0, literal = 0;
    memset(last_seen, 0xff, sizeof last_seen);
    while (at + SHORTEST <= SIZE) {
        uint32_t slot = (four(text + at) * 2654435761u) >> 18;
        size_t before = last_seen[slot];
        last_seen[slot] = (uint32_t)at;
        if (before == UINT32_MAX || at - before > FARTHEST || four(text + before) != four(text + at)) {
            at++;
            continue;
        }
        size_t length = SHORTEST;
        while (at + length < SIZE && text[before + length] == text[at + length])
            length++;
        out = put_length(out, at - literal);
        memcpy(out, text + literal, at - literal);
        out = put_length(out + (at - literal), length);
        *out++ = (unsigned char)((at - before) & 0xff);
        *out++ = (unsigned char)((at - before) >> 8);
        at += length;
        literal = at;
    }
    out = put_length(out, SIZE - literal);
    memcpy(out, text + literal, SIZE - literal);
    out += SIZE - literal;
    return (size_t)(put_length(out, 0) - packed);
}

static size_t expand(size_t size) {
    const unsigned char *in = packed;
    size_t at = 0, length;
    while (in < packed + size) {
        in = get_length(in, &length);
        memcpy(unpacked + at, in, length);
        at += length;
        in = get_length(in + length, &length);
        if (length == 0)
            break;
        size_t back = in[0] | (size_t)in[1] << 8;
        in += 2;
        for (; length; length--, at++)
            unpacked[at] = unpacked[at - back];
    }
    return at;
}

static uint64_t work(void) {
    size_t size = compress();
    if (expand(size) != SIZE || memcmp(text, unpacked, SIZE) != 0)
        abort();
    return size;
}

int main(int argc, char **argv) { return timed(prepare, work, argc, argv); }
