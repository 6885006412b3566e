// Counts matches of regular expressions in a log, by a backtracking matcher: literals . [] * + ? and groups of them.
#include <string.h>

#include "timed.h"

enum { LINES = 2000, WIDTH = 96 };

static char lines[LINES][WIDTH];
static const char *PATTERNS[] = {"[a-z]+@[a-z]+\\.(com|org)", "[0-9]+\\.[0-9]+\\.[0-9]+", "GET /[a-z/]*\\?id=[0-9]+",
                                 "(err|warn).*time(out|d)", "x.*y.*z"};

static void prepare(void) {
    static const char *words[] = {"error", "warning", "timeout", "user@host.org", "10.0.3.77", "GET /a/b?id=77", "xyz",
                                  "info",  "timed",   "me@x.com", "y",            "z",         "GET /c",         "1.2"};
    for (int i = 0; i < LINES; i++)
        for (int at = 0; at < WIDTH - 20;)
            at += sprintf(lines[i] + at, "%s ", words[next_random() % 14]);
}

// Where an atom ends that starts at `p`.
static const char *atom_end(const char *p) {
    if (*p == '\\')
        return p + 2;
    if (*p == '[')
        return strchr(p, ']') + 1;
    if (*p == '(')
        return strchr(p, ')') + 1;  // groups hold no groups
    return p + 1;
}

static int one(const char *p, char c) {
    if (*p == '\\')
        return c == p[1];
    if (*p == '.')
        return c != 0;
    if (*p != '[')
        return c == *p;
    for (p++; *p != ']'; p++) {
        if (p[1] == '-' && p[2] != ']') {
            if (c >= p[0] && c <= p[2])
                return 1;
            p += 2;
        } else if (c == *p) {
            return 1;
        }
    }
    return 0;
}

static int match(const char *p, const char *end, const char *s);

static int group(const char *p, const char *after, const char *end, const char *s) {
    for (const char *start = p + 1; start < after;) {
        const char *stop = start + strcspn(start, "|)");
        size_t length = (size_t)(stop - start);
        if (strncmp(start, s, length) == 0 && match(after, end, s + length))
            return 1;
        start = stop + 1;
    }
    return 0;
}

static int match(const char *p, const char *end, const char *s) {
    if (p == end)
        return 1;
    const char *after = atom_end(p);
    if (*p == '(')
        return group(p, after, end, s);
    if (*after == '*' || *after == '+' || *after == '?') {
        long least = *after == '+', most = *after == '?' ? 1 : WIDTH, count = 0;
        while (count < most && s[count] && one(p, s[count]))
            count++;
        for (; count >= least; count--)
            if (match(after + 1, end, s + count))
                return 1;
        return 0;
    }
    return *s && one(p, *s) && match(after, end, s + 1);
}

static uint64_t work(void) {
    uint64_t sum = 0;
    for (int i = 0; i < LINES; i++)
        for (size_t which = 0; which < sizeof PATTERNS / sizeof *PATTERNS; which++)
            for (const char *s = lines[i]; *s; s++)
                if (match(PATTERNS[which], PATTERNS[which] + strlen(PATTERNS[which]), s))
                    sum += (uint64_t)(s - lines[i]) * (which + 1) + 1;
    return sum;
}

int main(int argc, char **argv) { return timed(prepare, work, argc, argv); }
